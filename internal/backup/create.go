package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Options say what to back up, and where to.
type Options struct {
	DB     *meta.DB
	Blobs  blob.Store
	Target blob.Store
	// Temp is a folder for files of the database's size; empty stands for the system's.
	Temp string
	// Parallel is how many blobs are copied at a time, 1 at least.
	Parallel int
	// Lost, if not nil, is called for each blob whose bytes are missing or wrong, by one goroutine at a time.
	Lost func(digest, what string)
	// Damaged, if not nil, is called for each set at the target that is of no use, because its database is damaged.
	Damaged func(set string, err error)
	// Progress, if not nil, is called every Every while the run goes on, by one goroutine at a time.
	Progress func(Progress)
	Every    time.Duration
}

const (
	page = 500
	// After so many objects or bytes what was copied is noted, so that a run that breaks off costs no more.
	noteObjects = 200
	noteBytes   = 256 << 20

	workFile = "work.db"
)

type creator struct {
	Options
	work *meta.DB // the database of the set that is being made
	last *meta.DB // of the newest set; nil if there is none

	notes []string // documents of what was found damaged in the target

	mu          sync.Mutex // guards what follows
	now         Progress
	copied      []meta.MovingBlob // that are not noted in the target yet; keys are the target's
	copiedBytes int64
}

// Create makes a set. The caller has the lease on meta.BackupJob, and ends ctx when it is lost. A run that breaks off is begun again, and goes
// on with what was copied.
func Create(ctx context.Context, opts Options) (_ Set, err error) {
	dir, remove, err := MakeTemp(opts.Temp)
	if err != nil {
		return Set{}, err
	}
	defer remove()
	c := &creator{Options: opts, now: Progress{Began: time.Now()}}
	defer func() {
		for _, db := range []*meta.DB{c.work, c.last} {
			if db != nil {
				err = errors.Join(err, db.Close())
			}
		}
	}()
	if c.Progress != nil {
		defer c.tell(ctx)()
	}
	if err := c.newest(ctx, dir); err != nil {
		return Set{}, err
	}
	if c.work, err = meta.Open(ctx, filepath.Join(dir, workFile), meta.Options{}); err != nil {
		return Set{}, err
	}
	facts, err := c.rows(ctx)
	if err != nil {
		return Set{}, fmt.Errorf("copy the database: %w", err)
	}
	if err := c.known(ctx); err != nil {
		return Set{}, fmt.Errorf("read what was copied before: %w", err)
	}
	err = c.blobs(ctx)
	// So that the next run need not copy them, if this one breaks off or has.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := errors.Join(err, c.flush(late)); err != nil {
		return Set{}, fmt.Errorf("copy blobs: %w", err)
	}
	return c.finish(ctx, dir, facts)
}

// tell calls Progress again and again, until the function that it returns is called.
func (c *creator) tell(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(c.Every)
		defer tick.Stop()
		for {
			c.mu.Lock()
			now := c.now
			c.mu.Unlock()
			c.Progress(now)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		telling.Wait()
	}
}

// newest opens the database of the newest set that is of use, if there is one.
func (c *creator) newest(ctx context.Context, dir string) error {
	sets, err := Sets(ctx, c.Target)
	if err != nil {
		return err
	}
	for _, s := range slices.Backward(sets) {
		if c.last, err = s.Fetch(ctx, c.Target, dir); err == nil || !errors.Is(err, ErrDamaged) {
			return err
		}
		if c.Damaged != nil {
			c.Damaged(s.Name, err)
		}
	}
	return nil
}

// rows copies all rows of one moment.
func (c *creator) rows(ctx context.Context) (meta.Facts, error) {
	var none meta.Facts
	identity, err := c.DB.Identity(ctx)
	if err != nil {
		return none, err
	}
	if _, err := c.work.BeginMove(ctx, identity, time.Now()); err != nil {
		return none, err
	}
	moment := time.Now()
	from, err := c.DB.Snapshot(ctx)
	if err != nil {
		return none, err
	}
	defer from.Close()
	if err := c.DB.Settle(ctx); err != nil {
		return none, err
	}
	for _, t := range meta.MovedTables() {
		var rows *meta.Rows
		for {
			if rows, err = from.TableRows(ctx, t, rows); err != nil {
				return none, err
			}
			if rows.Len() == 0 {
				break
			}
			if err := c.work.AddRows(ctx, rows, false); err != nil {
				return none, err
			}
		}
	}
	facts, err := from.MovingFacts(ctx)
	if err != nil {
		return none, err
	}
	blobs, bytes, err := c.work.Totals(ctx)
	if err != nil {
		return none, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.At, c.now.Blobs, c.now.Bytes = moment, blobs, bytes
	return facts, nil
}

// known notes objects that the target has: those of the newest set, and those that runs have copied that broke off.
func (c *creator) known(ctx context.Context) error {
	err := eachPending(ctx, c.Target, func(blobs []meta.MovingBlob) error {
		var there []meta.MovingBlob
		for _, b := range blobs {
			mine, err := c.work.FindBlob(ctx, b.Digest)
			if errors.Is(err, meta.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			// The note outlives what it tells of if the prune that deleted that broke off.
			size, err := c.Target.Stat(ctx, b.Key)
			if errors.Is(err, blob.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if size == mine.Size {
				there = append(there, meta.MovingBlob{ID: mine.ID, Digest: mine.Digest, Size: mine.Size, Key: b.Key})
			}
		}
		return c.work.NoteAllMoved(ctx, there)
	})
	if err != nil {
		return err
	}
	var wrong map[string]bool
	if wrong, c.notes, err = damaged(ctx, c.Target); err != nil || c.last == nil {
		return err
	}
	for after := int64(0); ; {
		blobs, err := c.work.MovingBlobs(ctx, after, page)
		if err != nil || len(blobs) == 0 {
			return err
		}
		after = blobs[len(blobs)-1].ID
		var there []meta.MovingBlob
		for _, b := range blobs {
			if wrong[b.Digest] {
				continue
			}
			old, err := c.last.FindBlob(ctx, b.Digest)
			if errors.Is(err, meta.ErrNotFound) || err == nil && old.Size != b.Size {
				continue
			}
			if err != nil {
				return err
			}
			b.Key = old.Key
			there = append(there, b)
		}
		if err := c.work.NoteAllMoved(ctx, there); err != nil {
			return err
		}
	}
}

// blobs copies what the target does not have.
func (c *creator) blobs(ctx context.Context) error {
	group, grouped := errgroup.WithContext(ctx)
	group.SetLimit(c.Parallel)
	err := func() error {
		for after := int64(0); ; {
			blobs, err := c.work.MovingBlobs(grouped, after, page)
			if err != nil || len(blobs) == 0 {
				return err
			}
			last := blobs[len(blobs)-1].ID
			moved, err := c.work.MovedObjects(grouped, after, last, page)
			if err != nil {
				return err
			}
			there := make(map[int64]bool, len(moved))
			for _, o := range moved {
				there[o.ID] = true
			}
			for _, b := range blobs {
				if there[b.ID] {
					c.mu.Lock()
					c.now.Done++
					c.now.DoneBytes += b.Size
					c.mu.Unlock()
					continue
				}
				if grouped.Err() != nil {
					return context.Cause(grouped)
				}
				group.Go(func() error {
					if err := c.blob(grouped, b); err != nil {
						return fmt.Errorf("blob %s: %w", b.Digest, err)
					}
					return nil
				})
			}
			after = last
		}
	}()
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	return cmp.Or(err, ctx.Err())
}

// blob copies one blob.
func (c *creator) blob(ctx context.Context, b meta.MovingBlob) error {
	for {
		key, damage, err := c.transfer(ctx, b)
		if err != nil {
			return err
		}
		if damage == "" {
			return c.note(ctx, meta.MovingBlob{ID: b.ID, Digest: b.Digest, Size: b.Size, Key: key})
		}
		// Its broken bytes may have been replaced since.
		now, err := c.DB.FindBlob(ctx, b.Digest)
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return err
		}
		if err != nil || now.Key == b.Key || now.Size != b.Size {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.now.Lost++
			if c.Lost != nil {
				c.Lost(b.Digest, damage)
			}
			return nil
		}
		b.Key = now.Key
	}
}

// transfer copies bytes and returns their key in the target, or what is wrong with them.
func (c *creator) transfer(ctx context.Context, b meta.MovingBlob) (key, damage string, err error) {
	want, err := oci.ParseDigest(b.Digest)
	if err != nil {
		return "", "", err
	}
	from, err := c.Blobs.Open(ctx, b.Key)
	if err != nil {
		damage, err = broken(ctx, err)
		return "", damage, err
	}
	defer from.Close()
	size, digest, key, err := c.store(ctx, from, want.Algorithm(), func(d oci.Digest, n int64) bool { return d == want && n == b.Size })
	if read, ok := errors.AsType[*blob.ReadError](err); ok {
		damage, err = broken(ctx, read.Err)
		return "", damage, err
	}
	if err == nil && key == "" {
		damage = fmt.Sprintf("the %d bytes of object %s are %s", size, b.Key, digest)
	}
	return key, damage, err
}

// broken sorts an error of reading the source: bytes that are not there or cannot be read are lost, a store that does not
// serve ends the run.
func broken(ctx context.Context, err error) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if errors.Is(err, blob.ErrUnavailable) {
		return "", err
	}
	return err.Error(), nil
}

// store writes an object to the target, if its bytes turn out to be good; else key is "".
func (c *creator) store(ctx context.Context, r io.Reader, a oci.Algorithm, good func(oci.Digest, int64) bool) (size int64, d oci.Digest, key string, err error) {
	w, err := c.Target.Create(ctx)
	if err != nil {
		return 0, d, "", err
	}
	up := blob.NewUpload(w, a)
	defer up.Close()
	if _, err := up.ReadFrom(ctx, r); err != nil {
		up.Abort()
		return 0, d, "", err
	}
	size, d = up.Size(), up.Digest()
	if !good(d, size) {
		up.Abort()
		return size, d, "", nil
	}
	if err := up.Commit(ctx); err != nil {
		return 0, d, "", err
	}
	return size, d, up.Key(), nil
}

// note remembers an object that was copied.
func (c *creator) note(ctx context.Context, b meta.MovingBlob) error {
	if err := c.work.NoteMoved(ctx, b); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Done++
	c.now.DoneBytes += b.Size
	c.now.Copied++
	c.now.CopiedBytes += b.Size
	c.copied = append(c.copied, b)
	c.copiedBytes += b.Size
	if len(c.copied) < noteObjects && c.copiedBytes < noteBytes {
		return nil
	}
	return c.flushLocked(ctx)
}

// flush notes in the target what was copied.
func (c *creator) flush(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked(ctx)
}

func (c *creator) flushLocked(ctx context.Context) error {
	if len(c.copied) == 0 {
		return nil
	}
	err := note(ctx, c.Target, c.copied)
	if err == nil {
		c.copied, c.copiedBytes = nil, 0
	}
	return err
}

// finish makes the set of what was copied.
func (c *creator) finish(ctx context.Context, dir string, facts meta.Facts) (Set, error) {
	lost, err := c.work.RekeyMoved(ctx)
	if err != nil {
		return Set{}, err
	}
	if err := c.work.FinishMove(ctx, facts, time.Now()); err != nil {
		return Set{}, err
	}
	err, c.work = c.work.Close(), nil // which leaves one file
	if err != nil {
		return Set{}, fmt.Errorf("write the database: %w", err)
	}
	file := filepath.Join(dir, workFile)
	if log, err := os.Stat(file + "-wal"); err == nil && log.Size() > 0 {
		return Set{}, errors.New("write the database: its log was not taken in")
	}
	f, err := os.Open(file)
	if err != nil {
		return Set{}, err
	}
	defer f.Close()
	c.mu.Lock()
	now := c.now
	c.mu.Unlock()
	set := Set{
		Name: newName(now.At), At: now.At, Blobs: now.Done, Bytes: now.DoneBytes, Copied: now.Copied, CopiedBytes: now.CopiedBytes, Lost: lost,
	}
	o := &set.Database
	if o.Size, o.Digest, o.Key, err = c.store(ctx, f, oci.SHA256, func(oci.Digest, int64) bool { return true }); err != nil {
		return Set{}, fmt.Errorf("store the database: %w", err)
	}
	if ctx.Err() != nil { // the lease may be lost
		return Set{}, context.Cause(ctx)
	}
	data, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return Set{}, err
	}
	if err := c.Target.PutDocument(ctx, setRoot+set.Name+extension, append(data, '\n')); err != nil {
		return Set{}, err
	}
	for _, name := range c.notes {
		if err := c.Target.DeleteDocument(ctx, name); err != nil {
			return set, err
		}
	}
	return set, forgetPending(ctx, c.Target)
}

// forgetPending deletes the notes of what was copied: a set has it now, or it is of no use.
func forgetPending(ctx context.Context, target blob.Store) error {
	var names []string
	for d, err := range target.Documents(ctx, pendingRoot) {
		if err != nil {
			return err
		}
		names = append(names, d.Name)
	}
	for _, name := range names {
		if err := target.DeleteDocument(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
