package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Job is the name of the periodic job.
const Job = "retention"

// batch is how many lines of a plan one transaction carries out, unless more have to go at once.
const batch = 200

// Executor hands on what a plan lets go, in parts that can go in one transaction each. Lines of the same group are in the same part. Of a group that is too large, tags go
// before, but for the last one, so that the next plan finds what is left.
type Executor struct {
	// Limit is how many lines are handed on at most; 0 for all.
	Limit int
	// Do carries out a part, which is of one repository.
	Do func(oci.Repository, []Item) error
	// More tells, in the end, that there was more than the limit.
	More bool

	part, group []Item
	tags        int // of the group, which come first
	taken       int
}

// ErrLimit: there is more than may be deleted at once. What is left is for the next time.
var ErrLimit = errors.New("as much as may be deleted at once")

// Add takes the next line of a plan. It passes over what stays.
func (e *Executor) Add(i Item) error {
	if i.Action != Drop {
		return nil
	}
	if n := len(e.group); n > 0 && (e.group[0].Repository != i.Repository || e.group[0].With != i.With) {
		if err := e.endGroup(); err != nil {
			return err
		}
	}
	if len(e.part) > 0 && e.part[0].Repository != i.Repository {
		if err := e.flush(); err != nil {
			return err
		}
	}
	if len(e.group) == meta.MaxCascade {
		n := e.tags - 1
		if n < 1 {
			n = len(e.group) // an index of a thousand manifests
		}
		if err := e.take(n); err != nil {
			return err
		}
	}
	e.group = append(e.group, i)
	if i.Tag != "" {
		e.tags++
	}
	return nil
}

// Close hands on what is left.
func (e *Executor) Close() error {
	if err := e.end(); err != nil && !errors.Is(err, ErrLimit) {
		return err
	}
	return e.flush()
}

// end hands on what there is. After ErrLimit, some of it is still to be flushed.
func (e *Executor) end() error {
	if err := e.endGroup(); err != nil {
		return err
	}
	return e.flush()
}

// endGroup makes a group part of what is handed on next.
func (e *Executor) endGroup() error {
	left := e.Limit - e.taken
	if e.Limit == 0 || len(e.group) <= left {
		return e.take(len(e.group))
	}
	e.More = true
	alone := len(e.group) > e.Limit // it never fits
	if alone && e.tags > 1 {
		if err := e.take(min(left, e.tags-1)); err != nil {
			return err
		}
	}
	e.group, e.tags = e.group[:0], 0
	if alone && left > 0 {
		return nil // others may fit
	}
	return ErrLimit
}

// take moves the first n lines of the group to what is handed on next.
func (e *Executor) take(n int) error {
	if e.Limit > 0 && n > e.Limit-e.taken {
		e.More = true
		return ErrLimit
	}
	if len(e.part) > 0 && len(e.part)+n > batch {
		if err := e.flush(); err != nil {
			return err
		}
	}
	e.part = append(e.part, e.group[:n]...)
	e.group = append(e.group[:0], e.group[n:]...)
	e.tags, e.taken = max(0, e.tags-n), e.taken+n
	return nil
}

func (e *Executor) flush() error {
	if len(e.part) == 0 {
		return nil
	}
	err := e.Do(e.part[0].Repository, e.part)
	e.part = e.part[:0]
	return err
}

// Options say how a plan is carried out.
type Options struct {
	Origin meta.Origin
	// Limit is how many tags and manifests are deleted at most; 0 for all.
	Limit int
	// Now is the time; the zero one stands for that of the database.
	Now time.Time
	// Flush, if not nil, writes the pulls that this process has not written yet.
	Flush func(context.Context) error
}

// Result says what was deleted.
type Result struct {
	Tags, Manifests, Bytes int64
	Stayed                 int64 // of the plan, because it has moved, was used or is needed since
	More                   bool  // there was more than may be deleted at once, or policies have changed
}

var errChanged = errors.New("policies have changed")

// Run makes the plan of the whole registry and carries it out, up to the limit. It may be ended at any point: the next run does the rest. It ends when
// policies of an organization change whose plan it carries out.
func Run(ctx context.Context, db *meta.DB, opts Options) (res Result, err error) {
	flush := func() error {
		if opts.Flush == nil {
			return nil
		}
		return opts.Flush(ctx)
	}
	if err := flush(); err != nil {
		return res, fmt.Errorf("note pulls: %w", err)
	}
	p := NewPlanner(db, opts.Now)
	var of *rules // of the repository whose lines are carried out
	var at oci.Repository
	e := Executor{Limit: opts.Limit, Do: func(r oci.Repository, items []Item) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return fmt.Errorf("note pulls: %w", err)
		}
		switch same, err := p.same(ctx, of); {
		case err != nil:
			return err
		case !same:
			return errChanged
		}
		tags, manifests := Order(items)
		done, err := db.DeleteCascade(ctx, r, tags, manifests, nil, opts.Origin, p.now)
		if _, frozen := errors.AsType[*policy.FrozenError](err); frozen { // since the plan was made
			done, err = new(meta.Cascade), nil
		}
		if err != nil {
			return fmt.Errorf("retention of %s: %w", r, err)
		}
		res.Tags += int64(len(done.Tags))
		res.Manifests += int64(len(done.Manifests))
		res.Bytes += done.Bytes
		res.Stayed += int64(len(items) - len(done.Tags) - len(done.Manifests))
		return nil
	}}
	err = p.Plan(ctx, "", func(i Item) error {
		if i.Repository != at {
			if err := e.end(); err != nil {
				return err
			}
			at, of = i.Repository, p.of
		}
		return e.Add(i)
	})
	if err == nil || errors.Is(err, ErrLimit) {
		err = e.Close()
	}
	if res.More = e.More; errors.Is(err, errChanged) {
		res.More, err = true, nil
	}
	return res, err
}

// Order returns what of a plan is to be deleted.
func Order(items []Item) (tags []meta.OrderedTag, manifests []meta.OrderedManifest) {
	for _, i := range items {
		seen := meta.Seen{Pushed: i.Pushed, Pulled: i.Pulled}
		if i.Tag != "" {
			tags = append(tags, meta.OrderedTag{CascadeTag: meta.CascadeTag{Tag: i.Tag, Digest: i.Digest}, Seen: seen})
		} else {
			manifests = append(manifests, meta.OrderedManifest{Digest: i.Digest, Seen: seen})
		}
	}
	return tags, manifests
}
