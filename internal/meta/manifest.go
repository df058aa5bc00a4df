package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Manifest is a manifest as one repository has it.
type Manifest struct {
	Digest    oci.Digest
	MediaType string
	Size      int64
	Body      []byte // nil if it was not asked for
}

// Manifest returns a manifest by tag or digest, or ErrNotFound. Without body, a
// large one is not read. The result is shared: it must not be changed.
func (db *DB) Manifest(ctx context.Context, r oci.Repository, ref oci.Reference, body bool) (*Manifest, error) {
	k := cacheKey{repository: r, ref: ref.String()}
	if v, ok := db.cache.get(k); ok {
		return v.(*Manifest), nil
	}
	version := db.cache.version(k)
	const columns = `m.digest, m.media_type, m.size, CASE WHEN m.size <= $3 THEN m.body END`
	most := int64(cacheMaxBody) // a small body is read even for who does not ask for it: it saves asking again, or fits the cache
	if body {
		most = math.MaxInt64
	}
	m := new(Manifest)
	var digest string
	var row row
	if ref.IsDigest() {
		row = db.queryRow(ctx, `SELECT `+columns+` FROM repository r
			JOIN manifest m ON m.repository_id = r.id AND m.digest = $2
			WHERE r.name = $1`, string(r), ref.String(), most)
	} else {
		row = db.queryRow(ctx, `SELECT `+columns+` FROM repository r
			JOIN tag t ON t.repository_id = r.id AND t.name = $2
			JOIN manifest m ON m.id = t.manifest_id
			WHERE r.name = $1`, string(r), ref.String(), most)
	}
	if err := row.Scan(&digest, &m.MediaType, &m.Size, &m.Body); err != nil {
		return nil, err
	}
	if ref.IsDigest() {
		m.Digest = ref.Digest
	} else if err := m.Digest.UnmarshalText([]byte(digest)); err != nil {
		return nil, fmt.Errorf("manifest of %s:%s: %w", r, ref, err)
	}
	if m.Body != nil {
		db.cache.put(k, version, m, len(m.Body))
	}
	return m, nil
}

// ManifestPart returns up to n bytes of a manifest's body from an offset on, or
// ErrNotFound. Its cost grows with the offset.
func (db *DB) ManifestPart(ctx context.Context, r oci.Repository, d oci.Digest, offset int64, n int) ([]byte, error) {
	var part []byte
	err := db.queryRow(ctx, `SELECT SUBSTR(m.body, $3, $4) FROM repository r
		JOIN manifest m ON m.repository_id = r.id AND m.digest = $2
		WHERE r.name = $1`, string(r), d.String(), offset+1, n).Scan(&part)
	return part, err
}

// Origin says who makes a change and how, for the tag log and the trash.
type Origin struct {
	Actor      string // an identity, or the network address of an anonymous client
	Credential string // the name of what the actor signed in with, if it is not the password
	Method     string // "push", "delete", ...

	// Trash says that a manifest that is deleted goes to the trash of its repository.
	Trash bool

	// Audit says that the change has an entry in the audit log, in the same transaction. What follows is for that entry
	// only, see AuditEntry.
	Audit     bool
	AccountID int64
	Client    string
}

// NewManifest is a manifest whose body has been parsed and verified.
type NewManifest struct {
	Repository    oci.Repository
	Digest        oci.Digest
	Parsed        *oci.Manifest
	Body          []byte
	Tags          []oci.Tag
	NeedBlobs     bool // refuse if the repository lacks a blob that is not foreign
	NeedManifests bool // refuse if the repository lacks a child
	// Condition, if not nil, is asked with the digest that the first of Tags points to, zero if
	// there is no such tag. If it answers false, nothing happens but ErrCondition.
	Condition func(current oci.Digest) bool
	// Allow, if not nil, is asked for each of Tags. With an error nothing happens, and it is returned as it is.
	Allow Allow
	// Standing, if not nil, becomes how the organization stands against its quota after the change. It stays as it is without a quota.
	Standing *Standing
	Origin   Origin
	Now      time.Time
}

// Allow decides about the change of a tag, with the digest that it points to, zero if there is no such tag. Nobody else
// can move the tag before the change is made. It may be called more than once, and must not use the database.
type Allow func(tag oci.Tag, current oci.Digest) error

// ErrCondition: the tag is not what the caller wants it to be.
var ErrCondition = errors.New("condition not met")

// MissingError says which content a manifest needs and its repository lacks.
type MissingError struct{ Digests []oci.Digest }

// Error implements error.
func (e *MissingError) Error() string {
	names := make([]string, len(e.Digests))
	for i, d := range e.Digests {
		names[i] = d.String()
	}
	return "missing: " + strings.Join(names, ", ")
}

// PutManifest stores a manifest and sets its tags, unless policies forbid that (*policy.FrozenError, *policy.ProtectedError). A manifest that is there
// already stays as it is and only gets the tags.
// It returns how much of a new manifest's content is absent, foreign layers aside,
// or a *MissingError if n says that it is needed, or a *QuotaError.
func (db *DB) PutManifest(ctx context.Context, n NewManifest) (absent int, err error) {
	err = db.update(ctx, func(t *tx) error {
		repo, g, err := t.makeRepository(n.Repository, n.Now, true)
		if err != nil {
			return err
		}
		t.touch(n.Repository)
		current, err := t.findTags(repo, n.Tags)
		if err != nil {
			return err
		}
		held, err := t.changeable(n.Repository)
		if err != nil {
			return err
		}
		if n.Condition != nil && len(n.Tags) > 0 && !n.Condition(current[n.Tags[0]].digest) {
			return ErrCondition
		}
		for _, tag := range n.Tags {
			if n.Allow != nil {
				if err := n.Allow(tag, current[tag].digest); err != nil {
					return err
				}
			}
			if err := held.CheckTag(n.Repository, tag, current[tag].digest, n.Digest); err != nil {
				return err
			}
		}
		var id int64
		err = t.queryRow(`SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2`, repo, n.Digest.String()).Scan(&id)
		if errors.Is(err, ErrNotFound) {
			id, absent, err = t.insertManifest(repo, n, func() (int64, error) { return t.newManifest(repo, n) })
		} else if err == nil && len(n.Tags) == 0 {
			err = t.pushedAgain(id, n.Now)
		}
		if err != nil {
			return err
		}
		what := describe(n.Digest, n.Tags, current)
		for _, tag := range n.Tags {
			if err := t.setTag(repo, n.Repository, tag, current[tag], id, n.Digest, n.Origin, n.Now); err != nil {
				return err
			}
			current[tag] = pointer{id, n.Digest} // it may be named twice
		}
		if err := g.check(n.Standing); err != nil {
			return err
		}
		return t.record(n.Origin, n.Repository, what, n.Now)
	})
	return absent, err
}

// pushedAgain notes that somebody counts on a manifest that is there already, as the part of an index. Of one that is pushed with a tag, the tag says so.
func (t *tx) pushedAgain(id int64, now time.Time) error {
	_, err := t.exec(`INSERT INTO manifest_use (manifest_id, pushed_at) VALUES ($1, $2)
		ON CONFLICT (manifest_id) DO UPDATE SET pushed_at = excluded.pushed_at`, id, now.UnixMilli())
	return err
}

// describe tells of a manifest in the audit log, and of its tags what they pointed to, if it was another one.
func describe(d oci.Digest, tags []oci.Tag, before map[oci.Tag]pointer) string {
	s := "manifest " + d.String()
	for i, tag := range tags {
		if i == 0 {
			s += " as "
		} else {
			s += ", "
		}
		s += string(tag)
		if was := before[tag].digest; !was.IsZero() && was != d {
			s += " in place of " + was.String()
		}
	}
	return s
}

// insertManifest stores a manifest, whose row insert makes, and connects it with its parts.
func (t *tx) insertManifest(repo int64, n NewManifest, insert func() (int64, error)) (id int64, absent int, err error) {
	here, err := t.findBlobs(repo, n.Parsed.Blobs)
	if err != nil {
		return 0, 0, err
	}
	if t.postgres {
		var absent []oci.Digest
		for _, d := range n.Parsed.Blobs {
			if _, ok := here[d.Digest.String()]; !ok && (!n.NeedBlobs || d.Foreign()) {
				absent = append(absent, d.Digest)
			}
		}
		if len(absent) > 0 {
			// Whoever is about to bring one must see that this manifest waits for it.
			if err := t.lockDigests(repo, absent...); err != nil {
				return 0, 0, err
			}
			if here, err = t.findBlobs(repo, n.Parsed.Blobs); err != nil {
				return 0, 0, err
			}
		}
	}
	var blobs, unreferenced []int64
	var later []string       // blobs that are not here and may come later
	var missing []oci.Digest // what is not here and must be
	for _, d := range n.Parsed.Blobs {
		l, ok := here[d.Digest.String()]
		switch {
		case ok:
			blobs = append(blobs, l.blob)
			if l.unreferenced {
				unreferenced = append(unreferenced, l.blob)
			}
		case n.NeedBlobs && !d.Foreign():
			missing = append(missing, d.Digest)
		default:
			later = append(later, d.Digest.String())
			if !d.Foreign() {
				absent++
			}
		}
	}
	children := make([]string, len(n.Parsed.Manifests))
	for i, d := range n.Parsed.Manifests {
		children[i] = d.Digest.String()
	}
	known, err := t.findManifests(repo, children)
	if err != nil {
		return 0, 0, err
	}
	for _, d := range n.Parsed.Manifests {
		switch {
		case known[d.Digest.String()]:
		case n.NeedManifests:
			missing = append(missing, d.Digest)
		default:
			absent++
		}
	}
	if len(missing) > 0 {
		return 0, 0, &MissingError{missing}
	}

	if id, err = insert(); err != nil {
		return 0, 0, err
	}
	if len(blobs) > 0 {
		if _, err := t.exec(`INSERT INTO manifest_blob (manifest_id, blob_id, repository_id)
			SELECT $1, CAST(list.value AS BIGINT), $2 FROM `+t.list("$3"), id, repo, jsonOf(blobs)); err != nil {
			return 0, 0, err
		}
	}
	if len(unreferenced) > 0 {
		if _, err := t.exec(`UPDATE repository_blob SET unreferenced_since = NULL
			WHERE repository_id = $1 AND blob_id IN (SELECT CAST(list.value AS BIGINT) FROM `+t.list("$2")+`)`, repo, jsonOf(unreferenced)); err != nil {
			return 0, 0, err
		}
	}
	if len(later) > 0 {
		if _, err := t.exec(`INSERT INTO manifest_missing_blob (repository_id, digest, manifest_id)
			SELECT $1, list.value, $2 FROM `+t.list("$3"), repo, id, jsonOf(later)); err != nil {
			return 0, 0, err
		}
	}
	if len(children) > 0 {
		if _, err := t.exec(`INSERT INTO manifest_child (manifest_id, digest, repository_id)
			SELECT $1, list.value, $2 FROM `+t.list("$3"), id, repo, jsonOf(children)); err != nil {
			return 0, 0, err
		}
	}
	return id, absent, nil
}

// newManifest makes the row of a manifest.
func (t *tx) newManifest(repo int64, n NewManifest) (id int64, err error) {
	var subject, annotations *string
	if n.Parsed.Subject != nil {
		s := n.Parsed.Subject.Digest.String()
		subject = &s
		// The annotations are asked for by the referrers API only.
		if len(n.Parsed.Annotations) > 0 {
			b, err := json.Marshal(n.Parsed.Annotations)
			if err != nil {
				return 0, err
			}
			s := string(b)
			annotations = &s
		}
	}
	err = t.queryRow(`INSERT INTO manifest
		(repository_id, digest, media_type, size, artifact_type, subject, annotations, created_at, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id`,
		repo, n.Digest.String(), n.Parsed.MediaType, len(n.Body), asText(n.Parsed.ArtifactType),
		subject, annotations, n.Now.UnixMilli(), n.Body).Scan(&id)
	return id, err
}

// link is a blob that a repository has.
type link struct {
	blob         int64
	unreferenced bool
}

// findBlobs returns those of the blobs that the repository has, by digest.
func (t *tx) findBlobs(repo int64, blobs []oci.Descriptor) (map[string]link, error) {
	digests := make([]string, len(blobs))
	for i, d := range blobs {
		digests[i] = d.Digest.String()
	}
	found := make(map[string]link, len(blobs))
	if len(blobs) == 0 {
		return found, nil
	}
	err := t.query(func(scan func(...any) error) error {
		var digest string
		var l link
		err := scan(&digest, &l.blob, &l.unreferenced)
		found[digest] = l
		return err
	}, `SELECT b.digest, rb.blob_id, rb.unreferenced_since IS NOT NULL
		FROM `+t.list("$2")+` CROSS JOIN blob b CROSS JOIN repository_blob rb
		WHERE b.digest = list.value AND rb.repository_id = $1 AND rb.blob_id = b.id`, repo, jsonOf(digests))
	return found, err
}

// findManifests tells which of the digests are manifests of the repository.
func (t *tx) findManifests(repo int64, digests []string) (map[string]bool, error) {
	found := make(map[string]bool, len(digests))
	if len(digests) == 0 {
		return found, nil
	}
	err := t.query(func(scan func(...any) error) error {
		var digest string
		err := scan(&digest)
		found[digest] = true
		return err
	}, `SELECT m.digest FROM `+t.list("$2")+` CROSS JOIN manifest m
		WHERE m.repository_id = $1 AND m.digest = list.value`, repo, jsonOf(digests))
	return found, err
}

// DeleteManifest deletes a manifest and the tags that point to it, or returns
// ErrNotFound. allow, if not nil, is asked for each of these tags. With an error nothing happens, and it is returned as it is.
// The manifest goes to the trash if origin says so; else the grace period of blobs that nothing else needs begins.
func (db *DB) DeleteManifest(ctx context.Context, r oci.Repository, d oci.Digest, allow Allow, origin Origin, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		repo, err := t.lockRepository(r)
		if err != nil {
			return err
		}
		var id int64
		if err := t.queryRow(`SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2`, repo, d.String()).Scan(&id); err != nil {
			return err
		}
		held, err := t.changeable(r)
		if err != nil {
			return err
		}
		t.touch(r)
		if err := t.deleteManifest(repo, r, id, d, held, allow, origin, now); err != nil {
			return err
		}
		_, err = t.dropIfEmpty(repo)
		return err
	})
}

// deleteManifest deletes a manifest of a repository that the caller has locked, with its tags, unless one of these is protected or allow, if not nil, says no.
func (t *tx) deleteManifest(repo int64, r oci.Repository, id int64, d oci.Digest, held *policy.Set, allow Allow, origin Origin, now time.Time) error {
	if allow != nil || len(held.Protections) > 0 {
		if err := t.query(func(scan func(...any) error) error {
			var tag oci.Tag
			if err := scan(&tag); err != nil {
				return err
			}
			if allow != nil {
				if err := allow(tag, d); err != nil {
					return err
				}
			}
			return held.CheckTag(r, tag, d, oci.Digest{})
		}, `SELECT name FROM tag WHERE manifest_id = $1 ORDER BY name`, id); err != nil {
			return err
		}
	}
	if _, err := t.exec(`INSERT INTO tag_log (repository_id, repository, tag, old_digest, new_digest, at, actor, credential, method)
		SELECT repository_id, $2, name, $3, NULL, `+t.afterLastMove("$2", "tag.name", "$4")+`, $5, $6, $7 FROM tag WHERE manifest_id = $1 ORDER BY name`,
		id, string(r), d.String(), now.UnixMilli(), asText(origin.Actor), asText(origin.Credential), origin.Method); err != nil {
		return err
	}
	if origin.Trash {
		if err := t.trash(id, origin, now); err != nil {
			return err
		}
	}
	if _, err := t.exec(`DELETE FROM tag WHERE manifest_id = $1`, id); err != nil {
		return err
	}
	if !origin.Trash {
		if _, err := t.exec(`UPDATE repository_blob SET unreferenced_since = $3
			WHERE repository_id = $1 AND blob_id IN (SELECT blob_id FROM manifest_blob WHERE manifest_id = $2)
			AND NOT EXISTS (SELECT 1 FROM manifest_blob o WHERE o.repository_id = $1
				AND o.blob_id = repository_blob.blob_id AND o.manifest_id <> $2)`,
			repo, id, now.UnixMilli()); err != nil {
			return err
		}
	}
	// What was there for it has been of no use since now.
	if _, err := t.exec(`INSERT INTO manifest_use (manifest_id, released_at)
		SELECT m.id, CAST($3 AS BIGINT) FROM manifest_child c JOIN manifest m ON m.repository_id = $1 AND m.digest = c.digest WHERE c.manifest_id = $2
		ON CONFLICT (manifest_id) DO UPDATE SET released_at = excluded.released_at`, repo, id, now.UnixMilli()); err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO manifest_use (manifest_id, released_at)
		SELECT m.id, CAST($3 AS BIGINT) FROM manifest m WHERE m.repository_id = $1 AND m.subject = $2
		ON CONFLICT (manifest_id) DO UPDATE SET released_at = excluded.released_at`, repo, d.String(), now.UnixMilli()); err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM manifest WHERE id = $1`, id); err != nil {
		return err
	}
	return t.record(origin, r, describe(d, nil, nil), now)
}

// Referrer is a manifest that has a subject.
type Referrer struct {
	ID         int64 // orders the referrers of a subject, oldest first
	Descriptor oci.Descriptor
}

// asText replaces what PostgreSQL does not take in a text: NUL, and what is not UTF-8.
func asText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// errEnough ends the reading of rows.
var errEnough = errors.New("enough rows")

// Referrers returns manifests whose subject is d, after the given ID, those of
// an artifact type only if one is given. It returns as many as fit into n and about maxBytes of
// annotations and artifact types, but at least one if there is one, and whether there are more.
func (db *DB) Referrers(ctx context.Context, r oci.Repository, d oci.Digest, artifactType string, after int64, n, maxBytes int) (found []Referrer, more bool, err error) {
	var bytes int
	err = db.query(ctx, func(scan func(...any) error) error {
		var f Referrer
		var digest string
		var annotations *string
		if err := scan(&f.ID, &digest, &f.Descriptor.MediaType, &f.Descriptor.Size, &f.Descriptor.ArtifactType, &annotations); err != nil {
			return err
		}
		if err := f.Descriptor.Digest.UnmarshalText([]byte(digest)); err != nil {
			return err
		}
		bytes += len(f.Descriptor.ArtifactType)
		if annotations != nil {
			bytes += len(*annotations)
		}
		if more = len(found) == n || bytes > maxBytes && len(found) > 0; more {
			return errEnough
		}
		if annotations != nil {
			if err := json.Unmarshal([]byte(*annotations), &f.Descriptor.Annotations); err != nil {
				return fmt.Errorf("annotations of %s@%s: %w", r, digest, err)
			}
		}
		found = append(found, f)
		return nil
	}, `SELECT m.id, m.digest, m.media_type, m.size, m.artifact_type, m.annotations FROM repository r
		JOIN manifest m ON m.repository_id = r.id AND m.subject = $2 AND m.id > $3
		WHERE r.name = $1 AND ($4 = '' OR m.artifact_type = $4)
		ORDER BY m.id LIMIT $5`, string(r), d.String(), after, asText(artifactType), n+1)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, more, err
}
