package meta

import (
	"context"
	"errors"
	"time"
)

// SigningKey is a key that signs tokens.
type SigningKey struct {
	ID         string
	Private    []byte // PKCS #8
	SignsFrom  time.Time
	KnownUntil time.Time
}

// SigningKeys returns the keys that tokens may be signed with. There are a few.
func (db *DB) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	var keys []SigningKey
	err := db.query(ctx, func(scan func(...any) error) error {
		var k SigningKey
		var from, until int64
		err := scan(&k.ID, &k.Private, &from, &until)
		k.SignsFrom, k.KnownUntil = time.UnixMilli(from), time.UnixMilli(until)
		keys = append(keys, k)
		return err
	}, `SELECT kid, private, signs_from, known_until FROM signing_key ORDER BY signs_from, kid`)
	return keys, err
}

// AddSigningKey adds a key if the newest one is still the given one, or none for an empty ID: of several nodes whose keys
// are old, one makes the next key, and that the others do not is no error. Keys that nothing can be signed with any more are deleted.
func (db *DB) AddSigningKey(ctx context.Context, k SigningKey, newest string, now time.Time) error {
	return db.update(ctx, func(t *tx) error {
		if err := t.lockSigningKeys(); err != nil {
			return err
		}
		var last string
		err := t.queryRow(`SELECT kid FROM signing_key ORDER BY signs_from DESC, kid DESC LIMIT 1`).Scan(&last)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if last != newest {
			return nil
		}
		if _, err := t.exec(`INSERT INTO signing_key (kid, private, signs_from, known_until) VALUES ($1, $2, $3, $4)`,
			k.ID, k.Private, k.SignsFrom.UnixMilli(), k.KnownUntil.UnixMilli()); err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM signing_key WHERE known_until < $1`, now.UnixMilli())
		return err
	})
}
