// Package meta holds every SQL statement of the registry.
//
// What holds true:
//   - A change that a user can see is one transaction. When a method that changes
//     something returns nil, the change is durable.
//   - A blob row exists exactly as long as its bytes do. It cannot go while a repository
//     links to it, nor a link while a manifest needs it: the foreign keys say so, and
//     the collector relies on nothing else. A manifest is either in its repository or in the trash, which needs its blobs, too.
//   - Every move of a tag is in the tag log, written with the move.
//   - Statements are portable between SQLite and PostgreSQL; only migrations differ, and the
//     locks that PostgreSQL needs where SQLite has one writer. See lock.go for which there are.
//   - No statement is expected to fail: a failure would cost PostgreSQL the whole transaction.
//
// All methods of DB may be called concurrently. With PostgreSQL, any number of processes may have
// the database open; each method takes a bounded time and fails with ErrUnavailable after it.
package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// Errors that methods return, possibly wrapped.
var (
	// ErrNotFound: the repository, tag, manifest, blob or upload is not there.
	ErrNotFound = errors.New("not found")
	// ErrReferenced: a manifest needs the blob, which may be one in the trash.
	ErrReferenced = errors.New("referenced by a manifest")
	// ErrBroken: a sync failed, so nothing can be changed until the database is opened anew. Reads go on.
	ErrBroken = errors.New("the database's log could not be brought to the disk; nothing is written until a restart")
	// ErrUnavailable: the database cannot be reached, does not answer in time or takes no changes at this
	// moment. A change that failed so has no effect, unless the connection was lost while it was
	// committed: then nobody knows. Asking again later may succeed. PostgreSQL only.
	ErrUnavailable = errors.New("the database is not available")

	errReadOnly = errors.New("the database is open for reading only")
)

// Options say how a PostgreSQL database is used. The zero value is good for most; SQLite needs none.
type Options struct {
	// Connections is how many connections are open at most; 0 stands for 16.
	Connections int
	// Timeout is how long a method may take, the wait for a connection included; 0 stands for 10 seconds.
	Timeout time.Duration
}

// Stats tell what a database is doing.
type Stats struct {
	Limit      int           // connections that may be open; of SQLite those that read
	Open       int           // connections that are open
	InUse      int           // of these
	Waits      int64         // how often a connection had to be waited for
	Waited     time.Duration // how long in all
	Retries    int64         // how often something was done again, because of a conflict or a lost connection; PostgreSQL only
	Statements int64         // how many were run, those aside that begin and end transactions
	Rows       int64         // that statements returned
}

// DB is the database of one registry.
type DB struct {
	engine engine
	dialect
	cache *cache      // nil where others may change the database
	known *knownFacts // nil where cache is not

	// read is for reading with SQLite. With PostgreSQL it is a view of the pool, for what needs a connection for long.
	read *sql.DB

	statements *atomic.Int64
	rows       *atomic.Int64
	counted    *atomic.Int64 // see Counting; may be nil

	entry func() AuditEntry // see WithAudit
}

// engine is what SQLite and PostgreSQL do each in a way of their own.
type engine interface {
	// queryRow reads at most one row, or returns ErrNotFound.
	queryRow(ctx context.Context, dest []any, text string, args []any) error
	// query reads rows and calls each for every one of them.
	query(ctx context.Context, each func(scan func(...any) error) error, text string, args []any) error
	update(ctx context.Context, do func(*tx) error) error
	check(ctx context.Context) error
	stats() Stats
	close() error
}

// Open opens a database, creates its tables if need be and brings them up to date. The source is the URL of a
// PostgreSQL database, which must exist, or the path of a file for SQLite, which need not. Open waits for
// PostgreSQL for a while and then fails with ErrUnavailable. It fails when a newer Berth has changed the
// database in a way that this one cannot work with.
// The caller sees to it that no other process has a file open for writing.
func Open(ctx context.Context, source string, opts Options) (*DB, error) {
	if isURL(source) {
		return openPostgres(ctx, source, opts, false)
	}
	db, err := openSQLite(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", source, err)
	}
	return db, nil
}

// OpenReadOnly opens a database that exists and has the tables of this Berth. Methods that
// change something fail. Other processes may have it open for writing.
func OpenReadOnly(ctx context.Context, source string, opts Options) (*DB, error) {
	if isURL(source) {
		return openPostgres(ctx, source, opts, true)
	}
	db, err := openSQLiteReadOnly(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", source, err)
	}
	return db, nil
}

func isURL(source string) bool {
	return strings.HasPrefix(source, "postgres://") || strings.HasPrefix(source, "postgresql://")
}

// Close waits for the changes under way and closes the database.
func (db *DB) Close() error { return db.engine.close() }

// Check tells whether the database answers and can be written.
func (db *DB) Check(ctx context.Context) error { return db.engine.check(ctx) }

// Stats returns what the database is doing.
func (db *DB) Stats() Stats {
	s := db.engine.stats()
	s.Statements, s.Rows = db.statements.Load(), db.rows.Load()
	return s
}

// Counting returns the same database, but the rows that statements return to who uses it are added to n, too.
func (db *DB) Counting(n *atomic.Int64) *DB {
	with := *db
	with.counted = n
	return &with
}

// returned counts a row.
func (db *DB) returned() {
	db.rows.Add(1)
	if db.counted != nil {
		db.counted.Add(1)
	}
}

// embedded tells whether the database is in this process.
func (db *DB) embedded() bool { return !db.postgres }

// row is a single row, which is asked for when it is scanned.
type row struct {
	db   *DB
	ctx  context.Context
	text string
	args []any
}

// Scan reads the row, or returns ErrNotFound.
func (r row) Scan(dest ...any) error {
	r.db.statements.Add(1)
	err := r.db.engine.queryRow(r.ctx, dest, r.text, r.args)
	if err == nil {
		r.db.returned()
	}
	return err
}

// queryRow reads at most one row.
func (db *DB) queryRow(ctx context.Context, text string, args ...any) row {
	return row{db, ctx, text, args}
}

// query reads rows and calls each for every one of them. No row is held while
// a caller does network I/O: pages are bounded and collected first.
func (db *DB) query(ctx context.Context, each func(scan func(...any) error) error, text string, args ...any) error {
	db.statements.Add(1)
	return db.engine.query(ctx, func(scan func(...any) error) error {
		db.returned()
		return each(scan)
	}, text, args)
}

// update makes one change. It returns when the change is durable, or when it failed
// and has no effect (but see ErrUnavailable). A context that ends before the change's turn comes prevents it.
// do may run again from the start, so it must set what the caller reads, not add to it.
func (db *DB) update(ctx context.Context, do func(*tx) error) error {
	return db.engine.update(ctx, func(t *tx) error {
		t.db, t.dialect = db, db.dialect
		if err := do(t); err != nil || db.entry == nil || !t.wrote {
			return err
		}
		return t.addAudit([]AuditEntry{db.entry()})
	})
}

// rows is what the rows of all drivers have in common.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

func eachRow(rows rows, each func(scan func(...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// oneRow scans the first of the rows, or returns ErrNotFound.
func oneRow(rows rows, dest []any) error {
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return ErrNotFound
	}
	if err := rows.Scan(dest...); err != nil {
		return err
	}
	return rows.Close() // which may tell that the statement failed after the row
}
