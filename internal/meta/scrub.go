package meta

import (
	"context"
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Damage is what is wrong with the bytes of a blob.
type Damage string

// The kinds of Damage. Bytes that are Rotten or Missing are not given out as the blob.
const (
	Rotten     Damage = "rotten"     // they are others, or of another count
	Missing    Damage = "missing"    // there are none
	Unreadable Damage = "unreadable" // they could not be read, and may be right
)

// isDamaged is a condition on a blob b: its bytes are known to be lost or wrong.
const isDamaged = `EXISTS (SELECT 1 FROM damaged_blob d WHERE d.blob_id = b.id AND d.storage_key = b.storage_key AND d.damage <> 'unreadable')`

// DamagedBlob is a blob that was found to be damaged.
type DamagedBlob struct {
	ID     int64
	Digest oci.Digest
	Size   int64
	Key    string
	Damage Damage
	Detail string
	Found  time.Time
}

// MarkDamaged notes what is wrong with the object of a blob, and tells whether that is news. From then on, lookups of the blob say so. It returns
// ErrNotFound if the blob is gone or has another object by now.
func (db *DB) MarkDamaged(ctx context.Context, id int64, key string, damage Damage, detail string, now time.Time) (news bool, err error) {
	err = db.update(ctx, func(t *tx) error {
		var one int
		if err := t.queryRow(`SELECT 1 FROM blob WHERE id = $1 AND storage_key = $2`+t.locking("FOR NO KEY UPDATE"), id, key).Scan(&one); err != nil {
			return err
		}
		n, err := t.exec(`INSERT INTO damaged_blob (blob_id, storage_key, damage, detail, found_at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (blob_id) DO UPDATE SET storage_key = excluded.storage_key, damage = excluded.damage, detail = excluded.detail, found_at = excluded.found_at
			WHERE damaged_blob.storage_key <> excluded.storage_key OR damaged_blob.damage <> excluded.damage`,
			id, key, string(damage), asText(detail), now.UnixMilli())
		if news = n > 0; err != nil || !news {
			return err
		}
		return t.touchHolders(id)
	})
	return news, err
}

// ClearDamage notes that the object of a blob was found to be right after all, such as after a restore of the file.
func (db *DB) ClearDamage(ctx context.Context, id int64, key string) error {
	return db.update(ctx, func(t *tx) error {
		n, err := t.exec(`DELETE FROM damaged_blob WHERE blob_id = $1 AND storage_key = $2`, id, key)
		if err != nil || n == 0 {
			return err
		}
		return t.touchHolders(id)
	})
}

// ReplaceObject gives a blob another object, of the same bytes as they should be, in place of a broken one, which is doomed. It returns ErrNotFound if the blob is gone or has
// another object than the broken one by now.
func (db *DB) ReplaceObject(ctx context.Context, id int64, broken, key string, size int64, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		var one int
		if err := t.queryRow(`SELECT 1 FROM blob WHERE id = $1 AND storage_key = $2`+t.locking("FOR UPDATE"), id, broken).Scan(&one); err != nil {
			return err
		}
		return t.replaceObject(id, broken, key, size, now)
	})
}

// DamagedBlobs returns up to n blobs after the given ID that are known to be damaged.
func (db *DB) DamagedBlobs(ctx context.Context, after int64, n int) ([]DamagedBlob, error) {
	var all []DamagedBlob
	err := db.query(ctx, func(scan func(...any) error) error {
		var b DamagedBlob
		var digest string
		var found int64
		if err := scan(&b.ID, &digest, &b.Size, &b.Key, &b.Damage, &b.Detail, &found); err != nil {
			return err
		}
		b.Found = time.UnixMilli(found)
		all = append(all, b)
		return all[len(all)-1].Digest.UnmarshalText([]byte(digest))
	}, `SELECT b.id, b.digest, b.size, b.storage_key, d.damage, d.detail, d.found_at FROM damaged_blob d
		JOIN blob b ON b.id = d.blob_id AND b.storage_key = d.storage_key
		WHERE d.blob_id > $1 ORDER BY d.blob_id LIMIT $2`, after, n)
	return all, err
}

// CountDamaged returns how many blobs are known to be damaged, by what is wrong with them.
func (db *DB) CountDamaged(ctx context.Context) (map[Damage]int64, error) {
	var rotten, missing, unreadable int64
	err := db.queryRow(ctx, `SELECT COUNT(CASE damage WHEN 'rotten' THEN 1 END), COUNT(CASE damage WHEN 'missing' THEN 1 END), COUNT(CASE damage WHEN 'unreadable' THEN 1 END)
		FROM damaged_blob damaged WHERE EXISTS (SELECT 1 FROM blob b WHERE b.id = damaged.blob_id AND b.storage_key = damaged.storage_key)`).Scan(&rotten, &missing, &unreadable)
	return map[Damage]int64{Rotten: rotten, Missing: missing, Unreadable: unreadable}, err
}

// Holders returns up to n names of repositories that have a blob.
func (db *DB) Holders(ctx context.Context, blob int64, n int) ([]oci.Repository, error) {
	var all []oci.Repository
	err := db.query(ctx, func(scan func(...any) error) error {
		var r oci.Repository
		err := scan(&r)
		all = append(all, r)
		return err
	}, `SELECT r.name FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id WHERE rb.blob_id = $1 ORDER BY rb.repository_id LIMIT $2`, blob, n)
	return all, err
}

// NoteVerified notes that all blobs after one ID up to another, both of them IDs that StoredBlobs returned or 0, were read in this order and found
// to be right, or marked as damaged.
func (db *DB) NoteVerified(ctx context.Context, after, last int64, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		if _, err := t.exec(`DELETE FROM verified_blobs WHERE last_id > $1 AND last_id <= $2`, after, last); err != nil {
			return err
		}
		_, err := t.exec(`INSERT INTO verified_blobs (last_id, verified_at) VALUES ($1, $2)
			ON CONFLICT (last_id) DO UPDATE SET verified_at = excluded.verified_at`, last, now.UnixMilli())
		return err
	})
}

// LastBlob returns the highest ID of a blob, or 0 if there is none.
func (db *DB) LastBlob(ctx context.Context) (id int64, err error) {
	err = db.queryRow(ctx, `SELECT COALESCE(MAX(id), 0) FROM blob`).Scan(&id)
	return id, err
}

// Verified returns when the bytes of a blob were last read, or hashed when they were written.
func (db *DB) Verified(ctx context.Context, blob int64) (time.Time, error) {
	var created int64
	if err := db.queryRow(ctx, `SELECT created_at FROM blob WHERE id = $1`, blob).Scan(&created); err != nil {
		return time.Time{}, err
	}
	var read int64
	err := db.queryRow(ctx, `SELECT verified_at FROM verified_blobs WHERE last_id >= $1 ORDER BY last_id LIMIT 1`, blob).Scan(&read)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return time.Time{}, err
	}
	return time.UnixMilli(max(created, read)), nil
}

// AllVerifiedSince returns a time after which the bytes of every blob were read, or hashed when they were written; zero if there are no blobs.
func (db *DB) AllVerifiedSince(ctx context.Context) (time.Time, error) {
	var oldest, last, fresh int64
	err := db.queryRow(ctx, `SELECT verified_at FROM verified_blobs WHERE verified_at > 0 ORDER BY verified_at LIMIT 1`).Scan(&oldest)
	if err == nil {
		err = db.queryRow(ctx, `SELECT last_id FROM verified_blobs WHERE last_id > 0 ORDER BY last_id DESC LIMIT 1`).Scan(&last)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return time.Time{}, err
	}
	err = db.queryRow(ctx, `SELECT created_at FROM blob WHERE id > $1 ORDER BY id LIMIT 1`, last).Scan(&fresh)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return time.Time{}, err
	case oldest == 0 && fresh == 0:
		return time.Time{}, nil
	case oldest == 0 || fresh != 0 && fresh < oldest:
		oldest = fresh
	}
	return time.UnixMilli(oldest), nil
}
