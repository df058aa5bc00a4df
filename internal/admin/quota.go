package admin

import (
	"errors"

	"github.com/berthregistry/berth/internal/meta"
)

// An owner of an organization sees its quota. To lift it is for who administers the registry.
var quotaRoutes = []route{
	{"GET", "quotas", rightRegistry, "", (*Handler).listQuotas},
	{"GET", "organizations/{organization}/quota", rightOrganization, "", (*Handler).showQuota},
	{"PUT", "organizations/{organization}/quota", rightRegistry, "quota.set", (*Handler).setQuota},
	{"DELETE", "organizations/{organization}/quota", rightRegistry, "quota.remove", (*Handler).removeQuota},
}

// QuotaLimits are what an organization may use at most. What is missing is without limit.
type QuotaLimits struct {
	Bytes        *int64 `json:"bytes,omitempty"`
	Deduplicated bool   `json:"deduplicated,omitempty"` // bytes limits deduplicated bytes
	Tags         *int64 `json:"tags,omitempty"`
	Repositories *int64 `json:"repositories,omitempty"`
	Warn         *int   `json:"warn,omitempty"` // from how many percent of a limit on clients are warned; 101 for never; else 80
}

// Quota is a quota, and what of it is used.
type Quota struct {
	Organization string `json:"organization"`
	QuotaLimits
	Used Usage `json:"used"`
	Near bool  `json:"near"` // so much is used that clients are warned
}

const (
	usualWarn = 80
	neverWarn = 101
)

func quotaOf(s *meta.Standing) Quota {
	return Quota{
		Organization: s.Quota.Organization,
		QuotaLimits:  QuotaLimits{s.Quota.Bytes, s.Quota.Deduplicated, s.Quota.Tags, s.Quota.Repositories, &s.Quota.Warn},
		Used:         usageOf(meta.OrganizationUsage{Organization: s.Quota.Organization, Usage: s.Usage}),
		Near:         len(s.Near()) > 0,
	}
}

func (h *Handler) listQuotas(c *call) (any, error) {
	return page(c, func(after string, n int) ([]*meta.Standing, error) {
		return h.opts.DB.Standings(c.Context(), after, n)
	}, func(s *meta.Standing) string { return s.Quota.Organization }, quotaOf)
}

func (h *Handler) showQuota(c *call) (any, error) {
	organization := c.PathValue("organization")
	if err := checkOrganization(organization); err != nil {
		return nil, err
	}
	s, err := h.opts.DB.Standing(c.Context(), organization)
	if err != nil {
		return nil, noQuota(organization, err)
	}
	return quotaOf(s), nil
}

func noQuota(organization string, err error) error {
	if errors.Is(err, meta.ErrNotFound) {
		return errNotFound("no quota of organization %q", clip(organization))
	}
	return err
}

// setQuota makes a quota, or puts it in the place of the one that is there. The organization need not have been made.
func (h *Handler) setQuota(c *call) (any, error) {
	organization := c.PathValue("organization")
	if err := checkOrganization(organization); err != nil {
		return nil, err
	}
	var l QuotaLimits
	if err := c.read(&l); err != nil {
		return nil, err
	}
	if l.Bytes == nil && l.Tags == nil && l.Repositories == nil {
		return nil, errInvalid("a quota limits bytes, tags or repositories")
	}
	for name, limit := range map[string]*int64{"bytes": l.Bytes, "tags": l.Tags, "repositories": l.Repositories} {
		if limit != nil && *limit < 0 {
			return nil, errInvalid("%s must be 0 or more", name)
		}
	}
	if l.Deduplicated && l.Bytes == nil {
		return nil, errInvalid("deduplicated says what bytes limits, and bytes is missing")
	}
	warn := usualWarn
	if l.Warn != nil {
		warn = *l.Warn
	}
	if warn < 1 || warn > neverWarn {
		return nil, errInvalid("warn is a percentage from 1 to 100, or %d for never", neverWarn)
	}
	c.detail = l
	q := meta.Quota{Organization: organization, Bytes: l.Bytes, Deduplicated: l.Deduplicated, Tags: l.Tags, Repositories: l.Repositories, Warn: warn}
	if err := h.changes(c).SetQuota(c.Context(), q); err != nil {
		return nil, err
	}
	return h.showQuota(c)
}

func (h *Handler) removeQuota(c *call) (any, error) {
	organization := c.PathValue("organization")
	if err := checkOrganization(organization); err != nil {
		return nil, err
	}
	return nil, noQuota(organization, h.changes(c).DeleteQuota(c.Context(), organization))
}
