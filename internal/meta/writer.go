package meta

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// maxGroup bounds how many changes share one transaction, so that none waits long.
const maxGroup = 128

var errClosed = errors.New("the database is closed")

// writer runs changes one after the other on the only connection that writes.
//
// Changes that arrive while it is busy share the next transaction. SQLite does not sync its log at a commit
// (synchronous is NORMAL); a second goroutine does, so that one transaction runs while
// the one before it is made durable. Readers may see a change that is not durable yet; the caller
// hears of it when it is. The log is a sequence: what is durable never rests on something that is not.
//
// Most changes succeed, or fail before they have written anything. One that fails later costs the
// whole transaction, which then runs again with a savepoint around each change.
type writer struct {
	pool  *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // used by the run goroutine only
	cache *cache

	changes chan *change
	mu      sync.RWMutex // held for reading while sending to changes
	closed  bool
	done    chan struct{}

	log       syncer                // the write-ahead log
	committed chan []*change        // from run to persist; a second group waits in run
	failed    atomic.Pointer[error] // why nothing is written any more
}

// syncer is a logFile.
type syncer interface {
	Sync() error
	Close() error
}

type change struct {
	ctx  context.Context
	do   func(*tx) error
	tx   tx
	err  error
	done chan struct{}
}

func newWriter(pool *sql.DB, conn *sql.Conn, log syncer, c *cache) *writer {
	w := &writer{
		pool:      pool,
		conn:      conn,
		stmts:     make(map[string]*sql.Stmt),
		cache:     c,
		changes:   make(chan *change, maxGroup),
		done:      make(chan struct{}),
		log:       log,
		committed: make(chan []*change),
	}
	go w.persist()
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

// update makes one change, see DB.update.
func (w *writer) update(ctx context.Context, do func(*tx) error) error {
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

// run makes transactions of the changes.
func (w *writer) run() {
	for first := range w.changes {
		group := []*change{first}
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
		w.committed <- group
		runtime.Gosched() // else the sync would begin after the next transaction, where all processors are busy
	}
	for _, s := range w.stmts {
		s.Close() // or SQLite would keep the file open, and its log
	}
	close(w.committed)
}

// persist makes groups durable and tells their callers.
func (w *writer) persist() {
	defer close(w.done)
	for group := range w.committed {
		var err error
		if slices.ContainsFunc(group, func(c *change) bool { return c.err == nil }) {
			err = w.sync()
		}
		for _, c := range group {
			if c.err == nil {
				c.err = err
			}
			close(c.done)
		}
	}
	w.conn.Close()
	w.log.Close()
}

// sync makes durable what the log holds. When it fails nobody knows what the disk has: the kernel may have
// dropped what it could not write, so that a second attempt would succeed without it. Changes that follow would
// rest on that, so none is made any more until the database is opened anew.
func (w *writer) sync() error {
	if failed := w.failed.Load(); failed != nil {
		return *failed
	}
	err := w.log.Sync()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrBroken, err)
		w.failed.Store(&err)
	}
	return err
}

// commit runs a group in one transaction. The steps, and what a crash at each
// leaves: until COMMIT returns, nothing of the group; then all or nothing of it; after the sync all. No
// caller hears of its change before.
func (w *writer) commit(group []*change) {
	if failed := w.failed.Load(); failed != nil {
		for _, c := range group {
			c.err = *failed
		}
		return
	}
	if w.attempt(group, false) || w.attempt(group, true) || len(group) == 1 {
		return
	}
	for i := range group {
		w.commit(group[i : i+1])
	}
}

// attempt makes the changes of a group, each behind a savepoint if guarded. It returns false if the transaction is lost with
// one that failed: without savepoints because that one had written something, with them because SQLite rolls
// back all of a transaction when the disk is full or fails.
func (w *writer) attempt(group []*change, guarded bool) bool {
	if err := w.control("BEGIN IMMEDIATE"); err != nil {
		fail(group, fmt.Errorf("begin: %w", err))
		return true
	}
	effective := false
	for _, c := range group {
		if !w.apply(c, guarded) {
			w.control("ROLLBACK") // fails if SQLite has rolled back by itself
			return false
		}
		effective = effective || c.err == nil
	}
	end := "COMMIT"
	if !effective {
		end = "ROLLBACK"
	}
	if err := w.control(end); err != nil {
		fail(group, fmt.Errorf("%s: %w", strings.ToLower(end), err))
		w.control("ROLLBACK") // fails when the commit has rolled back by itself
	}
	w.invalidate(group) // what was read before the commit ended is not believed after it
	return true
}

// fail gives the changes of a group that have not failed an error.
func fail(group []*change, err error) {
	for _, c := range group {
		c.err = cmp.Or(c.err, err)
	}
}

// apply runs one change. It returns false if the transaction is lost with it.
func (w *writer) apply(c *change, guarded bool) bool {
	c.tx = tx{on: w, dialect: sqliteDialect}
	if c.err = c.ctx.Err(); c.err != nil {
		return true
	}
	if !guarded {
		c.err = call(c.do, &c.tx)
		return c.err == nil || !c.tx.wrote
	}
	if c.err = w.control("SAVEPOINT change"); c.err != nil {
		return true
	}
	c.err = call(c.do, &c.tx)
	if c.err != nil && w.control("ROLLBACK TO change") != nil {
		return false
	}
	if err := w.control("RELEASE change"); err != nil {
		c.err = errors.Join(c.err, err)
		return false
	}
	return true
}

func (w *writer) invalidate(group []*change) {
	for _, c := range group {
		for _, r := range c.tx.touched {
			w.cache.invalidate(r)
		}
		if c.tx.rights {
			w.cache.rights.Add(1)
		}
	}
}

// control runs a statement that begins or ends a transaction or a part of one.
func (w *writer) control(text string) error {
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

func (w *writer) exec(text string, args []any) (int64, error) {
	s, err := w.prepared(text)
	if err != nil {
		return 0, err
	}
	res, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (w *writer) query(text string, args []any) (rows, error) {
	s, err := w.prepared(text)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(context.Background(), args...)
}
