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
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// embedded is a SQLite database: many connections that read, one that writes.
type embedded struct {
	read   *sql.DB
	writer *writer // nil if it is open for reading only

	mu    sync.RWMutex
	stmts map[string]*sql.Stmt // of read, by text
}

// source names the file at path, and the settings of each connection, to the driver.
func source(path string) string {
	const pragmas = "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)" +
		"&_pragma=foreign_keys(ON)&_pragma=wal_autocheckpoint(2000)&_pragma=journal_size_limit(16777216)"
	return "file:" + (&url.URL{Path: path}).EscapedPath() + pragmas
}

func openSQLite(ctx context.Context, path string) (*DB, error) {
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
	e, err := openRead(path)
	if err != nil {
		return nil, errors.Join(err, log.Close(), conn.Close(), write.Close())
	}
	c := newCache()
	e.writer = newWriter(write, conn, log, c)
	return &DB{engine: e, statements: new(atomic.Int64), rows: new(atomic.Int64), dialect: sqliteDialect, read: e.read, cache: c}, nil
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

func openSQLiteReadOnly(ctx context.Context, path string) (*DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	e, err := openRead(path)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(ctx, e.read, steps("sqlite")); err != nil {
		return nil, errors.Join(err, e.read.Close())
	}
	// No cache: it would not hear of another process's changes.
	return &DB{engine: e, statements: new(atomic.Int64), rows: new(atomic.Int64), dialect: sqliteDialect, read: e.read}, nil
}

func openRead(path string) (*embedded, error) {
	read, err := sql.Open("sqlite", source(path)+"&_pragma=query_only(ON)&_pragma=cache_size(-1000)")
	if err != nil {
		return nil, err
	}
	// More readers than cores gain nothing: a read waits for no disk in the usual case.
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &embedded{read: read, stmts: make(map[string]*sql.Stmt)}, nil
}

func (e *embedded) close() error {
	if e.writer == nil {
		return e.read.Close()
	}
	e.writer.close()
	return errors.Join(e.read.Close(), e.writer.pool.Close())
}

func (e *embedded) check(ctx context.Context) error {
	if e.writer != nil {
		if failed := e.writer.failed.Load(); failed != nil {
			return *failed
		}
	}
	var one int
	return e.queryRow(ctx, []any{&one}, "SELECT 1", nil)
}

func (e *embedded) stats() Stats {
	s := e.read.Stats()
	return Stats{Limit: s.MaxOpenConnections, Open: s.OpenConnections, InUse: s.InUse, Waits: s.WaitCount, Waited: s.WaitDuration}
}

// prepared returns the statement of a text, prepared once. The texts are
// constants of this package, so their number is bounded.
func (e *embedded) prepared(text string) (*sql.Stmt, error) {
	e.mu.RLock()
	s := e.stmts[text]
	e.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.stmts[text]; s != nil {
		return s, nil
	}
	s, err := e.read.Prepare(text)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", text, err)
	}
	e.stmts[text] = s
	return s, nil
}

// rows asks for rows. It does not heed cancellation: watching a
// context costs the driver a goroutine, which is more than the read itself.
func (e *embedded) rows(ctx context.Context, text string, args []any) (*sql.Rows, error) {
	s, err := e.prepared(text)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(context.WithoutCancel(ctx), args...)
}

func (e *embedded) queryRow(ctx context.Context, dest []any, text string, args []any) error {
	rows, err := e.rows(ctx, text, args)
	if err != nil {
		return err
	}
	return oneRow(rows, dest)
}

func (e *embedded) query(ctx context.Context, each func(scan func(...any) error) error, text string, args []any) error {
	rows, err := e.rows(ctx, text, args)
	if err != nil {
		return err
	}
	return eachRow(rows, each)
}

func (e *embedded) update(ctx context.Context, do func(*tx) error) error {
	if e.writer == nil {
		return errReadOnly
	}
	return e.writer.update(ctx, do)
}

// isFull tells whether err says that there is no room for the file to grow.
func isFull(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_FULL
}
