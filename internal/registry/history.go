package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// manifestAt returns the manifest that a tag pointed to at a time, if it is still in the repository. name is how the client asked for it.
func (g *Registry) manifestAt(ctx context.Context, r oci.Repository, name, tag oci.Tag, at time.Time, body bool) (*meta.Manifest, error) {
	if at.After(time.Now()) {
		return nil, oci.Errorf(oci.CodeManifestUnknown, "%s stands for the tag %s at a time that has not come yet", name, tag)
	}
	s, err := g.db.TagAt(ctx, r, tag, at)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, oci.Errorf(oci.CodeManifestUnknown, "repository %s had no tag %s at %s", r, tag, at.Format(time.RFC3339))
	}
	if err != nil {
		return nil, fmt.Errorf("tag %s:%s: %w", r, name, err)
	}
	m, err := g.db.Manifest(ctx, r, oci.Reference{Digest: s.Digest}, body)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, oci.Errorf(oci.CodeManifestUnknown, "tag %s of %s was %s at %s, which has been deleted since: undelete it, if it is still in the trash",
			tag, r, s.Digest, at.Format(time.RFC3339))
	}
	if err != nil {
		return nil, fmt.Errorf("manifest %s@%s: %w", r, s.Digest, err)
	}
	return m, nil
}

// RestoreTags is meta.RestoreTags for somebody. An error of a tag is one of meta's, an *oci.Error, or what allow says.
func (g *Registry) RestoreTags(ctx context.Context, r oci.Repository, tags []meta.TagRestore, by Actor, allow meta.AllowRestore) (failed []error, revived int, err error) {
	failed, revived, err = g.db.RestoreTags(ctx, r, tags, func(tag oci.Tag, current, next oci.Digest) error {
		switch {
		case next.IsZero() && !g.opts.Delete:
			return errDeleteOff
		case allow != nil:
			return allow(tag, current, next)
		}
		return nil
	}, g.origin(by, "restore"), time.Now())
	if err != nil {
		return nil, 0, fmt.Errorf("restore tags of %s: %w", r, err)
	}
	return failed, revived, nil
}

// Undelete takes a manifest out of the trash, with its tags.
func (g *Registry) Undelete(ctx context.Context, r oci.Repository, d oci.Digest, by Actor, allow meta.AllowRestore) (meta.Undeleted, error) {
	u, err := g.db.Undelete(ctx, r, d, allow, g.origin(by, "undelete"), time.Now())
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return u, oci.Errorf(oci.CodeManifestUnknown, "there is no manifest %s in the trash of %s", d, r)
	case err != nil:
		return u, fmt.Errorf("undelete %s@%s: %w", r, d, err)
	}
	return u, nil
}

// DeleteManifests deletes up to n manifests of a repository with their tags, whose IDs are not above through. What is deleted by several
// calls with the same time belongs together. allow, if not nil, is asked about each tag; with an error this call changes nothing.
func (g *Registry) DeleteManifests(ctx context.Context, r oci.Repository, through int64, n int, at time.Time, by Actor, allow func(oci.Tag) error) (int, error) {
	if !g.opts.Delete {
		return 0, errDeleteOff
	}
	var each meta.Allow
	if allow != nil {
		each = func(tag oci.Tag, _ oci.Digest) error { return allow(tag) }
	}
	deleted, err := g.db.DeleteManifests(ctx, r, through, n, each, g.origin(by, "delete"), at)
	if err != nil {
		return 0, fmt.Errorf("delete manifests of %s: %w", r, err)
	}
	return deleted, nil
}

// EmptyTrash deletes up to n manifests in the trash of a repository for good, or the one of a digest if that is not zero.
func (g *Registry) EmptyTrash(ctx context.Context, r oci.Repository, d oci.Digest, n int, by Actor) (meta.Emptied, error) {
	if !g.opts.Delete {
		return meta.Emptied{}, errDeleteOff
	}
	e, err := g.db.EmptyTrash(ctx, r, d, n, g.origin(by, "trash.empty"), time.Now())
	if err != nil {
		return e, fmt.Errorf("empty the trash of %s: %w", r, err)
	}
	return e, nil
}
