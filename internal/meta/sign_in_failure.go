package meta

import (
	"context"
	"slices"
	"time"
)

// Failures to sign in are counted by subject: an account's name, a network. All times are the database's, so
// that clocks of nodes do not matter.

// Failure is how often signing in has failed for a subject.
type Failure struct {
	Subject string
	Count   int
	Ago     time.Duration // since the last one
	Locked  time.Duration // how long nobody can sign in yet; not above 0 if it is possible
}

// NoteFailures counts a failure for each of the subjects. The count begins anew if the last one is longer ago than the window. The
// subject is then locked for as long as lock says for the count, unless it is locked for longer already.
func (db *DB) NoteFailures(ctx context.Context, subjects []string, window time.Duration, lock func(count int) time.Duration) error {
	subjects = texts(subjects)
	return db.update(ctx, func(t *tx) error {
		list := jsonOf(subjects)
		if _, err := t.exec(`INSERT INTO sign_in_failure (subject, failures, failed_at, locked_until)
			SELECT list.value, 1, `+t.now+`, 0 FROM `+t.list("$1")+` WHERE true
			ON CONFLICT (subject) DO UPDATE SET failed_at = excluded.failed_at,
				failures = CASE WHEN sign_in_failure.failed_at < excluded.failed_at - CAST($2 AS BIGINT) THEN 1 ELSE sign_in_failure.failures + 1 END`,
			list, window.Milliseconds()); err != nil {
			return err
		}
		counts := make(map[string]int, len(subjects))
		if err := t.query(func(scan func(...any) error) error {
			var subject string
			var n int
			err := scan(&subject, &n)
			counts[subject] = n
			return err
		}, `SELECT f.subject, f.failures FROM `+t.list("$1")+` CROSS JOIN sign_in_failure f WHERE f.subject = list.value`, list); err != nil {
			return err
		}
		for _, s := range subjects {
			until := lock(counts[s]).Milliseconds()
			if until <= 0 {
				continue
			}
			if _, err := t.exec(`UPDATE sign_in_failure SET locked_until = `+t.now+` + $2
				WHERE subject = $1 AND locked_until < `+t.now+` + $2`, s, until); err != nil {
				return err
			}
		}
		return nil
	})
}

// texts returns what a database takes, sorted and each once: so that who changes the same rows does it in the same order.
func texts(all []string) []string {
	all = slices.Clone(all)
	for i := range all {
		all[i] = asText(all[i])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Failures returns what is known of those of the subjects that have failed.
func (db *DB) Failures(ctx context.Context, subjects []string) ([]Failure, error) {
	var all []Failure
	err := db.query(ctx, func(scan func(...any) error) error {
		var f Failure
		var ago, locked int64
		err := scan(&f.Subject, &f.Count, &ago, &locked)
		f.Ago, f.Locked = time.Duration(ago)*time.Millisecond, time.Duration(locked)*time.Millisecond
		all = append(all, f)
		return err
	}, `SELECT f.subject, f.failures, `+db.now+` - f.failed_at, CASE WHEN f.locked_until > `+db.now+` THEN f.locked_until - `+db.now+` ELSE 0 END
		FROM `+db.list("$1")+` CROSS JOIN sign_in_failure f WHERE f.subject = list.value`, jsonOf(texts(subjects)))
	return all, err
}

// ClearFailures forgets the failures of a subject, which has signed in. There need not be any.
func (db *DB) ClearFailures(ctx context.Context, subject string) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM sign_in_failure WHERE subject = $1`, asText(subject))
		return err
	})
}

// FirstUse stores that what the subject names was used, and tells whether that was the first time. To use it again is to fail: it
// is forgotten as failures are.
func (db *DB) FirstUse(ctx context.Context, subject string) (first bool, err error) {
	err = db.update(ctx, func(t *tx) error {
		n, err := t.exec(`INSERT INTO sign_in_failure (subject, failures, failed_at, locked_until) VALUES ($1, 0, `+t.now+`, 0) ON CONFLICT DO NOTHING`, asText(subject))
		first = n > 0
		return err
	})
	return first, err
}

// DeleteOldFailures forgets up to n subjects that have not failed for an age and are not locked, and returns how many it were.
func (db *DB) DeleteOldFailures(ctx context.Context, age time.Duration, n int) (deleted int, err error) {
	err = db.update(ctx, func(t *tx) error {
		changed, err := t.exec(`DELETE FROM sign_in_failure WHERE subject IN
			(SELECT subject FROM sign_in_failure WHERE failed_at < `+t.now+` - CAST($1 AS BIGINT) AND locked_until < `+t.now+`
				ORDER BY failed_at LIMIT $2`+t.locking("FOR UPDATE SKIP LOCKED")+`)`, age.Milliseconds(), n)
		deleted = int(changed)
		return err
	})
	return deleted, err
}
