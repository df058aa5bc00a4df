package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Who hands the audit log on to somebody else, a receiver, goes by IDs, and remembers the last one that has arrived. An ID
// is given before the change ends that the entry belongs to, so with PostgreSQL a smaller one may come to be seen
// later than a larger one: nobody may go beyond SettledAudit.

// SettledAudit returns the ID up to which the audit log changes no more: each entry that ever will be there can be read, and is durable.
//
// With PostgreSQL it waits for the changes under way that may add entries. It needs nothing of them, and keeps none of them waiting: whoever adds
// a row has a lock on the table since before the ID was taken, and has it until the change ends and is seen. The
// wait is bounded, because changes are; then it is an ErrUnavailable.
func (db *DB) SettledAudit(ctx context.Context) (int64, error) {
	var last int64
	if err := db.queryRow(ctx, `SELECT COALESCE(MAX(id), 0) FROM audit`).Scan(&last); err != nil {
		return 0, err
	}
	p, ok := db.engine.(*postgres)
	if !ok {
		// Readers may see what is not durable yet. What goes through the writer after it waits for that.
		return last, db.update(ctx, func(*tx) error { return nil })
	}
	// After last was read, so that whoever has a smaller ID is among them or has ended.
	writers, err := db.auditWriters(ctx)
	for began := time.Now(); err == nil && len(writers) > 0; {
		if time.Since(began) > 2*p.timeout {
			return 0, unavailable(fmt.Errorf("a change that may add to the audit log has not ended for %s", 2*p.timeout))
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		var now []string
		now, err = db.auditWriters(ctx)
		writers = slices.DeleteFunc(writers, func(w string) bool { return !slices.Contains(now, w) })
	}
	return last, err
}

// AuditBetween returns up to n entries whose IDs are above after and not above upTo, in the order of IDs.
func (db *DB) AuditBetween(ctx context.Context, after, upTo int64, n int) ([]AuditEntry, error) {
	var entries []AuditEntry
	err := db.query(ctx, func(scan func(...any) error) error {
		e, err := scanAudit(scan)
		entries = append(entries, e)
		return err
	}, `SELECT `+auditColumns+` FROM audit WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3`, after, upTo, n)
	return entries, err
}

// auditReceiver is the name of the setting with the last ID that has arrived at a receiver.
func auditReceiver(receiver string) string { return "audit_forwarded_" + receiver }

// AuditForwarded returns the ID up to which all entries have arrived at a receiver, 0 for none.
func (db *DB) AuditForwarded(ctx context.Context, receiver string) (int64, error) {
	v, err := db.Setting(ctx, auditReceiver(receiver))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(v), 10, 64)
}

// SetAuditForwarded notes the ID up to which all entries have arrived at a receiver.
func (db *DB) SetAuditForwarded(ctx context.Context, receiver string, id int64) error {
	return db.SetSetting(ctx, auditReceiver(receiver), strconv.AppendInt(nil, id, 10))
}

// OldestAudit returns when the first entry was made whose ID is above after, or ErrNotFound.
func (db *DB) OldestAudit(ctx context.Context, after int64) (time.Time, error) {
	var at int64
	err := db.queryRow(ctx, `SELECT at FROM audit WHERE id > $1 ORDER BY id LIMIT 1`, after).Scan(&at)
	return time.UnixMilli(at), err
}
