package meta

import (
	"context"
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// Organization is the first part of the names of repositories, and what teams, robots and grants belong to.
type Organization struct {
	ID       int64
	Name     string
	Public   bool // everybody may pull from its repositories, those aside that have a setting of their own
	Creation access.Creation
	Created  time.Time
}

func scanOrganization(scan func(...any) error) (*Organization, error) {
	o := new(Organization)
	var created int64
	if err := scan(&o.ID, &o.Name, &o.Public, &o.Creation, &created); err != nil {
		return nil, err
	}
	o.Created = time.UnixMilli(created)
	return o, nil
}

const organizationColumns = `o.id, o.name, o.public = 1, o.creation, o.created_at`

// CreateOrganization makes an organization and sets its ID. ErrExists says that the name is taken.
func (db *DB) CreateOrganization(ctx context.Context, o *Organization) error {
	return db.update(ctx, func(t *tx) error {
		err := t.queryRow(`INSERT INTO organization (name, public, creation, created_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO NOTHING RETURNING id`, o.Name, number(o.Public), string(o.Creation), o.Created.UnixMilli()).Scan(&o.ID)
		if errors.Is(err, ErrNotFound) {
			return ErrExists
		}
		t.touchRights()
		return err
	})
}

// Organization returns an organization by name, or ErrNotFound.
func (db *DB) Organization(ctx context.Context, name string) (*Organization, error) {
	return scanOrganization(db.queryRow(ctx, `SELECT `+organizationColumns+` FROM organization o WHERE o.name = $1`, asText(name)).Scan)
}

// Organizations returns up to n organizations after the given name.
func (db *DB) Organizations(ctx context.Context, after string, n int) ([]*Organization, error) {
	var all []*Organization
	err := db.query(ctx, func(scan func(...any) error) error {
		o, err := scanOrganization(scan)
		all = append(all, o)
		return err
	}, `SELECT `+organizationColumns+` FROM organization o WHERE o.name > $1 ORDER BY o.name LIMIT $2`, asName(after), n)
	return all, err
}

// ChangeOrganization reads an organization by name, has change alter it and stores what may be altered: Public and Creation.
// With an error from change nothing happens. It returns ErrNotFound if there is no such organization. change may run more
// than once.
func (db *DB) ChangeOrganization(ctx context.Context, name string, change func(*Organization) error) error {
	return db.update(ctx, func(t *tx) error {
		o, err := scanOrganization(t.queryRow(`SELECT `+organizationColumns+` FROM organization o WHERE o.name = $1`+t.locking("FOR NO KEY UPDATE"), asText(name)).Scan)
		if err != nil {
			return err
		}
		if err := change(o); err != nil {
			return err
		}
		t.touchRights()
		_, err = t.exec(`UPDATE organization SET public = $2, creation = $3 WHERE id = $1`, o.ID, number(o.Public), string(o.Creation))
		return err
	})
}

// DeleteOrganization deletes an organization with its teams, robots, grants, quota and policies of retention, or returns ErrNotFound. Its repositories
// stay: administrators of the registry have rights there, and whoever has grants everywhere.
func (db *DB) DeleteOrganization(ctx context.Context, name string) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		if err := t.one(`DELETE FROM organization WHERE name = $1`, asText(name)); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM retention_policy WHERE organization = $1`, asText(name)); err != nil {
			return err
		}
		_, err := t.exec(`DELETE FROM quota WHERE organization = $1`, asText(name))
		return err
	})
}

// SetRepositoryPublic says whether everybody may pull from a repository; nil leaves that to its organization. It returns
// ErrNotFound if there is no such repository. One that has a setting stays when it holds nothing any more.
func (db *DB) SetRepositoryPublic(ctx context.Context, r oci.Repository, public *bool) error {
	return db.update(ctx, func(t *tx) error {
		repo, err := t.lockRepository(r)
		if err != nil {
			return err
		}
		t.touch(r)
		var setting *int64
		if public != nil {
			n := number(*public)
			setting = &n
		}
		if _, err := t.exec(`UPDATE repository SET public = $2 WHERE id = $1`, repo, setting); err != nil || public != nil {
			return err
		}
		_, err = t.dropIfEmpty(repo)
		return err
	})
}
