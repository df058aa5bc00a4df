package meta

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The methods of this file serve a move of a whole registry from one database and store to others.
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

// Table is a table whose rows a move takes as they are.
type Table struct {
	Name    string
	columns []string // those of the primary key first
	key     int      // how many of them are the key
	lowest  []any    // what is before every key
}

// MovedTables returns the tables that a move takes, each after those that it refers to. Upload sessions stay
// behind, and so does what is to be deleted.
func MovedTables() []Table {
	table := func(name, columns string, lowest ...any) Table {
		return Table{name, strings.Fields(columns), len(lowest), lowest}
	}
	return []Table{
		table("organization", "id name public creation created_at", 0),
		table("account", "id name robot organization_id source subject display_name mail password admin disabled networks expires_at created_at seen_at", 0),
		table("credential", "id account_id kind name hash actions repositories networks created_at expires_at used_at used_from", 0),
		table("team", "id organization_id name created_at", 0),
		table("team_member", "account_id team_id", 0, 0),
		table("team_group", "source name team_id", "", "", 0),
		table("account_group", "account_id source name", 0, "", ""),
		table("access_grant", "id organization_id account_id team_id repositories tags role actions created_at", 0),
		table("trust_rule", "id account_id credential_id issuer rule created_at", 0),
		table("signing_key", "kid private signs_from known_until", ""),
		table("audit", "id at account_id actor credential client action object detail allowed", 0),
		table("tag_protection", "id organization repositories tags created_at created_by", 0),
		table("retention_policy", "id organization repositories tags rules created_at created_by", 0),
		table("content_freeze", "organization message since created_by", ""),
		table("quota", "organization bytes deduplicated tags repositories warn", ""),
		table("repository", "id name created_at listed public", 0),
		table("blob", "id digest size storage_key created_at", 0),
		table("repository_blob", "repository_id blob_id unreferenced_since", 0, 0),
		table("manifest", "id repository_id digest media_type size artifact_type subject annotations created_at body", 0),
		table("manifest_blob", "manifest_id blob_id repository_id", 0, 0),
		table("manifest_missing_blob", "repository_id digest manifest_id", 0, "", 0),
		table("manifest_child", "manifest_id digest repository_id", 0, ""),
		table("trashed_manifest", "id repository_id digest media_type size artifact_type subject annotations created_at body deleted_at actor credential method pulled_at", 0),
		table("trashed_manifest_blob", "manifest_id blob_id repository_id", 0, 0),
		table("trashed_tag", "manifest_id name pulled_at", 0, ""),
		table("tag", "repository_id name manifest_id updated_at", 0, ""),
		table("tag_pull", "repository_id name pulled_at", 0, ""),
		table("manifest_use", "manifest_id pulled_at pushed_at released_at", 0),
		table("tag_log", "id repository_id repository tag old_digest new_digest at actor credential method", 0),
	}
}

// keyColumn is the place of storage_key in the table blob.
const keyColumn = 3

// hasID tells whether the database numbers the rows.
func (t Table) hasID() bool { return t.columns[0] == "id" }

// placeholders returns a list of n parameters from a number on.
func placeholders(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// insert returns a statement for n rows. With moved, the keys of blobs are those of moved objects.
func (t Table) insert(n int, moved bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", t.Name, strings.Join(t.columns, ", "))
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		from := 1 + i*len(t.columns)
		if t.Name == "blob" && moved {
			// Each parameter is used, and has a type, so that PostgreSQL can tell what it is.
			fmt.Fprintf(&b, "($%d, $%d, $%d, (SELECT storage_key FROM moved_object"+
				" WHERE blob_id = CAST($%d AS BIGINT) AND digest = CAST($%d AS TEXT) AND size = CAST($%d AS BIGINT) AND CAST($%d AS TEXT) <> ''), $%d)",
				from, from+1, from+2, from, from+1, from+2, from+keyColumn, from+4)
			continue
		}
		fmt.Fprintf(&b, "(%s)", placeholders(from, len(t.columns)))
	}
	return b.String()
}

// Rows is a page of a table, in the order of its primary key.
type Rows struct {
	Table Table
	rows  [][]any
}

// Len returns how many rows there are.
func (r *Rows) Len() int { return len(r.rows) }

const (
	rowsPage  = 1000    // rows that are read at a time
	bytesPage = 4 << 20 // of manifests; a single one may have more
	rowsOnce  = 50      // rows that one statement inserts
)

// TableRows returns a page of the rows after those of another page, or the first ones if that is nil. An empty
// page is the end.
func (db *DB) TableRows(ctx context.Context, t Table, after *Rows) (*Rows, error) {
	from := t.lowest
	if after != nil && after.Len() > 0 {
		from = after.rows[after.Len()-1][:t.key]
	}
	n, _, err := db.rowsThatFit(ctx, t, from)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t.Name, err)
	}
	page := &Rows{Table: t}
	key := strings.Join(t.columns[:t.key], ", ")
	err = db.query(ctx, func(scan func(...any) error) error {
		row := make([]any, len(t.columns))
		places := make([]any, len(row))
		for i := range row {
			places[i] = &row[i]
		}
		err := scan(places...)
		for i, v := range row {
			switch v := v.(type) {
			case int32: // PostgreSQL's INTEGER
				row[i] = int64(v)
			case string: // of an artifactType that was pushed before they were read so
				row[i] = asText(v)
			}
		}
		page.rows = append(page.rows, row)
		return err
	}, fmt.Sprintf(`SELECT %s FROM %s WHERE (%s) > (%s) ORDER BY %s LIMIT $%d`,
		strings.Join(t.columns, ", "), t.Name, key, placeholders(1, t.key), key, t.key+1), append(from[:t.key:t.key], n)...)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t.Name, err)
	}
	return page, nil
}

// rowsThatFit returns how many rows a page may have, so that manifests do not fill the memory. end tells that there were no more.
func (db *DB) rowsThatFit(ctx context.Context, t Table, from []any) (n int, end bool, err error) {
	if !slices.Contains(t.columns, "body") {
		return rowsPage, false, nil
	}
	bytes := int64(0)
	err = db.query(ctx, func(scan func(...any) error) error {
		var size int64
		if err := scan(&size); err != nil {
			return err
		}
		if bytes += size; bytes > bytesPage {
			return errEnough
		}
		n++
		return nil
	}, `SELECT size FROM `+t.Name+` WHERE id > $1 ORDER BY id LIMIT $2`, from[0], rowsPage)
	if errors.Is(err, errEnough) {
		return max(n, 1), false, nil
	}
	return max(n, 1), n < rowsPage, err
}

// AddRows inserts a page into the database that a move goes to. With moved, blobs get the keys of their
// moved objects; it fails if there is none with the same digest and size.
func (db *DB) AddRows(ctx context.Context, r *Rows, moved bool) error {
	many := r.Table.insert(rowsOnce, moved)
	one := r.Table.insert(1, moved)
	err := db.update(ctx, func(t *tx) error {
		rows := r.rows
		for ; len(rows) >= rowsOnce; rows = rows[rowsOnce:] {
			args := make([]any, 0, rowsOnce*len(r.Table.columns))
			for _, row := range rows[:rowsOnce] {
				args = append(args, row...)
			}
			if _, err := t.exec(many, args...); err != nil {
				return fmt.Errorf("rows %v to %v: %w", rows[0][:r.Table.key], rows[rowsOnce-1][:r.Table.key], err)
			}
		}
		for _, row := range rows {
			if _, err := t.exec(one, row...); err != nil {
				return fmt.Errorf("row %v: %w", row[:r.Table.key], err)
			}
		}
		return t.forgetChanges()
	})
	if err != nil {
		return fmt.Errorf("write table %s: %w", r.Table.Name, err)
	}
	return nil
}

// TableSum stands for the content of a table: two tables with the same sum hold the same rows. The keys of the blob
// store are left out.
type TableSum struct {
	Rows   int64
	Hashes [4]uint64 // of all rows, added up, so that their order makes no difference
}

// Add adds the rows of a page.
func (s *TableSum) Add(r *Rows) {
	var b []byte
	for _, row := range r.rows {
		b = b[:0]
		for i, v := range row {
			if r.Table.Name == "blob" && i == keyColumn {
				continue
			}
			b = appendValue(b, v)
		}
		sum := sha256.Sum256(b)
		for i := range s.Hashes {
			s.Hashes[i] += binary.BigEndian.Uint64(sum[8*i:])
		}
	}
	s.Rows += int64(len(r.rows))
}

// appendValue appends an encoding of a value that is not the beginning of any other's. Text and bytes
// are not told apart.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 0)
	case int64:
		return binary.BigEndian.AppendUint64(append(b, 1), uint64(v))
	case string:
		return append(binary.BigEndian.AppendUint64(append(b, 2), uint64(len(v))), v...)
	case []byte:
		return append(binary.BigEndian.AppendUint64(append(b, 2), uint64(len(v))), v...)
	}
	return fmt.Appendf(append(b, 3), "%T %v", v, v) // no column has another type
}

// CountRows returns how many rows the tables of a move have.
func (db *DB) CountRows(ctx context.Context) (int64, error) {
	var sum int64
	for _, t := range MovedTables() {
		var n int64
		if err := db.queryRow(ctx, `SELECT COUNT(*) FROM `+t.Name).Scan(&n); err != nil {
			return 0, fmt.Errorf("count table %s: %w", t.Name, err)
		}
		sum += n
	}
	return sum, nil
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

// Hold is a lock on a database that lasts until Release, or until the connection to it is lost. With SQLite it
// is nothing: there the lock on the data folder is what counts, and the caller has it.
type Hold struct{ tx *sql.Tx }

// HoldMove keeps other processes from moving to the same database. It fails with ErrMoveRuns.
func (db *DB) HoldMove(ctx context.Context) (*Hold, error) {
	return db.hold(ctx, func(t *sql.Tx) error {
		var mine bool
		err := t.QueryRowContext(ctx, `SELECT pg_try_advisory_xact_lock(hashtext('berth'), hashtext('move'))`).Scan(&mine)
		if err == nil && !mine {
			err = ErrMoveRuns
		}
		return err
	})
}

// Freeze keeps every process from changing what a move takes. Changes under way are waited for, changes
// that come later wait.
func (db *DB) Freeze(ctx context.Context) (*Hold, error) {
	var names []string
	for _, t := range MovedTables() {
		names = append(names, t.Name)
	}
	// A change that holds one table and wants another one may be what this waits for, while it waits for this. Then
	// the database ends one of the two. And nobody shall wait long for a transaction that does not end.
	for give := time.Now().Add(freezePatience); ; {
		h, err := db.hold(ctx, func(t *sql.Tx) error {
			if _, err := t.ExecContext(ctx, `SET LOCAL lock_timeout = '3s'`); err != nil {
				return err
			}
			_, err := t.ExecContext(ctx, `LOCK TABLE `+strings.Join(names, ", ")+` IN SHARE MODE`)
			return err
		})
		state := sqlState(err)
		if state != deadlockDetected && state != lockNotAvailable || time.Now().After(give) || ctx.Err() != nil {
			return h, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

const freezePatience = 30 * time.Second

// hold takes a lock in a transaction that may last.
func (db *DB) hold(ctx context.Context, lock func(*sql.Tx) error) (*Hold, error) {
	if db.embedded() {
		return new(Hold), nil
	}
	t, err := db.read.BeginTx(context.WithoutCancel(ctx), nil) // which ends with Release, not with the context
	if err != nil {
		return nil, fmt.Errorf("begin a lock: %w", err)
	}
	if err := lock(t); err != nil {
		return nil, errors.Join(fmt.Errorf("take a lock: %w", err), t.Rollback())
	}
	// The last statements see no rows: the snapshot of one that does would last as long as the transaction, and with it every
	// version of a row that is replaced meanwhile.
	for _, text := range []string{`SET LOCAL statement_timeout = 0`, `SET LOCAL idle_in_transaction_session_timeout = 0`} {
		if _, err := t.ExecContext(ctx, text); err != nil {
			return nil, errors.Join(fmt.Errorf("keep a lock: %w", err), t.Rollback())
		}
	}
	return &Hold{t}, nil
}

// Check fails with ErrThawed if the lock has been lost.
func (h *Hold) Check(ctx context.Context) error {
	if h.tx == nil {
		return nil
	}
	var one int
	if err := h.tx.QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		return fmt.Errorf("%w: %w", ErrThawed, err)
	}
	return nil
}

// Release ends the lock.
func (h *Hold) Release() {
	if h.tx != nil {
		_ = h.tx.Rollback()
	}
}
