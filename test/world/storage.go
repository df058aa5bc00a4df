package world

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

func openDB(t testing.TB, source string) *meta.DB {
	t.Helper()
	db, err := meta.Open(t.Context(), source, meta.Options{Timeout: time.Minute})
	Must(t, err)
	t.Cleanup(func() { _ = db.Close() }) // some tests close it themselves
	return db
}

// SQLite returns a database of its own, which is closed when the test ends.
func SQLite(t testing.TB) *meta.DB {
	t.Helper()
	return openDB(t, filepath.Join(t.TempDir(), "berth.db"))
}

// Postgres is SQLite for PostgreSQL. Where that is missing the test is skipped, or fails if CI=true.
func Postgres(t testing.TB) *meta.DB {
	t.Helper()
	return openDB(t, migrated(t).URL)
}

// migrated makes databases that have their tables.
var migrated = service.PostgresCopies(func(url string) error {
	db, err := meta.Open(context.Background(), url, meta.Options{Timeout: time.Minute})
	if err != nil {
		return err
	}
	return db.Close()
})

// Folder returns an empty store in a folder, which is closed when the test ends.
func Folder(t testing.TB) blob.Store {
	t.Helper()
	store, err := fs.Open(t.TempDir(), fs.Options{})
	Must(t, err)
	t.Cleanup(store.Close)
	return store
}

// Bucket is Folder for a bucket of a server. Without the server the test is skipped, or fails if CI=true.
func Bucket(t testing.TB) blob.Store {
	t.Helper()
	b := service.S3(t)
	store, err := s3.Open(t.Context(), s3.Options{
		Bucket: b.Name, Endpoint: b.Endpoint, Region: b.Region, Prefix: "registry/", AccessKeyID: b.AccessKey, SecretAccessKey: b.SecretKey,
	})
	Must(t, err)
	t.Cleanup(store.Close)
	return store
}

// EachDatabase runs a test on SQLite and on PostgreSQL, at the same time.
func EachDatabase(t *testing.T, test func(t *testing.T, newDB func(testing.TB) *meta.DB)) {
	for name, newDB := range map[string]func(testing.TB) *meta.DB{"sqlite": SQLite, "postgres": Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newDB)
		})
	}
}

// Everywhere runs a test on each pairing of database and store, at the same time.
func Everywhere(t *testing.T, test func(t *testing.T, newDB func(testing.TB) *meta.DB, store blob.Store)) {
	for where, newStore := range map[string]func(testing.TB) blob.Store{"folder": Folder, "bucket": Bucket} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) { test(t, newDB, newStore(t)) })
		})
	}
}
