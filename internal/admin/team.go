package admin

import (
	"errors"
	"strings"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
)

// Team is a group of accounts that have rights together.
type Team struct {
	Name    string `json:"name"`
	Members int    `json:"members"` // those of its groups are not counted
	Created Expiry `json:"created"`
}

func teamOf(t *meta.Team) Team { return Team{t.Name, t.Members, Expiry{t.Created}} }

// NewTeam is a team to be made.
type NewTeam struct {
	Name string `json:"name"`
}

// Member is an account in a team.
type Member struct {
	Name string `json:"name"`
}

// Groups are groups of a directory or issuer whose members belong to a team.
type Groups struct {
	Source string   `json:"source"`
	Names  []string `json:"names"`
}

// GroupNames are groups of one source.
type GroupNames struct {
	Names []string `json:"names"`
}

func (h *Handler) listTeams(c *call) (any, error) {
	o, err := h.organization(c)
	if err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]*meta.Team, error) {
		return h.opts.DB.Teams(c.Context(), o.Name, after, n)
	}, func(t *meta.Team) string { return t.Name }, teamOf)
}

func (h *Handler) createTeam(c *call) (any, error) {
	var n NewTeam
	if err := c.read(&n); err != nil {
		return nil, err
	}
	if err := checkName("the name of a team", n.Name); err != nil {
		return nil, err
	}
	c.made = n.Name
	t := &meta.Team{Organization: c.PathValue("organization"), Name: n.Name, Created: h.opts.Now()}
	if err := h.changes(c).CreateTeam(c.Context(), t); err != nil {
		return nil, err
	}
	return created{teamOf(t)}, nil
}

func (h *Handler) deleteTeam(c *call) (any, error) {
	team, err := h.team(c)
	if err != nil {
		return nil, err
	}
	return nil, h.changes(c).DeleteTeam(c.Context(), c.PathValue("organization"), team)
}

// team returns the name of the team that the path names, which exists.
func (h *Handler) team(c *call) (string, error) {
	organization, name := c.PathValue("organization"), c.PathValue("team")
	if err := checkName("the name of a team", name); err != nil {
		return "", err
	}
	// The first one after all names that come before this one.
	last := len(name) - 1
	before := name[:last] + string(name[last]-1) + "\x7f"
	all, err := h.opts.DB.Teams(c.Context(), organization, before, 1)
	if err == nil && (len(all) == 0 || all[0].Name != name) {
		err = errNotFound("no team %q in the organization %q", name, organization)
	}
	return name, err
}

func (h *Handler) listMembers(c *call) (any, error) {
	team, err := h.team(c)
	if err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]string, error) {
		return h.opts.DB.TeamMembers(c.Context(), c.PathValue("organization"), team, after, n)
	}, func(name string) string { return name }, func(name string) Member { return Member{name} })
}

func (h *Handler) addMember(c *call) (any, error) {
	return nil, h.changes(c).AddTeamMember(c.Context(), c.PathValue("organization"), c.PathValue("team"), c.PathValue("account"))
}

func (h *Handler) removeMember(c *call) (any, error) {
	err := h.changes(c).RemoveTeamMember(c.Context(), c.PathValue("organization"), c.PathValue("team"), c.PathValue("account"))
	if errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no member %q of the team", clip(c.PathValue("account")))
	}
	return nil, err
}

// listGroups answers with all groups at once; SetTeamGroups bounds them.
func (h *Handler) listGroups(c *call) (any, error) {
	team, err := h.team(c)
	if err != nil {
		return nil, err
	}
	all, err := h.opts.DB.TeamGroups(c.Context(), c.PathValue("organization"), team)
	if err != nil {
		return nil, err
	}
	p := Page[Groups]{Items: []Groups{}}
	for _, g := range all { // sorted by source
		if n := len(p.Items); n == 0 || p.Items[n-1].Source != g.Source {
			p.Items = append(p.Items, Groups{Source: g.Source})
		}
		last := &p.Items[len(p.Items)-1]
		last.Names = append(last.Names, g.Name)
	}
	return p, nil
}

func (h *Handler) setGroups(c *call) (any, error) {
	var n GroupNames
	if err := c.read(&n); err != nil {
		return nil, err
	}
	source := c.PathValue("source")
	if err := checkName("the name of a directory or issuer", strings.TrimPrefix(source, auth.PeopleSource(""))); err != nil {
		return nil, err
	}
	if source == meta.LocalAccounts {
		return nil, errInvalid("accounts that are kept here have no groups: add them to the team")
	}
	if len(n.Names) > meta.MaxTeamGroups {
		return nil, errInvalid("a team can have %d groups of one source, not %d", meta.MaxTeamGroups, len(n.Names))
	}
	for _, name := range n.Names {
		if err := checkText("the name of a group", name); err != nil || name == "" {
			return nil, errInvalid("%q is no name of a group", clip(name))
		}
	}
	c.detail = n
	return nil, h.changes(c).SetTeamGroups(c.Context(), c.PathValue("organization"), c.PathValue("team"), source, n.Names)
}
