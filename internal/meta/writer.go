package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/berthregistry/berth/internal/oci"
)

// maxGroup bounds how many changes share one transaction, so that none waits long.
const maxGroup = 128

var (
	errClosed   = errors.New("the database is closed")
	errReadOnly = errors.New("the database is open for reading only")
)

// writer runs changes one after the other on the only connection that writes.
// Changes that arrive while a transaction is being made durable share the next
// one and its sync, each behind a savepoint of its own: one that fails undoes itself alone.
// One that costs the whole transaction makes each of its group run again, in one of its own.
type writer struct {
	pool  *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // used by the run goroutine only
	cache *cache

	changes chan *change
	mu      sync.RWMutex // held for reading while sending to changes
	closed  bool
	done    chan struct{}
}

type change struct {
	ctx  context.Context
	do   func(*tx) error
	tx   tx
	err  error
	done chan struct{}
}

// tx is what a change sees of the transaction.
type tx struct {
	w       *writer
	touched []oci.Repository
}

func newWriter(pool *sql.DB, conn *sql.Conn, c *cache) *writer {
	w := &writer{
		pool:    pool,
		conn:    conn,
		stmts:   make(map[string]*sql.Stmt),
		cache:   c,
		changes: make(chan *change, maxGroup),
		done:    make(chan struct{}),
	}
	go w.run()
	return w
}

func (w *writer) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.changes)
	}
	w.mu.Unlock()
	<-w.done
}

// update makes one change. It returns when the change is durable, or when it failed
// and has no effect. A context that ends before the change's turn comes prevents it.
// do may run again from the start, so it must set what the caller reads, not add to it.
func (db *DB) update(ctx context.Context, do func(*tx) error) error {
	w := db.writer
	if w == nil {
		return errReadOnly
	}
	c := &change{ctx: ctx, do: do, done: make(chan struct{})}
	w.mu.RLock()
	if w.closed {
		w.mu.RUnlock()
		return errClosed
	}
	w.changes <- c
	w.mu.RUnlock()
	<-c.done
	return c.err
}

func (w *writer) run() {
	defer close(w.done)
	defer func() {
		for _, s := range w.stmts {
			s.Close() // or SQLite would keep the file open, and its log
		}
		w.conn.Close()
	}()
	group := make([]*change, 0, maxGroup)
	for first := range w.changes {
		group = append(group[:0], first)
	collect:
		for len(group) < maxGroup {
			select {
			case c, ok := <-w.changes:
				if !ok {
					break collect
				}
				group = append(group, c)
			default:
				break collect
			}
		}
		w.commit(group)
		for _, c := range group {
			close(c.done)
		}
	}
}

// commit runs a group in one transaction. The steps, and what a crash at each
// leaves: until COMMIT returns, nothing of the group; afterwards all of it. No
// caller hears of its change before.
func (w *writer) commit(group []*change) {
	fail := func(err error) {
		for _, c := range group {
			if c.err == nil {
				c.err = err
			}
		}
	}
	if err := w.exec("BEGIN IMMEDIATE"); err != nil {
		fail(fmt.Errorf("begin: %w", err))
		return
	}
	effective := 0
	for _, c := range group {
		if !w.apply(c) {
			w.exec("ROLLBACK") // fails if SQLite has rolled back by itself
			if len(group) > 1 {
				for i := range group {
					w.commit(group[i : i+1])
				}
			}
			return
		}
		if c.err == nil {
			effective++
		}
	}
	if effective == 0 {
		if err := w.exec("ROLLBACK"); err != nil {
			fail(fmt.Errorf("roll back: %w", err))
		}
		return
	}
	if err := w.exec("COMMIT"); err != nil {
		fail(fmt.Errorf("commit: %w", err))
		w.exec("ROLLBACK") // fails when the commit has rolled back by itself
	}
	w.invalidate(group) // what was read before the commit ended is not believed after it
}

// apply runs one change behind a savepoint. It returns false if the transaction is lost with
// it: SQLite rolls back all of one when the disk is full or fails.
func (w *writer) apply(c *change) bool {
	if c.err = c.ctx.Err(); c.err != nil {
		return true
	}
	if c.err = w.exec("SAVEPOINT change"); c.err != nil {
		return true
	}
	c.tx.w = w
	c.err = call(c.do, &c.tx)
	if c.err != nil && w.exec("ROLLBACK TO change") != nil {
		return false
	}
	if err := w.exec("RELEASE change"); err != nil {
		c.err = errors.Join(c.err, err)
		return false
	}
	return true
}

// call turns a panic of a change into an error: the others of its group go on.
func call(do func(*tx) error, t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a change: %v\n%s", p, debug.Stack())
		}
	}()
	return do(t)
}

func (w *writer) invalidate(group []*change) {
	for _, c := range group {
		for _, r := range c.tx.touched {
			w.cache.invalidate(r)
		}
	}
}

func (w *writer) exec(text string) error {
	s, err := w.prepared(text)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(context.Background())
	return err
}

func (w *writer) prepared(text string) (*sql.Stmt, error) {
	if s := w.stmts[text]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", text, err)
	}
	w.stmts[text] = s
	return s, nil
}

// touch tells that the change affects what is read of a repository.
func (t *tx) touch(r oci.Repository) { t.touched = append(t.touched, r) }

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(text string, args ...any) (int64, error) {
	s, err := t.w.prepared(text)
	if err != nil {
		return 0, err
	}
	res, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *tx) queryRow(text string, args ...any) row {
	s, err := t.w.prepared(text)
	if err != nil {
		return row{err: err}
	}
	return row{row: s.QueryRowContext(context.Background(), args...)}
}

func (t *tx) query(each func(scan func(...any) error) error, text string, args ...any) error {
	s, err := t.w.prepared(text)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(context.Background(), args...)
	if err != nil {
		return err
	}
	return eachRow(rows, each)
}
