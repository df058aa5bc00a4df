package meta

import (
	"context"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// The methods of this file serve a check of the whole database. Each returns a
// page after a given place, so that memory stays flat.

// StoredBlob is a blob's row.
type StoredBlob struct {
	ID     int64
	Digest string
	Size   int64
	Key    string
	Needed bool   // by a manifest of any repository, or one in the trash
	Known  Damage // that was found before; "" for none
}

// StoredBlobs returns up to n blobs after the given ID.
func (db *DB) StoredBlobs(ctx context.Context, after int64, n int) ([]StoredBlob, error) {
	var found []StoredBlob
	err := db.query(ctx, func(scan func(...any) error) error {
		var b StoredBlob
		if err := scan(&b.ID, &b.Digest, &b.Size, &b.Key, &b.Needed, &b.Known); err != nil {
			return err
		}
		found = append(found, b)
		return nil
	}, `SELECT id, digest, size, storage_key, EXISTS (SELECT 1 FROM repository_blob rb
			JOIN manifest_blob mb ON mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id
			WHERE rb.blob_id = blob.id)
			OR EXISTS (SELECT 1 FROM repository_blob rb
			JOIN trashed_manifest_blob tb ON tb.repository_id = rb.repository_id AND tb.blob_id = rb.blob_id
			WHERE rb.blob_id = blob.id),
			COALESCE((SELECT damage FROM damaged_blob d WHERE d.blob_id = blob.id AND d.storage_key = blob.storage_key), '')
		FROM blob WHERE id > $1 ORDER BY id LIMIT $2`, after, n)
	return found, err
}

// DropBlob deletes a blob's row and links, and repositories that are left empty, though
// not if a manifest needs the blob: ErrReferenced. A blob that has got other bytes than those of the key stays.
func (db *DB) DropBlob(ctx context.Context, id int64, key string, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		type repository struct {
			id   int64
			name oci.Repository
		}
		var repos []repository
		if err := t.query(func(scan func(...any) error) error {
			var r repository
			err := scan(&r.id, &r.name)
			repos = append(repos, r)
			return err
		}, `SELECT r.id, r.name FROM blob b JOIN repository_blob rb ON rb.blob_id = b.id JOIN repository r ON r.id = rb.repository_id
			WHERE b.id = $1 AND b.storage_key = $2 ORDER BY r.id`+t.locking("FOR UPDATE OF b, rb FOR NO KEY UPDATE OF r"), id, key); err != nil {
			return err
		}
		for _, r := range repos {
			t.touch(r.name)
			if _, err := t.unlinkBlob(r.id, id, now); err != nil {
				return err
			}
			if _, err := t.dropIfEmpty(r.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// StoredManifest is a manifest's row, and what other rows say of its parts.
type StoredManifest struct {
	ID         int64
	Repository oci.Repository
	Digest     string
	MediaType  string
	Size       int64
	Body       []byte
}

// StoredManifests returns up to n manifests after the given ID.
func (db *DB) StoredManifests(ctx context.Context, after int64, n int) ([]StoredManifest, error) {
	return db.storedManifests(ctx, `SELECT m.id, r.name, m.digest, m.media_type, m.size, m.body
		FROM manifest m JOIN repository r ON r.id = m.repository_id
		WHERE m.id > $1 ORDER BY m.id LIMIT $2`, after, n)
}

// StoredTrash returns up to n manifests in the trash, after the given ID.
func (db *DB) StoredTrash(ctx context.Context, after int64, n int) ([]StoredManifest, error) {
	return db.storedManifests(ctx, `SELECT m.id, r.name, m.digest, m.media_type, m.size, m.body
		FROM trashed_manifest m JOIN repository r ON r.id = m.repository_id
		WHERE m.id > $1 ORDER BY m.id LIMIT $2`, after, n)
}

func (db *DB) storedManifests(ctx context.Context, text string, after int64, n int) ([]StoredManifest, error) {
	var found []StoredManifest
	err := db.query(ctx, func(scan func(...any) error) error {
		var m StoredManifest
		if err := scan(&m.ID, &m.Repository, &m.Digest, &m.MediaType, &m.Size, &m.Body); err != nil {
			return err
		}
		found = append(found, m)
		return nil
	}, text, after, n)
	return found, err
}

// ManifestParts returns the digests that rows connect with a manifest: blobs that
// its repository has, and those that it lacks.
func (db *DB) ManifestParts(ctx context.Context, manifest int64) (present, missing []string, err error) {
	present, err = db.names(ctx, `SELECT b.digest FROM manifest_blob mb JOIN blob b ON b.id = mb.blob_id
		WHERE mb.manifest_id = $1`, manifest)
	if err != nil {
		return nil, nil, err
	}
	missing, err = db.names(ctx, `SELECT digest FROM manifest_missing_blob WHERE manifest_id = $1`, manifest)
	return present, missing, err
}

// StoredUploads returns up to n sessions that hold bytes, after the given ID.
func (db *DB) StoredUploads(ctx context.Context, after string, n int) ([]Upload, error) {
	var found []Upload
	err := db.query(ctx, func(scan func(...any) error) error {
		var u Upload
		if err := scan(&u.ID, &u.Repository, &u.Key, &u.Size); err != nil {
			return err
		}
		found = append(found, u)
		return nil
	}, `SELECT id, repository, storage_key, size FROM upload
		WHERE id > $1 AND storage_key IS NOT NULL ORDER BY id LIMIT $2`, after, n)
	return found, err
}

// StrayLinks returns how many links between repositories and blobs are wrongly marked:
// as needed although no manifest needs the blob, nor one in the trash, so that it would never be collected.
func (db *DB) StrayLinks(ctx context.Context) (int64, error) {
	var n int64
	err := db.queryRow(ctx, `SELECT COUNT(*) FROM repository_blob rb WHERE rb.unreferenced_since IS NULL
		AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id)
		AND NOT EXISTS (SELECT 1 FROM trashed_manifest_blob tb WHERE tb.repository_id = rb.repository_id AND tb.blob_id = rb.blob_id)`).Scan(&n)
	return n, err
}

// MarkStrayLinks begins the grace period of stray links.
func (db *DB) MarkStrayLinks(ctx context.Context, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		if t.postgres { // so that no manifest comes to need one of the blobs meanwhile
			if err := t.query(func(func(...any) error) error { return nil }, `SELECT id FROM repository r WHERE EXISTS (
				SELECT 1 FROM repository_blob rb WHERE rb.repository_id = r.id AND rb.unreferenced_since IS NULL
				AND NOT EXISTS (SELECT 1 FROM manifest_blob mb WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id)
				AND NOT EXISTS (SELECT 1 FROM trashed_manifest_blob tb WHERE tb.repository_id = rb.repository_id AND tb.blob_id = rb.blob_id))
				ORDER BY id FOR NO KEY UPDATE`); err != nil {
				return err
			}
		}
		_, err := t.exec(`UPDATE repository_blob SET unreferenced_since = $1 WHERE unreferenced_since IS NULL
			AND NOT EXISTS (SELECT 1 FROM manifest_blob mb
				WHERE mb.repository_id = repository_blob.repository_id AND mb.blob_id = repository_blob.blob_id)
			AND NOT EXISTS (SELECT 1 FROM trashed_manifest_blob tb
				WHERE tb.repository_id = repository_blob.repository_id AND tb.blob_id = repository_blob.blob_id)`, now.UnixMilli())
		return err
	})
}

// Integrity lets the database check itself. It returns what it found wrong. PostgreSQL cannot be asked: it keeps
// its foreign keys, and checks its pages when it reads them.
func (db *DB) Integrity(ctx context.Context) ([]string, error) {
	if db.postgres {
		return nil, nil
	}
	var found []string
	err := db.query(ctx, func(scan func(...any) error) error {
		var s string
		if err := scan(&s); err != nil {
			return err
		}
		if s != "ok" {
			found = append(found, s)
		}
		return nil
	}, `SELECT integrity_check FROM pragma_integrity_check
		UNION ALL SELECT 'foreign key: a row of ' || "table" || ' refers to a missing row of ' || parent FROM pragma_foreign_key_check`)
	return found, err
}
