package meta

import (
	"context"
	"errors"
)

// Setting returns a fact of the installation, or ErrNotFound.
func (db *DB) Setting(ctx context.Context, name string) ([]byte, error) {
	var v []byte
	err := db.queryRow(ctx, `SELECT value FROM setting WHERE name = $1`, name).Scan(&v)
	return v, err
}

// SetSetting stores a fact of the installation.
func (db *DB) SetSetting(ctx context.Context, name string, value []byte) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		return err
	})
}

// SettingOr returns a fact of the installation, which becomes value if it is not
// there yet: all processes that ask get the same answer.
func (db *DB) SettingOr(ctx context.Context, name string, value []byte) ([]byte, error) {
	v, err := db.Setting(ctx, name)
	if !errors.Is(err, ErrNotFound) {
		return v, err
	}
	err = db.update(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value)
		return err
	})
	if err != nil {
		return nil, err
	}
	return db.Setting(ctx, name)
}

// DeleteSetting forgets a fact of the installation, which may not be there.
func (db *DB) DeleteSetting(ctx context.Context, name string) error {
	return db.update(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM setting WHERE name = $1`, name)
		return err
	})
}
