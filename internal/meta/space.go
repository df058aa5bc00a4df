package meta

import (
	"context"
	"errors"

	"github.com/berthregistry/berth/internal/oci"
)

// What repositories and tags take is not kept anywhere, but found out by a look at their blobs, in batches, so that no statement takes
// long. Changes may go on meanwhile.

// Space is what something takes. Each blob and manifest counts once in it.
type Space struct {
	Manifests, Blobs int64
	Bytes            int64 // of both
	// Alone is how many of the bytes nothing else has: what would be free if it were deleted, once its time in the trash is up and the collector has
	// been there.
	Alone int64
}

// spaceBatch is how many rows a statement looks at.
const spaceBatch = 20_000

// SharedBytes returns how many bytes of an organization's blobs other organizations have, too.
func (db *DB) SharedBytes(ctx context.Context, organization string) (int64, error) {
	var s Space
	err := db.addBlobs(ctx, &s, `SELECT o.blob_id, b.size, EXISTS (SELECT 1 FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id
			WHERE rb.blob_id = o.blob_id AND `+db.organization("r.name")+` <> o.organization) AS elsewhere
		FROM organization_blob o JOIN blob b ON b.id = o.blob_id
		WHERE o.organization = $1 AND o.blob_id > $2 ORDER BY o.blob_id LIMIT $3`, asText(organization))
	return s.Bytes - s.Alone, err
}

// addBlobs adds what a query has, by batches after a blob's number. Its columns are blob_id, size and elsewhere.
func (db *DB) addBlobs(ctx context.Context, s *Space, text string, of any) error {
	for last := int64(0); ; {
		var n, bytes, alone int64
		if err := db.queryRow(ctx, `SELECT COUNT(*), COALESCE(MAX(blob_id), 0), CAST(COALESCE(SUM(size), 0) AS BIGINT),
			CAST(COALESCE(SUM(CASE WHEN elsewhere THEN 0 ELSE size END), 0) AS BIGINT) FROM (`+text+`) AS page`, of, last, spaceBatch).
			Scan(&n, &last, &bytes, &alone); err != nil {
			return err
		}
		s.Blobs += n
		s.Bytes += bytes
		s.Alone += alone
		if n < spaceBatch {
			return nil
		}
	}
}

// RepositorySpace is what a repository takes. Its bytes are also those of manifests in its trash, which are not among Manifests.
type RepositorySpace struct {
	Repository oci.Repository
	Tags       int64
	Space
	// Trash is how many of the bytes only manifests in the trash need: what is free when their time there is up.
	Trash int64
}

// RepositorySpace returns what a repository takes, or ErrNotFound.
func (db *DB) RepositorySpace(ctx context.Context, r oci.Repository) (RepositorySpace, error) {
	s := RepositorySpace{Repository: r}
	id, err := db.repositoryID(ctx, r)
	if err != nil {
		return s, err
	}
	if err := db.queryRow(ctx, `SELECT COUNT(*) FROM tag WHERE repository_id = $1`, id).Scan(&s.Tags); err != nil {
		return s, err
	}
	if err := db.addManifests(ctx, &s.Space, `SELECT digest, size FROM manifest WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $3`, id); err != nil {
		return s, err
	}
	trash, bodies, err := db.trashSpace(ctx, id)
	if err != nil {
		return s, err
	}
	s.Bytes += bodies
	s.Alone += bodies
	s.Trash = trash.Alone
	return s, db.addBlobs(ctx, &s.Space, `SELECT rb.blob_id, b.size, EXISTS (SELECT 1 FROM repository_blob o
			WHERE o.blob_id = rb.blob_id AND o.repository_id <> rb.repository_id) AS elsewhere
		FROM repository_blob rb JOIN blob b ON b.id = rb.blob_id
		WHERE rb.repository_id = $1 AND rb.blob_id > $2 ORDER BY rb.blob_id LIMIT $3`, id)
}

// addManifests adds what a query has, by batches after a digest. Its columns are digest and size.
func (db *DB) addManifests(ctx context.Context, s *Space, text string, repository int64) error {
	for last := ""; ; {
		var n, bytes int64
		if err := db.queryRow(ctx, `SELECT COUNT(*), COALESCE(MAX(digest), ''), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM (`+text+`) AS page`,
			repository, last, spaceBatch).Scan(&n, &last, &bytes); err != nil {
			return err
		}
		s.Manifests += n
		s.Bytes += bytes
		s.Alone += bytes
		if n < spaceBatch {
			return nil
		}
	}
}

// trashSpace returns what lies in the trash of a repository: Alone is what nothing else needs. bodies are the bytes of manifests in it.
func (db *DB) trashSpace(ctx context.Context, repository int64) (s Space, bodies int64, err error) {
	if err := db.addManifests(ctx, &s, `SELECT digest, size FROM trashed_manifest WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $3`, repository); err != nil {
		return s, 0, err
	}
	bodies = s.Bytes
	return s, bodies, db.addBlobs(ctx, &s, `SELECT part.blob_id, b.size, (EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = $1 AND mb.blob_id = part.blob_id)
			OR EXISTS (SELECT 1 FROM repository_blob o WHERE o.blob_id = part.blob_id AND o.repository_id <> $1)) AS elsewhere
		FROM (SELECT DISTINCT blob_id FROM trashed_manifest_blob WHERE repository_id = $1 AND blob_id > $2 ORDER BY blob_id LIMIT $3) AS part
		JOIN blob b ON b.id = part.blob_id`, repository)
}

// TrashTotal is what lies in the trash of repositories.
type TrashTotal struct {
	Manifests int64 `json:"manifests"`
	// Bytes are those of the manifests, and of blobs that nothing else needs: what is free when their time there is up.
	Bytes int64 `json:"bytes"`
	// More tells that there are more repositories than were looked at.
	More bool `json:"more,omitempty"`
}

// TrashTotal returns what lies in the trash of all repositories, or of that many that have one.
func (db *DB) TrashTotal(ctx context.Context, repositories int) (TrashTotal, error) {
	var all TrashTotal
	for last := int64(0); ; repositories-- {
		err := db.queryRow(ctx, `SELECT repository_id FROM trashed_manifest WHERE repository_id > $1 ORDER BY repository_id LIMIT 1`, last).Scan(&last)
		if errors.Is(err, ErrNotFound) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if repositories == 0 {
			all.More = true
			return all, nil
		}
		s, _, err := db.trashSpace(ctx, last)
		if err != nil {
			return all, err
		}
		all.Manifests += s.Manifests
		all.Bytes += s.Alone
	}
}

// RepositorySpaces returns what up to n repositories of an organization after the given name take, in ASCII order.
func (db *DB) RepositorySpaces(ctx context.Context, organization, after string, n int) ([]RepositorySpace, error) {
	organization = asText(organization)
	var names []string
	if after == "" { // what has no other part comes first
		there, err := db.RepositoryExists(ctx, oci.Repository(organization))
		if err != nil {
			return nil, err
		}
		if there {
			names = append(names, organization)
		}
	}
	more, err := db.page(ctx, `SELECT name FROM repository WHERE name > $1 AND name < $2 ORDER BY name LIMIT $3`,
		max(asName(after), organization+"/"), organization+"0", n)
	if err != nil {
		return nil, err
	}
	names = append(names, more...)
	all := make([]RepositorySpace, 0, n)
	for _, name := range names[:min(n, len(names))] {
		s, err := db.RepositorySpace(ctx, oci.Repository(name))
		if errors.Is(err, ErrNotFound) {
			continue // it is gone since
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// TagSpace is what the image of a tag takes: its manifest, what that lists, and all their blobs. Alone leaves out what other tags or
// untagged manifests need. Referrers do not count.
type TagSpace struct {
	Tag    oci.Tag
	Digest oci.Digest
	Space
}

// tagSpace finds the tree of manifests of a tag, and what of it is kept when the tag and its manifests go.
const tagSpace = `WITH RECURSIVE tree (id) AS (
		SELECT t.manifest_id FROM tag t WHERE t.repository_id = $1 AND t.name = $2
		UNION SELECT m.id FROM tree JOIN manifest_child c ON c.manifest_id = tree.id JOIN manifest m ON m.repository_id = $1 AND m.digest = c.digest
	), kept (id) AS (
		SELECT m.id FROM tree JOIN manifest m ON m.id = tree.id
		WHERE EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id AND t.name <> $2)
			OR EXISTS (SELECT 1 FROM manifest_child c WHERE c.repository_id = $1 AND c.digest = m.digest AND c.manifest_id NOT IN (SELECT id FROM tree))
		UNION SELECT m.id FROM kept JOIN manifest_child c ON c.manifest_id = kept.id JOIN manifest m ON m.repository_id = $1 AND m.digest = c.digest
	), part (manifests, blobs, bytes, alone) AS (
		SELECT COUNT(*), 0, SUM(m.size), SUM(CASE WHEN m.id IN (SELECT id FROM kept) THEN 0 ELSE m.size END)
		FROM tree JOIN manifest m ON m.id = tree.id
		UNION ALL SELECT 0, COUNT(*), SUM(b.size), SUM(CASE
			WHEN EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = b.id AND rb.repository_id <> $1) THEN 0
			WHEN EXISTS (SELECT 1 FROM manifest_blob o WHERE o.repository_id = $1 AND o.blob_id = b.id
				AND (o.manifest_id NOT IN (SELECT id FROM tree) OR o.manifest_id IN (SELECT id FROM kept))) THEN 0
			ELSE b.size END)
		FROM (SELECT DISTINCT mb.blob_id FROM tree JOIN manifest_blob mb ON mb.manifest_id = tree.id) AS its JOIN blob b ON b.id = its.blob_id
	)
	SELECT CAST(SUM(manifests) AS BIGINT), CAST(SUM(blobs) AS BIGINT), CAST(COALESCE(SUM(bytes), 0) AS BIGINT), CAST(COALESCE(SUM(alone), 0) AS BIGINT) FROM part`

// TagSpaces returns what up to n tags of a repository after the given one take, in ASCII order, or ErrNotFound if there is no such
// repository.
func (db *DB) TagSpaces(ctx context.Context, r oci.Repository, after string, n int) ([]TagSpace, error) {
	return db.tagSpaces(ctx, r, `SELECT t.name, m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id
		WHERE t.repository_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3`, asName(after), n)
}

// TagSpace returns what a tag takes, or ErrNotFound.
func (db *DB) TagSpace(ctx context.Context, r oci.Repository, tag oci.Tag) (TagSpace, error) {
	found, err := db.tagSpaces(ctx, r, `SELECT t.name, m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id
		WHERE t.repository_id = $1 AND t.name = $2`, string(tag))
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return TagSpace{}, err
	}
	return found[0], nil
}

func (db *DB) tagSpaces(ctx context.Context, r oci.Repository, text string, args ...any) ([]TagSpace, error) {
	id, err := db.repositoryID(ctx, r)
	if err != nil {
		return nil, err
	}
	var found []TagSpace
	if err := db.query(ctx, func(scan func(...any) error) error {
		var s TagSpace
		var digest string
		if err := scan(&s.Tag, &digest); err != nil {
			return err
		}
		err := s.Digest.UnmarshalText([]byte(digest))
		found = append(found, s)
		return err
	}, text, append([]any{id}, args...)...); err != nil {
		return nil, err
	}
	for i := range found {
		s := &found[i]
		if err := db.queryRow(ctx, tagSpace, id, string(s.Tag)).Scan(&s.Manifests, &s.Blobs, &s.Bytes, &s.Alone); err != nil {
			return nil, err
		}
	}
	return found, nil
}
