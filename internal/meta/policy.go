package meta

import (
	"context"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// What holds for a change is read in its transaction, after the lock on the repository: who adds a policy locks out all
// who have that one, so that nothing which began under the old policies ends after the new one was acknowledged.

// policies returns what holds in a repository. On PostgreSQL, the caller has the lock on it.
func (t *tx) policies(r oci.Repository) (*policy.Set, error) {
	set := new(policy.Set)
	err := t.query(func(scan func(...any) error) error {
		var p policy.Protection
		var repositories, tags, message string
		if err := scan(&p.ID, &p.Organization, &repositories, &tags, &message); err != nil {
			return err
		}
		if p.ID == 0 {
			set.Freezes = append(set.Freezes, policy.Freeze{Organization: p.Organization, Message: message})
			return nil
		}
		err := readProtection(&p, repositories, tags)
		set.Protections = append(set.Protections, p)
		return err
	}, `SELECT 0, organization, '', '', message FROM content_freeze WHERE organization IN ('', $1)
		UNION ALL SELECT id, organization, repositories, tags, '' FROM tag_protection WHERE organization IN ('', $1)`, access.Organization(r))
	return set, err
}

// changeable returns what holds in a repository, or a *policy.FrozenError if nothing there may change.
func (t *tx) changeable(r oci.Repository) (*policy.Set, error) {
	set, err := t.policies(r)
	if err != nil {
		return nil, fmt.Errorf("policies of %s: %w", r, err)
	}
	return set, set.CheckChange()
}

func readProtection(p *policy.Protection, repositories, tags string) (err error) {
	if p.Repositories, err = access.ParsePatterns(repositories); err == nil {
		err = p.Tags.UnmarshalText([]byte(tags))
	}
	if err != nil {
		err = fmt.Errorf("protection %d: %w", p.ID, err)
	}
	return err
}

// addPolicy makes a change after which nothing goes on that did not see it.
func (db *DB) addPolicy(ctx context.Context, do func(*tx) error) error {
	return db.update(ctx, func(t *tx) error {
		if t.postgres {
			if _, err := t.exec(`LOCK TABLE repository IN EXCLUSIVE MODE`); err != nil {
				return err
			}
		}
		t.touchRights() // freezes are cached as rights are
		return do(t)
	})
}

// Protection is a protection of tags, and who made it.
type Protection struct {
	policy.Protection
	By      string
	Created time.Time
}

// AddProtection stores a protection and sets its ID. When it returns, no tag that it matches can move any more.
func (db *DB) AddProtection(ctx context.Context, p *Protection) error {
	tags, err := p.Tags.MarshalText()
	if err != nil {
		return err
	}
	return db.addPolicy(ctx, func(t *tx) error {
		return t.queryRow(`INSERT INTO tag_protection (organization, repositories, tags, created_at, created_by) VALUES ($1, $2, $3, $4, $5) RETURNING id`,
			p.Organization, p.Repositories.String(), string(tags), p.Created.UnixMilli(), asText(p.By)).Scan(&p.ID)
	})
}

// Protections returns up to n protections after the given ID: those of an organization, or of the whole registry if that is empty.
func (db *DB) Protections(ctx context.Context, organization string, after int64, n int) ([]*Protection, error) {
	var all []*Protection
	err := db.query(ctx, func(scan func(...any) error) error {
		p := new(Protection)
		var repositories, tags string
		var created int64
		if err := scan(&p.ID, &p.Organization, &repositories, &tags, &created, &p.By); err != nil {
			return err
		}
		p.Created = time.UnixMilli(created)
		all = append(all, p)
		return readProtection(&p.Protection, repositories, tags)
	}, `SELECT id, organization, repositories, tags, created_at, created_by FROM tag_protection
		WHERE organization = $1 AND id > $2 ORDER BY id LIMIT $3`, asText(organization), after, n)
	return all, err
}

// DeleteProtection deletes a protection of an organization, or of the whole registry if that is empty, or returns ErrNotFound.
func (db *DB) DeleteProtection(ctx context.Context, organization string, id int64) error {
	return db.update(ctx, func(t *tx) error {
		return t.one(`DELETE FROM tag_protection WHERE organization = $1 AND id = $2`, asText(organization), id)
	})
}

// Freeze is a freeze, and who made it.
type Freeze struct {
	policy.Freeze
	By    string
	Since time.Time
}

// SetFreeze makes content read-only. When it returns, no manifest or tag changes any more that it is for. A freeze
// that is there already gets the new message.
func (db *DB) SetFreeze(ctx context.Context, f *Freeze) error {
	return db.addPolicy(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO content_freeze (organization, message, since, created_by) VALUES ($1, $2, $3, $4)
			ON CONFLICT (organization) DO UPDATE SET message = excluded.message, created_by = excluded.created_by`,
			f.Organization, asText(f.Message), f.Since.UnixMilli(), asText(f.By))
		return err
	})
}

// Freezes returns up to n freezes after the given name; without one the first ones, of which that of the whole
// registry, if there is one, comes first.
func (db *DB) Freezes(ctx context.Context, after string, n int) ([]*Freeze, error) {
	var all []*Freeze
	more := `>`
	if after == "" {
		more = `>=`
	}
	err := db.query(ctx, func(scan func(...any) error) error {
		f := new(Freeze)
		var since int64
		err := scan(&f.Organization, &f.Message, &since, &f.By)
		f.Since = time.UnixMilli(since)
		all = append(all, f)
		return err
	}, `SELECT organization, message, since, created_by FROM content_freeze WHERE organization `+more+` $1 ORDER BY organization LIMIT $2`, asText(after), n)
	return all, err
}

// FreezeOf returns the freeze of an organization, or of the whole registry if that is empty, or ErrNotFound.
func (db *DB) FreezeOf(ctx context.Context, organization string) (*Freeze, error) {
	f := &Freeze{Freeze: policy.Freeze{Organization: organization}}
	var since int64
	err := db.queryRow(ctx, `SELECT message, since, created_by FROM content_freeze WHERE organization = $1`, asText(organization)).Scan(&f.Message, &since, &f.By)
	f.Since = time.UnixMilli(since)
	return f, err
}

// DeleteFreeze ends a freeze, or returns ErrNotFound.
func (db *DB) DeleteFreeze(ctx context.Context, organization string) error {
	return db.update(ctx, func(t *tx) error {
		t.touchRights()
		return t.one(`DELETE FROM content_freeze WHERE organization = $1`, asText(organization))
	})
}

// CheckChange returns a *policy.FrozenError if content of the repository is read-only. It is for who wants to know before a long
// upload; the changes of this package look for themselves.
func (db *DB) CheckChange(ctx context.Context, r oci.Repository) error {
	k := cacheKey{repository: oci.Repository(access.Organization(r)), kind: ofFreeze}
	if v, ok := db.cache.get(k); ok {
		return v.(*policy.Set).CheckChange()
	}
	version := db.cache.version(k)
	set := new(policy.Set)
	if err := db.query(ctx, func(scan func(...any) error) error {
		var f policy.Freeze
		err := scan(&f.Organization, &f.Message)
		set.Freezes = append(set.Freezes, f)
		return err
	}, `SELECT organization, message FROM content_freeze WHERE organization IN ('', $1) ORDER BY organization`, access.Organization(r)); err != nil {
		return fmt.Errorf("freezes of %s: %w", r, err)
	}
	db.cache.put(k, version, set, 0)
	return set.CheckChange()
}
