package meta

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Blob is a blob as one repository has it.
type Blob struct {
	Digest oci.Digest
	Size   int64
	Key    string // of the blob store
	// UnreferencedSince is when the grace period of a blob began that no manifest of the
	// repository needs; zero if one does.
	UnreferencedSince time.Time
	// Damaged tells that the bytes are known to be lost or wrong.
	Damaged bool
}

// Blob returns a blob that the repository has, or ErrNotFound. The result is
// shared: it must not be changed.
func (db *DB) Blob(ctx context.Context, r oci.Repository, d oci.Digest) (*Blob, error) {
	k := cacheKey{repository: r, ref: d.String(), kind: ofBlob}
	if v, ok := db.cache.get(k); ok {
		return v.(*Blob), nil
	}
	version := db.cache.version(k)
	b := &Blob{Digest: d}
	var since *int64
	err := db.queryRow(ctx, `SELECT b.size, b.storage_key, rb.unreferenced_since, `+isDamaged+`
		FROM repository r
		JOIN blob b ON b.digest = $2
		JOIN repository_blob rb ON rb.repository_id = r.id AND rb.blob_id = b.id
		WHERE r.name = $1`, string(r), d.String()).Scan(&b.Size, &b.Key, &since, &b.Damaged)
	if err != nil {
		return nil, err
	}
	if since != nil {
		b.UnreferencedSince = time.UnixMilli(*since)
	}
	db.cache.put(k, version, b, 0)
	return b, nil
}

// TouchBlob begins the grace period of an unreferenced blob anew, because a client was
// told that it is there. It returns ErrNotFound when the collector was first.
func (db *DB) TouchBlob(ctx context.Context, r oci.Repository, d oci.Digest, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		repo, err := t.repositoryID(r)
		if err != nil {
			return err
		}
		var blob int64 // locked, because it must be there when the caller is told so
		if err := t.queryRow(`SELECT b.id FROM blob b
			JOIN repository_blob rb ON rb.blob_id = b.id AND rb.repository_id = $1
			WHERE b.digest = $2`+t.locking("FOR NO KEY UPDATE OF rb"), repo, d.String()).Scan(&blob); err != nil {
			return err
		}
		t.touch(r)
		_, err = t.exec(`UPDATE repository_blob SET unreferenced_since = $3
			WHERE repository_id = $1 AND blob_id = $2 AND unreferenced_since IS NOT NULL`, repo, blob, now.UnixMilli())
		return err
	})
}

// NewBlob is an object of the blob store whose bytes are complete, durable and verified.
type NewBlob struct {
	Repository oci.Repository
	Digest     oci.Digest
	Size       int64
	Key        string
	// Upload is the session that ends with the blob, if it has a row.
	Upload string
	// UploadKey is the key that its row has, if it is another one than Key. It is doomed.
	UploadKey string
	// Whole or Broken is the key of the object that an *ExistsError named, once the caller
	// has looked at it.
	Whole, Broken string
	// Standing, if not nil, becomes how the organization stands against its quota after the change. It stays as it is without a quota.
	Standing *Standing
	Now      time.Time
}

// ExistsError says that the digest has an object already. The caller looks whether that is
// whole and asks again.
type ExistsError struct {
	Key     string
	Size    int64
	Damaged bool // known to be broken
}

// Error implements error.
func (e *ExistsError) Error() string { return "the digest has the object " + e.Key }

// CommitBlob gives a new object to a repository. If the digest has one already, nothing is
// changed but an *ExistsError returned, unless n says what to think of that one: if
// it is whole, the repository gets it and the new object is doomed; if it is broken, the new object takes its place.
// It returns ErrNotFound when the upload session is gone: the object must then be
// regarded as lost, since the collector may have taken it; and a *QuotaError, with which nothing has changed.
func (db *DB) CommitBlob(ctx context.Context, n NewBlob) error {
	return db.update(ctx, func(t *tx) error {
		if n.Upload != "" {
			before := cmp.Or(n.UploadKey, n.Key)
			gone, err := t.exec(`DELETE FROM upload WHERE id = $1 AND storage_key = $2`, n.Upload, before)
			if err != nil {
				return err
			}
			if gone == 0 {
				return ErrNotFound
			}
			if before != n.Key {
				if err := t.doom(before, n.Now); err != nil {
					return err
				}
			}
		}
		// Before the repository is made, so that nothing has been written when this fails, as it often does.
		var blob int64
		err := t.queryRow(`INSERT INTO blob (digest, size, storage_key, created_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (digest) DO NOTHING RETURNING id`,
			n.Digest.String(), n.Size, n.Key, n.Now.UnixMilli()).Scan(&blob)
		if errors.Is(err, ErrNotFound) {
			blob, err = t.commitAgain(n)
		}
		if err != nil {
			return err
		}
		repo, g, err := t.makeRepository(n.Repository, n.Now, t.exclusive)
		if err != nil {
			return err
		}
		if err := t.linkBlob(n.Repository, repo, blob, n.Digest, n.Now); err != nil {
			return err
		}
		return g.check(n.Standing)
	})
}

// commitAgain decides which of two objects a digest keeps, and dooms the other.
func (t *tx) commitAgain(n NewBlob) (blob int64, err error) {
	text := `SELECT b.id, b.storage_key, b.size, ` + isDamaged + ` FROM blob b WHERE b.digest = $1`
	if n.Broken != "" {
		text += t.locking("FOR UPDATE OF b")
	} // else the link that follows sees to it that the row is still there
	var exists ExistsError
	err = t.queryRow(text, n.Digest.String()).Scan(&blob, &exists.Key, &exists.Size, &exists.Damaged)
	if errors.Is(err, ErrNotFound) {
		return 0, errAgain // it was there a moment ago
	}
	if err != nil {
		return 0, err
	}
	switch {
	case exists.Key == n.Key:
		return blob, nil // committed before, and the answer got lost
	case exists.Key == n.Whole && !exists.Damaged:
		return blob, t.doom(n.Key, n.Now)
	case exists.Key == n.Broken:
		return blob, t.replaceObject(blob, exists.Key, n.Key, n.Size, n.Now)
	}
	return 0, &exists
}

// replaceObject gives a blob another object in place of a broken one, which is doomed. The caller has locked the blob.
func (t *tx) replaceObject(blob int64, broken, key string, size int64, now time.Time) error {
	if err := t.touchHolders(blob); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE blob SET storage_key = $2, size = $3 WHERE id = $1`, blob, key, size); err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM damaged_blob WHERE blob_id = $1`, blob); err != nil {
		return err
	}
	return t.doom(broken, now)
}

// touchHolders tells that the change affects all repositories that have a blob.
func (t *tx) touchHolders(blob int64) error {
	return t.query(func(scan func(...any) error) error {
		var r oci.Repository
		err := scan(&r)
		t.touch(r)
		return err
	}, `SELECT r.name FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id WHERE rb.blob_id = $1`, blob)
}

// MountBlob links a blob that repository from has to repository into; with an
// empty from, one that any repository has. It returns ErrNotFound if there is none, or a damaged one, so that the client sends its bytes; or a *QuotaError.
func (db *DB) MountBlob(ctx context.Context, into, from oci.Repository, d oci.Digest, now time.Time) error {
	// Most mounts that fail are found out without a transaction.
	if from != "" {
		if b, err := db.Blob(ctx, from, d); err != nil {
			return err
		} else if b.Damaged {
			return ErrNotFound
		}
	}
	return db.update(ctx, func(t *tx) error {
		var blob int64
		var err error
		if from != "" {
			err = t.queryRow(`SELECT b.id FROM repository r
				JOIN blob b ON b.digest = $2
				JOIN repository_blob rb ON rb.repository_id = r.id AND rb.blob_id = b.id
				WHERE r.name = $1 AND NOT `+isDamaged, string(from), d.String()).Scan(&blob)
		} else {
			err = t.queryRow(`SELECT b.id FROM blob b WHERE b.digest = $1
				AND EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = b.id) AND NOT `+isDamaged, d.String()).Scan(&blob)
		}
		if err != nil {
			return err
		}
		repo, g, err := t.makeRepository(into, now, t.exclusive)
		if err != nil {
			return err
		}
		if err := t.linkBlob(into, repo, blob, d, now); err != nil {
			return err
		}
		return g.check(nil)
	})
}

// linkBlob gives a repository a blob, or begins the grace period of one that it
// has anew, and hands the blob to the manifests that were waiting for it, which needs the lock on the repository.
func (t *tx) linkBlob(r oci.Repository, repo, blob int64, d oci.Digest, now time.Time) error {
	t.touch(r)
	if err := t.lockDigests(repo, d); err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO repository_blob (repository_id, blob_id, unreferenced_since) VALUES ($1, $2, $3)
		ON CONFLICT (repository_id, blob_id) DO UPDATE SET unreferenced_since = excluded.unreferenced_since
		WHERE repository_blob.unreferenced_since IS NOT NULL`, repo, blob, now.UnixMilli()); err != nil {
		return err
	}
	var waiting bool
	if err := t.queryRow(`SELECT EXISTS (SELECT 1 FROM manifest_missing_blob WHERE repository_id = $1 AND digest = $2)`,
		repo, d.String()).Scan(&waiting); err != nil || !waiting {
		return err
	}
	if t.postgres && !t.exclusive {
		return errExclusive
	}
	if _, err := t.exec(`INSERT INTO manifest_blob (manifest_id, blob_id, repository_id)
		SELECT manifest_id, CAST($3 AS BIGINT), repository_id FROM manifest_missing_blob
		WHERE repository_id = $1 AND digest = $2`, repo, d.String(), blob); err != nil {
		return err
	}
	if _, err := t.exec(`DELETE FROM manifest_missing_blob WHERE repository_id = $1 AND digest = $2`, repo, d.String()); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE repository_blob SET unreferenced_since = NULL WHERE repository_id = $1 AND blob_id = $2`, repo, blob)
	return err
}

// DeleteBlob takes a blob from a repository, and what needs it out of the trash. It returns ErrNotFound if the
// repository has none of that digest, ErrReferenced if a manifest there needs it.
func (db *DB) DeleteBlob(ctx context.Context, r oci.Repository, d oci.Digest, o Origin, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		repo, err := t.lockRepository(r)
		if err != nil {
			return err
		}
		var blob int64
		if err := t.queryRow(`SELECT b.id FROM blob b
			JOIN repository_blob rb ON rb.repository_id = $1 AND rb.blob_id = b.id
			WHERE b.digest = $2`+t.locking("FOR UPDATE OF rb"), repo, d.String()).Scan(&blob); err != nil {
			return err
		}
		if _, err := t.changeable(r); err != nil {
			return err
		}
		t.touch(r)
		if err := t.emptyTrashOf(r, repo, blob, now); err != nil {
			return err
		}
		if _, err := t.unlinkBlob(repo, blob, now); err != nil {
			return err
		}
		if err := t.record(o, r, "blob "+d.String(), now); err != nil {
			return err
		}
		_, err = t.dropIfEmpty(repo)
		return err
	})
}

// unlinkBlob takes a blob from a repository, or fails with ErrReferenced. The caller has locked the link. What lies in the trash keeps
// its blobs as a manifest does, by the trigger trash_keeps_link.
// With its last link the blob goes, and its bytes are doomed.
func (t *tx) unlinkBlob(repo, blob int64, now time.Time) (gone bool, err error) {
	unlinked, err := t.exec(`DELETE FROM repository_blob WHERE repository_id = $1 AND blob_id = $2
		AND NOT EXISTS (SELECT 1 FROM manifest_blob WHERE repository_id = $1 AND blob_id = $2)`, repo, blob)
	if err != nil {
		return false, err
	}
	if unlinked == 0 {
		return false, ErrReferenced
	}
	if t.postgres { // who takes away another link waits here, and then sees that this one is gone
		var one int
		if err := t.queryRow(`SELECT 1 FROM blob WHERE id = $1 FOR NO KEY UPDATE`, blob).Scan(&one); err != nil {
			return false, err
		}
	}
	var key string
	err = t.queryRow(`DELETE FROM blob WHERE id = $1
		AND NOT EXISTS (SELECT 1 FROM repository_blob WHERE blob_id = $1)
		RETURNING storage_key`, blob).Scan(&key)
	if errors.Is(err, ErrNotFound) {
		return false, nil // another repository has it
	}
	if err != nil {
		return false, err
	}
	return true, t.doom(key, now)
}

// doom orders the deletion of an object's bytes.
func (t *tx) doom(key string, now time.Time) error {
	_, err := t.exec(`INSERT INTO doomed_object (storage_key, since) VALUES ($1, $2)
		ON CONFLICT (storage_key) DO NOTHING`, key, now.UnixMilli())
	return err
}

// Totals returns how many blobs there are and how many bytes they hold.
func (db *DB) Totals(ctx context.Context) (blobs, bytes int64, err error) {
	err = db.queryRow(ctx, `SELECT CAST(SUM(blobs) AS BIGINT), CAST(SUM(bytes) AS BIGINT) FROM total`).Scan(&blobs, &bytes)
	return blobs, bytes, err
}
