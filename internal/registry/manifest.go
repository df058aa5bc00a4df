package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Manifest returns a manifest by tag or digest (spec.md#pulling-manifests). A tag that does not exist may stand for another one as of
// a time, see oci.Tag.At. Without body, Body may be nil.
func (g *Registry) Manifest(ctx context.Context, r oci.Repository, ref oci.Reference, body bool) (*meta.Manifest, error) {
	m, err := g.db.Manifest(ctx, r, ref, body)
	if errors.Is(err, meta.ErrNotFound) {
		if tag, at, ok := ref.Tag.At(); ok {
			return g.manifestAt(ctx, r, ref.Tag, tag, at, body)
		}
		return nil, g.manifestUnknown(ctx, r, ref)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest %s %s: %w", r, ref, err)
	}
	return m, nil
}

// partSize is how many bytes of a manifest's body are read at a time. The database takes about as long
// for a part as for the whole.
const partSize = 128 << 10

// OpenManifest returns the body of a manifest. If its Body is nil, it is read in parts, of which one is held
// at a time. A manifest that is deleted meanwhile ends that with an error.
func (g *Registry) OpenManifest(ctx context.Context, r oci.Repository, m *meta.Manifest) io.ReadSeeker {
	if m.Body != nil {
		return bytes.NewReader(m.Body)
	}
	return io.NewSectionReader(&manifestParts{g: g, ctx: ctx, repository: r, manifest: m}, 0, m.Size)
}

// manifestParts is an io.ReaderAt on a manifest's body in the database.
type manifestParts struct {
	g          *Registry
	ctx        context.Context // of the request that reads
	repository oci.Repository
	manifest   *meta.Manifest

	offset int64 // of part
	part   []byte
}

// ReadAt may not be called concurrently.
func (p *manifestParts) ReadAt(b []byte, offset int64) (n int, err error) {
	for n < len(b) {
		at := offset + int64(n) - p.offset
		if at < 0 || at >= int64(len(p.part)) {
			at = 0
			if err := p.load(offset + int64(n)); err != nil {
				return n, err
			}
		}
		n += copy(b[n:], p.part[at:])
	}
	return n, nil
}

func (p *manifestParts) load(offset int64) error {
	part, err := p.g.db.ManifestPart(p.ctx, p.repository, p.manifest.Digest, offset, partSize)
	if err == nil && len(part) == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read manifest %s@%s: %w", p.repository, p.manifest.Digest, err)
	}
	p.offset, p.part = offset, part
	return nil
}

func (g *Registry) manifestUnknown(ctx context.Context, r oci.Repository, ref oci.Reference) error {
	if there, err := g.db.RepositoryExists(ctx, r); err == nil && !there {
		return NameUnknown(r)
	}
	if ref.IsDigest() {
		return oci.Errorf(oci.CodeManifestUnknown, "repository %s has no manifest %s", r, ref)
	}
	return oci.Errorf(oci.CodeManifestUnknown, "repository %s has no tag %s", r, ref)
}

// Push is a manifest as a client sent it.
type Push struct {
	Repository  oci.Repository
	Reference   oci.Reference
	Tags        []oci.Tag // more tags, of a push by digest
	ContentType string
	Body        []byte
	Actor       Actor
	// Condition, if not nil, must answer true for the digest that the tag points to, zero if there is none.
	Condition func(current oci.Digest) bool
	// Allow, if not nil, is asked about each tag with the digest that it points to, zero if there is none, and the one that it is to
	// point to. With an error nothing happens.
	Allow func(tag oci.Tag, current, next oci.Digest) error
}

// allow is Allow where it is known what the tags are to point to.
func (p *Push) allow(next oci.Digest) meta.Allow {
	if p.Allow == nil {
		return nil
	}
	return func(tag oci.Tag, current oci.Digest) error { return p.Allow(tag, current, next) }
}

// Pushed says what became of a Push.
type Pushed struct {
	Digest  oci.Digest
	Subject oci.Digest // zero if the manifest has none
	Absent  int        // how much of what the manifest names is not here, foreign layers aside
	// Warnings say of which limit of its quota the organization uses much.
	Warnings []string
}

// maxDetail is how many missing digests a client is told.
const maxDetail = 100

// PutManifest stores a manifest and sets its tags (spec.md#pushing-manifests).
func (g *Registry) PutManifest(ctx context.Context, p Push) (Pushed, error) {
	parsed, err := oci.ParseManifest(p.ContentType, p.Body)
	if err != nil {
		return Pushed{}, err
	}
	alg := oci.SHA256
	tags := p.Tags
	if p.Reference.IsDigest() {
		alg = p.Reference.Digest.Algorithm()
	} else {
		tags = append([]oci.Tag{p.Reference.Tag}, tags...)
	}
	for _, tag := range tags {
		if was, _, reserved := tag.At(); reserved {
			return Pushed{}, oci.Errorf(oci.CodeManifestInvalid, "the tag %s cannot be set: tags of this form stand for %s as it was at a time", tag, was)
		}
	}
	digest := oci.DigestBytes(alg, p.Body)
	if p.Reference.IsDigest() && digest != p.Reference.Digest {
		return Pushed{}, oci.Errorf(oci.CodeDigestInvalid, "the manifest was pushed as %s, but its bytes are %s", p.Reference, digest)
	}
	// The database may be on the disk whose reserve is kept.
	if err := g.store.Room(ctx, int64(len(p.Body))); err != nil {
		return Pushed{}, fmt.Errorf("put manifest %s@%s: %w", p.Repository, digest, err)
	}
	sparse := g.opts.Sparse(p.Repository)
	var standing meta.Standing
	absent, err := g.db.PutManifest(ctx, meta.NewManifest{
		Repository:    p.Repository,
		Digest:        digest,
		Parsed:        parsed,
		Body:          p.Body,
		Tags:          tags,
		NeedBlobs:     sparse != SparseAll,
		NeedManifests: sparse == SparseNone,
		Condition:     p.Condition,
		Allow:         p.allow(digest),
		Standing:      &standing,
		Origin:        g.origin(p.Actor, "push"),
		Now:           time.Now(),
	})
	if missing, ok := errors.AsType[*meta.MissingError](err); ok {
		return Pushed{}, oci.Errorf(oci.CodeManifestBlobUnknown, "repository %s lacks %d of what the manifest names, such as %s: push it first",
			p.Repository, len(missing.Digests), missing.Digests[0]).WithDetail(missing.Digests[:min(len(missing.Digests), maxDetail)])
	}
	if errors.Is(err, meta.ErrCondition) {
		return Pushed{}, oci.Errorf(oci.CodeDenied, "tag %s of %s is not what the request's condition says", p.Reference, p.Repository).
			WithStatus(http.StatusPreconditionFailed)
	}
	if err != nil {
		return Pushed{}, fmt.Errorf("put manifest %s@%s: %w", p.Repository, digest, g.refused(err))
	}
	pushed := Pushed{Digest: digest, Absent: absent, Warnings: g.stands(standing)}
	if parsed.Subject != nil {
		pushed.Subject = parsed.Subject.Digest
	}
	return pushed, nil
}

// DeleteManifest deletes a manifest with its tags, or a tag alone
// (spec.md#deleting-tags, spec.md#deleting-manifests). allow, if not nil, is asked about each of the tags that go; with an
// error nothing happens.
func (g *Registry) DeleteManifest(ctx context.Context, r oci.Repository, ref oci.Reference, by Actor, allow func(oci.Tag) error) error {
	if !g.opts.Delete {
		return errDeleteOff
	}
	var err error
	switch {
	case ref.IsDigest() && allow == nil:
		err = g.db.DeleteManifest(ctx, r, ref.Digest, nil, g.origin(by, "delete"), time.Now())
	case ref.IsDigest():
		err = g.db.DeleteManifest(ctx, r, ref.Digest, func(tag oci.Tag, _ oci.Digest) error { return allow(tag) }, g.origin(by, "delete"), time.Now())
	default:
		if allow != nil {
			err = allow(ref.Tag)
		}
		if err == nil {
			err = g.db.DeleteTag(ctx, r, ref.Tag, g.origin(by, "delete"), time.Now())
		}
	}
	if errors.Is(err, meta.ErrNotFound) {
		return g.manifestUnknown(ctx, r, ref)
	}
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", r, ref, err)
	}
	return nil
}

// Referrers returns a page of the manifests whose subject is d
// (spec.md#listing-referrers): at most n, and at most about maxBytes of
// annotations. An unknown subject has none.
func (g *Registry) Referrers(ctx context.Context, r oci.Repository, d oci.Digest, artifactType string, after int64, n, maxBytes int) (found []meta.Referrer, more bool, err error) {
	found, more, err = g.db.Referrers(ctx, r, d, artifactType, after, n, maxBytes)
	if err != nil {
		return nil, false, fmt.Errorf("referrers of %s@%s: %w", r, d, err)
	}
	return found, more, nil
}
