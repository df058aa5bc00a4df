package meta

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// The methods of this file, move_rows.go and move_hold.go serve a move of a whole registry from one database and store to others.
//
// The database that a move goes to has the setting "moving" and the table moved_object from its
// first step to its last, both of which end in one transaction. Until then nothing else may use it, see
// CheckComplete. The one that a move comes from is only read.

// Errors of a move.
var (
	// ErrMoving: a move to this database is not finished.
	ErrMoving = errors.New("a move to this registry is not finished: run \"berth move\" or \"berth restore\" again until it is, or begin with an empty database")
	// ErrOccupied: the database has content that the move did not bring.
	ErrOccupied = errors.New("the database has content already: a move needs an empty one")
	// ErrOtherMove: the database is the target of another registry's move.
	ErrOtherMove = errors.New("another registry's move to this database is not finished")
	// ErrMoveRuns: another process is at work on the same move.
	ErrMoveRuns = errors.New("another process is moving a registry to this database")
	// ErrThawed: the database that a move comes from may have changed meanwhile.
	ErrThawed = errors.New("the lock that kept changes away was lost")
	// ErrNeverServed: the database has no content and was never served.
	ErrNeverServed = errors.New("there is no registry in this database: no server has ever used it")
)

const (
	movingSetting = "moving"       // the identity of the registry that is moved here
	sweptSetting  = "moving_swept" // since when unfinished objects may be there
	// keySetting is the key that signs upload sessions. It is random, so it tells registries apart.
	keySetting = "upload_key"
)

// staysBehind are the settings that speak of one database and store only.
var staysBehind = []string{movingSetting, sweptSetting, "swept_until", journalSetting}

// CheckComplete fails with ErrMoving or ErrRebuilding while a move to this database, or its rebuild, is unfinished. Whoever opens a database in
// order to serve, check or change it asks this first.
func (db *DB) CheckComplete(ctx context.Context) error {
	for mark, unfinished := range map[string]error{movingSetting: ErrMoving, rebuildingSetting: ErrRebuilding} {
		switch _, err := db.Setting(ctx, mark); {
		case err == nil:
			return unfinished
		case !errors.Is(err, ErrNotFound):
			return fmt.Errorf("ask whether the registry is complete: %w", err)
		}
	}
	return nil
}

// Identity returns a name of the registry that no other one has, or ErrNeverServed.
func (db *DB) Identity(ctx context.Context) (string, error) {
	key, err := db.Setting(ctx, keySetting)
	if errors.Is(err, ErrNotFound) {
		return "", ErrNeverServed
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte("registry "), key...)) // the key itself is a secret
	return hex.EncodeToString(sum[:16]), nil
}

// BeginMove makes the database the target of a move from the registry of the given identity, unless it is that
// already. It returns since when objects may be in the store that are not noted: now, or what SweptMove was told
// last. It fails with ErrOccupied or ErrOtherMove.
func (db *DB) BeginMove(ctx context.Context, identity string, now time.Time) (swept time.Time, err error) {
	err = db.update(ctx, func(t *tx) error {
		var other, since []byte
		err := t.queryRow(`SELECT m.value, s.value FROM setting m JOIN setting s ON s.name = $2 WHERE m.name = $1`,
			movingSetting, sweptSetting).Scan(&other, &since)
		switch {
		case err == nil && string(other) == identity:
			return swept.UnmarshalText(since)
		case err == nil:
			return ErrOtherMove
		case !errors.Is(err, ErrNotFound):
			return err
		}
		if occupied, err := t.occupied(); err != nil || occupied {
			return cmp.Or(err, ErrOccupied)
		}
		swept = now
		for name, value := range map[string][]byte{movingSetting: []byte(identity), sweptSetting: moveTime(now)} {
			if _, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)`, name, value); err != nil {
				return err
			}
		}
		_, err = t.exec(`CREATE TABLE moved_object (
			blob_id     BIGINT PRIMARY KEY,
			digest      TEXT   NOT NULL,
			size        BIGINT NOT NULL,
			storage_key TEXT   NOT NULL UNIQUE
		)`)
		return err
	})
	return swept, err
}

// occupied tells whether the database has content.
func (t *tx) occupied() (occupied bool, err error) {
	err = t.queryRow(`SELECT EXISTS (SELECT 1 FROM repository) OR EXISTS (SELECT 1 FROM blob) OR EXISTS (SELECT 1 FROM tag_log)
		OR EXISTS (SELECT 1 FROM upload) OR EXISTS (SELECT 1 FROM doomed_object)
		OR EXISTS (SELECT 1 FROM account) OR EXISTS (SELECT 1 FROM organization)`).Scan(&occupied)
	return occupied, err
}

func moveTime(t time.Time) []byte { return t.UTC().AppendFormat(nil, time.RFC3339) }

// SweptMove tells that all objects that an unfinished move has put into the store before the given time are noted.
func (db *DB) SweptMove(ctx context.Context, before time.Time) error {
	return db.SetSetting(ctx, sweptSetting, moveTime(before))
}

// MovingBlob is a blob's row in the database that a move comes from.
type MovingBlob struct {
	ID     int64
	Digest string
	Size   int64
	Key    string
}

// MovingBlobs returns up to n blobs after the given ID.
func (db *DB) MovingBlobs(ctx context.Context, after int64, n int) ([]MovingBlob, error) {
	return db.movingBlobs(ctx, `SELECT id, digest, size, storage_key FROM blob WHERE id > $1 ORDER BY id LIMIT $2`, after, n)
}

func (db *DB) movingBlobs(ctx context.Context, text string, args ...any) ([]MovingBlob, error) {
	var found []MovingBlob
	err := db.query(ctx, func(scan func(...any) error) error {
		var b MovingBlob
		err := scan(&b.ID, &b.Digest, &b.Size, &b.Key)
		found = append(found, b)
		return err
	}, text, args...)
	return found, err
}

// Needed returns the names of up to n repositories with a manifest that needs the blob, or that has one in the trash.
func (db *DB) Needed(ctx context.Context, blob int64, n int) ([]string, error) {
	return db.names(ctx, `SELECT r.name FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id
		WHERE rb.blob_id = $1 AND EXISTS (SELECT 1 FROM manifest_blob mb
			WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id
			UNION ALL SELECT 1 FROM trashed_manifest_blob tb WHERE tb.repository_id = rb.repository_id AND tb.blob_id = rb.blob_id)
		ORDER BY r.name LIMIT $2`, blob, n)
}

// MovedObjects returns up to n objects that have been moved, of blobs after the given ID and up to
// another. Their keys are of the store that the move goes to.
func (db *DB) MovedObjects(ctx context.Context, after, through int64, n int) ([]MovingBlob, error) {
	return db.movingBlobs(ctx, `SELECT blob_id, digest, size, storage_key FROM moved_object
		WHERE blob_id > $1 AND blob_id <= $2 ORDER BY blob_id LIMIT $3`, after, through, n)
}

// MovedTotals returns how many objects have been moved, and how many bytes they hold.
func (db *DB) MovedTotals(ctx context.Context) (objects, bytes int64, err error) {
	err = db.queryRow(ctx, `SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM moved_object`).Scan(&objects, &bytes)
	return objects, bytes, err
}

// NoteMoved tells that an object has been moved: its bytes are verified and durable.
func (db *DB) NoteMoved(ctx context.Context, b MovingBlob) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO moved_object (blob_id, digest, size, storage_key) VALUES ($1, $2, $3, $4)`, b.ID, b.Digest, b.Size, b.Key)
		return err
	})
}

// ForgetMoved takes back a NoteMoved.
func (db *DB) ForgetMoved(ctx context.Context, key string) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM moved_object WHERE storage_key = $1`, key)
		return err
	})
}

// MaxKnownMoved is how many objects KnownMoved can be asked for.
const MaxKnownMoved = 100

// KnownMoved returns which objects of the store that a move goes to are noted.
func (db *DB) KnownMoved(ctx context.Context, keys []string) (map[string]bool, error) {
	known := make(map[string]bool, len(keys))
	if len(keys) == 0 {
		return known, nil
	}
	args := make([]any, MaxKnownMoved) // always as many, so that it is one statement
	for i := range args {
		args[i] = keys[min(i, len(keys)-1)]
	}
	found, err := db.names(ctx, `SELECT storage_key FROM moved_object WHERE storage_key IN (`+placeholders(1, MaxKnownMoved)+`)`, args...)
	for _, key := range found {
		known[key] = true
	}
	return known, err
}

// ClearRows takes all rows out of the tables of an unfinished move, because the database that it comes from has been
// changed since they were copied. It fails if no move is unfinished.
func (db *DB) ClearRows(ctx context.Context) error { return db.clearRows(ctx, movingSetting) }

// clearRows does so while a setting is there that says that nothing else uses the database.
func (db *DB) clearRows(ctx context.Context, mark string) error {
	clear := func(texts ...string) error {
		return db.update(ctx, func(t *tx) error {
			var value []byte
			if err := t.queryRow(`SELECT value FROM setting WHERE name = $1`, mark).Scan(&value); err != nil {
				return fmt.Errorf("nothing is unfinished: %w", err)
			}
			for _, text := range texts {
				if _, err := t.exec(text); err != nil {
					return err
				}
			}
			return nil
		})
	}
	tables := MovedTables()
	if !db.embedded() {
		names := make([]string, len(tables))
		for i, t := range tables {
			names[i] = t.Name
		}
		return clear(`TRUNCATE organization_usage, organization_blob, damaged_blob, `+strings.Join(names, ", "), `UPDATE total SET blobs = 0, bytes = 0`)
	}
	for i := range tables {
		if err := clear(`DELETE FROM `+tables[len(tables)-1-i].Name, forgetChanges); err != nil {
			return err
		}
	}
	return nil
}

// forgetChanges takes away what the triggers have noted for the journal: the one that begins when the registry is served has everything
// in its checkpoint.
const forgetChanges = `DELETE FROM journal`

func (t *tx) forgetChanges() error {
	_, err := t.exec(forgetChanges)
	return err
}

// Facts are what a move takes beside the rows of tables.
type Facts struct {
	settings map[string][]byte
	last     map[string]int64 // the highest number that a table's rows have ever had
}

// MovingFacts returns the facts of a database that a move comes from.
func (db *DB) MovingFacts(ctx context.Context) (Facts, error) {
	f := Facts{settings: make(map[string][]byte), last: make(map[string]int64)}
	if err := db.query(ctx, func(scan func(...any) error) error {
		var name string
		var value []byte
		err := scan(&name, &value)
		f.settings[name] = value
		return err
	}, `SELECT name, value FROM setting`); err != nil {
		return f, fmt.Errorf("read settings: %w", err)
	}
	for _, name := range staysBehind {
		delete(f.settings, name)
	}
	last := `SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = $1), 0)`
	if !db.embedded() {
		last = `SELECT COALESCE(pg_sequence_last_value(CAST(pg_get_serial_sequence($1, 'id') AS regclass)), 0)`
	}
	for _, t := range MovedTables() {
		if !t.hasID() {
			continue
		}
		var n int64
		if err := db.queryRow(ctx, last, t.Name).Scan(&n); err != nil {
			return f, fmt.Errorf("read the last number of table %s: %w", t.Name, err)
		}
		f.last[t.Name] = n
	}
	return f, nil
}

// setLast makes a table number its rows from n+1 on, unless it is beyond that already.
func (t *tx) setLast(embedded bool, table string, n int64) error {
	if n == 0 {
		return nil
	}
	if !embedded {
		var set int64
		return t.queryRow(`SELECT setval(CAST(pg_get_serial_sequence($1, 'id') AS regclass),
			GREATEST(CAST($2 AS BIGINT), COALESCE(pg_sequence_last_value(CAST(pg_get_serial_sequence($1, 'id') AS regclass)), 0)))`,
			table, n).Scan(&set)
	}
	changed, err := t.exec(`UPDATE sqlite_sequence SET seq = MAX(seq, $2) WHERE name = $1`, table, n)
	if err != nil || changed > 0 {
		return err
	}
	_, err = t.exec(`INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)`, table, n)
	return err
}

// FinishMove makes the database a registry of its own, in one transaction. Moved objects that no blob has
// are doomed.
func (db *DB) FinishMove(ctx context.Context, f Facts, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		for table, n := range f.last {
			if err := t.setLast(db.embedded(), table, n); err != nil {
				return fmt.Errorf("set the last number of table %s: %w", table, err)
			}
		}
		settings := maps.Clone(f.settings)
		settings[journalSetting] = JournalUnbegun // the store may be the same
		for name, value := range settings {
			if _, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)
				ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value); err != nil {
				return err
			}
		}
		if _, err := t.exec(`INSERT INTO doomed_object (storage_key, since) SELECT m.storage_key, CAST($1 AS BIGINT) FROM moved_object m
			WHERE NOT EXISTS (SELECT 1 FROM blob b WHERE b.storage_key = m.storage_key)`, now.UnixMilli()); err != nil {
			return err
		}
		if _, err := t.exec(`DROP TABLE moved_object`); err != nil {
			return err
		}
		gone, err := t.exec(`DELETE FROM setting WHERE name IN ($1, $2)`, movingSetting, sweptSetting)
		if err == nil && gone != 2 {
			err = errors.New("no move is unfinished")
		}
		return err
	})
}

// Analyze tells PostgreSQL how much there is now, so that it plans well from the first request on. SQLite does not ask.
func (db *DB) Analyze(ctx context.Context) error {
	if db.embedded() {
		return nil
	}
	for _, t := range MovedTables() {
		if err := db.update(ctx, func(x *tx) error { _, err := x.exec(`ANALYZE ` + t.Name); return err }); err != nil {
			return fmt.Errorf("analyze table %s: %w", t.Name, err)
		}
	}
	return nil
}
