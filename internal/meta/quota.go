package meta

import (
	"context"
	"errors"
	"fmt"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// Quota is what an organization, by its name, may use at most. A limit that is nil is none.
type Quota struct {
	Organization string
	Bytes        *int64
	Deduplicated bool // Bytes limits Usage.Deduplicated, else Usage.Bytes
	Tags         *int64
	Repositories *int64
	Warn         int // from how many percent of a limit on clients are warned; more than 100 for never
}

// Resource is what a limit is on, as people call it.
type Resource string

// The resources.
const (
	ResourceBytes        Resource = "bytes"
	ResourceDeduplicated Resource = "deduplicated bytes"
	ResourceTags         Resource = "tags"
	ResourceRepositories Resource = "repositories"
)

// Limit is a limit of a quota, and how much of it is used.
type Limit struct {
	Resource    Resource
	Limit, Used int64
}

// Limits returns the limits of a quota.
func (q *Quota) Limits(u Usage) []Limit {
	limits := make([]Limit, 0, 3)
	add := func(r Resource, limit *int64, used int64) {
		if limit != nil {
			limits = append(limits, Limit{r, *limit, used})
		}
	}
	if q.Deduplicated {
		add(ResourceDeduplicated, q.Bytes, u.Deduplicated)
	} else {
		add(ResourceBytes, q.Bytes, u.Bytes)
	}
	add(ResourceTags, q.Tags, u.Tags)
	add(ResourceRepositories, q.Repositories, u.Repositories)
	return limits
}

// Standing is how an organization stands against its quota.
type Standing struct {
	Quota Quota
	Usage Usage
}

// Near returns the limits of which so much is used that clients are warned.
func (s *Standing) Near() []Limit {
	var near []Limit
	for _, l := range s.Quota.Limits(s.Usage) {
		if float64(l.Used)*100 >= float64(l.Limit)*float64(s.Quota.Warn) {
			near = append(near, l)
		}
	}
	return near
}

// QuotaError says that a change would use more than a quota allows.
type QuotaError struct {
	Organization string
	Limit        Limit // before the change
	Needed       int64 // by the change
}

// Error implements error.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("organization %s uses %d of the %d %s of its quota, and %d more do not fit",
		e.Organization, e.Limit.Used, e.Limit.Limit, e.Limit.Resource, e.Needed)
}

const quotaColumns = `q.organization, q.bytes, q.deduplicated = 1, q.tags, q.repositories, q.warn`

func (q *Quota) dest() []any {
	return []any{&q.Organization, &q.Bytes, &q.Deduplicated, &q.Tags, &q.Repositories, &q.Warn}
}

// guard watches what a change adds to an organization that has a quota. Nobody else adds to it until the change has ended. A nil guard
// watches nothing.
type guard struct {
	t      *tx
	quota  Quota
	before Usage
}

// guard begins to watch an organization, if it has a quota. The caller has locked the repository that it changes, if it does that at all.
func (t *tx) guard(organization string) (*guard, error) {
	g := &guard{t: t}
	err := t.queryRow(`SELECT `+quotaColumns+` FROM quota q WHERE q.organization = $1`+t.locking("FOR NO KEY UPDATE"), organization).Scan(g.quota.dest()...)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		g.before, err = t.usage(organization)
	}
	return g, err
}

// check returns a *QuotaError if the change has added what the quota has no room for. It is asked at the end of the change, and tells
// standing, if that is not nil.
func (g *guard) check(standing *Standing) error {
	if g == nil {
		return nil
	}
	after, err := g.t.usage(g.quota.Organization)
	if err != nil {
		return err
	}
	before := g.quota.Limits(g.before)
	for i, l := range g.quota.Limits(after) {
		if l.Used > l.Limit && l.Used > before[i].Used {
			return &QuotaError{g.quota.Organization, before[i], l.Used - before[i].Used}
		}
	}
	if standing != nil {
		*standing = Standing{g.quota, after}
	}
	return nil
}

// CheckRoom returns a *QuotaError if a blob of so many bytes cannot become the repository's, as far as can be told now. A digest that is not known is zero;
// then the blob may be one that is there already, so only a limit on bytes that do count twice refuses it.
func (db *DB) CheckRoom(ctx context.Context, r oci.Repository, d oci.Digest, size int64) error {
	s, err := db.standing(ctx, access.Organization(r))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil || s.Quota.Bytes == nil || s.Quota.Deduplicated && d.IsZero() {
		return err
	}
	limit := s.Quota.Limits(s.Usage)[0]
	if size <= limit.Limit-limit.Used {
		return nil
	}
	there := false
	switch {
	case d.IsZero():
	case s.Quota.Deduplicated:
		err = db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM blob b JOIN organization_blob o ON o.blob_id = b.id AND o.organization = $1
			WHERE b.digest = $2)`, s.Quota.Organization, d.String()).Scan(&there)
	default:
		_, err = db.Blob(ctx, r, d)
		there = err == nil
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
	}
	if err != nil || there {
		return err
	}
	return &QuotaError{s.Quota.Organization, limit, size}
}

// standing returns how an organization stands, or ErrNotFound if it has no quota.
func (db *DB) standing(ctx context.Context, organization string) (*Standing, error) {
	s := new(Standing)
	err := db.queryRow(ctx, `SELECT `+quotaColumns+`, `+usageColumns+` FROM quota q LEFT JOIN organization_usage u ON u.organization = q.organization
		WHERE q.organization = $1 GROUP BY q.organization`, organization).Scan(append(s.Quota.dest(), s.Usage.dest()...)...)
	return s, err
}

// Standing returns how an organization stands against its quota, or ErrNotFound if it has none.
func (db *DB) Standing(ctx context.Context, organization string) (*Standing, error) {
	return db.standing(ctx, asText(organization))
}

// Standings returns how up to n organizations after the given name stand that have a quota.
func (db *DB) Standings(ctx context.Context, after string, n int) ([]*Standing, error) {
	var all []*Standing
	err := db.query(ctx, func(scan func(...any) error) error {
		s := new(Standing)
		err := scan(append(s.Quota.dest(), s.Usage.dest()...)...)
		all = append(all, s)
		return err
	}, `SELECT `+quotaColumns+`, `+usageColumns+` FROM quota q LEFT JOIN organization_usage u ON u.organization = q.organization
		WHERE q.organization > $1 GROUP BY q.organization ORDER BY q.organization LIMIT $2`, asName(after), n)
	return all, err
}

// SetQuota stores the quota of an organization, which need not have anything yet, in the place of the one it has. What is used already stays, however
// much it is. Changes that are under way may not see the quota.
func (db *DB) SetQuota(ctx context.Context, q Quota) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO quota (organization, bytes, deduplicated, tags, repositories, warn) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (organization) DO UPDATE SET bytes = excluded.bytes, deduplicated = excluded.deduplicated, tags = excluded.tags,
				repositories = excluded.repositories, warn = excluded.warn`,
			asText(q.Organization), q.Bytes, number(q.Deduplicated), q.Tags, q.Repositories, q.Warn)
		return err
	})
}

// DeleteQuota takes the quota of an organization away, or returns ErrNotFound.
func (db *DB) DeleteQuota(ctx context.Context, organization string) error {
	return db.update(ctx, func(t *tx) error { return t.one(`DELETE FROM quota WHERE organization = $1`, asText(organization)) })
}
