package meta

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Retention is a policy of retention, and who made it.
type Retention struct {
	policy.Retention
	By      string
	Created time.Time
}

// AddRetention stores a policy and sets its ID.
func (db *DB) AddRetention(ctx context.Context, p *Retention) error {
	tags, err := p.Tags.MarshalText()
	if err != nil {
		return err
	}
	rules, err := json.Marshal(p.Rules)
	if err != nil {
		return err
	}
	return db.update(ctx, func(t *tx) error {
		return t.queryRow(`INSERT INTO retention_policy (organization, repositories, tags, rules, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`,
			p.Organization, p.Repositories.String(), string(tags), string(rules), p.Created.UnixMilli(), asText(p.By)).Scan(&p.ID)
	})
}

// Retentions returns up to n policies after the given ID: those of an organization, or of the whole registry if that is empty.
func (db *DB) Retentions(ctx context.Context, organization string, after int64, n int) ([]*Retention, error) {
	var all []*Retention
	err := db.query(ctx, func(scan func(...any) error) error {
		p := new(Retention)
		var repositories, tags, rules string
		var created int64
		err := scan(&p.ID, &p.Organization, &repositories, &tags, &rules, &created, &p.By)
		if err == nil {
			p.Repositories, err = access.ParsePatterns(repositories)
		}
		if err == nil {
			err = p.Tags.UnmarshalText([]byte(tags))
		}
		if err == nil {
			err = json.Unmarshal([]byte(rules), &p.Rules)
		}
		if err != nil {
			return fmt.Errorf("retention policy %d: %w", p.ID, err)
		}
		p.Created = time.UnixMilli(created)
		all = append(all, p)
		return nil
	}, `SELECT id, organization, repositories, tags, rules, created_at, created_by FROM retention_policy
		WHERE organization = $1 AND id > $2 ORDER BY id LIMIT $3`, asText(organization), after, n)
	return all, err
}

// DeleteRetention deletes a policy of an organization, or of the whole registry if that is empty, or returns ErrNotFound.
func (db *DB) DeleteRetention(ctx context.Context, organization string, id int64) error {
	return db.update(ctx, func(t *tx) error {
		return t.one(`DELETE FROM retention_policy WHERE organization = $1 AND id = $2`, asText(organization), id)
	})
}

// KeptManifest is a manifest as retention looks at it.
type KeptManifest struct {
	ID      int64
	Digest  oci.Digest
	Size    int64
	Subject string    // a digest, or empty
	Pushed  time.Time // for the first time
	Again   time.Time // when it was pushed again or taken out of the trash; all that follow are zero if that never was
	Freed   time.Time // when a tag or another manifest went that needed it
	Pulled  time.Time
}

// KeptManifests returns up to n manifests of the repository after the given digest, in ASCII order, or ErrNotFound if there is no such repository.
func (db *DB) KeptManifests(ctx context.Context, r oci.Repository, after string, n int) ([]KeptManifest, error) {
	var found []KeptManifest
	repo, err := db.repositoryID(ctx, r)
	if err != nil {
		return nil, err
	}
	err = db.query(ctx, func(scan func(...any) error) error {
		var m KeptManifest
		var digest string
		var pushed int64
		var again, freed, pulled *int64
		if err := scan(&m.ID, &digest, &m.Size, &m.Subject, &pushed, &again, &freed, &pulled); err != nil {
			return err
		}
		m.Pushed, m.Again, m.Freed, m.Pulled = time.UnixMilli(pushed), timeOf(again), timeOf(freed), timeOf(pulled)
		err := m.Digest.UnmarshalText([]byte(digest))
		found = append(found, m)
		return err
	}, `SELECT m.id, m.digest, m.size, COALESCE(m.subject, ''), m.created_at, u.pushed_at, u.released_at, u.pulled_at
		FROM manifest m LEFT JOIN manifest_use u ON u.manifest_id = m.id
		WHERE m.repository_id = $1 AND m.digest > $2 ORDER BY m.digest LIMIT $3`, repo, after, n)
	return found, err
}

// KeptParts calls child with the children, and blob with the blobs of manifests. elsewhere tells that another repository has the blob, too.
func (db *DB) KeptParts(ctx context.Context, manifests []int64, child func(manifest int64, digest string) error, blob func(manifest, blob, size int64, elsewhere bool) error) error {
	ids := jsonOf(manifests)
	if err := db.query(ctx, func(scan func(...any) error) error {
		var id int64
		var digest string
		if err := scan(&id, &digest); err != nil {
			return err
		}
		return child(id, digest)
	}, `SELECT c.manifest_id, c.digest FROM `+db.list("$1")+` CROSS JOIN manifest_child c WHERE c.manifest_id = CAST(list.value AS BIGINT)`, ids); err != nil {
		return err
	}
	return db.query(ctx, func(scan func(...any) error) error {
		var id, b, size int64
		var elsewhere bool
		if err := scan(&id, &b, &size, &elsewhere); err != nil {
			return err
		}
		return blob(id, b, size, elsewhere)
	}, `SELECT mb.manifest_id, mb.blob_id, b.size, EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = mb.blob_id AND rb.repository_id <> mb.repository_id)
		FROM `+db.list("$1")+` CROSS JOIN manifest_blob mb CROSS JOIN blob b WHERE mb.manifest_id = CAST(list.value AS BIGINT) AND b.id = mb.blob_id`, ids)
}
