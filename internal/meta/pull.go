package meta

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Pull is that a manifest was pulled.
type Pull struct {
	Repository oci.Repository
	Tag        oci.Tag // empty if it was pulled by digest
	Digest     oci.Digest
	At         time.Time
}

// NotePulls notes when tags and manifests were pulled last, in one transaction. What is not there any more is passed over, and a time that is
// later than the given one stays.
func (db *DB) NotePulls(ctx context.Context, pulls []Pull) error {
	tags := latest(pulls, func(p *Pull) string { return string(p.Tag) })
	manifests := latest(pulls, func(p *Pull) string { return p.Digest.String() })
	return db.update(ctx, func(t *tx) error {
		if _, err := t.exec(`INSERT INTO tag_pull (repository_id, name, pulled_at)
			SELECT t.repository_id, t.name, CAST(`+t.element(2)+` AS BIGINT) FROM `+t.list("$1")+` CROSS JOIN repository r CROSS JOIN tag t
			WHERE r.name = `+t.element(0)+` AND t.repository_id = r.id AND t.name = `+t.element(1)+`
			ON CONFLICT (repository_id, name) DO UPDATE SET pulled_at = excluded.pulled_at WHERE tag_pull.pulled_at < excluded.pulled_at`, tags); err != nil {
			return err
		}
		_, err := t.exec(`INSERT INTO manifest_use (manifest_id, pulled_at)
			SELECT m.id, CAST(`+t.element(2)+` AS BIGINT) FROM `+t.list("$1")+` CROSS JOIN repository r CROSS JOIN manifest m
			WHERE r.name = `+t.element(0)+` AND m.repository_id = r.id AND m.digest = `+t.element(1)+`
			ON CONFLICT (manifest_id) DO UPDATE SET pulled_at = excluded.pulled_at WHERE COALESCE(manifest_use.pulled_at, 0) < excluded.pulled_at`, manifests)
		return err
	})
}

// latest returns the last pull by each reference, as a JSON array of repository, reference and time. All who note pulls go through them in the
// same order, so that none waits for another that waits for it.
func latest(pulls []Pull, reference func(*Pull) string) string {
	type key struct{ repository, reference string }
	last := make(map[key]int64, len(pulls))
	for i := range pulls {
		if k := (key{string(pulls[i].Repository), reference(&pulls[i])}); k.reference != "" {
			last[k] = max(last[k], pulls[i].At.UnixMilli())
		}
	}
	rows := make([][3]any, 0, len(last))
	for k, at := range last {
		rows = append(rows, [3]any{k.repository, k.reference, at})
	}
	slices.SortFunc(rows, func(a, b [3]any) int {
		return cmp.Or(cmp.Compare(a[0].(string), b[0].(string)), cmp.Compare(a[1].(string), b[1].(string)))
	})
	b, err := json.Marshal(rows)
	if err != nil {
		panic(err) // texts and numbers can be marshalled
	}
	return string(b)
}

// TagTimes is a tag, and when it was used.
type TagTimes struct {
	Tag    oci.Tag
	Digest oci.Digest
	Pushed time.Time // when it was pointed to what it points to
	Pulled time.Time // zero if it never was, as far as is known
}

// TagTimes returns up to n tags of the repository after the given one, in ASCII order, or ErrNotFound if there is no such repository.
func (db *DB) TagTimes(ctx context.Context, r oci.Repository, after string, n int) ([]TagTimes, error) {
	repo, err := db.repositoryID(ctx, r)
	if err != nil {
		return nil, err
	}
	var found []TagTimes
	err = db.query(ctx, func(scan func(...any) error) error {
		var t TagTimes
		var digest string
		var pushed int64
		var pulled *int64
		if err := scan(&t.Tag, &digest, &pushed, &pulled); err != nil {
			return err
		}
		t.Pushed, t.Pulled = time.UnixMilli(pushed), timeOf(pulled)
		err := t.Digest.UnmarshalText([]byte(digest))
		found = append(found, t)
		return err
	}, `SELECT t.name, m.digest, t.updated_at, p.pulled_at FROM tag t JOIN manifest m ON m.id = t.manifest_id
		LEFT JOIN tag_pull p ON p.repository_id = t.repository_id AND p.name = t.name
		WHERE t.repository_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3`, repo, asName(after), n)
	return found, err
}

// ManifestTimes is a manifest, and when it was used.
type ManifestTimes struct {
	Digest    oci.Digest
	MediaType string
	Size      int64
	Tags      int64     // that point to it
	Pushed    time.Time // for the first time
	Pulled    time.Time // by digest or by any tag; zero if it never was, as far as is known
}

// ManifestTimes returns up to n manifests of the repository after the given digest, in ASCII order, or ErrNotFound if there is no such repository.
func (db *DB) ManifestTimes(ctx context.Context, r oci.Repository, after string, n int) ([]ManifestTimes, error) {
	repo, err := db.repositoryID(ctx, r)
	if err != nil {
		return nil, err
	}
	var found []ManifestTimes
	err = db.query(ctx, func(scan func(...any) error) error {
		var m ManifestTimes
		var digest string
		var pushed int64
		var pulled *int64
		if err := scan(&digest, &m.MediaType, &m.Size, &m.Tags, &pushed, &pulled); err != nil {
			return err
		}
		m.Pushed, m.Pulled = time.UnixMilli(pushed), timeOf(pulled)
		err := m.Digest.UnmarshalText([]byte(digest))
		found = append(found, m)
		return err
	}, `SELECT m.digest, m.media_type, m.size, (SELECT COUNT(*) FROM tag t WHERE t.manifest_id = m.id), m.created_at, p.pulled_at
		FROM manifest m LEFT JOIN manifest_use p ON p.manifest_id = m.id
		WHERE m.repository_id = $1 AND m.digest > $2 ORDER BY m.digest LIMIT $3`, repo, asText(after), n)
	return found, err
}

// PullsSince returns since when pulls are noted in the database, and what time it is by its clock.
func (db *DB) PullsSince(ctx context.Context) (since, now time.Time, err error) {
	var s, n int64
	err = db.queryRow(ctx, `SELECT MAX(since), `+db.now+` FROM pull_record`).Scan(&s, &n)
	return time.UnixMilli(s), time.UnixMilli(n), err
}
