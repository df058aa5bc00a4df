package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/oci"
)

// maxManifests bounds the manifests below one that is copied, against indexes made
// to exhaust whoever walks them.
const maxManifests = 20_000

// CopyOptions change what a Copier does. The zero value copies everything below a
// manifest, four blobs at a time.
type CopyOptions struct {
	Platform  *oci.Platform // copy this platform's image out of an index; nil for the index as it is
	Referrers bool          // copy what refers to a copied manifest, too (see Copier.Referrers)
	Parallel  int           // transfers at a time; 0 for 4
	Observer  Observer      // may be nil
}

// Outcome is what became of a blob or manifest.
type Outcome int

// The outcomes.
const (
	Copied  Outcome = iota // its bytes were sent
	Mounted                // linked from the source's repository, in the same registry
	Existed                // was at the destination
	Foreign                // a layer that is fetched from elsewhere; not copied
	Missing                // a child of an index that the source does not have; not copied
	Failed
)

// Observer is told how a copy goes on. Its methods are called concurrently; those for one
// digest one after the other.
type Observer interface {
	// BlobStart says that a blob's bytes are about to be sent.
	BlobStart(d oci.Descriptor)
	// BlobProgress says that n more bytes were sent, or must be sent again if n is negative.
	BlobProgress(d oci.Descriptor, n int64)
	// Done is called for each blob and manifest, started or not: once, unless it failed because
	// the copy that needed it did. It is called for a manifest after everything below it.
	Done(d oci.Descriptor, outcome Outcome)
}

type noObserver struct{}

func (noObserver) BlobStart(oci.Descriptor)           {}
func (noObserver) BlobProgress(oci.Descriptor, int64) {}
func (noObserver) Done(oci.Descriptor, Outcome)       {}

// Copier copies manifests with all that they need from one repository to another.
// It remembers by digest what it has done, so that what several manifests share is
// copied once. What stands at the destination is never deleted; tags are overwritten.
type Copier struct {
	from, to *Repository
	opt      CopyOptions
	observe  Observer
	slots    chan struct{} // a token for each transfer that may run

	mu        sync.Mutex
	done      map[flightKey]*flight
	manifests []oci.Digest // copied, and not yet asked for referrers
}

// flight is something that is done once, whoever needs it.
type flight struct {
	finished chan struct{}
	err      error
	given    bool // up, because its caller was cancelled
}

// flightKey tells apart what may have the same digest: the specification keeps
// manifests and blobs in separate spaces, and two manifests may disagree on whether a
// layer is foreign.
type flightKey struct {
	kind   string
	digest oci.Digest
}

// NewCopier returns a Copier between two repositories, which may be the same.
func NewCopier(from, to *Repository, opt CopyOptions) *Copier {
	if opt.Parallel <= 0 {
		opt.Parallel = 4
	}
	if opt.Observer == nil {
		opt.Observer = noObserver{}
	}
	return &Copier{
		from:    from,
		to:      to,
		opt:     opt,
		observe: opt.Observer,
		slots:   make(chan struct{}, opt.Parallel),
		done:    map[flightKey]*flight{},
	}
}

// Copy copies the manifest at ref with everything below it and, if tag is not empty, gives
// it that tag at the destination, last of all. It returns what was copied, after asking the destination
// for it. What is there already is not sent again, so a copy that was interrupted goes
// on when it is repeated.
func (c *Copier) Copy(ctx context.Context, ref oci.Reference, tag oci.Tag) (oci.Descriptor, error) {
	var m Manifest
	var err error
	if c.opt.Platform != nil {
		m, _, err = c.from.Select(ctx, ref, *c.opt.Platform)
	} else {
		m, err = c.from.Manifest(ctx, ref)
	}
	if err != nil {
		return oci.Descriptor{}, err
	}
	desc := oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Body))}
	if err := c.below(ctx, m, newWalk()); err != nil {
		return desc, err
	}
	at := oci.Reference{Digest: m.Digest}
	if tag != "" {
		at = oci.Reference{Tag: tag}
	}
	outcome, err := c.put(ctx, m, at)
	if err != nil {
		return desc, err
	}
	got, err := c.to.Resolve(ctx, at)
	if err != nil {
		return desc, err
	}
	if got.Digest != m.Digest || got.Size != desc.Size {
		return desc, c.to.fail("copy", fmt.Errorf("%s was sent, but the destination has %s of %d bytes under %s", m.Digest, got.Digest, got.Size, at))
	}
	c.observe.Done(desc, outcome)
	return desc, nil
}

// walk is where in a tree of manifests the copy stands.
type walk struct {
	depth int
	left  *atomic.Int64 // manifests counted so far
}

func newWalk() *walk { return &walk{left: new(atomic.Int64)} }

func (w *walk) down() (*walk, error) {
	if w.depth == maxDepth {
		return nil, fmt.Errorf("indexes are nested more than %d deep", maxDepth)
	}
	if w.left.Add(1) > maxManifests {
		return nil, fmt.Errorf("there are more than %d manifests below it", maxManifests)
	}
	return &walk{depth: w.depth + 1, left: w.left}, nil
}

// below copies what m refers to.
func (c *Copier) below(ctx context.Context, m Manifest, at *walk) error {
	parsed, err := oci.ParseManifest(m.MediaType, m.Body)
	if err != nil {
		return c.from.fail("read manifest "+m.Digest.String(), err)
	}
	if c.opt.Referrers {
		c.mu.Lock()
		c.manifests = append(c.manifests, m.Digest)
		c.mu.Unlock()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(c.opt.Parallel, 2))
	for _, d := range parsed.Blobs {
		group.Go(func() error { return c.blob(ctx, d) })
	}
	for _, d := range parsed.Manifests {
		if !isManifest(d.MediaType) { // as in build caches of BuildKit
			group.Go(func() error { return c.blob(ctx, d) })
			continue
		}
		group.Go(func() error {
			next, err := at.down()
			if err != nil {
				return c.from.fail("read manifest "+m.Digest.String(), err)
			}
			return c.child(ctx, d, next)
		})
	}
	return group.Wait()
}

func isManifest(mediaType string) bool {
	switch mediaType {
	case oci.MediaTypeImage, oci.MediaTypeIndex, oci.MediaTypeDockerImage, oci.MediaTypeDockerIndex:
		return true
	}
	return false
}

// child copies a manifest that another refers to, by digest.
func (c *Copier) child(ctx context.Context, d oci.Descriptor, at *walk) error {
	return c.once(ctx, flightKey{"manifest", d.Digest}, func() error {
		m, err := c.fetch(ctx, oci.Reference{Digest: d.Digest})
		if errors.Is(err, ErrNotFound) {
			c.observe.Done(d, Missing)
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.below(ctx, m, at); err != nil {
			return err
		}
		outcome, err := c.put(ctx, m, oci.Reference{Digest: m.Digest})
		if err != nil {
			return err
		}
		c.observe.Done(d, outcome)
		return nil
	})
}

func (c *Copier) fetch(ctx context.Context, ref oci.Reference) (Manifest, error) {
	if err := c.acquire(ctx); err != nil {
		return Manifest{}, err
	}
	defer c.release()
	return c.from.Manifest(ctx, ref)
}

// put pushes a manifest unless the destination has it. One with a subject is pushed in
// any case, because having it does not say that the destination lists it as a referrer.
func (c *Copier) put(ctx context.Context, m Manifest, at oci.Reference) (Outcome, error) {
	if err := c.acquire(ctx); err != nil {
		return Failed, err
	}
	defer c.release()
	parsed, err := oci.ParseManifest(m.MediaType, m.Body)
	if err != nil {
		return Failed, err
	}
	if parsed.Subject == nil {
		got, err := c.to.Resolve(ctx, at)
		switch {
		case err == nil && got.Digest == m.Digest:
			return Existed, nil
		case err != nil && !errors.Is(err, ErrNotFound):
			return Failed, err
		}
	}
	if err := c.to.PutManifest(ctx, m, at.Tag); err != nil {
		return Failed, err
	}
	return Copied, nil
}

// blob copies a blob.
func (c *Copier) blob(ctx context.Context, d oci.Descriptor) error {
	if d.Foreign() {
		return c.once(ctx, flightKey{"foreign", d.Digest}, func() error {
			c.observe.Done(d, Foreign)
			return nil
		})
	}
	return c.once(ctx, flightKey{"blob", d.Digest}, func() error {
		if err := c.acquire(ctx); err != nil {
			return err
		}
		defer c.release()
		outcome, err := c.transfer(ctx, d)
		c.observe.Done(d, outcome)
		return err
	})
}

func (c *Copier) transfer(ctx context.Context, d oci.Descriptor) (Outcome, error) {
	_, err := c.to.BlobSize(ctx, d.Digest)
	if err == nil {
		return Existed, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Failed, err
	}
	var started bool
	start := func() {
		if !started {
			started = true
			c.observe.BlobStart(d)
		}
	}
	up := Upload{
		Desc: d,
		Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			start()
			return c.from.Blob(ctx, d, offset)
		},
		Progress: func(n int64) { c.observe.BlobProgress(d, n) },
	}
	if c.from.SameRegistry(c.to) {
		up.Mount = c.from.name
	}
	mounted, err := c.to.PutBlob(ctx, up)
	switch {
	case err != nil:
		return Failed, err
	case mounted:
		return Mounted, nil
	}
	return Copied, nil
}

// once runs f unless it ran or runs for the key, and returns its error. When the
// caller for which it runs is cancelled, another that needs it takes over.
func (c *Copier) once(ctx context.Context, key flightKey, f func() error) error {
	for {
		c.mu.Lock()
		running, ok := c.done[key]
		if !ok {
			break
		}
		c.mu.Unlock()
		select {
		case <-running.finished:
			if !running.given {
				return running.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	fl := &flight{finished: make(chan struct{})}
	c.done[key] = fl
	c.mu.Unlock()

	fl.err = f()
	if fl.err != nil && ctx.Err() != nil {
		fl.given = true
		c.mu.Lock()
		delete(c.done, key)
		c.mu.Unlock()
	}
	close(fl.finished)
	return fl.err
}

func (c *Copier) acquire(ctx context.Context) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Copier) release() { <-c.slots }
