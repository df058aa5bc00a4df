package admin

import (
	"errors"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
)

// Organization is the first part of the names of repositories.
type Organization struct {
	Name     string `json:"name"`
	Public   bool   `json:"public"`   // everybody may pull from its repositories, those aside that have a setting of their own
	Creation string `json:"creation"` // who makes repositories by pushing: push, admin or nobody
	Created  Expiry `json:"created"`
}

func organizationOf(o *meta.Organization) Organization {
	return Organization{o.Name, o.Public, string(o.Creation), Expiry{o.Created}}
}

// OrganizationChange says what shall change about an organization; what is nil stays.
type OrganizationChange struct {
	Public   *bool   `json:"public,omitempty"`
	Creation *string `json:"creation,omitempty"`
}

func (ch *OrganizationChange) apply(o *meta.Organization) error {
	set(&o.Public, ch.Public)
	if ch.Creation != nil {
		o.Creation = access.Creation(*ch.Creation)
	}
	switch o.Creation {
	case access.CreationPush, access.CreationAdmin, access.CreationNobody:
		return nil
	}
	return errInvalid("creation is push, admin or nobody, not %q", clip(string(o.Creation)))
}

// NewOrganization is an organization to be made.
type NewOrganization struct {
	Name string `json:"name"`
	OrganizationChange
}

func (h *Handler) listOrganizations(c *call) (any, error) {
	return page(c, func(after string, n int) ([]*meta.Organization, error) {
		return h.opts.DB.Organizations(c.Context(), after, n)
	}, func(o *meta.Organization) string { return o.Name }, organizationOf)
}

func (h *Handler) createOrganization(c *call) (any, error) {
	var n NewOrganization
	if err := c.read(&n); err != nil {
		return nil, err
	}
	if err := checkOrganization(n.Name); err != nil {
		return nil, err
	}
	c.made, c.detail = n.Name, n.OrganizationChange
	o := &meta.Organization{Name: n.Name, Creation: access.CreationPush, Created: h.opts.Now()}
	if err := n.apply(o); err != nil {
		return nil, err
	}
	if err := h.changes(c).CreateOrganization(c.Context(), o); err != nil {
		return nil, err
	}
	return created{organizationOf(o)}, nil
}

// organization returns the organization that the path names.
func (h *Handler) organization(c *call) (*meta.Organization, error) {
	name := c.PathValue("organization")
	o, err := h.opts.DB.Organization(c.Context(), name)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFound("no organization %q", clip(name))
	}
	return o, err
}

func (h *Handler) showOrganization(c *call) (any, error) {
	o, err := h.organization(c)
	if err != nil {
		return nil, err
	}
	return organizationOf(o), nil
}

func (h *Handler) changeOrganization(c *call) (any, error) {
	var ch OrganizationChange
	if err := c.read(&ch); err != nil {
		return nil, err
	}
	c.detail = ch
	var after *meta.Organization
	if err := h.changes(c).ChangeOrganization(c.Context(), c.PathValue("organization"), func(o *meta.Organization) error {
		after = o
		return ch.apply(o)
	}); err != nil {
		return nil, err
	}
	return organizationOf(after), nil
}

func (h *Handler) deleteOrganization(c *call) (any, error) {
	o, err := h.organization(c)
	if err != nil {
		return nil, err
	}
	return nil, h.changes(c).DeleteOrganization(c.Context(), o.Name)
}
