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
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
)

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
	// Observe, if not nil, is told of each pass that has ended.
	Observe func(Result, time.Duration, error)
}

// Result says what a pass took away.
type Result struct {
	Links        int64 // blobs taken from repositories
	Blobs        int64 // blobs that no repository had any more
	Bytes        int64 // of those blobs
	Repositories int64 // left empty
	Uploads      int64 // expired sessions
	Trash        int64 // manifests that had been deleted
	Objects      int64 // objects deleted from the blob store
	Orphans      int64 // of these, the ones that no row had spoken of
}

// Collector removes garbage. Passes that run at the same time, on several nodes, do each other no harm.
type Collector struct {
	db    *meta.DB
	store blob.Store
	opts  Options
}

// New returns a Collector.
func New(db *meta.DB, store blob.Store, opts Options) *Collector {
	return &Collector{db, store, opts}
}

// Run makes a pass as a periodic job, and says in a few words what it took away.
func (c *Collector) Run(ctx context.Context) (result string, err error) {
	start := time.Now()
	res, err := c.Collect(ctx)
	took := time.Since(start)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if c.opts.Observe != nil {
		c.opts.Observe(res, took, err)
	}
	switch {
	case err != nil:
		c.opts.Log.Error("collection failed", "error", err)
	case res != Result{}:
		c.opts.Log.Info("collected", "links", res.Links, "blobs", res.Blobs, "bytes", res.Bytes,
			"repositories", res.Repositories, "uploads", res.Uploads, "trash", res.Trash, "objects", res.Objects,
			"orphans", res.Orphans, "took", took)
	}
	return fmt.Sprintf("%d blobs of %d bytes, %d uploads, %d orphans, %d deleted manifests", res.Blobs, res.Bytes, res.Uploads, res.Orphans, res.Trash), err
}

// batch bounds what one transaction takes away, so that pushes wait only briefly.
const batch = 200

// Collect makes one pass. Stopped at any point, it leaves nothing but work for the next. A step that fails does not keep
// the others from being made.
func (c *Collector) Collect(ctx context.Context) (Result, error) {
	var res Result
	var failed error
	for _, step := range []func(context.Context, *Result) error{c.trash, c.blobs, c.uploads, c.doomed, c.orphans, c.doomed} {
		err := step(ctx, &res)
		failed = errors.Join(failed, err)
		if ctx.Err() != nil || errors.Is(err, blob.ErrUnavailable) || errors.Is(err, meta.ErrUnavailable) {
			break
		}
	}
	return res, failed
}

// blobs takes unreferenced blobs from their repositories.
func (c *Collector) blobs(ctx context.Context, res *Result) error {
	now := time.Now()
	// Who asks for a blob in the first quarter of its grace period is not noted
	// (registry.CheckBlob), but can rely on it for a whole period, too.
	before := now.Add(-c.opts.Grace - c.opts.Grace/4)
	for {
		links, err := c.db.UnreferencedBlobs(ctx, before, batch)
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
		res.Links += got.Links
		res.Blobs += got.Blobs
		res.Bytes += got.Bytes
		res.Repositories += got.Repositories
		if got.Links == 0 || len(links) < batch {
			return nil // what is left is in use again
		}
	}
}

// trash empties the trash of what has been there long enough.
func (c *Collector) trash(ctx context.Context, res *Result) error {
	for {
		now := time.Now()
		e, err := c.db.ExpireTrash(ctx, now.Add(-c.opts.TrashKeep), batch, now)
		if err != nil {
			return fmt.Errorf("empty the trash: %w", err)
		}
		res.Trash += e.Manifests
		res.Repositories += e.Repositories
		if e.Manifests == 0 {
			return nil
		}
	}
}

// uploads ends sessions that nobody uses.
func (c *Collector) uploads(ctx context.Context, res *Result) error {
	for {
		now := time.Now()
		n, err := c.db.ExpireUploads(ctx, now.Add(-c.opts.UploadExpiry), batch, now)
		if err != nil {
			return fmt.Errorf("expire uploads: %w", err)
		}
		res.Uploads += int64(n)
		if n < batch {
			return nil
		}
	}
}

// doomed deletes the bytes whose rows are gone, unless a backup runs: it may have seen the rows. A crash between the delete and
// the note of it makes the next pass delete once more, which does nothing. What cannot be deleted does not keep
// the rest.
func (c *Collector) doomed(ctx context.Context, res *Result) error {
	var failed error
	for after := ""; ; {
		keys, err := c.db.Doomed(ctx, after, batch)
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
		res.Objects += int64(len(gone))
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
func (c *Collector) orphans(ctx context.Context, res *Result) error {
	until := Settled(time.Now(), c.opts.UploadExpiry, c.opts.Grace)
	var from time.Time
	v, err := c.db.Setting(ctx, sweptSetting)
	switch {
	case err == nil && len(v) == 8:
		from = time.Unix(int64(binary.BigEndian.Uint64(v)), 0)
	case err != nil && !errors.Is(err, meta.ErrNotFound):
		return fmt.Errorf("read how far the storage is swept: %w", err)
	}
	if !from.Before(until) {
		return nil
	}
	for info, err := range c.store.List(ctx, from, until) {
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
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
			res.Orphans++
		}
	}
	if err := c.db.SetSetting(ctx, sweptSetting, binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))); err != nil {
		return fmt.Errorf("note how far the storage is swept: %w", err)
	}
	return nil
}
