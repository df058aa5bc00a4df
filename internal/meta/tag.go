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

// setTag points a tag, whose current manifest is known, to a manifest and logs it. Nothing happens, and nothing is
// logged, if it points there already.
func (t *tx) setTag(repo int64, r oci.Repository, tag oci.Tag, current pointer, manifest int64, d oci.Digest, o Origin, now time.Time) error {
	if current.manifest == manifest {
		return nil
	}
	var old *string
	if current.manifest != 0 {
		s := current.digest.String()
		old = &s
	}
	if _, err := t.exec(`INSERT INTO tag (repository_id, name, manifest_id, updated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at`,
		repo, string(tag), manifest, now.UnixMilli()); err != nil {
		return err
	}
	digest := d.String()
	return t.logTag(repo, r, tag, old, &digest, o, now)
}

// pointer is what a tag points to; zero if there is no such tag.
type pointer struct {
	manifest int64
	digest   oci.Digest
}

// findTags returns what those of the tags point to that are there.
func (t *tx) findTags(repo int64, tags []oci.Tag) (map[oci.Tag]pointer, error) {
	found := make(map[oci.Tag]pointer, len(tags))
	if len(tags) == 0 {
		return found, nil
	}
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = string(tag)
	}
	err := t.query(func(scan func(...any) error) error {
		var tag oci.Tag
		var p pointer
		var digest string
		if err := scan(&tag, &p.manifest, &digest); err != nil {
			return err
		}
		err := p.digest.UnmarshalText([]byte(digest))
		found[tag] = p
		return err
	}, `SELECT t.name, m.id, m.digest FROM `+t.list("$2")+` CROSS JOIN tag t CROSS JOIN manifest m
		WHERE t.repository_id = $1 AND t.name = list.value AND m.id = t.manifest_id`, repo, jsonOf(names))
	return found, err
}

// DeleteTag deletes a tag, not its manifest, or returns ErrNotFound, or a *policy.FrozenError or *policy.ProtectedError.
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
		held, err := t.changeable(r)
		if err != nil {
			return err
		}
		digest, err := oci.ParseDigest(old)
		if err != nil {
			return err
		}
		if err := held.CheckTag(r, tag, digest, oci.Digest{}); err != nil {
			return err
		}
		t.touch(r)
		return t.deleteTag(repo, r, tag, digest, o, now)
	})
}

// deleteTag deletes a tag that points to a manifest.
func (t *tx) deleteTag(repo int64, r oci.Repository, tag oci.Tag, d oci.Digest, o Origin, now time.Time) error {
	if _, err := t.exec(`DELETE FROM tag WHERE repository_id = $1 AND name = $2`, repo, string(tag)); err != nil {
		return err
	}
	old := d.String()
	if err := t.logTag(repo, r, tag, &old, nil, o, now); err != nil {
		return err
	}
	return t.recordTag(r, tag, d, o, now)
}

// recordTag tells of a tag that is deleted in the audit log.
func (t *tx) recordTag(r oci.Repository, tag oci.Tag, d oci.Digest, o Origin, now time.Time) error {
	return t.record(o, r, "tag "+string(tag)+" of manifest "+d.String(), now)
}

func (t *tx) logTag(repo int64, r oci.Repository, tag oci.Tag, old, new *string, o Origin, now time.Time) error {
	_, err := t.exec(`INSERT INTO tag_log (repository_id, repository, tag, old_digest, new_digest, at, actor, credential, method)
		VALUES ($1, $2, $3, $4, $5, `+t.afterLastMove("$2", "$3", "$6")+`, $7, $8, $9)`,
		repo, string(r), string(tag), old, new, now.UnixMilli(), asText(o.Actor), asText(o.Credential), o.Method)
	return err
}

// afterLastMove returns an expression for the time of a tag's next move: now, but not before the last one, whatever the clocks of
// the nodes say. So times order the moves of a tag.
func (d dialect) afterLastMove(repository, tag, now string) string {
	latest := "MAX"
	if d.postgres {
		latest = "GREATEST"
	}
	return latest + `(CAST(` + now + ` AS BIGINT), COALESCE((SELECT l.at FROM tag_log l WHERE l.repository = ` + repository + ` AND l.tag = ` + tag +
		` ORDER BY l.at DESC LIMIT 1), 0))`
}

// TagMove is an entry of the tag log.
type TagMove struct {
	ID       int64
	Tag      oci.Tag
	Old, New oci.Digest // zero if the tag was not there before, or is gone after
	At       time.Time
	Origin   Origin // Actor, Credential and Method
}

// TagLog returns all moves of a repository's tag, oldest first, also of repositories that had the name before. There may be very many: see TagMoves.
func (db *DB) TagLog(ctx context.Context, r oci.Repository, tag oci.Tag) ([]TagMove, error) {
	return db.tagMoves(ctx, `SELECT l.id, l.tag, l.old_digest, l.new_digest, l.at, l.actor, l.credential, l.method FROM tag_log l
		WHERE l.repository = $1 AND l.tag = $2 ORDER BY l.at, l.id`, string(r), string(tag))
}

func (db *DB) tagMoves(ctx context.Context, text string, args ...any) ([]TagMove, error) {
	moves := []TagMove{}
	err := db.query(ctx, func(scan func(...any) error) error {
		var m TagMove
		var old, new *string
		var at int64
		if err := scan(&m.ID, &m.Tag, &old, &new, &at, &m.Origin.Actor, &m.Origin.Credential, &m.Origin.Method); err != nil {
			return err
		}
		m.At = time.UnixMilli(at)
		if err := errors.Join(readDigest(&m.Old, old), readDigest(&m.New, new)); err != nil {
			return err
		}
		moves = append(moves, m)
		return nil
	}, text, args...)
	return moves, err
}
