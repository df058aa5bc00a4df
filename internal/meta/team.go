package meta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Team is a group of accounts that have rights together. It belongs to an organization; its members may be any accounts.
type Team struct {
	ID           int64
	Organization string
	Name         string
	Members      int // that were put into it; those of its groups are not counted
	Created      time.Time
}

const teamColumns = `t.id, o.name, t.name, (SELECT COUNT(*) FROM team_member m WHERE m.team_id = t.id), t.created_at`

func (db *DB) teams(ctx context.Context, text string, args ...any) ([]*Team, error) {
	var all []*Team
	err := db.query(ctx, func(scan func(...any) error) error {
		team := new(Team)
		var created int64
		err := scan(&team.ID, &team.Organization, &team.Name, &team.Members, &created)
		team.Created = time.UnixMilli(created)
		all = append(all, team)
		return err
	}, text, args...)
	return all, err
}

// CreateTeam makes a team and sets its ID. ErrExists says that the organization has one of that name, ErrNotFound that the
// organization is not there.
func (db *DB) CreateTeam(ctx context.Context, team *Team) error {
	return db.update(ctx, func(t *tx) error {
		organization, err := t.organizationID(team.Organization)
		if err != nil {
			return err
		}
		err = t.queryRow(`INSERT INTO team (organization_id, name, created_at) VALUES ($1, $2, $3)
			ON CONFLICT (organization_id, name) DO NOTHING RETURNING id`, organization, team.Name, team.Created.UnixMilli()).Scan(&team.ID)
		if errors.Is(err, ErrNotFound) {
			return ErrExists
		}
		t.touchRights()
		return err
	})
}

// Teams returns up to n teams of an organization after the given name; none if there is no such organization.
func (db *DB) Teams(ctx context.Context, organization, after string, n int) ([]*Team, error) {
	return db.teams(ctx, `SELECT `+teamColumns+` FROM organization o JOIN team t ON t.organization_id = o.id AND t.name > $2
		WHERE o.name = $1 ORDER BY t.name LIMIT $3`, asText(organization), asName(after), n)
}

// TeamsOf returns up to n teams, after the given ID, that an account is a member of: because it was put into them, or by
// its groups.
func (db *DB) TeamsOf(ctx context.Context, account, after int64, n int) ([]*Team, error) {
	return db.teams(ctx, `SELECT `+teamColumns+` FROM team t JOIN organization o ON o.id = t.organization_id
		WHERE t.id `+db.in(teamsOf)+` AND t.id > $2 ORDER BY t.id LIMIT $3`, account, after, n)
}

// DeleteTeam deletes a team and its grants, or returns ErrNotFound.
func (db *DB) DeleteTeam(ctx context.Context, organization, team string) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		return t.one(`DELETE FROM team WHERE organization_id = (SELECT id FROM organization WHERE name = $1) AND name = $2`,
			asText(organization), asText(team))
	})
}

// organizationID returns the ID of an organization, or an error that says which is not there; accountID and teamID likewise.
func (t *tx) organizationID(name string) (int64, error) {
	var id int64
	err := t.queryRow(`SELECT id FROM organization WHERE name = $1`, asText(name)).Scan(&id)
	return id, notFound(err, "organization", name)
}

// accountID locks the row as it is told.
func (t *tx) accountID(name, lock string) (int64, error) {
	var id int64
	err := t.queryRow(`SELECT id FROM account WHERE name = $1`+t.locking(lock), asText(name)).Scan(&id)
	return id, notFound(err, "account", name)
}

// teamID locks the row as it is told.
func (t *tx) teamID(organization, name, lock string) (int64, error) {
	var id int64
	err := t.queryRow(`SELECT t.id FROM team t JOIN organization o ON o.id = t.organization_id
		WHERE o.name = $1 AND t.name = $2`+t.locking(lock+" OF t"), asText(organization), asText(name)).Scan(&id)
	return id, notFound(err, "team", organization+"/"+name)
}

// notFound says what it is that was not found.
func notFound(err error, what, name string) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s %q: %w", what, name, err)
	}
	return err
}

// AddTeamMember puts an account into a team, if it is not there already. ErrNotFound says that one of them is not there.
func (db *DB) AddTeamMember(ctx context.Context, organization, team, account string) error {
	return db.update(ctx, func(t *tx) error {
		teamID, err := t.teamID(organization, team, "FOR KEY SHARE")
		if err != nil {
			return err
		}
		accountID, err := t.accountID(account, "FOR KEY SHARE")
		if err != nil {
			return err
		}
		t.touchRights()
		_, err = t.exec(`INSERT INTO team_member (account_id, team_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, accountID, teamID)
		return err
	})
}

// RemoveTeamMember takes an account out of a team, or returns ErrNotFound. By its groups it may still be a member.
func (db *DB) RemoveTeamMember(ctx context.Context, organization, team, account string) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		return t.one(`DELETE FROM team_member WHERE account_id = (SELECT id FROM account WHERE name = $3)
			AND team_id = (SELECT t.id FROM team t JOIN organization o ON o.id = t.organization_id WHERE o.name = $1 AND t.name = $2)`,
			asText(organization), asText(team), asText(account))
	})
}

// TeamMembers returns up to n names, after the given one, of accounts that were put into a team; none if there is no such team.
func (db *DB) TeamMembers(ctx context.Context, organization, team, after string, n int) ([]string, error) {
	// The members are sorted, because to look through all accounts by name would cost more.
	return db.names(ctx, `SELECT a.name FROM organization o CROSS JOIN team t CROSS JOIN team_member m CROSS JOIN account a
		WHERE o.name = $1 AND t.organization_id = o.id AND t.name = $2 AND m.team_id = t.id AND a.id = m.account_id AND a.name > $3
		ORDER BY a.name LIMIT $4`, asText(organization), asText(team), asName(after), n)
}

// MaxTeamGroups is how many groups of one source can belong to a team.
const MaxTeamGroups = 1000

// SetTeamGroups says whose groups' members belong to a team: of one source, instead of those before. ErrNotFound says that
// there is no such team.
func (db *DB) SetTeamGroups(ctx context.Context, organization, team, source string, names []string) error {
	if len(names) > MaxTeamGroups {
		return fmt.Errorf("a team can have %d groups of one source, not %d", MaxTeamGroups, len(names))
	}
	names = slices.Clone(names)
	for i := range names {
		names[i] = asText(names[i])
	}
	return db.update(ctx, func(t *tx) error {
		id, err := t.teamID(organization, team, "FOR NO KEY UPDATE")
		if err != nil {
			return err
		}
		t.touchRights()
		if _, err := t.exec(`DELETE FROM team_group WHERE team_id = $1 AND source = $2`, id, source); err != nil || len(names) == 0 {
			return err
		}
		_, err = t.exec(`INSERT INTO team_group (source, name, team_id)
			SELECT DISTINCT $2, list.value, CAST($1 AS BIGINT) FROM `+t.list("$3"), id, source, jsonOf(names))
		return err
	})
}

// TeamGroup is a group of a directory or issuer.
type TeamGroup struct{ Source, Name string }

// TeamGroups returns the groups whose members belong to a team; none if there is no such team.
func (db *DB) TeamGroups(ctx context.Context, organization, team string) ([]TeamGroup, error) {
	var all []TeamGroup
	err := db.query(ctx, func(scan func(...any) error) error {
		var g TeamGroup
		err := scan(&g.Source, &g.Name)
		all = append(all, g)
		return err
	}, `SELECT g.source, g.name FROM organization o JOIN team t ON t.organization_id = o.id AND t.name = $2
		JOIN team_group g ON g.team_id = t.id WHERE o.name = $1`, asText(organization), asText(team))
	slices.SortFunc(all, func(a, b TeamGroup) int { return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Name, b.Name)) })
	return all, err
}
