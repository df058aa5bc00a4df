package meta

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/access"
)

// Grant is what an account or a team may do.
type Grant struct {
	access.Grant            // Everywhere is set if there is no Organization
	Organization     string // in whose repositories; empty for everywhere
	Account          string // whose it is, if it is no team's
	TeamOrganization string // of Team; if empty, Organization
	Created          time.Time
}

// AddGrant gives an account or a team a grant and sets its ID. If there is one of the same subject for the same organization,
// repositories and tags, its role and actions change: there is no moment without either. ErrNotFound says that
// the organization, the account or the team is not there.
func (db *DB) AddGrant(ctx context.Context, g *Grant) error {
	if (g.Account == "") == (g.Team == "") {
		return errors.New("a grant is either of an account or of a team")
	}
	return db.update(ctx, func(t *tx) error {
		var organization, account, team *int64
		if g.Organization != "" {
			id, err := t.organizationID(g.Organization)
			if err != nil {
				return err
			}
			organization = &id
		}
		// With the lock on the subject, another one sees the row that this one adds.
		if g.Account != "" {
			id, err := t.accountID(g.Account, "FOR NO KEY UPDATE")
			if err != nil {
				return err
			}
			account = &id
		} else {
			if g.TeamOrganization == "" {
				g.TeamOrganization = g.Organization
			}
			id, err := t.teamID(g.TeamOrganization, g.Team, "FOR NO KEY UPDATE")
			if err != nil {
				return err
			}
			team = &id
		}
		t.touchRights()
		g.Everywhere = g.Organization == ""
		same, args := `account_id = $1`, []any{account}
		if team != nil {
			same, args = `team_id = $1`, []any{team}
		}
		args = append(args, organization, g.Repositories.String(), g.Tags.String(), string(g.Role), int64(g.Actions))
		err := t.queryRow(`UPDATE access_grant SET role = $5, actions = $6
			WHERE `+same+` AND organization_id IS NOT DISTINCT FROM $2 AND repositories = $3 AND tags = $4 RETURNING id`, args...).Scan(&g.ID)
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		return t.queryRow(`INSERT INTO access_grant (organization_id, account_id, team_id, repositories, tags, role, actions, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id`,
			organization, account, team, g.Repositories.String(), g.Tags.String(), string(g.Role), int64(g.Actions), g.Created.UnixMilli()).Scan(&g.ID)
	})
}

// GrantFilter says which grants are looked for. One of the fields must be set; TeamOrganization with Team.
type GrantFilter struct {
	Organization     string // in whose repositories
	Everywhere       bool   // of no organization
	Account          string // whose they are, not by teams
	Team             string
	TeamOrganization string
}

// Grants returns up to n grants after the given ID.
func (db *DB) Grants(ctx context.Context, f GrantFilter, after int64, n int) ([]*Grant, error) {
	args := []any{after, n}
	parameter := func(v string) string {
		args = append(args, asText(v))
		return "$" + strconv.Itoa(len(args))
	}
	where := `g.id > $1`
	if f.Organization != "" {
		where += ` AND g.organization_id = (SELECT id FROM organization WHERE name = ` + parameter(f.Organization) + `)`
	}
	if f.Everywhere {
		where += ` AND g.organization_id IS NULL`
	}
	if f.Account != "" {
		where += ` AND g.account_id = (SELECT id FROM account WHERE name = ` + parameter(f.Account) + `)`
	}
	if f.Team != "" {
		where += ` AND g.team_id = (SELECT t.id FROM organization o JOIN team t ON t.organization_id = o.id WHERE o.name = ` +
			parameter(f.TeamOrganization) + ` AND t.name = ` + parameter(f.Team) + `)`
	}
	if len(args) == 2 && !f.Everywhere {
		return nil, errors.New("look for grants of an organization, an account or a team, or everywhere")
	}
	var all []*Grant
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	err := db.query(ctx, func(scan func(...any) error) error {
		g := new(Grant)
		var repositories, tags string
		var actions, created int64
		err := scan(&g.ID, &g.Everywhere, &g.Organization, &g.Account, &g.Team, &g.TeamOrganization, &repositories, &tags, &g.Role, &actions, &created)
		g.Repositories, g.Tags, g.Actions, g.Created = patterns(repositories, note), patterns(tags, note), access.Actions(actions), time.UnixMilli(created)
		all = append(all, g)
		return err
	}, `SELECT g.id, g.organization_id IS NULL, COALESCE(o.name, ''), COALESCE(a.name, ''), COALESCE(t.name, ''), COALESCE(team_o.name, ''),
			g.repositories, g.tags, g.role, g.actions, g.created_at
		FROM access_grant g LEFT JOIN organization o ON o.id = g.organization_id LEFT JOIN account a ON a.id = g.account_id
		LEFT JOIN team t ON t.id = g.team_id LEFT JOIN organization team_o ON team_o.id = t.organization_id
		WHERE `+where+` ORDER BY g.id LIMIT $2`, args...)
	return all, errors.Join(append(errs, err)...)
}

// DeleteGrant deletes a grant of an organization, or of those everywhere if that is empty, or returns ErrNotFound.
func (db *DB) DeleteGrant(ctx context.Context, organization string, id int64) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		if organization == "" {
			return t.one(`DELETE FROM access_grant WHERE id = $1 AND organization_id IS NULL`, id)
		}
		return t.one(`DELETE FROM access_grant WHERE id = $1 AND organization_id = (SELECT id FROM organization WHERE name = $2)`,
			id, asText(organization))
	})
}
