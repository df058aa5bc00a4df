package admin

import (
	"cmp"
	"errors"
	"strconv"
	"strings"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/policy"
)

func policyRoutes(parent string, right right) []route {
	return []route{
		{"GET", parent + "protections", right, "", (*Handler).listProtections},
		{"POST", parent + "protections", right, "protection.add", (*Handler).addProtection},
		{"DELETE", parent + "protections/{id}", right, "protection.remove", (*Handler).removeProtection},
		{"GET", parent + "retention", right, "", (*Handler).listRetention},
		{"POST", parent + "retention", right, "retention.add", (*Handler).addRetention},
		{"GET", parent + "retention/plan", right, "", (*Handler).planRetention},
		{"DELETE", parent + "retention/{id}", right, "retention.remove", (*Handler).removeRetention},
		{"GET", parent + "freeze", right, "", (*Handler).showFreeze},
		{"PUT", parent + "freeze", right, "freeze", (*Handler).setFreeze},
		{"DELETE", parent + "freeze", right, "unfreeze", (*Handler).removeFreeze},
	}
}

// Protection keeps tags as they are.
type Protection struct {
	ID           int64    `json:"id"`
	Organization string   `json:"organization,omitempty"` // none for all
	Repositories []string `json:"repositories,omitempty"` // none for all
	Tags         []string `json:"tags,omitempty"`         // none for all
	By           string   `json:"by"`
	Created      Expiry   `json:"created"`
}

func protectionOf(p *meta.Protection) Protection {
	return Protection{p.ID, p.Organization, p.Repositories, p.Tags.Texts(), p.By, Expiry{p.Created}}
}

// NewProtection is a protection to be made.
type NewProtection struct {
	Repositories []string `json:"repositories,omitempty"`
	Tags         []string `json:"tags,omitempty"`
}

// scope returns the organization that the path names, empty for the whole registry.
func (c *call) scope() (string, error) {
	organization := c.PathValue("organization")
	if organization == "" {
		return "", nil
	}
	return organization, checkOrganization(organization)
}

// by names who makes a change.
func (h *Handler) by(c *call) string {
	switch {
	case c.local:
		return localActor
	case c.identity.SignedIn():
		return c.identity.Actor()
	}
	return "anonymous@" + h.opts.Client(c.Request).String()
}

func (h *Handler) listProtections(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]*meta.Protection, error) {
		id, err := afterID(after)
		if err != nil {
			return nil, err
		}
		return h.opts.DB.Protections(c.Context(), organization, id, n)
	}, func(p *meta.Protection) string { return strconv.FormatInt(p.ID, 10) }, protectionOf)
}

func (h *Handler) addProtection(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	var n NewProtection
	if err := c.read(&n); err != nil {
		return nil, err
	}
	p := &meta.Protection{By: h.by(c), Created: h.opts.Now()}
	p.Organization = organization
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
	if err := h.changes(c).AddProtection(c.Context(), p); err != nil {
		return nil, err
	}
	return created{protectionOf(p)}, nil
}

func (h *Handler) removeProtection(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	if err = h.changes(c).DeleteProtection(c.Context(), organization, id); errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no protection %d here", id)
	}
	return nil, err
}

// Freeze says that content is read-only.
type Freeze struct {
	Organization string `json:"organization,omitempty"` // none for all
	Message      string `json:"message"`
	By           string `json:"by"`
	Since        Expiry `json:"since"`
}

func freezeOf(f *meta.Freeze) Freeze {
	return Freeze{f.Organization, f.Message, f.By, Expiry{f.Since}}
}

// NewFreeze is what a freeze says to who wants to change something.
type NewFreeze struct {
	Message string `json:"message"`
}

const maxMessage = 1 << 10 // bytes

func (h *Handler) showFreeze(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	f, err := h.opts.DB.FreezeOf(c.Context(), organization)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFrozen(organization)
	}
	if err != nil {
		return nil, err
	}
	return freezeOf(f), nil
}

func errNotFrozen(organization string) error {
	if organization == "" {
		return errNotFound("no freeze of the whole registry")
	}
	return errNotFound("no freeze of the organization %q", organization)
}

func (h *Handler) setFreeze(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	var n NewFreeze
	if err := c.read(&n); err != nil {
		return nil, err
	}
	if len(n.Message) > maxMessage || strings.ContainsFunc(n.Message, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errInvalid("the message must be text of up to %d bytes on one line", maxMessage)
	}
	f := &meta.Freeze{Freeze: policy.Freeze{Organization: organization, Message: n.Message}, By: h.by(c), Since: h.opts.Now()}
	c.detail = n
	if err := h.changes(c).SetFreeze(c.Context(), f); err != nil {
		return nil, err
	}
	return h.showFreeze(c)
}

func (h *Handler) removeFreeze(c *call) (any, error) {
	organization, err := c.scope()
	if err != nil {
		return nil, err
	}
	if err = h.changes(c).DeleteFreeze(c.Context(), organization); errors.Is(err, meta.ErrNotFound) {
		err = errNotFrozen(organization)
	}
	return nil, err
}

// listFreezes lists all freezes. That of the whole registry, whose organization is empty, comes first.
func (h *Handler) listFreezes(c *call) (any, error) {
	return page(c, func(after string, n int) ([]*meta.Freeze, error) {
		return h.opts.DB.Freezes(c.Context(), after, n)
	}, func(f *meta.Freeze) string { return cmp.Or(f.Organization, "/") }, freezeOf) // before the name of any organization
}
