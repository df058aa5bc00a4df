package admin

import (
	"errors"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

var usageRoutes = []route{
	{"GET", "usage", rightRegistry, "", (*Handler).listUsage},
	{"GET", "organizations/{organization}/usage", rightOrganization, "", (*Handler).showUsage},
	{"GET", "organizations/{organization}/usage/repositories", rightOrganization, "", (*Handler).listRepositoryUsage},
	{"GET", "usage/repositories/{repository...}", rightRepository, "", (*Handler).showRepositoryUsage},
	{"GET", "usage/tags/{repository...}", rightRepository, "", (*Handler).listTagUsage},
}

// Usage is what an organization uses. What nothing needs counts until it is collected.
type Usage struct {
	Organization string `json:"organization"`
	Repositories int64  `json:"repositories"` // that hold a manifest
	Tags         int64  `json:"tags"`
	Bytes        int64  `json:"bytes"`        // of blobs, each once in every repository that has it, and of manifests
	Deduplicated int64  `json:"deduplicated"` // likewise, with each blob once
	// Alone is how many of the deduplicated bytes no other organization has: what would be free without this one. It is not in lists.
	Alone *int64 `json:"alone,omitempty"`
}

func usageOf(o meta.OrganizationUsage) Usage {
	return Usage{Organization: o.Organization, Repositories: o.Repositories, Tags: o.Tags, Bytes: o.Bytes, Deduplicated: o.Deduplicated}
}

// Space is what something takes, with each blob once.
type Space struct {
	Manifests int64 `json:"manifests"`
	Blobs     int64 `json:"blobs"`
	Bytes     int64 `json:"bytes"` // of both
	Alone     int64 `json:"alone"` // of these, what nothing else has: what its deletion would free, when its time in the trash is up
}

// RepositoryUsage is what a repository takes.
type RepositoryUsage struct {
	Repository string `json:"repository"`
	Tags       int64  `json:"tags"`
	Space
	Trash int64 `json:"trash"` // of the bytes, what only manifests in the trash need: what is free when their time there is up
}

func repositoryUsageOf(s meta.RepositorySpace) RepositoryUsage {
	return RepositoryUsage{string(s.Repository), s.Tags, Space(s.Space), s.Trash}
}

// TagUsage is what the image of a tag takes.
type TagUsage struct {
	Tag    string `json:"tag"`
	Digest string `json:"digest"`
	Space
}

func tagUsageOf(s meta.TagSpace) TagUsage {
	return TagUsage{string(s.Tag), s.Digest.String(), Space(s.Space)}
}

func (h *Handler) listUsage(c *call) (any, error) {
	return page(c, func(after string, n int) ([]meta.OrganizationUsage, error) {
		return h.opts.DB.Usages(c.Context(), after, n)
	}, func(o meta.OrganizationUsage) string { return o.Organization }, usageOf)
}

// showUsage answers for an organization by its name, which need not have been made.
func (h *Handler) showUsage(c *call) (any, error) {
	organization := c.PathValue("organization")
	if err := checkOrganization(organization); err != nil {
		return nil, err
	}
	o := meta.OrganizationUsage{Organization: organization}
	var err error
	if o.Usage, err = h.opts.DB.Usage(c.Context(), organization); err != nil {
		return nil, err
	}
	shared, err := h.opts.DB.SharedBytes(c.Context(), organization)
	if err != nil {
		return nil, err
	}
	u := usageOf(o)
	alone := max(u.Deduplicated-shared, 0) // something may have been pushed meanwhile
	u.Alone = &alone
	return u, nil
}

func (h *Handler) listRepositoryUsage(c *call) (any, error) {
	organization := c.PathValue("organization")
	if err := checkOrganization(organization); err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]meta.RepositorySpace, error) {
		return h.opts.DB.RepositorySpaces(c.Context(), organization, after, n)
	}, func(s meta.RepositorySpace) string { return string(s.Repository) }, repositoryUsageOf)
}

func (h *Handler) showRepositoryUsage(c *call) (any, error) {
	r, err := oci.ParseRepository(c.PathValue("repository"))
	if err != nil {
		return nil, err
	}
	s, err := h.opts.DB.RepositorySpace(c.Context(), r)
	if err != nil {
		return nil, noRepository(r, err)
	}
	return repositoryUsageOf(s), nil
}

func noRepository(r oci.Repository, err error) error {
	if errors.Is(err, meta.ErrNotFound) {
		return errNotFound("no repository %q", string(r))
	}
	return err
}

// listTagUsage answers for all tags of a repository, or for a single one.
func (h *Handler) listTagUsage(c *call) (any, error) {
	r, err := oci.ParseRepository(c.PathValue("repository"))
	if err != nil {
		return nil, err
	}
	if name := c.URL.Query().Get("tag"); name != "" {
		tag, err := oci.ParseTag(name)
		if err != nil {
			return nil, err
		}
		s, err := h.opts.DB.TagSpace(c.Context(), r, tag)
		if errors.Is(err, meta.ErrNotFound) {
			return nil, errNotFound("no tag %s in %s", tag, r)
		}
		return Page[TagUsage]{Items: []TagUsage{tagUsageOf(s)}}, err
	}
	all, err := page(c, func(after string, n int) ([]meta.TagSpace, error) {
		return h.opts.DB.TagSpaces(c.Context(), r, after, n)
	}, func(s meta.TagSpace) string { return string(s.Tag) }, tagUsageOf)
	if err != nil {
		return nil, noRepository(r, err)
	}
	return all, nil
}
