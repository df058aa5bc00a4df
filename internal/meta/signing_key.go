package meta

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// SigningKey is a key that signs tokens.
type SigningKey struct {
	ID      string // the "kid" of the tokens
	Private []byte // a secret
	From    time.Time
	Until   time.Time // when it need not be known any more
}

// SigningKeys returns all keys that are known, the newest first.
func (db *DB) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	var all []SigningKey
	err := db.query(ctx, func(scan func(...any) error) error {
		var k SigningKey
		var from, until int64
		err := scan(&k.ID, &k.Private, &from, &until)
		k.From, k.Until = time.UnixMilli(from), time.UnixMilli(until)
		all = append(all, k)
		return err
	}, `SELECT kid, private, signs_from, known_until FROM signing_key`)
	slices.SortFunc(all, func(a, b SigningKey) int { return cmp.Or(b.From.Compare(a.From), cmp.Compare(b.ID, a.ID)) })
	return all, err
}

// AddSigningKey adds the key that follows the newest one, whose ID the caller knows: empty if there is none. ErrExists says that
// another process was first: its key is among SigningKeys now. So one of all that rotate at once succeeds.
func (db *DB) AddSigningKey(ctx context.Context, k SigningKey, newest string) error {
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
			return ErrExists
		}
		_, err = t.exec(`INSERT INTO signing_key (kid, private, signs_from, known_until) VALUES ($1, $2, $3, $4)`,
			k.ID, k.Private, k.From.UnixMilli(), k.Until.UnixMilli())
		return err
	})
}

// DeleteSigningKeys deletes the keys that need not be known since before a time, and returns how many it were.
func (db *DB) DeleteSigningKeys(ctx context.Context, before time.Time) (deleted int, err error) {
	err = db.update(ctx, func(t *tx) error {
		n, err := t.exec(`DELETE FROM signing_key WHERE known_until < $1`, before.UnixMilli())
		deleted = int(n)
		return err
	})
	return deleted, err
}
