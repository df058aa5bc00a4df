package admin

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/retention"
)

// Retention is a policy of retention.
type Retention struct {
	ID           int64          `json:"id"`
	Organization string         `json:"organization,omitempty"` // none for all
	Repositories []string       `json:"repositories,omitempty"` // none for all
	Tags         []string       `json:"tags,omitempty"`         // none for all
	Rules        RetentionRules `json:"rules"`
	By           string         `json:"by"`
	Created      Expiry         `json:"created"`
}

// RetentionRules say what is kept; times are in hours.
type RetentionRules struct {
	Newest   int     `json:"newest,omitempty"`
	Minors   int     `json:"minors,omitempty"` // 2147483647 for every one
	Patches  int     `json:"patches,omitempty"`
	Pushed   float64 `json:"pushedHours,omitempty"`
	Pulled   float64 `json:"pulledHours,omitempty"`
	Untagged float64 `json:"untaggedHours,omitempty"`
}

// NewRetention is a policy to be made.
type NewRetention struct {
	Repositories []string       `json:"repositories,omitempty"`
	Tags         []string       `json:"tags,omitempty"`
	Rules        RetentionRules `json:"rules"`
}

// Policy returns the rules as package policy has them.
func (r RetentionRules) Policy() policy.Rules {
	hours := func(n float64) time.Duration { return time.Duration(n * float64(time.Hour)) }
	return policy.Rules{Newest: r.Newest, Minors: r.Minors, Patches: r.Patches, Pushed: hours(r.Pushed), Pulled: hours(r.Pulled), Untagged: hours(r.Untagged)}
}

func retentionOf(p *meta.Retention) Retention {
	rules := RetentionRules{p.Rules.Newest, p.Rules.Minors, p.Rules.Patches, p.Rules.Pushed.Hours(), p.Rules.Pulled.Hours(), p.Rules.Untagged.Hours()}
	return Retention{p.ID, p.Organization, p.Repositories, p.Tags.Texts(), rules, p.By, Expiry{p.Created}}
}

func (h *Handler) listRetention(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]*meta.Retention, error) {
		id, err := afterID(after)
		if err != nil {
			return nil, err
		}
		return h.opts.DB.Retentions(c.Context(), organization, id, n)
	}, func(p *meta.Retention) string { return strconv.FormatInt(p.ID, 10) }, retentionOf)
}

// maxHours bounds times of rules: a hundred years.
const maxHours = 100 * 366 * 24

func (h *Handler) addRetention(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	var n NewRetention
	if err := c.read(&n); err != nil {
		return nil, err
	}
	if max(n.Rules.Pushed, n.Rules.Pulled, n.Rules.Untagged) > maxHours {
		return nil, errInvalid("a time of a rule has more than %d hours", maxHours)
	}
	p := &meta.Retention{By: h.by(c), Created: h.opts.Now()}
	p.Organization, p.Rules = organization, n.Rules.Policy()
	if err := p.Rules.Check(); err != nil {
		return nil, errInvalid("%v", err)
	}
	if p.Repositories, err = patternsOf(n.Repositories); err != nil {
		return nil, err
	}
	if err := checkWithin(p.Repositories, organization); err != nil {
		return nil, err
	}
	if p.Tags, err = policy.ParseTags(n.Tags); err != nil {
		return nil, errInvalid("%v", err)
	}
	c.detail, c.madeID = n, &p.ID
	if err := h.changes(c).AddRetention(c.Context(), p); err != nil {
		return nil, err
	}
	return created{retentionOf(p)}, nil
}

func (h *Handler) removeRetention(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	if err = h.changes(c).DeleteRetention(c.Context(), organization, id); errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no retention policy %d here", id)
	}
	return nil, err
}

// planRetention streams what the policies would let go, and what they keep.
func (h *Handler) planRetention(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	if err := h.flushPulls(c); err != nil {
		return nil, err
	}
	return lines(func(enc *json.Encoder) error {
		return retention.NewPlanner(h.opts.DB, time.Time{}).Plan(c.Context(), organization, func(i retention.Item) error { return enc.Encode(i) })
	}), nil
}

// flushPulls writes what this node knows of pulls and the database does not.
func (h *Handler) flushPulls(c *call) error {
	if h.opts.FlushPulls == nil {
		return nil
	}
	return h.opts.FlushPulls(c.Context())
}

// showRetention tells of the periodic work.
func (h *Handler) showRetention(c *call) (any, error) {
	_, s, err := h.status(c, retention.Job)
	return s, err
}
