package meta

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/berthregistry/berth/internal/oci"
)

// tx is what a change sees of its transaction.
type tx struct {
	dialect
	db      *DB
	on      conn
	touched []oci.Repository
	rights  bool  // Facts may have changed
	wrote   bool  // rows may have changed
	failed  error // of the first statement that failed
	// exclusive is set when the change was tried without the lock on its repository and turned
	// out to need it.
	exclusive bool
}

// conn runs the statements of a transaction.
type conn interface {
	exec(text string, args []any) (changed int64, err error)
	query(text string, args []any) (rows, error)
}

// touch tells that the change affects what is read of a repository.
func (t *tx) touch(r oci.Repository) { t.touched = append(t.touched, r) }

// touchRights tells that the change affects Facts beyond the repositories that it touches.
func (t *tx) touchRights() { t.rights = true }

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(text string, args ...any) (int64, error) {
	t.count()
	n, err := t.on.exec(text, args)
	t.wrote = t.wrote || n > 0 || err != nil
	return n, t.note(err)
}

// txRow is a single row, which is asked for when it is scanned.
type txRow struct {
	t    *tx
	text string
	args []any
}

// Scan reads the row, or returns ErrNotFound.
func (r txRow) Scan(dest ...any) error {
	r.t.count()
	rows, err := r.t.on.query(r.text, r.args)
	if err == nil {
		err = oneRow(rows, dest)
	}
	if err == ErrNotFound {
		return err // and nothing has changed
	}
	if err == nil {
		r.t.returned()
	}
	if !strings.HasPrefix(r.text, "SELECT") {
		r.t.wrote = true
	}
	return r.t.note(err)
}

// queryRow reads at most one row.
func (t *tx) queryRow(text string, args ...any) txRow { return txRow{t, text, args} }

func (t *tx) query(each func(scan func(...any) error) error, text string, args ...any) error {
	t.count()
	rows, err := t.on.query(text, args)
	if err != nil {
		return t.note(err)
	}
	return eachRow(rows, func(scan func(...any) error) error {
		t.returned()
		return each(func(dest ...any) error { return t.note(scan(dest...)) })
	})
}

func (t *tx) count() {
	if t.db != nil {
		t.db.statements.Add(1)
	}
}

func (t *tx) returned() {
	if t.db != nil {
		t.db.returned()
	}
}

func (t *tx) note(err error) error {
	if t.failed == nil {
		t.failed = err
	}
	return err
}

// call runs a change. It turns a panic into an error: the others of its group go on.
func call(do func(*tx) error, t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a change: %v\n%s", p, debug.Stack())
		}
	}()
	return do(t)
}
