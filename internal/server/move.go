package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrWritten: a server that may write has the data folder.
var ErrWritten = errors.New("the registry is in use")

// SameDatabase tells whether two configurations have the same database.
func SameDatabase(a, b *Config) bool {
	if a.Database.IsSet() || b.Database.IsSet() {
		return a.Database == b.Database
	}
	return sameFolder(a.Data, b.Data)
}

// SameBlobs tells whether two configurations have the same blob store.
func SameBlobs(a, b *Config) bool {
	x, y := a.Storage.S3, b.Storage.S3
	if x.Bucket != "" || y.Bucket != "" {
		return x.Bucket == y.Bucket && x.Endpoint == y.Endpoint && x.Region == y.Region && x.Prefix == y.Prefix
	}
	return sameFolder(a.Data, b.Data)
}

func sameFolder(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	if errX == nil && errY == nil {
		return os.SameFile(x, y)
	}
	return filepath.Clean(a) == filepath.Clean(b)
}

// OpenSource opens the registry that a move comes from, for reading. With frozen, no server that writes may use its data
// folder until it is closed, or the error is ErrWritten; PostgreSQL has locks of its own.
func OpenSource(ctx context.Context, cfg *Config, frozen bool) (*Storage, error) {
	s, err := OpenStorage(ctx, cfg, false)
	if err != nil || !frozen || cfg.Database.IsSet() {
		return s, err
	}
	if s.lock, err = LockDataShared(cfg.Data); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrWritten, err), s.Close())
	}
	return s, nil
}

// OpenTarget opens the database and the store that a move goes to. A data folder is made if it is missing, and
// locked unless the blobs in it stay what they are.
func OpenTarget(ctx context.Context, cfg *Config, sameBlobs bool) (_ *Storage, err error) {
	cfg = cfg.patient()
	s := new(Storage)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if !cfg.Stateless() && !(sameBlobs && cfg.Database.IsSet()) {
		if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
			return nil, fmt.Errorf("make the data folder: %w", err)
		}
		if s.lock, err = LockData(cfg.Data); err != nil {
			return nil, err
		}
	}
	if s.DB, err = openAnyDatabase(ctx, cfg, false); err != nil {
		return nil, err
	}
	s.Blobs, err = openBlobs(ctx, cfg, nil)
	return s, err
}

// OpenRebuild opens the database that is to be made again from the journal in the store, and the store, which must be there. A
// database in the data folder is made if it is missing; the folder is locked.
func OpenRebuild(ctx context.Context, cfg *Config) (*Storage, error) {
	if cfg.Storage.S3.Bucket == "" {
		if _, err := os.Stat(BlobFolder(cfg.Data)); err != nil {
			return nil, fmt.Errorf("there is no storage in the folder %s: %w", cfg.Data, err)
		}
	}
	return OpenTarget(ctx, cfg, false)
}
