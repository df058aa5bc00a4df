package meta

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// AuditEntry tells who did, or was not allowed to do, what.
type AuditEntry struct {
	AuditPlace
	AccountID  int64  // 0 for who did not sign in
	Actor      string // the account's name, or the network address of who did not sign in
	Credential string // what the account proved itself with
	Client     string // the network address
	Action     string
	Object     string // of the action: the name of a repository, an account, ...
	Detail     string
	Allowed    bool
}

// AuditPlace is the place of an entry in the order of the audit log: by time, to the millisecond, and then by ID.
type AuditPlace struct {
	At time.Time
	ID int64
}

// maxAudit is how many entries one statement adds.
const maxAudit = 500

// AddAudit adds entries. Their IDs are set by the database, and not returned.
func (db *DB) AddAudit(ctx context.Context, entries []AuditEntry) error {
	return db.update(ctx, func(t *tx) error {
		for rest := entries; len(rest) > 0; rest = rest[min(len(rest), maxAudit):] {
			if err := t.addAudit(rest[:min(len(rest), maxAudit)]); err != nil {
				return err
			}
		}
		return nil
	})
}

// WithAudit returns the same database, but each change that is made by it has an entry, in its transaction: neither is there without the
// other. What changes no row has none. entry is called at the end of the change, when IDs are known that it sets; it may be called more than once,
// but not at the same time.
func (db *DB) WithAudit(entry func() AuditEntry) *DB {
	with := *db
	with.entry = entry
	return &with
}

func (t *tx) addAudit(entries []AuditEntry) error {
	rows := make([][]any, len(entries))
	for i, e := range entries {
		rows[i] = []any{e.At.UnixMilli(), e.AccountID, asText(e.Actor), asText(e.Credential), asText(e.Client), asText(e.Action),
			asText(e.Object), asText(e.Detail), number(e.Allowed)}
	}
	list, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	columns := make([]string, len(rows[0]))
	for i, v := range rows[0] {
		columns[i] = t.element(i)
		if _, ok := v.(int64); ok {
			columns[i] = `CAST(` + columns[i] + ` AS BIGINT)`
		}
	}
	_, err = t.exec(`INSERT INTO audit (at, account_id, actor, credential, client, action, object, detail, allowed)
		SELECT `+strings.Join(columns, ", ")+` FROM `+t.list("$1"), string(list))
	return err
}

// record adds an entry for a change of a repository, if its origin says that there shall be one.
func (t *tx) record(o Origin, r oci.Repository, detail string, now time.Time) error {
	if !o.Audit {
		return nil
	}
	return t.addAudit([]AuditEntry{{
		AuditPlace: AuditPlace{At: now}, AccountID: o.AccountID, Actor: o.Actor, Credential: o.Credential, Client: o.Client,
		Action: o.Method, Object: string(r), Detail: detail, Allowed: true,
	}})
}

const auditColumns = `id, at, account_id, actor, credential, client, action, object, detail, allowed = 1`

func scanAudit(scan func(...any) error) (e AuditEntry, err error) {
	var at int64
	err = scan(&e.ID, &at, &e.AccountID, &e.Actor, &e.Credential, &e.Client, &e.Action, &e.Object, &e.Detail, &e.Allowed)
	e.At = time.UnixMilli(at)
	return e, err
}

// AuditFilter says which entries are looked for: those that all fields match that are set.
type AuditFilter struct {
	Actor   string
	Object  string
	Prefix  string // of Object
	Action  string
	Since   time.Time // and after
	Until   time.Time // before
	Allowed *bool
}

// maxAuditScan is how many entries are looked at in order to find some.
const maxAuditScan = 20_000

// Audit returns up to n entries that come before a place, the newest first; the zero place stands for the end. next is the
// place to go on from, nil if there are no more. There may be fewer entries than n, even none, and more to come: no more
// than 20,000 are looked at, of the actor or object if there is one.
func (db *DB) Audit(ctx context.Context, f AuditFilter, before AuditPlace, n int) (entries []AuditEntry, next *AuditPlace, err error) {
	low, high := f.bounds()
	if p := before.key(); before != (AuditPlace{}) && p.before(high) {
		high = p
	}
	return db.audit(ctx, f, low, high, "DESC", n)
}

// AuditAfter returns up to n entries that come after a place, the oldest first; the zero place stands for the beginning. It is else
// like Audit. Entries that a process adds late, or with a slow clock, may come before a place that was read already.
func (db *DB) AuditAfter(ctx context.Context, f AuditFilter, after AuditPlace, n int) (entries []AuditEntry, next *AuditPlace, err error) {
	low, high := f.bounds()
	if p := after.key(); after != (AuditPlace{}) && low.before(p) {
		low = p
	}
	return db.audit(ctx, f, low, high, "", n)
}

// auditKey is a place as the index has it.
type auditKey struct{ at, id int64 }

func (p AuditPlace) key() auditKey { return auditKey{p.At.UnixMilli(), p.ID} }

func (k auditKey) before(o auditKey) bool { return k.at < o.at || k.at == o.at && k.id < o.id }

// bounds returns what the entries lie between. IDs are above 0.
func (f *AuditFilter) bounds() (low, high auditKey) {
	low, high = auditKey{math.MinInt64, 0}, auditKey{math.MaxInt64, 0}
	if !f.Since.IsZero() {
		low = auditKey{f.Since.UnixMilli(), 0}
	}
	if !f.Until.IsZero() {
		high = auditKey{f.Until.UnixMilli(), 0}
	}
	return low, high
}

func (db *DB) audit(ctx context.Context, f AuditFilter, low, high auditKey, direction string, n int) (entries []AuditEntry, next *AuditPlace, err error) {
	allowed := int64(-1)
	if f.Allowed != nil {
		allowed = number(*f.Allowed)
	}
	args := []any{low.at, low.id, high.at, high.id}
	// By one of the indexes, which have the same order.
	where, order := `(at, id) > ($1, $2) AND (at, id) < ($3, $4)`, ` ORDER BY at `+direction+`, id `+direction
	switch {
	case f.Object != "":
		where += ` AND object = $5`
		args = append(args, asText(f.Object))
	case f.Actor != "":
		where += ` AND actor = $5`
		args = append(args, asText(f.Actor))
	}
	parameter := func(i int) string { return "$" + strconv.Itoa(len(args)+i) }
	err = db.query(ctx, func(scan func(...any) error) error {
		e, err := scanAudit(scan)
		entries = append(entries, e)
		return err
	}, `SELECT `+auditColumns+` FROM
		(SELECT * FROM audit WHERE `+where+order+` LIMIT `+parameter(1)+`) AS page
		WHERE (`+parameter(2)+` = '' OR actor = `+parameter(2)+`) AND (`+parameter(3)+` = '' OR action = `+parameter(3)+`)
			AND substr(object, 1, length(`+parameter(4)+`)) = `+parameter(4)+` AND (`+parameter(5)+` = -1 OR allowed = `+parameter(5)+`)`+
		order+` LIMIT `+parameter(6),
		append(args[:len(args):len(args)], maxAuditScan, asText(f.Actor), asText(f.Action), asText(f.Prefix), allowed, n)...)
	if err != nil {
		return nil, nil, err
	}
	if len(entries) == n && n > 0 {
		return entries, &entries[n-1].AuditPlace, nil
	}
	var last AuditPlace
	var at int64
	err = db.queryRow(ctx, `SELECT at, id FROM audit WHERE `+where+order+` LIMIT 1 OFFSET `+parameter(1), append(args, maxAuditScan-1)...).Scan(&at, &last.ID)
	if err == ErrNotFound {
		return entries, nil, nil
	}
	last.At = time.UnixMilli(at)
	return entries, &last, err
}

// DeleteAudit deletes up to n entries of before a time whose IDs are not above one, the oldest first, and returns how many it were.
func (db *DB) DeleteAudit(ctx context.Context, before time.Time, upTo int64, n int) (deleted int, err error) {
	err = db.update(ctx, func(t *tx) error {
		changed, err := t.exec(`DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 AND id <= $2 ORDER BY at, id LIMIT $3)`,
			before.UnixMilli(), upTo, n)
		deleted = int(changed)
		return err
	})
	return deleted, err
}
