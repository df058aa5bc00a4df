package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
)

// Storage is what a registry keeps, opened.
type Storage struct {
	DB    *meta.DB
	Blobs blob.Store
	// Settled is zero if no server can be at work. Else it is the time up to which whatever has no row is garbage.
	Settled time.Time

	lock *Lock // on the data folder; nil if only reading, or without a folder
}

// OpenStorage opens what a configuration says is kept, without serving it; the registry must exist. With
// write, no server may be using the data folder, and none should be using PostgreSQL; without, nothing is changed.
func OpenStorage(ctx context.Context, cfg *Config, write bool) (_ *Storage, err error) {
	if !cfg.Database.IsSet() {
		if _, err := os.Stat(DatabaseFile(cfg.Data)); err != nil {
			return nil, fmt.Errorf("there is no registry in the folder %s: %w", cfg.Data, err)
		}
	}
	cfg = cfg.patient()
	s := new(Storage)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if write && !cfg.Stateless() {
		if s.lock, err = LockData(cfg.Data); err != nil {
			return nil, err
		}
	}
	if s.DB, err = openDatabase(ctx, cfg, !write); err != nil {
		return nil, err
	}
	s.Blobs, err = openBlobs(ctx, cfg, nil)
	if cfg.Database.IsSet() {
		s.Settled = gc.Settled(time.Now(), cfg.Uploads.Expire.D(), cfg.Collection.Grace.D())
	}
	return s, err
}

// patient returns the configuration for work on whole tables, which no client waits for.
func (c *Config) patient() *Config {
	patient := *c
	patient.DatabasePool.Timeout = max(c.DatabasePool.Timeout, Duration(time.Hour))
	return &patient
}

// Close closes what was opened.
func (s *Storage) Close() error {
	var err error
	if store, ok := s.Blobs.(interface{ Close() }); ok {
		store.Close()
	}
	if s.DB != nil {
		err = s.DB.Close()
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Release())
	}
	return err
}

// openDatabase opens the database that a configuration names. It fails if a move to it is unfinished.
func openDatabase(ctx context.Context, cfg *Config, readOnly bool) (*meta.DB, error) {
	db, err := openAnyDatabase(ctx, cfg, readOnly)
	if err != nil {
		return nil, err
	}
	if err := db.CheckComplete(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func openAnyDatabase(ctx context.Context, cfg *Config, readOnly bool) (*meta.DB, error) {
	source := DatabaseFile(cfg.Data)
	if cfg.Database.IsSet() {
		source = cfg.Database.Reveal()
	}
	opts := meta.Options{Connections: cfg.DatabasePool.Connections, Timeout: cfg.DatabasePool.Timeout.D()}
	if readOnly {
		return meta.OpenReadOnly(ctx, source, opts)
	}
	return meta.Open(ctx, source, opts)
}

// openBlobs opens the blob store that a configuration names. observe, if not nil, is told of each request to a bucket.
func openBlobs(ctx context.Context, cfg *Config, observe func(s3.Observation)) (blob.Store, error) {
	c := cfg.Storage.S3
	if c.Bucket == "" {
		total, err := fs.Capacity(cfg.Data)
		if err != nil {
			return nil, err
		}
		store, err := fs.Open(BlobFolder(cfg.Data), fs.Options{Reserve: cfg.DiskReserve.Of(total), KeepOpen: keepable(openFiles())})
		if err != nil {
			return nil, err
		}
		return store, nil
	}
	store, err := s3.Open(ctx, s3.Options{
		Bucket:          c.Bucket,
		Endpoint:        string(c.Endpoint),
		PublicEndpoint:  string(c.Redirect.Public),
		Region:          c.Region,
		Prefix:          c.Prefix,
		PathStyle:       map[Switch]s3.PathStyle{SwitchOn: s3.PathStyleOn, SwitchOff: s3.PathStyleOff}[c.PathStyle],
		AccessKeyID:     c.AccessKeyID.Reveal(),
		SecretAccessKey: c.SecretAccessKey.Reveal(),
		SessionToken:    c.SessionToken.Reveal(),
		CredentialsFile: c.CredentialsFile,
		Profile:         c.Profile,
		StorageClass:    c.StorageClass,
		Encryption:      map[Encryption]s3.Encryption{EncryptionS3: s3.EncryptionS3, EncryptionKMS: s3.EncryptionKMS}[c.Encryption],
		KMSKey:          c.KMSKey,
		CAFile:          c.CAFile,
		PartSize:        int64(c.PartSize),
		Observe:         observe,
	})
	if err != nil {
		return nil, err
	}
	return store, nil
}

// place says in a few words where everything is kept.
func (c *Config) place() string {
	bucket := "bucket " + c.Storage.S3.Bucket
	switch {
	case c.Stateless():
		return "PostgreSQL and " + bucket
	case c.Database.IsSet():
		return "PostgreSQL and " + c.Data
	case c.Storage.S3.Bucket != "":
		return c.Data + " and " + bucket
	}
	return c.Data
}

// redirects returns who is sent to the bucket for the bytes of blobs, or nil for nobody.
func (c *Config) redirects() func(netip.Addr) bool {
	s := c.Storage.S3
	endpoint := cmp.Or(s.Redirect.Public, s.Endpoint, "https://aws.amazon.com") // no endpoint is that of AWS, which is public
	if s.Bucket == "" || s.Redirect.Mode == SwitchOff || s.Redirect.Mode == SwitchAuto && !endpoint.IsPublic() {
		return nil
	}
	return func(client netip.Addr) bool {
		return !slices.ContainsFunc(s.RedirectExcept, func(n Network) bool { return n.Contains(client.Unmap()) })
	}
}
