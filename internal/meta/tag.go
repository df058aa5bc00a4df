package meta

import (
	"context"
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Tags returns up to n tags of the repository after the given one, in ASCII
// order, or ErrNotFound if there is no such repository.
func (db *DB) Tags(ctx context.Context, r oci.Repository, after string, n int) ([]string, error) {
	repo, err := db.repositoryID(ctx, r)
	if err != nil {
		return nil, err
	}
	return db.page(ctx, `SELECT name FROM tag WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3`, repo, asName(after), n)
}

// setTag points a tag to a manifest and logs it. Nothing happens, and nothing is
// logged, if it points there already.
func (t *tx) setTag(repo int64, r oci.Repository, tag oci.Tag, manifest int64, d oci.Digest, o Origin, now time.Time) error {
	var oldID int64
	var old *string
	err := t.queryRow(`SELECT m.id, m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id
		WHERE t.repository_id = $1 AND t.name = $2`, repo, string(tag)).Scan(&oldID, &old)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return err
	case oldID == manifest:
		return nil
	}
	if _, err := t.exec(`INSERT INTO tag (repository_id, name, manifest_id, updated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at`,
		repo, string(tag), manifest, now.UnixMilli()); err != nil {
		return err
	}
	digest := d.String()
	return t.logTag(repo, r, tag, old, &digest, o, now)
}

// tagDigest returns what a tag points to, or the zero digest.
func (t *tx) tagDigest(repo int64, tag oci.Tag) (oci.Digest, error) {
	var s string
	err := t.queryRow(`SELECT m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id
		WHERE t.repository_id = $1 AND t.name = $2`, repo, string(tag)).Scan(&s)
	if errors.Is(err, ErrNotFound) {
		return oci.Digest{}, nil
	}
	if err != nil {
		return oci.Digest{}, err
	}
	return oci.ParseDigest(s)
}

// DeleteTag deletes a tag, not its manifest, or returns ErrNotFound.
func (db *DB) DeleteTag(ctx context.Context, r oci.Repository, tag oci.Tag, o Origin, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		repo, err := t.lockRepository(r)
		if err != nil {
			return err
		}
		var old string
		if err := t.queryRow(`SELECT m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id
			WHERE t.repository_id = $1 AND t.name = $2`, repo, string(tag)).Scan(&old); err != nil {
			return err
		}
		t.touch(r)
		if _, err := t.exec(`DELETE FROM tag WHERE repository_id = $1 AND name = $2`, repo, string(tag)); err != nil {
			return err
		}
		return t.logTag(repo, r, tag, &old, nil, o, now)
	})
}

func (t *tx) logTag(repo int64, r oci.Repository, tag oci.Tag, old, new *string, o Origin, now time.Time) error {
	_, err := t.exec(`INSERT INTO tag_log (repository_id, repository, tag, old_digest, new_digest, at, actor, method)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		repo, string(r), string(tag), old, new, now.UnixMilli(), asText(o.Actor), o.Method)
	return err
}

// TagMove is an entry of the tag log.
type TagMove struct {
	Tag      oci.Tag
	Old, New oci.Digest // zero if the tag was not there before, or is gone after
	At       time.Time
	Origin   Origin
}

// TagLog returns the moves of a repository's tag, oldest first.
func (db *DB) TagLog(ctx context.Context, r oci.Repository, tag oci.Tag) ([]TagMove, error) {
	var moves []TagMove
	err := db.query(ctx, func(scan func(...any) error) error {
		m := TagMove{Tag: tag}
		var old, new *string
		var at int64
		if err := scan(&old, &new, &at, &m.Origin.Actor, &m.Origin.Method); err != nil {
			return err
		}
		m.At = time.UnixMilli(at)
		for from, to := range map[*string]*oci.Digest{old: &m.Old, new: &m.New} {
			if from != nil {
				if err := to.UnmarshalText([]byte(*from)); err != nil {
					return err
				}
			}
		}
		moves = append(moves, m)
		return nil
	}, `SELECT l.old_digest, l.new_digest, l.at, l.actor, l.method FROM repository r
		JOIN tag_log l ON l.repository_id = r.id AND l.tag = $2
		WHERE r.name = $1 ORDER BY l.id`, string(r), string(tag))
	return moves, err
}
