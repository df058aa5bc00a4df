// Package pulls notes when tags and manifests were pulled last.
//
// What holds true: a pull costs no write. Pulls are kept in memory, one entry for each reference, and written together every half a minute, and once
// more when the process stops; so a crash loses less than a minute of them, as long as the database takes them. Memory is bounded: of more references than
// that in half a minute the rest is counted and forgotten.
package pulls

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

const (
	every   = 30 * time.Second
	maxKept = 1 << 15 // references, of about 600 bytes at most
	batch   = 1000    // references that one transaction notes
)

// Recorder notes pulls. Its methods may be called concurrently.
type Recorder struct {
	db  *meta.DB
	log *slog.Logger
	// Half of the room is taken: it is time to write.
	much chan struct{}
	lost atomic.Int64

	mu   sync.Mutex
	kept map[reference]time.Time

	write sync.Mutex // held while entries are on their way to the database
}

type reference struct {
	repository oci.Repository
	tag        oci.Tag
	digest     oci.Digest
}

// New returns a Recorder. Run must be called for it to write anything.
func New(db *meta.DB, log *slog.Logger) *Recorder {
	return &Recorder{db: db, log: log, much: make(chan struct{}, 1), kept: make(map[reference]time.Time)}
}

// Note takes note of a pull, by tag or, if that is empty, by digest.
func (r *Recorder) Note(repository oci.Repository, tag oci.Tag, digest oci.Digest) {
	now := time.Now()
	ref := reference{repository, tag, digest}
	r.mu.Lock()
	_, known := r.kept[ref]
	if known {
		r.kept[ref] = now
	}
	r.mu.Unlock()
	if known {
		return
	}
	// The texts of a request are parts of longer ones.
	ref.repository, ref.tag = oci.Repository(strings.Clone(string(repository))), oci.Tag(strings.Clone(string(tag)))
	r.mu.Lock()
	n := len(r.kept)
	if n < maxKept {
		r.kept[ref] = now
	}
	r.mu.Unlock()
	if n >= maxKept {
		r.lost.Add(1)
	}
	if n >= maxKept/2 {
		select {
		case r.much <- struct{}{}:
		default:
		}
	}
}

// Lost returns how many pulls were not noted, because there were too many.
func (r *Recorder) Lost() int64 { return r.lost.Load() }

// Run writes what was noted, from time to time and when ctx has ended.
func (r *Recorder) Run(ctx context.Context) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	failed := false
	for stop := false; !stop; {
		select {
		case <-ctx.Done():
			stop = true
		case <-ticker.C:
		case <-r.much:
		}
		err := r.Flush(context.WithoutCancel(ctx))
		if err != nil && (stop || !failed) { // once, while it lasts
			r.log.Error("when images were pulled could not be noted", "error", err)
		}
		failed = err != nil
		if failed && !stop {
			select { // however much there is
			case <-ctx.Done():
			case <-time.After(every / 10):
			}
		}
	}
}

// Flush writes what was noted until now. What cannot be written is kept for the next time.
func (r *Recorder) Flush(ctx context.Context) error {
	r.write.Lock()
	defer r.write.Unlock()
	r.mu.Lock()
	kept := r.kept
	if len(kept) == 0 { // and it is still written to
		r.mu.Unlock()
		return nil
	}
	r.kept = make(map[reference]time.Time, len(kept)/2)
	r.mu.Unlock()
	pulls := make([]meta.Pull, 0, min(len(kept), batch))
	note := func() error {
		if err := r.db.NotePulls(ctx, pulls); err != nil {
			return err
		}
		for _, p := range pulls {
			delete(kept, reference{p.Repository, p.Tag, p.Digest})
		}
		pulls = pulls[:0]
		return nil
	}
	for ref, at := range kept {
		pulls = append(pulls, meta.Pull{Repository: ref.repository, Tag: ref.tag, Digest: ref.digest, At: at})
		if len(pulls) == batch {
			if err := note(); err != nil {
				r.restore(kept)
				return err
			}
		}
	}
	if len(pulls) > 0 {
		if err := note(); err != nil {
			r.restore(kept)
			return err
		}
	}
	return nil
}

// restore takes back what could not be written.
func (r *Recorder) restore(old map[reference]time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref, at := range old {
		switch _, again := r.kept[ref]; {
		case again: // which is later
		case len(r.kept) < maxKept:
			r.kept[ref] = at
		default:
			r.lost.Add(1)
		}
	}
}
