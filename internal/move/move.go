// Package move takes a registry from one database and blob store to others, whatever kind they are of, while it is served.
//
// What holds true: the registry that it comes from is only read. Bytes are hashed as they are copied, and an object
// is noted in the target's database once it is durable, so a move that was interrupted goes on after what is noted. The
// target cannot be served until Switch has ended: then it has every row, with the same numbers, compared one by one, and an object
// of the right size for each blob. Memory does not grow with the registry.
package move

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
)

// Errors of a move, beside those of package meta.
var (
	// ErrDone: the registry has been moved to the target already.
	ErrDone = errors.New("the registry has been moved there already")
	// ErrForeign: the target's blob store has objects that the move did not bring.
	ErrForeign = errors.New("the blob store has objects already: a move needs an empty one")
	// ErrDamaged: bytes of blobs are missing or wrong, so that there is nothing to copy.
	ErrDamaged = errors.New("blobs are damaged")
)

// End is a database with the store of its blobs.
type End struct {
	DB    *meta.DB
	Blobs blob.Store
}

// Options say what to move.
type Options struct {
	// From is only read, and may be served meanwhile. To may be used by nothing else.
	From, To End
	// SameStore tells that both ends have the same blob store: bytes and their keys stay.
	SameStore bool
	// Parallel is how many blobs are copied at a time, 1 at least.
	Parallel int
	// Deep makes Switch read every object of the target again and check its digest; else its size is checked.
	Deep bool
	// Progress hears how the move goes on.
	Progress Progress
	// Damaged is called for each blob that cannot be copied, by one goroutine at a time.
	Damaged func(Damage)
}

// Step is a part of a move.
type Step int

// The steps of a move.
const (
	Blobs  Step = iota // bytes of blobs are copied; counted in bytes
	Check              // objects that were copied before are looked at; counted in objects
	Rows               // rows are copied; counted in rows
	Verify             // rows are compared; counted in rows
)

// Progress hears how a move goes on. Begin is not called concurrently, Add is.
type Progress interface {
	// Begin tells that a step begins, of which done is done already. total may be a little wrong where
	// the registry changes meanwhile.
	Begin(step Step, done, total int64)
	// Add tells that n more is done. n is negative when something has to be done again.
	Add(n int64)
}

// Damage is a blob that cannot be copied.
type Damage struct {
	Digest string
	What   string
	// NeededBy are some of the repositories with a manifest that needs it; empty if no manifest does.
	NeededBy []string
}

// Report says what was done.
type Report struct {
	Copied, CopiedBytes int64 // blobs copied by this call
	Before, BeforeBytes int64 // blobs copied by earlier ones
	Passes              int
	Damaged             int64 // blobs that could not be copied
	Rows                int64
	// Frozen is how long nothing could be changed, if it was Switch that was called; else an estimate of
	// that, from the count of rows and how fast some of them were copied.
	Frozen time.Duration
}

const (
	blobPage = 500
	// A pass over the blobs that had no more than this to copy is the last one before the switch.
	fewBlobs, fewBytes = 100, 1 << 30
	maxPasses          = 10
)

type mover struct {
	Options
	identity string
	hold     *meta.Hold
	report   Report
	verify   bool // look at each object after it was copied

	mu    sync.Mutex // guards what follows, and is held while Options.Damaged is called
	known map[int64]bool
}

// start makes sure that this process may go on with the move, and removes what an interrupted one left
// unfinished. The caller releases m.hold if the error is nil.
func start(ctx context.Context, opts Options) (*mover, error) {
	m := &mover{Options: opts, known: make(map[int64]bool)}
	if err := m.From.DB.CheckComplete(ctx); err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	var err error
	if m.identity, err = m.From.DB.Identity(ctx); err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	if m.hold, err = m.To.DB.HoldMove(ctx); err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	if err := m.begin(ctx); err != nil {
		m.hold.Release()
		return nil, fmt.Errorf("the target: %w", err)
	}
	return m, nil
}

func (m *mover) begin(ctx context.Context) error {
	switch err := m.To.DB.CheckComplete(ctx); {
	case err == nil && !m.SameStore:
		// Before anything is noted, so that sweep never meets what is somebody else's.
		if err := m.storeIsEmpty(ctx); err != nil {
			return m.orDone(ctx, err)
		}
	case err != nil && !errors.Is(err, meta.ErrMoving):
		return err
	}
	start := time.Now()
	swept, err := m.To.DB.BeginMove(ctx, m.identity, start)
	if errors.Is(err, meta.ErrOccupied) {
		return m.orDone(ctx, err)
	}
	if err != nil || m.SameStore {
		return err
	}
	if err := m.sweep(ctx, swept); err != nil {
		return fmt.Errorf("remove unfinished objects: %w", err)
	}
	if err := m.To.DB.SweptMove(ctx, start); err != nil {
		return err
	}
	m.report.Before, m.report.BeforeBytes, err = m.To.DB.MovedTotals(ctx)
	return err
}

func (m *mover) storeIsEmpty(ctx context.Context) error {
	for info, err := range m.To.Blobs.List(ctx, time.Time{}, time.Time{}) {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w; there is %s", ErrForeign, info.Key)
	}
	for d, err := range m.To.Blobs.Documents(ctx, "") {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w, or what belongs to them; there is %s", ErrForeign, d.Name)
	}
	return nil
}

// orDone returns ErrDone instead of err if what is at the target is the registry itself.
func (m *mover) orDone(ctx context.Context, err error) error {
	if there, e := m.To.DB.Identity(ctx); e == nil && there == m.identity {
		return ErrDone
	}
	return err
}

// sweep removes objects that are not noted, which an interrupted move has left since the given time. Nobody
// else puts objects into the target's store.
func (m *mover) sweep(ctx context.Context, since time.Time) error {
	var keys []string
	flush := func() error {
		known, err := m.To.DB.KnownMoved(ctx, keys)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if known[key] {
				continue
			}
			if err := m.To.Blobs.Delete(ctx, key); err != nil {
				return fmt.Errorf("object %s: %w", key, err)
			}
		}
		keys = keys[:0]
		return nil
	}
	// Another machine, whose clock is wrong, may have been at work.
	for info, err := range m.To.Blobs.List(ctx, since.Add(-time.Hour), time.Time{}) {
		if err != nil {
			return err
		}
		if keys = append(keys, info.Key); len(keys) == meta.MaxKnownMoved {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// Copy copies the bytes of all blobs that were not copied before, while the registry is in service. The report
// has an estimate of how long Switch will take. If blobs are damaged, the rest is copied and the error is ErrDamaged.
func Copy(ctx context.Context, opts Options) (Report, error) {
	m, err := start(ctx, opts)
	if err != nil {
		return Report{}, err
	}
	defer m.hold.Release()
	if err := m.copyBlobs(ctx); err != nil {
		return m.report, err
	}
	if err := m.estimate(ctx); err != nil {
		return m.report, fmt.Errorf("measure how fast rows are copied: %w", err)
	}
	return m.report, m.verdict()
}

func (m *mover) verdict() error {
	if m.report.Damaged > 0 {
		return fmt.Errorf("%d %w", m.report.Damaged, ErrDamaged)
	}
	return nil
}

// copyBlobs makes passes until hardly anything is left to copy.
func (m *mover) copyBlobs(ctx context.Context) error {
	if m.SameStore {
		return nil
	}
	for m.report.Passes < maxPasses {
		blobs, bytes, err := m.pass(ctx)
		if err != nil {
			return err
		}
		if blobs <= fewBlobs && bytes <= fewBytes {
			return nil
		}
	}
	return nil
}

// pass copies each blob that is not noted. What is pushed meanwhile it may see or not.
func (m *mover) pass(ctx context.Context) (blobs, bytes int64, err error) {
	m.report.Passes++
	_, done, err := m.To.DB.MovedTotals(ctx)
	if err != nil {
		return 0, 0, err
	}
	_, total, err := m.From.DB.Totals(ctx)
	if err != nil {
		return 0, 0, err
	}
	m.Progress.Begin(Blobs, done, max(total, done))
	m.report.Damaged = 0

	var copied, copiedBytes atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(m.Parallel)
	err = m.eachMissing(ctx, func(b meta.MovingBlob) {
		group.Go(func() error {
			size, err := m.copyBlob(ctx, b)
			if err != nil {
				return fmt.Errorf("copy blob %s: %w", b.Digest, err)
			}
			if size >= 0 {
				copied.Add(1)
				copiedBytes.Add(size)
			}
			return nil
		})
	})
	// The error of a blob ends the context, and so the reading of rows.
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	m.report.Copied += copied.Load()
	m.report.CopiedBytes += copiedBytes.Load()
	return copied.Load(), copiedBytes.Load(), err
}

// eachMissing calls f for every blob of the source that is not noted at the target.
func (m *mover) eachMissing(ctx context.Context, f func(meta.MovingBlob)) error {
	for after := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := m.From.DB.MovingBlobs(ctx, after, blobPage)
		if err != nil || len(page) == 0 {
			return err
		}
		last := page[len(page)-1].ID
		moved, err := m.To.DB.MovedObjects(ctx, after, last, blobPage)
		if err != nil {
			return err
		}
		there := make(map[int64]bool, len(moved))
		for _, o := range moved {
			there[o.ID] = true
		}
		for _, b := range page {
			if !there[b.ID] {
				f(b)
			}
		}
		after = last
	}
}
