// Package meta holds every SQL statement of the registry.
//
// What holds true:
//   - A change that a user can see is one transaction. When a method that changes
//     something returns nil, the change is durable.
//   - A blob row exists exactly as long as its bytes do. It cannot go while a repository
//     links to it, nor a link while a manifest needs it: the foreign keys say so, and
//     the collector relies on nothing else.
//   - Every move of a tag is in the tag log, written with the move.
//   - Statements are portable between SQLite and PostgreSQL; only migrations differ.
//
// All methods of DB may be called concurrently.
package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors that methods return, possibly wrapped.
var (
	// ErrNotFound: the repository, tag, manifest, blob or upload is not there.
	ErrNotFound = errors.New("not found")
	// ErrReferenced: a manifest needs the blob.
	ErrReferenced = errors.New("referenced by a manifest")
	// ErrBroken: a sync failed, so nothing can be changed until the database is opened anew. Reads go on.
	ErrBroken = errors.New("the database's log could not be brought to the disk; nothing is written until a restart")
)

// DB is the database of one registry.
type DB struct {
	read   *sql.DB
	writer *writer // nil if it is open for reading only
	cache  *cache  // likewise: it would not hear of another process's changes

	mu    sync.RWMutex
	stmts map[string]*sql.Stmt // of read, by text
}

// source names the file at path, and the settings of each connection, to the driver.
func source(path string) string {
	const pragmas = "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)" +
		"&_pragma=foreign_keys(ON)&_pragma=wal_autocheckpoint(2000)&_pragma=journal_size_limit(16777216)"
	return "file:" + (&url.URL{Path: path}).EscapedPath() + pragmas
}

// Open opens the SQLite database in the file at path, creates it if need be and brings its
// schema up to date. It fails when a newer Berth has written the database.
// The caller sees to it that no other process has it open for writing.
func Open(ctx context.Context, path string) (*DB, error) {
	db, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return db, nil
}

func open(ctx context.Context, path string) (*DB, error) {
	write, err := sql.Open("sqlite", source(path)+"&_pragma=cache_size(-2000)")
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	conn, err := func() (*sql.Conn, error) {
		if err := migrate(ctx, write, steps("sqlite")); err != nil {
			return nil, err
		}
		return write.Conn(ctx)
	}()
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	log, err := openLog(path)
	if err != nil {
		return nil, errors.Join(err, conn.Close(), write.Close())
	}
	db, err := openRead(path)
	if err != nil {
		return nil, errors.Join(err, log.Close(), conn.Close(), write.Close())
	}
	db.cache = newCache()
	db.writer = newWriter(write, conn, log, db.cache)
	return db, nil
}

// logFile is the write-ahead log of a database, opened in order to sync it.
type logFile struct{ *os.File }

// openLog opens the log of the database at path. SQLite made the file when it
// opened the database, and keeps it until the last connection is closed.
func openLog(path string) (logFile, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return logFile{}, err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil { // the names of both files
		return logFile{}, err
	}
	f, err := os.OpenFile(path+"-wal", os.O_RDWR, 0)
	return logFile{f}, err
}

// OpenReadOnly opens a database that exists and has the schema of this Berth. Methods that
// change something fail. Another process may have it open for writing.
func OpenReadOnly(ctx context.Context, path string) (*DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db, err := openRead(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	if err := checkVersion(ctx, db.read, steps("sqlite")); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, errors.Join(err, db.Close()))
	}
	return db, nil
}

func openRead(path string) (*DB, error) {
	read, err := sql.Open("sqlite", source(path)+"&_pragma=query_only(ON)&_pragma=cache_size(-1000)")
	if err != nil {
		return nil, err
	}
	// More readers than cores gain nothing: a read waits for no disk in the usual case.
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &DB{read: read, stmts: make(map[string]*sql.Stmt)}, nil
}

// Close waits for the changes under way and closes the database.
func (db *DB) Close() error {
	if db.writer == nil {
		return db.read.Close()
	}
	db.writer.close()
	return errors.Join(db.read.Close(), db.writer.pool.Close())
}

// Check tells whether the database answers and can be written.
func (db *DB) Check(ctx context.Context) error {
	if db.writer != nil {
		if failed := db.writer.failed.Load(); failed != nil {
			return *failed
		}
	}
	var one int
	return db.queryRow(ctx, "SELECT 1").Scan(&one)
}

// prepared returns the statement of a text, prepared once. The texts are
// constants of this package, so their number is bounded.
func (db *DB) prepared(text string) (*sql.Stmt, error) {
	db.mu.RLock()
	s := db.stmts[text]
	db.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if s := db.stmts[text]; s != nil {
		return s, nil
	}
	s, err := db.read.Prepare(text)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", text, err)
	}
	db.stmts[text] = s
	return s, nil
}

// row is a single row, or the error of asking for it.
type row struct {
	row   *sql.Row
	err   error
	wrote *bool // set if the statement may have changed rows; nil for a SELECT
}

func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	err := r.row.Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound // and nothing to change
	}
	if r.wrote != nil {
		*r.wrote = true
	}
	return err
}

// queryRow reads at most one row. It does not heed cancellation: watching a
// context costs the driver a goroutine, which is more than the read itself.
func (db *DB) queryRow(ctx context.Context, text string, args ...any) row {
	s, err := db.prepared(text)
	if err != nil {
		return row{err: err}
	}
	return row{row: s.QueryRowContext(context.WithoutCancel(ctx), args...)}
}

// query reads rows and calls each for every one of them. No row is held while
// a caller does network I/O: pages are bounded and collected first.
func (db *DB) query(ctx context.Context, each func(scan func(...any) error) error, text string, args ...any) error {
	s, err := db.prepared(text)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(context.WithoutCancel(ctx), args...)
	if err != nil {
		return err
	}
	return eachRow(rows, each)
}

func eachRow(rows *sql.Rows, each func(scan func(...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// isForeignKey tells whether err says that a foreign key forbids the change.
func isForeignKey(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_TRIGGER)
}

// IsFull tells whether err says that there is no room for the database to grow.
func IsFull(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_FULL
}
