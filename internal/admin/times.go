package admin

import (
	"context"
	"errors"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Tag is a tag of a repository, and when it was used.
type Tag struct {
	Tag    oci.Tag    `json:"tag"`
	Digest oci.Digest `json:"digest"`
	Pushed Expiry     `json:"pushed"` // when it was pointed to the digest
	Pulled Expiry     `json:"pulled"` // empty if it never was
}

// Manifest is a manifest of a repository, and when it was used.
type Manifest struct {
	Digest    oci.Digest `json:"digest"`
	MediaType string     `json:"mediaType"`
	Size      int64      `json:"size"` // bytes of the manifest alone
	Tags      int64      `json:"tags"` // how many point to it
	Pushed    Expiry     `json:"pushed"`
	Pulled    Expiry     `json:"pulled"` // empty if it never was
}

func (h *Handler) listTags(c *call) (any, error) {
	return contents(c, h.opts.DB.TagTimes, func(t meta.TagTimes) string { return string(t.Tag) }, func(t meta.TagTimes) Tag {
		return Tag{t.Tag, t.Digest, Expiry{t.Pushed}, Expiry{t.Pulled}}
	})
}

func (h *Handler) listManifests(c *call) (any, error) {
	return contents(c, h.opts.DB.ManifestTimes, func(m meta.ManifestTimes) string { return m.Digest.String() }, func(m meta.ManifestTimes) Manifest {
		return Manifest{m.Digest, m.MediaType, m.Size, m.Tags, Expiry{m.Pushed}, Expiry{m.Pulled}}
	})
}

// contents is page for a list of what a repository holds.
func contents[R, T any](c *call, get func(context.Context, oci.Repository, string, int) ([]R, error), key func(R) string, show func(R) T) (any, error) {
	r, err := oci.ParseRepository(c.PathValue("repository"))
	if err != nil {
		return nil, err
	}
	answer, err := page(c, func(after string, n int) ([]R, error) { return get(c.Context(), r, after, n) }, key, show)
	if errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no repository %q", string(r))
	}
	return answer, err
}
