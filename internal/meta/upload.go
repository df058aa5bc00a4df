package meta

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Upload is a session that holds bytes.
type Upload struct {
	ID         string
	Repository oci.Repository
	Key        string // of the blob store
	Size       int64  // bytes that are durable
	Algorithm  oci.Algorithm
	HashState  []byte // of the running hash after Size bytes
	StoreState []byte // what else the blob store needs
	Account    int64  // who began it; 0 for who did not sign in
	Updated    time.Time

	// Saved is the Size that the row has, as far as the caller knows: the one that Upload returned, or that
	// the caller saved last. If it has another one, somebody else goes on with the session.
	Saved int64
	// SavedKey is the Key that the row has, likewise; empty if it is Key.
	SavedKey string
}

// ErrCancelled: the upload session was cancelled or has ended.
var ErrCancelled = errors.New("upload cancelled")

// Upload returns a session; ErrNotFound if it holds no bytes, ErrCancelled if it was cancelled.
func (db *DB) Upload(ctx context.Context, r oci.Repository, id string) (*Upload, error) {
	u := &Upload{ID: id, Repository: r}
	var key *string
	var updated int64
	err := db.queryRow(ctx, `SELECT storage_key, size, algorithm, hash_state, store_state, account_id, updated_at
		FROM upload WHERE id = $1 AND repository = $2`, id, string(r)).
		Scan(&key, &u.Size, &u.Algorithm, &u.HashState, &u.StoreState, &u.Account, &updated)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, ErrCancelled
	}
	u.Key = *key
	u.Saved = u.Size
	u.Updated = time.UnixMilli(updated)
	return u, nil
}

// SaveUpload stores how far a session has come; what else it is, the account among that, only the first time. With first, the session must not have a
// row yet; else it must, and have the size u.Saved. ErrCancelled says that it was cancelled, has expired
// or went on elsewhere meanwhile. A key that another one takes the place of is doomed.
func (db *DB) SaveUpload(ctx context.Context, u *Upload, first bool) error {
	return db.update(ctx, func(t *tx) error {
		text := `UPDATE upload SET storage_key = $3, size = $4, hash_state = $6, store_state = $7, updated_at = $8
			WHERE id = $1 AND repository = $2 AND storage_key = $10 AND algorithm = $5 AND size = $9`
		before := cmp.Or(u.SavedKey, u.Key)
		args := []any{u.ID, string(u.Repository), u.Key, u.Size, string(u.Algorithm), u.HashState, u.StoreState, u.Updated.UnixMilli(), u.Saved, before}
		if first {
			text = `INSERT INTO upload (id, repository, storage_key, size, algorithm, hash_state, store_state, updated_at, created_at, account_id)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) ON CONFLICT DO NOTHING`
			args = append(args[:8], u.Account)
		}
		n, err := t.exec(text, args...)
		if err == nil && n == 0 {
			err = ErrCancelled
		}
		if err == nil && before != u.Key {
			err = t.doom(before, u.Updated)
		}
		return err
	})
}

// CancelUpload ends a session and dooms its bytes. A session without a row gets
// one of the account that says so until it expires. Cancelling again returns ErrCancelled.
func (db *DB) CancelUpload(ctx context.Context, r oci.Repository, id string, alg oci.Algorithm, account int64, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		var key *string
		err := t.queryRow(`SELECT storage_key FROM upload WHERE id = $1 AND repository = $2`+t.locking("FOR UPDATE"), id, string(r)).Scan(&key)
		switch {
		case errors.Is(err, ErrNotFound):
			_, err := t.exec(`INSERT INTO upload (id, repository, storage_key, size, algorithm, account_id, created_at, updated_at)
				VALUES ($1, $2, NULL, 0, $3, $5, $4, $4)`, id, string(r), string(alg), now.UnixMilli(), account)
			return err
		case err != nil:
			return err
		case key == nil:
			return ErrCancelled
		}
		if err := t.doom(*key, now); err != nil {
			return err
		}
		_, err = t.exec(`UPDATE upload SET storage_key = NULL, size = 0, hash_state = NULL, store_state = NULL, updated_at = $2
			WHERE id = $1`, id, now.UnixMilli())
		return err
	})
}

// CountUploads returns how many sessions hold bytes.
func (db *DB) CountUploads(ctx context.Context) (int64, error) {
	var n int64
	err := db.queryRow(ctx, `SELECT COUNT(*) FROM upload WHERE storage_key IS NOT NULL`).Scan(&n)
	return n, err
}
