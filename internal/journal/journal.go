// Package journal keeps a copy of the metadata in the blob store, so that a registry whose database is lost can be made again from
// the store alone.
//
// What holds true: whatever a client was told is in the journal a few seconds later, as long as the store takes it; a store that does not
// keeps nobody from pushing. The changes that have yet to be written are rows of a table, filled by triggers in the transaction
// of the change, and a row goes only when its record is durable. So a crash at any step writes records again and loses none.
//
// A record holds the state of one thing: a repository, a blob that a repository has, a manifest, a move of a tag. Of all
// records of a thing the one with the highest number is right, so neither the order of parts matters nor that some records are there twice.
//
// An epoch begins with a checkpoint: records of all that there is, in pages, while changes go on. They count less than
// any change of the same epoch, whose records follow from the epoch's beginning on. When the checkpoint is complete, earlier epochs are of no use, and
// are deleted; until then they are, together, the journal. A database that was never journalled begins one, and so does one that
// was moved or rebuilt. When the changes take as much space as the checkpoint, the next epoch is due.
//
// The journal holds nothing of accounts, rights and settings: secrets have no place beside the blobs.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
)

// ErrForeign: the store has a journal, and the database knows nothing of it.
var ErrForeign = errors.New("the storage holds the journal of a registry, but this database is not that registry's. If its database was lost, " +
	"make it again with \"berth rebuild\"; if what is in the storage is not wanted any more, delete what is below \"journal/\" there")

// Options configure a Journal.
type Options struct {
	Log *slog.Logger
	// Interval is the time between two looks for changes.
	Interval time.Duration
}

// Journal writes the journal of a registry. Several that write at the same time, on several nodes, do each other no harm.
type Journal struct {
	db    *meta.DB
	store blob.Documents
	opts  Options

	checked bool // that the database is not older than the journal; used by Begin and Export only

	records, failures atomic.Int64
}

// New returns a Journal.
func New(db *meta.DB, store blob.Documents, opts Options) *Journal {
	return &Journal{db: db, store: store, opts: opts}
}

// Stats are counts since the process began.
type Stats struct {
	Records  int64 // written to the store by this process
	Failures int64 // attempts that failed
}

// Stats returns what the Journal has done. It may be called concurrently.
func (j *Journal) Stats() Stats {
	return Stats{Records: j.records.Load(), Failures: j.failures.Load()}
}

// Lag returns how long the oldest change has waited that is not in the journal yet; 0 if all are. It may be called concurrently.
func (j *Journal) Lag(ctx context.Context) (time.Duration, error) {
	since, err := j.db.JournalWaits(ctx)
	if err != nil || since.IsZero() {
		return 0, err
	}
	return max(time.Since(since), time.Millisecond), nil
}

// state is what the database knows of the journal.
type state struct {
	Epoch    int64             `json:"epoch,omitempty"` // 0 if none has begun
	Place    meta.JournalPlace `json:"place,omitzero"`  // of the checkpoint
	Complete bool              `json:"complete,omitempty"`
}

func parseState(raw []byte) (s state, err error) {
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("the state of the journal: %w", err)
	}
	return s, nil
}

// load returns the state, and its bytes; nil if there is none.
func (j *Journal) load(ctx context.Context) (state, []byte, error) {
	raw, err := j.db.JournalState(ctx)
	if errors.Is(err, meta.ErrNotFound) {
		return state{}, nil, nil
	}
	if err != nil {
		return state{}, nil, err
	}
	s, err := parseState(raw)
	return s, raw, err
}

// save replaces the state whose bytes are old, and returns the new bytes.
func (j *Journal) save(ctx context.Context, old []byte, s state) ([]byte, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return raw, j.db.SwapJournalState(ctx, old, raw)
}

// parts returns all parts of the journal in the store.
func parts(ctx context.Context, store blob.Documents) (found []part, err error) {
	for d, err := range store.Documents(ctx, root) {
		if err != nil {
			return nil, err
		}
		if p, ok := parsePart(d.Name, d.Size); ok {
			found = append(found, p)
		}
	}
	return found, nil
}

// Run writes changes to the journal, soon after they are made, until ctx ends. Of several nodes one does at a time.
func (j *Journal) Run(ctx context.Context, runner *job.Runner) {
	down := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(j.opts.Interval):
		}
		var failed error
		ran := false
		due, err := j.due(ctx)
		if err == nil && due {
			ran, err = runner.Now(ctx, job.Job{Name: "journal", Run: func(ctx context.Context) (string, error) {
				var result string
				result, failed = j.Export(ctx)
				return result, failed
			}})
		}
		if ctx.Err() != nil {
			return
		}
		switch err := errors.Join(err, failed); {
		case err != nil && !errors.Is(err, meta.ErrLost):
			j.failures.Add(1)
			if !down {
				j.opts.Log.Error("the journal cannot be written; it is tried again, and changes wait", "error", err)
			}
			down = true
		case err == nil && down && ran:
			j.opts.Log.Info("the journal is written again")
			down = false
		}
	}
}

// due tells whether there is something to write.
func (j *Journal) due(ctx context.Context) (bool, error) {
	since, err := j.db.JournalWaits(ctx)
	if err != nil || !since.IsZero() || !j.checked {
		return true, err
	}
	s, _, err := j.load(ctx)
	return !s.Complete, err
}

// Export writes all changes that wait, and what is missing of the checkpoint. It is called by one goroutine at a time.
func (j *Journal) Export(ctx context.Context) (result string, err error) {
	if err := j.Begin(ctx); err != nil {
		return "", fmt.Errorf("begin a journal: %w", err)
	}
	changes, pages := 0, 0
	for {
		// In turn, so that neither keeps the other waiting; a checkpoint of little is whole before the first change is written.
		more, err := j.checkpoint(ctx)
		if err != nil {
			return "", fmt.Errorf("write a checkpoint: %w", err)
		}
		if more {
			pages++
		}
		n, full, err := j.changes(ctx)
		if err != nil {
			return "", fmt.Errorf("write changes: %w", err)
		}
		changes += n
		if !more && !full {
			return fmt.Sprintf("%d changes, %d parts of a checkpoint", changes, pages), nil
		}
	}
}

// Begin sees to it that there is an epoch, and that it is the database's. It fails with ErrForeign if the database has no journal and the store has
// one: an empty database beside a full store is what is left when the database is lost. A server asks before it serves; a database that was put back from
// an older copy is told for sure only as long as nothing is changed in it. Export asks again, in case the store could not be reached.
func (j *Journal) Begin(ctx context.Context) error {
	s, _, err := j.load(ctx)
	if err != nil || s.Epoch > 0 && j.checked {
		return err
	}
	// Before the state is read again and the number of the last change, so that nothing is found that another node has just begun.
	found, err := parts(ctx, j.store)
	if err != nil {
		return err
	}
	s, raw, err := j.load(ctx)
	if err != nil {
		return err
	}
	if raw == nil && len(found) > 0 {
		return ErrForeign
	}
	last, err := j.db.LastChange(ctx)
	if err != nil {
		return err
	}
	newest, older := s.Epoch, false
	for _, p := range found {
		older = older || p.epoch > s.Epoch || p.epoch == s.Epoch && p.last > last
		newest = max(newest, p.epoch)
	}
	if s.Epoch == 0 || older {
		if s.Epoch > 0 {
			j.opts.Log.Warn("the database is older than the journal in the storage, as one that was put back from a copy is: what was pushed after that copy "+
				"is not in it. A new journal begins, and takes the place of the one that knows of it", "epoch", newest+1)
		}
		if _, err := j.save(ctx, raw, state{Epoch: newest + 1}); err != nil {
			return err
		}
	}
	j.checked = true
	return nil
}

// changes writes a page of changes to the present epoch. It returns how many records it had, and whether it was full: else few
// changes wait, and the next ones had better have a part together.
func (j *Journal) changes(ctx context.Context) (n int, full bool, err error) {
	s, _, err := j.load(ctx)
	if err != nil {
		return 0, false, err
	}
	c, err := j.db.JournalChanges(ctx)
	if err != nil || len(c.Records) == 0 {
		return 0, false, err
	}
	if err := j.db.Settle(ctx); err != nil {
		return 0, false, err
	}
	if err := j.write(ctx, changesName(s.Epoch, c.Records[len(c.Records)-1].Change), c.Records); err != nil {
		return 0, false, err
	}
	// If another epoch has begun, this part may be deleted with its own, before the new checkpoint has what is in it.
	return len(c.Records), c.More, j.db.Written(ctx, c, func(raw []byte) bool {
		now, err := parseState(raw)
		return err == nil && now.Epoch == s.Epoch
	})
}

// write stores a part.
func (j *Journal) write(ctx context.Context, name string, records []meta.JournalRecord) error {
	data, err := encode(records)
	if err != nil {
		return err
	}
	if err := j.store.PutDocument(ctx, name, data); err != nil {
		return err
	}
	j.records.Add(int64(len(records)))
	return nil
}

// A part of a checkpoint has about so many records, and manifests of so many bytes.
const (
	checkpointRecords = 20_000
	checkpointBytes   = 8 << 20
)

// checkpoint writes the next part of an unfinished checkpoint. It returns false if there is nothing to write.
func (j *Journal) checkpoint(ctx context.Context) (more bool, err error) {
	s, raw, err := j.load(ctx)
	if err != nil || s.Complete {
		return false, err
	}
	var records []meta.JournalRecord
	done, bytes := false, 0
	for !done && len(records) < checkpointRecords && bytes < checkpointBytes {
		var page []meta.JournalRecord
		if page, s.Place, done, err = j.db.JournalCheckpoint(ctx, s.Place); err != nil {
			return false, err
		}
		for i := range page {
			bytes += len(page[i].Text) + len(page[i].Body)
		}
		records = append(records, page...)
	}
	if len(records) > 0 {
		if err := j.db.Settle(ctx); err != nil {
			return false, err
		}
		if err := j.write(ctx, checkpointName(s.Epoch), records); err != nil {
			return false, err
		}
	}
	if done {
		if err := j.store.PutDocument(ctx, epochPrefix(s.Epoch)+completeName, []byte("the checkpoint is complete\n")); err != nil {
			return false, err
		}
		s.Place, s.Complete = meta.JournalPlace{}, true
	}
	_, err = j.save(ctx, raw, s)
	return true, err
}
