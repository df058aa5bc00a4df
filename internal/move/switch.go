package move

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/meta"
)

// Switched is a registry that has been moved.
type Switched struct {
	Report Report
	frozen *meta.Hold
}

// Release lets changes of the registry that it was moved from go on. The caller has seen to it that no server is left that would
// make any: they would not be in the one that it was moved to.
func (s *Switched) Release() { s.frozen.Release() }

// Hold waits until ctx ends. It fails with meta.ErrThawed as soon as the source can be changed again although nobody has
// released it, because the connection to its database was lost.
func (s *Switched) Hold(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(holdCheck):
		}
		if err := s.frozen.Check(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("the source: %w", err)
		}
	}
}

// holdCheck is the time between two looks at a lock.
const holdCheck = time.Second

// Switch does what Copy does, checks every object, then keeps the source from being changed, copies the rest and makes the target
// usable. With an embedded database, the caller holds the lock of its data folder, shared or not, from before the call.
// If the error is nil, the source stays as it is until Release. If not, the source is free and the target unfinished.
func Switch(ctx context.Context, opts Options) (*Switched, error) {
	m, err := start(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer m.hold.Release()
	// As much as possible before the source is frozen.
	if err := m.copyBlobs(ctx); err != nil {
		return nil, err
	}
	if !m.SameStore {
		if err := m.check(ctx); err != nil {
			return nil, err
		}
		m.verify = true
		if err := m.copyBlobs(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.verdict(); err != nil {
		return nil, err
	}
	if err := m.To.DB.ClearRows(ctx); err != nil {
		return nil, fmt.Errorf("remove rows of an earlier attempt: %w", err)
	}
	if err := m.hold.Check(ctx); err != nil { // rather now than at the end
		return nil, fmt.Errorf("the target: %w", err)
	}
	start := time.Now()
	frozen, err := m.From.DB.Freeze(ctx)
	if err != nil {
		return nil, fmt.Errorf("keep the source from being changed: %w", err)
	}
	if err := m.finish(ctx, frozen); err != nil {
		frozen.Release()
		return nil, err
	}
	m.report.Frozen = time.Since(start)
	return &Switched{m.report, frozen}, nil
}

// finish copies what is left of a source that does not change any more.
func (m *mover) finish(ctx context.Context, frozen *meta.Hold) error {
	if !m.SameStore {
		if _, _, err := m.pass(ctx); err != nil {
			return err
		}
		if err := m.verdict(); err != nil {
			return err
		}
	}
	if err := m.copyRows(ctx); err != nil {
		return err
	}
	if err := m.To.DB.Analyze(ctx); err != nil {
		return err
	}
	facts, err := m.From.DB.MovingFacts(ctx)
	if err != nil {
		return err
	}
	// Who holds a lock that was lost may have copied half of a change.
	if err := errors.Join(frozen.Check(ctx), m.hold.Check(ctx)); err != nil {
		return err
	}
	return m.To.DB.FinishMove(ctx, facts, time.Now())
}

// copyRows copies all rows into empty tables, and compares what is there then.
func (m *mover) copyRows(ctx context.Context) error {
	total, err := m.From.DB.CountRows(ctx)
	if err != nil {
		return err
	}
	m.Progress.Begin(Rows, 0, total)
	tables := meta.MovedTables()
	sums := make([]meta.TableSum, len(tables))
	for i, t := range tables {
		all := func(meta.TableSum) bool { return true }
		if sums[i], err = m.copyTable(ctx, t, !m.SameStore, all, m.Progress.Add); err != nil {
			return err
		}
		m.report.Rows += sums[i].Rows
	}
	m.Progress.Begin(Verify, 0, m.report.Rows)
	for i, t := range tables {
		got, err := m.sum(ctx, t)
		if err != nil {
			return err
		}
		if got != sums[i] {
			return fmt.Errorf("table %s: %d rows were read, and %d written that are not the same", t.Name, sums[i].Rows, got.Rows)
		}
	}
	return m.compareTotals(ctx)
}

// writers is how many pages are written at a time. SQLite writes them one after the other.
const writers = 4

// copyTable copies rows of a table while more is told, reading a page while those before it are written. It returns what
// was copied. With moved, blobs get the keys of their moved objects.
func (m *mover) copyTable(ctx context.Context, t meta.Table, moved bool, more func(meta.TableSum) bool, progress func(int64)) (meta.TableSum, error) {
	var sum meta.TableSum
	pages := make(chan *meta.Rows)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(pages)
		return eachPage(ctx, m.From.DB, t, func(page *meta.Rows) (bool, error) {
			select {
			case pages <- page:
				sum.Add(page)
				return more(sum), nil
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		})
	})
	for range writers {
		group.Go(func() error {
			for page := range pages {
				if err := m.To.DB.AddRows(ctx, page, moved); err != nil {
					return err
				}
				progress(int64(page.Len()))
			}
			return nil
		})
	}
	err := group.Wait()
	return sum, err
}

// sum returns what the target's table has.
func (m *mover) sum(ctx context.Context, t meta.Table) (meta.TableSum, error) {
	var sum meta.TableSum
	err := eachPage(ctx, m.To.DB, t, func(page *meta.Rows) (bool, error) {
		sum.Add(page)
		m.Progress.Add(int64(page.Len()))
		return true, nil
	})
	return sum, err
}

// eachPage calls f for the pages of a table while it returns true.
func eachPage(ctx context.Context, db *meta.DB, t meta.Table, f func(*meta.Rows) (bool, error)) error {
	var page *meta.Rows
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var err error
		if page, err = db.TableRows(ctx, t, page); err != nil || page.Len() == 0 {
			return err
		}
		if more, err = f(page); err != nil {
			return err
		}
	}
	return nil
}

// compareTotals compares what both databases say of their blobs.
func (m *mover) compareTotals(ctx context.Context) error {
	blobs, bytes, err := m.From.DB.Totals(ctx)
	if err != nil {
		return err
	}
	gotBlobs, gotBytes, err := m.To.DB.Totals(ctx)
	if err != nil {
		return err
	}
	if blobs != gotBlobs || bytes != gotBytes {
		return fmt.Errorf("the source has %d blobs of %d bytes, the target %d of %d", blobs, bytes, gotBlobs, gotBytes)
	}
	return nil
}

// What estimate copies: a table without foreign keys, and not much of it.
const (
	sampleTable = "blob"
	sampleRows  = 20_000
	sampleTime  = 2 * time.Second
	// share is how long the copy of all rows and their comparison take for each row, against this table's.
	share = 1.4
)

// estimate finds out how long the rows will take, by copying some of them for a moment.
func (m *mover) estimate(ctx context.Context) error {
	rows, err := m.From.DB.CountRows(ctx)
	if err != nil {
		return err
	}
	m.report.Rows = rows
	if err := m.To.DB.ClearRows(ctx); err != nil {
		return err
	}
	tables := meta.MovedTables()
	sample := tables[slices.IndexFunc(tables, func(t meta.Table) bool { return t.Name == sampleTable })]
	start := time.Now()
	sum, err := m.copyTable(ctx, sample, false, func(s meta.TableSum) bool {
		return s.Rows < sampleRows && time.Since(start) < sampleTime
	}, func(int64) {})
	if err != nil {
		return err
	}
	if sum.Rows > 0 {
		m.report.Frozen = time.Duration(share * float64(time.Since(start)) * float64(rows) / float64(sum.Rows))
	}
	return m.To.DB.ClearRows(ctx)
}
