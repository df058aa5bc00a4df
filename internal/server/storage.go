package server

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/meta"
)

// Storage is what a registry keeps, opened without serving it.
type Storage struct {
	DB    *meta.DB
	Blobs blob.Store
	lock  *Lock // nil if only reading
}

// OpenStorage opens what is kept in the data folder of a configuration. With
// write, no server may be using the folder; without, nothing is changed.
func OpenStorage(ctx context.Context, cfg *Config, write bool) (*Storage, error) {
	if _, err := os.Stat(DatabaseFile(cfg.Data)); err != nil {
		return nil, fmt.Errorf("there is no registry in the folder %s: %w", cfg.Data, err)
	}
	s := new(Storage)
	var err error
	if write {
		if s.lock, err = LockData(cfg.Data); err != nil {
			return nil, err
		}
		s.DB, err = meta.Open(ctx, DatabaseFile(cfg.Data))
	} else {
		s.DB, err = meta.OpenReadOnly(ctx, DatabaseFile(cfg.Data))
	}
	if err == nil {
		s.Blobs, err = fs.Open(BlobFolder(cfg.Data), fs.Options{})
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes what was opened.
func (s *Storage) Close() error {
	var err error
	if s.DB != nil {
		err = s.DB.Close()
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Release())
	}
	return err
}
