package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// ErrNoJournal: there is nothing to make a database from.
var ErrNoJournal = errors.New("there is no journal in the storage")

// RebuildOptions say how to rebuild.
type RebuildOptions struct {
	// Deep reads the bytes of all blobs and checks their digests; else their count is checked.
	Deep bool
	// Parallel is how many blobs are looked at at a time, 1 at least.
	Parallel int
	// Found is called for each thing that cannot be rebuilt, by one goroutine at a time.
	Found func(Loss)
	// Step is called when a step begins.
	Step func(name string)
}

// Loss is something that could not be rebuilt.
type Loss struct {
	Object string `json:"object"`
	What   string `json:"what"`
}

// Report sums a rebuild up.
type Report struct {
	Parts        int64     `json:"parts"`   // of the journal that were read
	Records      int64     `json:"records"` // in them
	Repositories int64     `json:"repositories"`
	Manifests    int64     `json:"manifests"`
	Tags         int64     `json:"tags"`
	Moves        int64     `json:"moves"`
	Blobs        int64     `json:"blobs"`
	Bytes        int64     `json:"bytes"`
	Lost         int64     `json:"lost"`   // things that could not be rebuilt
	Newest       time.Time `json:"newest"` // when the newest change was made that the journal has a time of
}

type rebuilder struct {
	db     *meta.DB
	store  blob.Store
	opts   RebuildOptions
	now    time.Time
	mu     sync.Mutex // guards report.Lost, and is held while Found is called
	report Report
}

// Rebuild makes the content of an empty database from the journal in the store. Interrupted, it is to be called again, and begins anew;
// until it has returned nil, nothing else can use the database. The error tells that the rebuild could not be
// made, not that something is lost.
func Rebuild(ctx context.Context, db *meta.DB, store blob.Store, opts RebuildOptions) (Report, error) {
	r := &rebuilder{db: db, store: store, opts: opts, now: time.Now()}
	found, err := parts(ctx, store)
	if err != nil {
		return Report{}, fmt.Errorf("list the journal: %w", err)
	}
	if len(found) == 0 {
		return Report{}, ErrNoJournal
	}
	hold, err := db.HoldMove(ctx)
	if err != nil {
		return Report{}, err
	}
	defer hold.Release()
	if err := db.BeginRebuild(ctx); err != nil {
		return Report{}, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"journal", func(ctx context.Context) error { return r.stage(ctx, found) }},
		{"repositories", r.repositories},
		{"blobs", r.blobs},
		{"links", r.links},
		{"manifests", r.manifests},
		{"log of tags", r.moves},
		{"tags", r.tags},
	} {
		if opts.Step != nil {
			opts.Step(step.name)
		}
		if err := step.run(ctx); err != nil {
			return r.report, fmt.Errorf("rebuild %s: %w", step.name, err)
		}
	}
	if err := db.Analyze(ctx); err != nil {
		return r.report, err
	}
	if err := hold.Check(ctx); err != nil {
		return r.report, err
	}
	return r.report, db.FinishRebuild(ctx)
}

// lose notes a loss.
func (r *rebuilder) lose(object, what string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Lost++
	if r.opts.Found != nil {
		r.opts.Found(Loss{object, fmt.Sprintf(what, args...)})
	}
}

// useful returns the parts to read: those of the last epoch whose checkpoint is complete, and of later ones.
func useful(found []part) (use []part, whole bool) {
	var base int64
	for _, p := range found {
		if p.complete {
			base = max(base, p.epoch)
		}
	}
	for _, p := range found {
		if p.epoch >= base && !p.complete {
			use = append(use, p)
		}
	}
	return use, base > 0
}

// staged is how many records are staged in one transaction.
const staged = 1000

// stage reads the journal.
func (r *rebuilder) stage(ctx context.Context, found []part) error {
	use, whole := useful(found)
	if !whole {
		r.lose("journal", "its first checkpoint is not complete: what was there before the journal began may be missing")
	}
	for _, p := range use {
		data, err := r.store.Document(ctx, p.name)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, blob.ErrUnavailable) {
				return err
			}
			r.lose("part "+p.name, "it cannot be read: %v", err)
			continue
		}
		r.report.Parts++
		var records []meta.JournalRecord
		flush := func() error {
			err := r.db.StageRecords(ctx, p.epoch, records)
			records = records[:0]
			return err
		}
		var failed error // to stage
		err = decode(data, func(record meta.JournalRecord) error {
			r.report.Records++
			if at := time.UnixMilli(record.At); at.After(r.report.Newest) && record.At > 0 {
				r.report.Newest = at
			}
			if records = append(records, record); len(records) == staged {
				failed = flush()
			}
			return failed
		})
		if failed == nil {
			failed = flush()
		}
		if failed != nil {
			return failed
		}
		if err != nil {
			r.lose("part "+p.name, "it is damaged: %v", err)
		}
	}
	return nil
}

// each calls f for the pages of staged records of a kind.
func (r *rebuilder) each(ctx context.Context, kind meta.JournalKind, f func([]meta.JournalRecord) error) error {
	var page *meta.StagedPage
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if page, err = r.db.Staged(ctx, kind, page); err != nil || len(page.Records) == 0 {
			return err
		}
		if err := f(page.Records); err != nil {
			return err
		}
	}
}

func (r *rebuilder) repositories(ctx context.Context) error {
	return r.each(ctx, meta.JournalRepository, func(records []meta.JournalRecord) error {
		r.report.Repositories += int64(len(records))
		return r.db.RebuildRepositories(ctx, records)
	})
}

// blobs makes rows of those blobs whose bytes are there.
func (r *rebuilder) blobs(ctx context.Context) error {
	return r.each(ctx, meta.JournalBlob, func(records []meta.JournalRecord) error {
		wrong := make([]string, len(records))
		group, grouped := errgroup.WithContext(ctx)
		group.SetLimit(r.opts.Parallel)
		for i := range records {
			group.Go(func() (err error) {
				wrong[i], err = r.blob(grouped, &records[i])
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		var good []meta.JournalRecord
		for i, b := range records {
			if wrong[i] != "" {
				r.lose("blob "+b.Ref, "%s; push an image that has it again", wrong[i])
				continue
			}
			r.report.Blobs++
			r.report.Bytes += b.Size
			good = append(good, b)
		}
		return r.db.RebuildBlobs(ctx, good, r.now)
	})
}

// blob returns what is wrong with a blob's bytes, or "".
func (r *rebuilder) blob(ctx context.Context, b *meta.JournalRecord) (string, error) {
	size, err := r.store.Stat(ctx, b.Key)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return fmt.Sprintf("its bytes (object %s) are missing", b.Key), nil
	case err != nil:
		return "", err
	case size != b.Size:
		return fmt.Sprintf("object %s has %d bytes, the journal says %d", b.Key, size, b.Size), nil
	case !r.opts.Deep:
		return "", nil
	}
	want, err := oci.ParseDigest(b.Ref)
	if err != nil {
		return err.Error(), nil
	}
	got, _, err := blob.HashObject(ctx, r.store, b.Key, want.Algorithm())
	switch {
	case ctx.Err() != nil || errors.Is(err, blob.ErrUnavailable):
		return "", err
	case err != nil:
		return fmt.Sprintf("object %s cannot be read: %v", b.Key, err), nil
	case got != want:
		return fmt.Sprintf("the bytes of object %s are %s", b.Key, got), nil
	}
	return "", nil
}

func (r *rebuilder) links(ctx context.Context) error {
	return r.each(ctx, meta.JournalLink, func(records []meta.JournalRecord) error {
		return r.db.RebuildLinks(ctx, records, r.now)
	})
}

func (r *rebuilder) manifests(ctx context.Context) error {
	return r.each(ctx, meta.JournalManifest, func(records []meta.JournalRecord) error {
		// A manifest is in a repository of its time, also where that was not noted.
		var homes []meta.JournalRecord
		var good []meta.RebuiltManifest
		for i := range records {
			m := &records[i]
			what := "manifest " + m.Repository + "@" + m.Ref
			want, err := oci.ParseDigest(m.Ref)
			if err != nil {
				return err // it was checked
			}
			body := m.Content()
			if got := oci.DigestBytes(want.Algorithm(), body); got != want {
				r.lose(what, "its bytes are %s", got)
				continue
			}
			parsed, err := oci.ParseManifest(m.MediaType, body)
			if err != nil {
				r.lose(what, "%v", err)
				continue
			}
			homes = append(homes, meta.JournalRecord{RepositoryID: m.RepositoryID, Repository: m.Repository, At: m.At})
			good = append(good, meta.RebuiltManifest{
				RepositoryID: m.RepositoryID, Digest: want, Parsed: parsed, Body: body, Made: time.UnixMilli(m.At),
			})
		}
		if err := r.db.RebuildRepositories(ctx, homes); err != nil {
			return err
		}
		homeless, err := r.db.RebuildManifests(ctx, good)
		for _, d := range homeless {
			i := slices.IndexFunc(records, func(m meta.JournalRecord) bool { return m.Ref == d.String() })
			r.lose("manifest "+records[i].Repository+"@"+d.String(), "another repository has the name of its own")
		}
		r.report.Manifests += int64(len(good) - len(homeless))
		return err
	})
}

func (r *rebuilder) moves(ctx context.Context) error {
	err := r.each(ctx, meta.JournalMove, func(records []meta.JournalRecord) error {
		r.report.Moves += int64(len(records))
		return r.db.RebuildMoves(ctx, records)
	})
	if err != nil {
		return err
	}
	return r.db.NumberRebuilt(ctx)
}

func (r *rebuilder) tags(ctx context.Context) error {
	return r.each(ctx, meta.JournalTag, func(records []meta.JournalRecord) error {
		lost, err := r.db.RebuildTags(ctx, records, r.now)
		for _, t := range lost {
			r.lose("tag "+t.Repository+":"+t.Ref, "its manifest %s is not in the journal", t.Digest)
		}
		r.report.Tags += int64(len(records) - len(lost))
		return err
	})
}
