// Package audit hands the audit log on to receivers outside: a syslog server, a file.
//
// What holds true: what is in the SQL table arrives, in the order of its IDs, at least once; the position of a receiver is noted
// behind what it has got, never before. So nothing is lost while a receiver is down or when a node is killed; what was under way then arrives
// twice, with the same ID. A receiver that is down keeps no request waiting, and not the other receiver.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
)

// Entry is the form in which entries of the audit log leave: JSON on one line.
type Entry struct {
	At         time.Time `json:"at"`
	ID         int64     `json:"id"`
	Actor      string    `json:"actor"`                // the account, or the address of who did not sign in
	Credential string    `json:"credential,omitempty"` // ID and name of what the account signed in with, if it is not the password
	Client     string    `json:"client,omitempty"`
	Action     string    `json:"action"`
	Object     string    `json:"object"`
	Detail     string    `json:"detail,omitempty"`
	Allowed    bool      `json:"allowed"`
}

// EntryOf returns the form of an entry.
func EntryOf(e *meta.AuditEntry) Entry {
	return Entry{e.At.UTC(), e.ID, e.Actor, e.Credential, e.Client, e.Action, e.Object, e.Detail, e.Allowed}
}

// line returns the JSON of an entry, without the end of the line.
func line(e *Entry) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		panic(err) // of a struct of texts and numbers
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Receiver is where entries go.
type Receiver interface {
	// Name tells the receiver from others. It is a part of the name of what is stored about it.
	Name() string
	// Send hands entries over. Without an error, all have arrived, as far as the receiver can tell. It takes no longer than a minute.
	Send(ctx context.Context, entries []Entry) error
}

const (
	batch = 500 // entries that are sent at once, and that arrive twice after an accident
	// look is how often a node looks for new entries, and retry how long it waits after a failure.
	look  = time.Second
	retry = 5 * time.Second
	// turn is how long a run of the job lasts, so that what came of it is noted from time to time.
	turn = time.Minute
)

// Forwarder sends what is new in the audit log to a receiver.
type Forwarder struct {
	db   *meta.DB
	to   Receiver
	log  *slog.Logger
	turn time.Duration
	look time.Duration
	down bool // since the last run, on this node
}

// NewForwarder returns a Forwarder, whose Job sends.
func NewForwarder(db *meta.DB, to Receiver, log *slog.Logger) *Forwarder {
	return &Forwarder{db: db, to: to, log: log, turn: turn, look: look}
}

// Job returns the periodic job that forwards, on one node at a time. It fails while the receiver does.
func (f *Forwarder) Job() job.Job {
	return job.Job{Name: "audit-" + f.to.Name(), Every: retry, Run: f.run}
}

// run forwards for a while.
func (f *Forwarder) run(ctx context.Context) (string, error) {
	sent, err := f.forward(ctx)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		if !f.down { // one line says enough
			f.log.Error("the audit log cannot be forwarded; it is kept, and tried again", "receiver", f.to.Name(), "error", err)
		}
		f.down = true
		return "", err
	case f.down:
		f.log.Info("the audit log is forwarded again", "receiver", f.to.Name(), "entries", sent)
		f.down = false
	}
	return fmt.Sprintf("%d entries", sent), nil
}

func (f *Forwarder) forward(ctx context.Context) (sent int, err error) {
	arrived, err := f.db.AuditForwarded(ctx, f.to.Name())
	if err != nil {
		return 0, err
	}
	for end := time.Now().Add(f.turn); ; {
		n, last, err := f.pass(ctx, arrived)
		if sent += n; err != nil {
			return sent, err
		}
		arrived = last
		// After a failure, that it is over is noted at once.
		if f.down && n > 0 || !time.Now().Before(end) {
			return sent, nil
		}
		select {
		case <-ctx.Done():
			return sent, ctx.Err()
		case <-time.After(f.look):
		}
	}
}

// pass sends all that is new after an ID, and returns how much that was, and the ID of the last.
func (f *Forwarder) pass(ctx context.Context, after int64) (sent int, last int64, err error) {
	switch _, err := f.db.OldestAudit(ctx, after); {
	case errors.Is(err, meta.ErrNotFound):
		return 0, after, nil
	case err != nil:
		return 0, after, err
	}
	settled, err := f.db.SettledAudit(ctx)
	for err == nil && after < settled {
		var rows []meta.AuditEntry
		if rows, err = f.db.AuditBetween(ctx, after, settled, batch); err != nil || len(rows) == 0 {
			break
		}
		entries := make([]Entry, len(rows))
		for i := range rows {
			entries[i] = EntryOf(&rows[i])
		}
		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		err = f.to.Send(bounded, entries)
		cancel()
		if err != nil {
			break
		}
		last := rows[len(rows)-1].ID
		if err = f.db.SetAuditForwarded(ctx, f.to.Name(), last); err != nil {
			break
		}
		sent, after = sent+len(rows), last
	}
	return sent, after, err
}

// Lag returns for how long the oldest entry has been waiting that has not arrived at a receiver, 0 if all have.
func Lag(ctx context.Context, db *meta.DB, receiver string, now time.Time) (time.Duration, error) {
	arrived, err := db.AuditForwarded(ctx, receiver)
	if err != nil {
		return 0, err
	}
	oldest, err := db.OldestAudit(ctx, arrived)
	if errors.Is(err, meta.ErrNotFound) {
		return 0, nil
	}
	return max(now.Sub(oldest), 0), err
}
