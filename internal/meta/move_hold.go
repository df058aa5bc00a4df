package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

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
