// Package gc takes away what nobody needs any more, while pushes and pulls go on.
//
// What holds true: rows go first, and only if the foreign keys allow it; bytes go after
// their row is gone, by key, and a key is never used again. So a push that races with a
// collection either holds its reference first, and the collector skips, or comes
// second and is told before it is acknowledged. The cost follows the garbage: every pass reads
// indexes of what may go, never all there is.
package gc

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
)

// Job is the name of the job that collects.
const Job = "collection"

// Options configure a Collector.
type Options struct {
	Log *slog.Logger
	// Grace is how long a blob stays at least that no manifest needs, since it was pushed, asked for,
	// or lost its last manifest.
	Grace time.Duration
	// UploadExpiry is how long an upload session stays that nobody uses.
	UploadExpiry time.Duration
	// TrashKeep is how long a deleted manifest stays in the trash. The grace period of its blobs begins then.
	TrashKeep time.Duration
	// Rate is how many deleted manifests, blobs, uploads and objects to take away in a second at most; 0 for no limit.
	Rate int
	// Busy, if not nil, tells whether the registry was used since it was called last. The collector rests then, so that what it slows down is slow for a twentieth of the time only.
	Busy func() bool
	// Observe, if not nil, is told of each run that has ended, and of what it alone did.
	Observe func(Progress, time.Duration, error)
}

// Result says what a pass took away.
type Result struct {
	Links        int64 `json:"links"`        // blobs taken from repositories
	Blobs        int64 `json:"blobs"`        // blobs that no repository had any more
	Bytes        int64 `json:"bytes"`        // of those blobs
	Repositories int64 `json:"repositories"` // left empty
	Uploads      int64 `json:"uploads"`      // expired sessions
	Trash        int64 `json:"trash"`        // manifests that had been deleted
	Objects      int64 `json:"objects"`      // objects deleted from the blob store
	Orphans      int64 `json:"orphans"`      // of these, the ones that no row had spoken of
}

func (r *Result) add(o Result) {
	r.Links += o.Links
	r.Blobs += o.Blobs
	r.Bytes += o.Bytes
	r.Repositories += o.Repositories
	r.Uploads += o.Uploads
	r.Trash += o.Trash
	r.Objects += o.Objects
	r.Orphans += o.Orphans
}

// Progress is how far a pass is.
type Progress struct {
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"`
	Result
	Rows int64 `json:"rows"` // that the database returned to it
	// InTrash is what lay in the trash when it ended.
	InTrash meta.TrashTotal `json:"in_trash"`
}

// State is how far the collection is, as the row of the job has it.
type State struct {
	// Pass is the one under way, if there is one.
	Pass *Progress `json:"pass,omitempty"`
	// Last is the last one that has ended, if there is one.
	Last *Progress `json:"last,omitempty"`
}

// StateOf returns what a job's row says.
func StateOf(j meta.Job) (State, error) {
	var s State
	if j.State == "" {
		return s, nil
	}
	err := json.Unmarshal([]byte(j.State), &s)
	return s, err
}

// Collector removes garbage. Passes that run at the same time, on several nodes, do each other no harm.
type Collector struct {
	db    *meta.DB
	store blob.Store
	opts  Options
	limit *rate.Limiter
	batch int
}

// New returns a Collector.
func New(db *meta.DB, store blob.Store, opts Options) *Collector {
	c := &Collector{db, store, opts, rate.NewLimiter(rate.Inf, 0), maxBatch}
	if opts.Rate > 0 {
		c.batch = max(20, min(opts.Rate, maxBatch)) // a few that are in use do not keep the rest
		c.limit = rate.NewLimiter(rate.Limit(opts.Rate), c.batch)
	}
	return c
}

// trashLook is in how many repositories a pass looks at what lies in the trash, at most.
const trashLook = 1000

// checkpoint is how often it is noted how far a pass is.
const checkpoint = 5 * time.Second

// Run makes a pass as a periodic job, or goes on with one that was not ended, and says in a few words what it took away.
func (c *Collector) Run(ctx context.Context) (result string, err error) {
	j, err := c.db.Job(ctx, Job)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return "", err
	}
	state, err := StateOf(j)
	if err != nil || state.Pass == nil { // of a state that cannot be read, nothing but counts is lost
		state = State{&Progress{Began: time.Now()}, state.Last}
	}
	before := *state.Pass
	save := func(ctx context.Context) error {
		b, err := json.Marshal(state)
		if err != nil {
			return err
		}
		return c.db.SetJobState(ctx, Job, j.Holder, string(b))
	}
	start, saved := time.Now(), time.Now()
	var res Result
	var rows atomic.Int64
	p := &pass{Collector: c, db: c.db.Counting(&rows)}
	p.note = func(r Result) {
		res = r
		state.Pass.Result, state.Pass.Rows = before.Result, before.Rows+rows.Load()
		state.Pass.add(r)
		if time.Since(saved) >= checkpoint {
			saved = time.Now()
			save(ctx) // if this fails, so does what comes next
		}
	}
	err = p.collect(ctx)
	took := time.Since(start)
	if ctx.Err() != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpoint)
		defer cancel()
		save(last) // else a few counts are lost
		return "", ctx.Err()
	}
	if c.opts.Observe != nil {
		c.opts.Observe(Progress{Began: start, Result: res, Rows: rows.Load()}, took, err)
	}
	switch {
	case err != nil:
		c.opts.Log.Error("collection failed", "error", err)
	case res != Result{}:
		c.opts.Log.Info("collected", "links", res.Links, "blobs", res.Blobs, "bytes", res.Bytes,
			"repositories", res.Repositories, "uploads", res.Uploads, "trash", res.Trash, "objects", res.Objects,
			"orphans", res.Orphans, "rows", rows.Load(), "took", took)
	}
	res = state.Pass.Result
	if err == nil {
		state.Pass.InTrash, err = c.db.TrashTotal(ctx, trashLook)
	}
	if err == nil {
		state.Pass.Ended = time.Now()
		state = State{Last: state.Pass}
	}
	err = errors.Join(err, save(ctx))
	return fmt.Sprintf("%d blobs of %d bytes, %d uploads, %d orphans, %d deleted manifests", res.Blobs, res.Bytes, res.Uploads, res.Orphans, res.Trash), err
}

// maxBatch bounds what one transaction takes away, so that pushes wait only briefly.
const maxBatch = 200

// Collect makes one pass. Stopped at any point, it leaves nothing but work for the next. A step that fails does not keep
// the others from being made.
func (c *Collector) Collect(ctx context.Context) (Result, error) {
	p := &pass{Collector: c, db: c.db, note: func(Result) {}}
	err := p.collect(ctx)
	return p.res, err
}

// pass is one pass.
type pass struct {
	*Collector
	db    *meta.DB
	res   Result
	note  func(Result) // is told of what was done so far, again and again
	since time.Time    // of the work after the last rest
}

const (
	// rests is how many times as long as its work the collector rests while the registry is used, and longestRest how long at most: where all is slow,
	// garbage must not grow faster than it goes.
	rests       = 19
	longestRest = 3 * time.Second
)

// rest is called after each batch, with how much it took away.
func (c *pass) rest(ctx context.Context, n int) error {
	pause := min(rests*time.Since(c.since), longestRest)
	if c.opts.Busy == nil || !c.opts.Busy() {
		pause = 0
	}
	if err := c.limit.WaitN(ctx, n); err != nil {
		return err
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return ctx.Err()
	}
	c.since = time.Now()
	return nil
}

func (c *pass) collect(ctx context.Context) error {
	if c.opts.Busy != nil {
		c.opts.Busy() // what was before the pass does not count
	}
	c.since = time.Now()
	var failed error
	for _, step := range []func(context.Context) error{c.trash, c.blobs, c.uploads, c.doomed, c.orphans, c.doomed} {
		err := step(ctx)
		failed = errors.Join(failed, err)
		c.note(c.res)
		if ctx.Err() != nil || errors.Is(err, blob.ErrUnavailable) || errors.Is(err, meta.ErrUnavailable) {
			break
		}
	}
	return failed
}

// blobs takes unreferenced blobs from their repositories.
func (c *pass) blobs(ctx context.Context) error {
	now := time.Now()
	// Who asks for a blob in the first quarter of its grace period is not noted
	// (registry.CheckBlob), but can rely on it for a whole period, too.
	before := now.Add(-c.opts.Grace - c.opts.Grace/4)
	for {
		links, err := c.db.UnreferencedBlobs(ctx, before, c.batch)
		if err != nil {
			return fmt.Errorf("find unreferenced blobs: %w", err)
		}
		if len(links) == 0 {
			return nil
		}
		got, err := c.db.CollectBlobs(ctx, links, before, now)
		if err != nil {
			return fmt.Errorf("collect blobs: %w", err)
		}
		c.res.Links += got.Links
		c.res.Blobs += got.Blobs
		c.res.Bytes += got.Bytes
		c.res.Repositories += got.Repositories
		c.note(c.res)
		if err := c.rest(ctx, int(got.Links)); err != nil {
			return err
		}
		if got.Links == 0 || len(links) < c.batch {
			return nil // what is left is in use again
		}
	}
}

// trash empties the trash of what has been there long enough.
func (c *pass) trash(ctx context.Context) error {
	for {
		now := time.Now()
		e, err := c.db.ExpireTrash(ctx, now.Add(-c.opts.TrashKeep), c.batch, now)
		if err != nil {
			return fmt.Errorf("empty the trash: %w", err)
		}
		c.res.Trash += e.Manifests
		c.res.Repositories += e.Repositories
		c.note(c.res)
		if err := c.rest(ctx, int(e.Manifests)); err != nil {
			return err
		}
		if e.Manifests == 0 {
			return nil
		}
	}
}

// uploads ends sessions that nobody uses.
func (c *pass) uploads(ctx context.Context) error {
	for {
		now := time.Now()
		n, err := c.db.ExpireUploads(ctx, now.Add(-c.opts.UploadExpiry), c.batch, now)
		if err != nil {
			return fmt.Errorf("expire uploads: %w", err)
		}
		c.res.Uploads += int64(n)
		c.note(c.res)
		if err := c.rest(ctx, n); err != nil {
			return err
		}
		if n < c.batch {
			return nil
		}
	}
}

// doomed deletes the bytes whose rows are gone, unless a backup runs: it may have seen the rows. A crash between the delete and
// the note of it makes the next pass delete once more, which does nothing. What cannot be deleted does not keep
// the rest.
func (c *pass) doomed(ctx context.Context) error {
	var failed error
	for after := ""; ; {
		keys, err := c.db.Doomed(ctx, after, c.batch)
		if err != nil {
			return errors.Join(failed, fmt.Errorf("find doomed objects: %w", err))
		}
		if len(keys) == 0 {
			return failed
		}
		// Asked after the keys were read: what begins later sees no row that has one of them.
		if needed, err := c.db.BackupRuns(ctx); err != nil || needed {
			return errors.Join(failed, err)
		}
		after = keys[len(keys)-1]
		var gone []string
		for _, k := range keys {
			if err := c.store.Delete(ctx, k); err != nil {
				if ctx.Err() != nil || errors.Is(err, blob.ErrUnavailable) {
					return errors.Join(failed, fmt.Errorf("delete object %s: %w", k, err))
				}
				if failed == nil { // one says enough
					failed = fmt.Errorf("delete object %s: %w", k, err)
				}
				continue
			}
			gone = append(gone, k)
		}
		if len(gone) > 0 {
			if err := c.db.Buried(ctx, gone); err != nil {
				return errors.Join(failed, fmt.Errorf("note deleted objects: %w", err))
			}
		}
		c.res.Objects += int64(len(gone))
		c.note(c.res)
		if err := c.rest(ctx, len(gone)); err != nil {
			return errors.Join(failed, err)
		}
	}
}

// Settled returns the hour before which every object has a row, or is garbage: no upload that began
// earlier can still be at work without one, whichever node it is on and whatever its clock says within half an hour.
func Settled(now time.Time, uploadExpiry, grace time.Duration) time.Time {
	return now.Add(-max(uploadExpiry, grace, time.Hour) - time.Hour).Truncate(time.Hour)
}

const sweptSetting = "swept_until"

// orphans dooms objects that no row speaks of: what a crash left between the bytes
// and the row. Keys carry the hour of their creation, so each hour is looked at once, when every
// upload begun in it has either got a row or come to nothing.
func (c *pass) orphans(ctx context.Context) error {
	until := Settled(time.Now(), c.opts.UploadExpiry, c.opts.Grace)
	var from time.Time
	v, err := c.db.Setting(ctx, sweptSetting)
	switch {
	case err == nil && len(v) == 8:
		from = time.Unix(int64(binary.BigEndian.Uint64(v)), 0)
	case err != nil && !errors.Is(err, meta.ErrNotFound):
		return fmt.Errorf("read how far the storage is swept: %w", err)
	}
	// By days, so that a pass that is stopped goes on where it was.
	for from.Before(until) {
		next := until
		if day := from.Add(24 * time.Hour); !from.IsZero() && day.Before(until) {
			next = day
		}
		if err := c.sweep(ctx, from, next); err != nil {
			return err
		}
		if err := c.db.SetSetting(ctx, sweptSetting, binary.BigEndian.AppendUint64(nil, uint64(next.Unix()))); err != nil {
			return fmt.Errorf("note how far the storage is swept: %w", err)
		}
		from = next
	}
	return nil
}

// sweep dooms the objects of some hours that no row speaks of.
func (c *pass) sweep(ctx context.Context, from, until time.Time) error {
	looked := 0
	for info, err := range c.store.List(ctx, from, until) {
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		if looked++; looked%maxBatch == 0 {
			if err := c.rest(ctx, 0); err != nil {
				return err
			}
		}
		known, err := c.db.KnownKey(ctx, info.Key)
		if err != nil {
			return fmt.Errorf("look up object %s: %w", info.Key, err)
		}
		if known {
			continue
		}
		orphan, err := c.db.DoomOrphan(ctx, info.Key, time.Now())
		if err != nil {
			return fmt.Errorf("doom object %s: %w", info.Key, err)
		}
		if orphan {
			c.res.Orphans++
			c.note(c.res)
		}
	}
	return nil
}
