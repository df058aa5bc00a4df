package admin

import (
	"errors"
	"strconv"
	"strings"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
)

// Grant is what an account or a team may do.
type Grant struct {
	ID           int64    `json:"id"`
	Organization string   `json:"organization,omitempty"` // none for everywhere
	Account      string   `json:"account,omitempty"`
	Team         string   `json:"team,omitempty"` // ORGANIZATION/TEAM
	Role         string   `json:"role,omitempty"`
	Actions      []string `json:"actions"`
	Repositories []string `json:"repositories,omitempty"` // none for all
	Tags         []string `json:"tags,omitempty"`
	Created      Expiry   `json:"created"`
}

func grantOf(g *meta.Grant) Grant {
	v := Grant{
		ID: g.ID, Organization: g.Organization, Account: g.Account, Role: string(g.Role), Actions: g.Actions.Names(),
		Repositories: g.Repositories, Tags: g.Tags, Created: Expiry{g.Created},
	}
	if g.Team != "" {
		v.Team = g.TeamOrganization + "/" + g.Team
	}
	return v
}

// NewGrant is a grant to be made: to an account or a team, by a role or by actions.
type NewGrant struct {
	Account      string   `json:"account,omitempty"`
	Team         string   `json:"team,omitempty"` // ORGANIZATION/TEAM, or TEAM for one of the organization that the path names
	Role         string   `json:"role,omitempty"`
	Actions      []string `json:"actions,omitempty"`
	Repositories []string `json:"repositories,omitempty"`
	Tags         []string `json:"tags,omitempty"`
}

func (n *NewGrant) grant(organization string) (*meta.Grant, error) {
	g := &meta.Grant{Organization: organization, Account: n.Account}
	var err error
	switch {
	case (n.Account == "") == (n.Team == ""):
		return nil, errInvalid("a grant is either for an account or for a team")
	case (n.Role == "") == (len(n.Actions) == 0):
		return nil, errInvalid("a grant has either a role or actions")
	case n.Role != "":
		if g.Role, err = access.ParseRole(n.Role); err == nil {
			g.Actions = g.Role.Actions()
		}
	default:
		g.Actions, err = access.ParseActions(n.Actions)
	}
	if err != nil {
		return nil, errInvalid("%v", err)
	}
	if n.Team != "" {
		if err := n.setTeam(g); err != nil {
			return nil, err
		}
	}
	if g.Repositories, err = patternsOf(n.Repositories); err != nil {
		return nil, err
	}
	if g.Tags, err = patternsOf(n.Tags); err != nil {
		return nil, err
	}
	if g.Actions.Has(access.Admin) && len(g.Repositories)+len(g.Tags) > 0 {
		return nil, errInvalid("who administers an organization can give themselves everything in it: leave out repositories and tags, or the action admin")
	}
	return g, checkWithin(g.Repositories, organization)
}

func (n *NewGrant) setTeam(g *meta.Grant) error {
	of, team, ok := strings.Cut(n.Team, "/")
	if !ok {
		of, team = g.Organization, n.Team
	}
	switch {
	case of == "":
		return errInvalid("write the team as ORGANIZATION/TEAM")
	case g.Organization != "" && of != g.Organization:
		return errInvalid("the team %q is not of the organization %q", clip(n.Team), g.Organization)
	}
	g.TeamOrganization, g.Team = of, team
	return nil
}

// checkWithin refuses patterns that match nothing in an organization.
func checkWithin(patterns access.Patterns, organization string) error {
	if organization == "" {
		return nil
	}
	for _, p := range patterns {
		bare := strings.TrimPrefix(p, "!")
		if bare != organization && !strings.HasPrefix(bare, organization+"/") && !strings.ContainsAny(bare[:1], `*?[{\`) {
			return errInvalid("%q matches no repository of the organization: their names begin with %q", clip(p), organization+"/")
		}
	}
	return nil
}

func (h *Handler) listGrants(c *call) (any, error) {
	query := c.URL.Query()
	f := meta.GrantFilter{Organization: c.PathValue("organization"), Account: query.Get("account")}
	if team := query.Get("team"); team != "" {
		var ok bool
		if f.TeamOrganization, f.Team, ok = strings.Cut(team, "/"); !ok {
			f.TeamOrganization, f.Team = f.Organization, team
		}
	}
	if f.Organization != "" {
		if _, err := h.organization(c); err != nil {
			return nil, err
		}
	} else {
		// Of an account or a team, those in organizations too.
		f.Everywhere = f.Account == "" && f.Team == ""
	}
	return page(c, func(after string, n int) ([]*meta.Grant, error) {
		id, err := afterID(after)
		if err != nil {
			return nil, err
		}
		return h.opts.DB.Grants(c.Context(), f, id, n)
	}, func(g *meta.Grant) string { return strconv.FormatInt(g.ID, 10) }, grantOf)
}

func (h *Handler) addGrant(c *call) (any, error) {
	var n NewGrant
	if err := c.read(&n); err != nil {
		return nil, err
	}
	g, err := n.grant(c.PathValue("organization"))
	if err != nil {
		return nil, err
	}
	c.detail, c.madeID = n, &g.ID
	g.Created = h.opts.Now()
	if err := h.changes(c).AddGrant(c.Context(), g); err != nil {
		return nil, err
	}
	return created{grantOf(g)}, nil
}

func (h *Handler) removeGrant(c *call) (any, error) {
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	if err = h.changes(c).DeleteGrant(c.Context(), c.PathValue("organization"), id); errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no grant %d here", id)
	}
	return nil, err
}
