package meta

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// DoomOrphan orders the deletion of an object that no row speaks of. It returns false if one does. The
// object must be so old that nobody is about to give it a row.
func (db *DB) DoomOrphan(ctx context.Context, key string, now time.Time) (orphan bool, err error) {
	err = db.update(ctx, func(t *tx) error {
		var known bool
		if err := t.queryRow(knownKey, key).Scan(&known); err != nil {
			return err
		}
		if orphan = !known; known {
			return nil
		}
		return t.doom(key, now)
	})
	return orphan, err
}

// Doomed returns up to n objects after the given key, in order, whose bytes are to be deleted. That they are doomed is durable: a crash
// does not bring back a row that needs them.
func (db *DB) Doomed(ctx context.Context, after string, n int) ([]string, error) {
	var keys []string
	err := db.update(ctx, func(t *tx) error {
		keys = keys[:0]
		return t.query(func(scan func(...any) error) error {
			var key string
			err := scan(&key)
			keys = append(keys, key)
			return err
		}, `SELECT storage_key FROM doomed_object WHERE storage_key > $1 ORDER BY storage_key LIMIT $2`, after, n)
	})
	return keys, err
}

// Buried tells that the bytes of objects are gone for sure.
func (db *DB) Buried(ctx context.Context, keys []string) error {
	return db.update(ctx, func(t *tx) error {
		for _, k := range keys {
			if _, err := t.exec(`DELETE FROM doomed_object WHERE storage_key = $1`, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// UnreferencedBlob is a link from a repository to a blob that no manifest there needs.
type UnreferencedBlob struct {
	Repository oci.Repository
	Digest     oci.Digest
	Size       int64
	Since      time.Time

	repo, blob int64
}

// UnreferencedBlobs returns up to n links that have been unreferenced since
// before the given time, oldest first.
func (db *DB) UnreferencedBlobs(ctx context.Context, before time.Time, n int) ([]UnreferencedBlob, error) {
	var found []UnreferencedBlob
	err := db.query(ctx, func(scan func(...any) error) error {
		var u UnreferencedBlob
		var digest string
		var since int64
		if err := scan(&u.repo, &u.blob, &u.Repository, &digest, &u.Size, &since); err != nil {
			return err
		}
		u.Since = time.UnixMilli(since)
		if err := u.Digest.UnmarshalText([]byte(digest)); err != nil {
			return err
		}
		found = append(found, u)
		return nil
	}, `SELECT rb.repository_id, rb.blob_id, r.name, b.digest, b.size, rb.unreferenced_since
		FROM repository_blob rb
		JOIN repository r ON r.id = rb.repository_id
		JOIN blob b ON b.id = rb.blob_id
		WHERE rb.unreferenced_since < $1
		ORDER BY rb.unreferenced_since LIMIT $2`, before.UnixMilli(), n)
	return found, err
}

// Collected says what CollectBlobs did.
type Collected struct {
	Links, Blobs, Bytes, Repositories int64
}

// CollectBlobs deletes links that are still unreferenced since before the given
// time; blobs that have no link left, whose bytes are doomed; and repositories that are left
// empty. A push that came first keeps what it holds: its row no longer matches,
// or a manifest refers to it. Links that somebody is at work on are left for the next time.
func (db *DB) CollectBlobs(ctx context.Context, links []UnreferencedBlob, before, now time.Time) (Collected, error) {
	var c Collected
	touched := make(map[int64]bool)
	drop := func(t *tx) error {
		c.Repositories = 0
		for _, repo := range slices.Sorted(maps.Keys(touched)) {
			var one int
			err := t.queryRow(`SELECT 1 FROM repository WHERE id = $1`+t.locking("FOR NO KEY UPDATE"), repo).Scan(&one)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			n, err := t.dropIfEmpty(repo)
			if err != nil {
				return err
			}
			c.Repositories += n
		}
		return nil
	}
	err := db.update(ctx, func(t *tx) error {
		c = Collected{}
		clear(touched)
		for _, l := range links {
			var one int
			err := t.queryRow(`SELECT 1 FROM repository_blob WHERE repository_id = $1 AND blob_id = $2
				AND unreferenced_since < $3`+t.locking("FOR UPDATE SKIP LOCKED"), l.repo, l.blob, before.UnixMilli()).Scan(&one)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			gone, err := t.unlinkBlob(l.repo, l.blob, now)
			if errors.Is(err, ErrReferenced) {
				continue
			}
			if err != nil {
				return err
			}
			t.touch(l.Repository)
			touched[l.repo] = true
			c.Links++
			if gone {
				c.Blobs++
				c.Bytes += l.Size
			}
		}
		if t.postgres {
			return nil
		}
		return drop(t)
	})
	// The lock on a repository comes before those on links, so PostgreSQL does this apart. A repository that a failure leaves
	// behind is one that holds nothing.
	if err == nil && db.postgres && len(touched) > 0 {
		err = db.update(ctx, drop)
	}
	return c, err
}

// ExpireUploads ends up to n sessions that nobody has used since before the
// given time and dooms their bytes. It returns how many there were.
func (db *DB) ExpireUploads(ctx context.Context, before time.Time, n int, now time.Time) (int, error) {
	ended := 0
	err := db.update(ctx, func(t *tx) error {
		type upload struct {
			id  string
			key *string
		}
		var found []upload
		if err := t.query(func(scan func(...any) error) error {
			var u upload
			if err := scan(&u.id, &u.key); err != nil {
				return err
			}
			found = append(found, u)
			return nil
		}, `SELECT id, storage_key FROM upload WHERE updated_at < $1 ORDER BY updated_at LIMIT $2`+t.locking("FOR UPDATE SKIP LOCKED"), before.UnixMilli(), n); err != nil {
			return err
		}
		for _, u := range found {
			if u.key != nil {
				if err := t.doom(*u.key, now); err != nil {
					return err
				}
			}
			if _, err := t.exec(`DELETE FROM upload WHERE id = $1`, u.id); err != nil {
				return err
			}
		}
		ended = len(found)
		return nil
	})
	return ended, err
}

// KnownKey tells whether a row speaks of the object: a blob, an upload, or one
// that is doomed already.
func (db *DB) KnownKey(ctx context.Context, key string) (bool, error) {
	var known bool
	err := db.queryRow(ctx, knownKey, key).Scan(&known)
	return known, err
}

const knownKey = `SELECT EXISTS (SELECT 1 FROM blob WHERE storage_key = $1)
	OR EXISTS (SELECT 1 FROM upload WHERE storage_key = $1)
	OR EXISTS (SELECT 1 FROM doomed_object WHERE storage_key = $1)`
