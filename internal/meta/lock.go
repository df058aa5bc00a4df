package meta

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/berthregistry/berth/internal/oci"
)

// SQLite makes one change after the other. PostgreSQL makes many at a time (READ COMMITTED), so a change takes locks on
// what it relies on, until it ends. In the order in which they are taken:
//
//   - The repository's row, FOR NO KEY UPDATE: who changes manifests or tags of a repository, or its trash, or drops it. So the marks of
//     what manifests need (unreferenced_since), a condition on a tag and the order of the tag log are right. Pushes of
//     blobs go on meanwhile: the foreign key's lock on the same row does not conflict.
//   - The row of a quota, FOR NO KEY UPDATE: who adds anything to an organization that has one. So what is used does not grow between
//     the look at it and the end of the change. Without a quota nothing is locked.
//   - An advisory lock on a digest in a repository: who links a blob, and who pushes a manifest that lacks it. Else neither would
//     see the other's row, and the blob would not be protected (manifest_missing_blob).
//   - The row of a link, blob or upload, FOR UPDATE: who is about to delete it or to say that it stays. Collectors skip
//     what others have locked.
//   - The row of a blob, FOR NO KEY UPDATE: who has taken away a link and looks whether it was the last one.
//
// Triggers count what organizations use. They lock rows of organization_blob and organization_usage, as they come to them; the latter are
// several for an organization, each for some connections, so that commits do not wait for each other. Two who take away and add the same blobs
// at a time may deadlock, and one of them runs again.
//
// Rights have locks of their own, which no change of content takes:
//
//   - The row of an account or a team, FOR NO KEY UPDATE: who changes its grants or groups; of an account or organization, who reads
//     the row in order to change it.
//   - The table signing_key: who adds a key.
//
// Who adds a policy locks the table repository, so that all wait who want to lock a row of it, and then see the policy.
//
// Whatever else may go between a look and a change is caught by a foreign key or a unique key, whose violation (like a
// deadlock) makes the whole change run again.

// dialect is what differs between the databases.
type dialect struct {
	postgres bool
	now      string // an expression: milliseconds since 1970, by the clock of the database
}

var (
	sqliteDialect   = dialect{now: `CAST(unixepoch('subsec') * 1000 AS INTEGER)`}
	postgresDialect = dialect{postgres: true, now: `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)`}
)

// locking returns what makes a SELECT lock its rows, such as "FOR UPDATE".
func (d dialect) locking(how string) string {
	if d.postgres {
		return " " + how
	}
	return ""
}

// list returns a table whose column "value" holds what is in a parameter, a JSON array; see jsonOf.
func (d dialect) list(parameter string) string {
	if d.postgres {
		return `json_array_elements_text(CAST(` + parameter + ` AS JSON)) AS list (value)`
	}
	return `json_each(` + parameter + `) AS list`
}

// in returns a condition that what stands before it is among the rows of a query, which are few. PostgreSQL gets them as an array,
// which it looks up by index: else it may think it cheaper to go through a whole table and to compare.
func (d dialect) in(query string) string {
	if d.postgres {
		return `= ANY (ARRAY(` + query + `))`
	}
	return `IN (` + query + `)`
}

// jsonRows returns an expression that aggregates rows of columns into a JSON array of arrays.
func (d dialect) jsonRows(columns string) string {
	if d.postgres {
		return `json_agg(json_build_array(` + columns + `))`
	}
	return `json_group_array(json_array(` + columns + `))`
}

// element returns an expression for an element, by its number from 0 on, of the "value" of a list, which is an array itself.
func (d dialect) element(i int) string {
	if d.postgres {
		return fmt.Sprintf(`CAST(list.value AS JSON) ->> %d`, i)
	}
	return fmt.Sprintf(`list.value ->> %d`, i)
}

// organization returns an expression for the organization of a repository, by the column of its name.
func (d dialect) organization(name string) string {
	if d.postgres {
		return `split_part(` + name + `, '/', 1)`
	}
	return `substr(` + name + `, 1, instr(` + name + ` || '/', '/') - 1)`
}

// jsonOf returns a JSON array.
func jsonOf[T int64 | string](values []T) string {
	b, err := json.Marshal(values)
	if err != nil {
		panic(err) // neither can fail
	}
	return string(b)
}

var (
	// errAgain: what the change has seen is gone. It must begin anew.
	errAgain = errors.New("the rows were changed meanwhile")
	// errExclusive: the change must begin anew with the lock on the repository.
	errExclusive = fmt.Errorf("%w: a manifest was waiting for the blob", errAgain)
)

// lockRepository returns a repository's row, or ErrNotFound, and keeps others from changing its manifests and tags.
func (t *tx) lockRepository(r oci.Repository) (int64, error) {
	var id int64
	err := t.queryRow(`SELECT id FROM repository WHERE name = $1`+t.locking("FOR NO KEY UPDATE"), string(r)).Scan(&id)
	return id, err
}

// lockSigningKeys keeps others from adding signing keys.
func (t *tx) lockSigningKeys() error {
	if !t.postgres {
		return nil
	}
	_, err := t.exec(`LOCK TABLE signing_key IN SHARE ROW EXCLUSIVE MODE`)
	return err
}

// auditWriters returns the transactions of PostgreSQL that may have added entries and have not ended.
func (db *DB) auditWriters(ctx context.Context) ([]string, error) {
	return db.names(ctx, `SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = CAST('audit' AS regclass)
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND mode = 'RowExclusiveLock' AND granted`)
}

// lockDigests keeps others from linking blobs to a repository, and from pushing manifests that lack them. Who locks
// more than one has the lock on the repository, so that none waits for another that waits for it.
func (t *tx) lockDigests(repo int64, blobs ...oci.Digest) error {
	if !t.postgres {
		return nil
	}
	numbers := make([]int64, len(blobs))
	for i, d := range blobs {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", repo, d))
		numbers[i] = int64(binary.BigEndian.Uint64(sum[:]))
	}
	_, err := t.exec(`SELECT pg_advisory_xact_lock(CAST(list.value AS BIGINT)) FROM `+t.list("$1"), jsonOf(numbers))
	return err
}
