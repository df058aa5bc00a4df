package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/oci"
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
	k := cacheKey{r, ref.String(), false}
	if v, ok := db.cache.get(k); ok {
		return v.(*Manifest), nil
	}
	version := db.cache.version(r)
	// A body that fits the cache is read even for who does not ask for it.
	const columns = `m.digest, m.media_type, m.size, CASE WHEN $3 OR m.size <= 65536 THEN m.body END`
	m := new(Manifest)
	var digest string
	var row row
	if ref.IsDigest() {
		row = db.queryRow(ctx, `SELECT `+columns+` FROM repository r
			JOIN manifest m ON m.repository_id = r.id AND m.digest = $2
			WHERE r.name = $1`, string(r), ref.String(), body)
	} else {
		row = db.queryRow(ctx, `SELECT `+columns+` FROM repository r
			JOIN tag t ON t.repository_id = r.id AND t.name = $2
			JOIN manifest m ON m.id = t.manifest_id
			WHERE r.name = $1`, string(r), ref.String(), body)
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

// Origin says who makes a change and how, for the tag log.
type Origin struct {
	Actor  string // an identity, or the network address of an anonymous client
	Method string // "push", "delete", ...
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
	Origin    Origin
	Now       time.Time
}

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

// PutManifest stores a manifest and sets its tags. A manifest that is there
// already stays as it is and only gets the tags.
// It returns how much of a new manifest's content is absent, foreign layers aside,
// or a *MissingError if n says that it is needed.
func (db *DB) PutManifest(ctx context.Context, n NewManifest) (absent int, err error) {
	err = db.update(ctx, func(t *tx) error {
		repo, err := t.makeRepository(n.Repository, n.Now)
		if err != nil {
			return err
		}
		t.touch(n.Repository)
		if n.Condition != nil && len(n.Tags) > 0 {
			current, err := t.tagDigest(repo, n.Tags[0])
			if err != nil {
				return err
			}
			if !n.Condition(current) {
				return ErrCondition
			}
		}
		var id int64
		err = t.queryRow(`SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2`, repo, n.Digest.String()).Scan(&id)
		if errors.Is(err, ErrNotFound) {
			id, absent, err = t.insertManifest(repo, n)
		}
		if err != nil {
			return err
		}
		for _, tag := range n.Tags {
			if err := t.setTag(repo, n.Repository, tag, id, n.Digest, n.Origin, n.Now); err != nil {
				return err
			}
		}
		return nil
	})
	return absent, err
}

func (t *tx) insertManifest(repo int64, n NewManifest) (id int64, absent int, err error) {
	type link struct {
		blob         int64
		unreferenced bool
	}
	var links []link
	var later, missing []oci.Digest // of those that are not here: may come later, must be here
	for _, d := range n.Parsed.Blobs {
		var l link
		err := t.queryRow(`SELECT rb.blob_id, rb.unreferenced_since IS NOT NULL FROM blob b
			JOIN repository_blob rb ON rb.repository_id = $1 AND rb.blob_id = b.id
			WHERE b.digest = $2`, repo, d.Digest.String()).Scan(&l.blob, &l.unreferenced)
		switch {
		case err == nil:
			links = append(links, l)
		case !errors.Is(err, ErrNotFound):
			return 0, 0, err
		case n.NeedBlobs && !d.Foreign():
			missing = append(missing, d.Digest)
		default:
			later = append(later, d.Digest)
			if !d.Foreign() {
				absent++
			}
		}
	}
	for _, d := range n.Parsed.Manifests {
		var one int
		err := t.queryRow(`SELECT 1 FROM manifest WHERE repository_id = $1 AND digest = $2`, repo, d.Digest.String()).Scan(&one)
		switch {
		case err == nil:
		case !errors.Is(err, ErrNotFound):
			return 0, 0, err
		case n.NeedManifests:
			missing = append(missing, d.Digest)
		default:
			absent++
		}
	}
	if len(missing) > 0 {
		return 0, 0, &MissingError{missing}
	}

	var subject, annotations *string
	if n.Parsed.Subject != nil {
		s := n.Parsed.Subject.Digest.String()
		subject = &s
		// The annotations are asked for by the referrers API only.
		if len(n.Parsed.Annotations) > 0 {
			b, err := json.Marshal(n.Parsed.Annotations)
			if err != nil {
				return 0, 0, err
			}
			s := string(b)
			annotations = &s
		}
	}
	if err := t.queryRow(`INSERT INTO manifest
		(repository_id, digest, media_type, size, artifact_type, subject, annotations, created_at, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id`,
		repo, n.Digest.String(), n.Parsed.MediaType, len(n.Body), n.Parsed.ArtifactType,
		subject, annotations, n.Now.UnixMilli(), n.Body).Scan(&id); err != nil {
		return 0, 0, err
	}
	for _, l := range links {
		if _, err := t.exec(`INSERT INTO manifest_blob (manifest_id, blob_id, repository_id) VALUES ($1, $2, $3)`, id, l.blob, repo); err != nil {
			return 0, 0, err
		}
		if l.unreferenced {
			if _, err := t.exec(`UPDATE repository_blob SET unreferenced_since = NULL
				WHERE repository_id = $1 AND blob_id = $2`, repo, l.blob); err != nil {
				return 0, 0, err
			}
		}
	}
	for _, d := range later {
		if _, err := t.exec(`INSERT INTO manifest_missing_blob (repository_id, digest, manifest_id) VALUES ($1, $2, $3)`, repo, d.String(), id); err != nil {
			return 0, 0, err
		}
	}
	for _, d := range n.Parsed.Manifests {
		if _, err := t.exec(`INSERT INTO manifest_child (manifest_id, digest, repository_id) VALUES ($1, $2, $3)`, id, d.Digest.String(), repo); err != nil {
			return 0, 0, err
		}
	}
	return id, absent, nil
}

// DeleteManifest deletes a manifest and the tags that point to it, or returns
// ErrNotFound. The grace period of blobs that nothing else needs begins.
func (db *DB) DeleteManifest(ctx context.Context, r oci.Repository, d oci.Digest, origin Origin, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		var repo, id int64
		if err := t.queryRow(`SELECT r.id, m.id FROM repository r
			JOIN manifest m ON m.repository_id = r.id AND m.digest = $2
			WHERE r.name = $1`, string(r), d.String()).Scan(&repo, &id); err != nil {
			return err
		}
		t.touch(r)
		if _, err := t.exec(`INSERT INTO tag_log (repository_id, repository, tag, old_digest, new_digest, at, actor, method)
			SELECT repository_id, $2, name, $3, NULL, $4, $5, $6 FROM tag WHERE manifest_id = $1 ORDER BY name`,
			id, string(r), d.String(), now.UnixMilli(), origin.Actor, origin.Method); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM tag WHERE manifest_id = $1`, id); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE repository_blob SET unreferenced_since = $3
			WHERE repository_id = $1 AND blob_id IN (SELECT blob_id FROM manifest_blob WHERE manifest_id = $2)
			AND NOT EXISTS (SELECT 1 FROM manifest_blob o WHERE o.repository_id = $1
				AND o.blob_id = repository_blob.blob_id AND o.manifest_id <> $2)`,
			repo, id, now.UnixMilli()); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM manifest WHERE id = $1`, id); err != nil {
			return err
		}
		_, err := t.dropIfEmpty(repo)
		return err
	})
}

// Referrer is a manifest that has a subject.
type Referrer struct {
	ID         int64 // orders the referrers of a subject, oldest first
	Descriptor oci.Descriptor
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
		ORDER BY m.id LIMIT $5`, string(r), d.String(), after, artifactType, n+1)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, more, err
}
