package admin

import (
	"errors"
	"net/netip"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Visibility says whether everybody may pull from a repository.
type Visibility string

// The settings of visibility.
const (
	Public  Visibility = "public"
	Private Visibility = "private"
	Inherit Visibility = "inherit" // as the organization says
)

// Repository is who sees a repository.
type Repository struct {
	Name       string     `json:"name"`
	Visibility Visibility `json:"visibility"`
	Public     bool       `json:"public"` // what comes of it
}

// RepositoryChange says who shall see a repository.
type RepositoryChange struct {
	Visibility Visibility `json:"visibility"`
}

func (h *Handler) repository(c *call) (oci.Repository, *access.Facts, error) {
	r, err := oci.ParseRepository(c.PathValue("repository"))
	if err != nil {
		return "", nil, err
	}
	facts, err := h.opts.DB.Facts(c.Context(), 0, 0, r)
	if err == nil && !facts.Exists {
		err = errNotFound("no repository %q", string(r))
	}
	return r, facts, err
}

func (h *Handler) showRepository(c *call) (any, error) {
	r, facts, err := h.repository(c)
	if err != nil {
		return nil, err
	}
	v := Repository{Name: string(r), Visibility: Inherit, Public: facts.IsPublic()}
	if facts.Public != nil {
		v.Visibility = map[bool]Visibility{true: Public, false: Private}[*facts.Public]
	}
	return v, nil
}

func (h *Handler) setRepository(c *call) (any, error) {
	var ch RepositoryChange
	if err := c.read(&ch); err != nil {
		return nil, err
	}
	r, _, err := h.repository(c)
	if err != nil {
		return nil, err
	}
	c.detail = ch
	var public *bool
	switch ch.Visibility {
	case Public, Private:
		yes := ch.Visibility == Public
		public = &yes
	case Inherit:
	default:
		return nil, errInvalid("visibility is public, private or inherit, not %q", clip(string(ch.Visibility)))
	}
	return nil, h.changes(c).SetRepositoryPublic(c.Context(), r, public)
}

// Explanation is why somebody may do something, or not.
type Explanation struct {
	Account    string `json:"account"`
	Repository string `json:"repository"`
	Action     string `json:"action"`
	Tag        string `json:"tag,omitempty"`
	Client     string `json:"client"` // where from
	Allowed    bool   `json:"allowed"`
	Rule       string `json:"rule"`             // what that rests on
	Change     string `json:"change,omitempty"` // what would turn a no into a yes
}

// explain answers with a decision about the account that the request names, or whose it is.
func (h *Handler) explain(c *call) (any, error) {
	query := c.URL.Query()
	e := Explanation{Account: query.Get("account"), Repository: query.Get("repository"), Action: query.Get("action"), Tag: query.Get("tag")}
	r, err := oci.ParseRepository(e.Repository)
	if err != nil {
		return nil, err
	}
	action, err := access.ParseActions([]string{e.Action})
	if err != nil {
		return nil, errInvalid("%v", err)
	}
	if e.Tag != "" {
		if _, err := oci.ParseTag(e.Tag); err != nil {
			return nil, err
		}
	}
	id, err := h.whose(c, &e, r)
	if err != nil {
		return nil, err
	}
	if client := query.Get("client"); client != "" {
		if id.Client, err = netip.ParseAddr(client); err != nil || id.Client.Zone() != "" {
			return nil, errInvalid("%q is not an address", clip(client))
		}
	}
	e.Account, e.Client = id.Name, id.Client.String()
	privy := c.local
	if !privy {
		d, err := h.administers(c, access.Organization(r))
		if err != nil {
			return nil, err
		}
		privy = d.Allowed
	}
	d, change, err := h.opts.Auth.Explain(c.Context(), &id, action, r, oci.Tag(e.Tag), privy)
	e.Allowed, e.Rule, e.Change = d.Allowed, d.Rule(), change
	return e, err
}

// whose returns the identity that an explanation is about. Everybody may ask about themselves; about others, who administers the organization.
func (h *Handler) whose(c *call, e *Explanation, r oci.Repository) (auth.Identity, error) {
	if e.Account == "" || e.Account == c.identity.Name {
		if c.local {
			return auth.Identity{}, errInvalid("name the account, or %s", Anonymous)
		}
		return c.identity, nil
	}
	id := auth.Identity{Name: e.Account, Client: c.identity.Client}
	if c.local {
		id.Client = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	} else {
		d, err := h.administers(c, access.Organization(r))
		if err != nil {
			return id, err
		}
		if !d.Allowed {
			return id, oci.Errorf(oci.CodeDenied, "%s may ask about %s only, or administer the organization: %s", c.identity.Name, c.identity.Name, d.Rule())
		}
	}
	if e.Account == Anonymous {
		return id, nil
	}
	a, err := h.opts.DB.Account(c.Context(), e.Account)
	if errors.Is(err, meta.ErrNotFound) {
		return id, errNotFound("no account %q", clip(e.Account))
	}
	if err != nil {
		return id, err
	}
	id.Account = a.ID
	return id, nil
}
