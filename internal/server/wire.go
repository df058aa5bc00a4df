package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/distribution"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// DatabaseFile and BlobFolder say where under the data folder things are.
func DatabaseFile(data string) string { return filepath.Join(data, "berth.db") }

// BlobFolder is the folder of the blob store.
func BlobFolder(data string) string { return filepath.Join(data, "blobs") }

// build makes the application that a server serves. Background work that it
// starts ends when ctx does, which is after the last request; the function that it
// returns waits for that and closes what was opened.
func build(ctx context.Context, cfg *Config, log *slog.Logger, metrics *Metrics, ready *Readiness) (http.Handler, func() error, error) {
	store, err := openBlobs(cfg)
	if err != nil {
		return nil, nil, err
	}
	db, err := meta.Open(ctx, DatabaseFile(cfg.Data))
	if err != nil {
		return nil, nil, err
	}
	reg, err := registry.New(ctx, db, store, registry.Options{
		Sparse:       func(r oci.Repository) registry.Sparse { return registry.Sparse(cfg.SparseFor(r)) },
		Delete:       cfg.Delete,
		Grace:        cfg.Collection.Grace.D(),
		UploadExpiry: cfg.Uploads.Expire.D(),
	})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	ready.Add("database", db.Check)
	ready.Add("blobs", func(ctx context.Context) error {
		if err := store.Check(ctx); !errors.Is(err, blob.ErrNoSpace) {
			return err
		}
		return nil // pulls go on, so the node is not taken out of service
	})
	observeStorage(metrics, db)

	server := web.NewServer(web.Options{
		Log:            log,
		AccessLog:      cfg.Log.Access,
		Observer:       metrics,
		Idle:           cfg.Timeouts.Idle.D(),
		TrustedProxies: cfg.Proxies(),
	})
	protocol := distribution.New(reg, distribution.Options{
		ExternalURL: string(cfg.ExternalURL),
		MaxManifest: int64(cfg.Limits.Manifest),
		MaxUploads:  cfg.Limits.Uploads,
		Client:      server.Client,
	})

	var background sync.WaitGroup
	if cfg.Collection.Interval > 0 {
		collector := gc.New(db, store, gc.Options{
			Log:          log,
			Interval:     cfg.Collection.Interval.D(),
			Grace:        cfg.Collection.Grace.D(),
			UploadExpiry: cfg.Uploads.Expire.D(),
			Observe:      observeCollection(metrics),
		})
		background.Go(func() { collector.Run(ctx) })
	}
	return server.Handler(protocol.Serve), func() error {
		background.Wait()
		store.Close()
		return db.Close()
	}, nil
}

// openBlobs opens the blob store with the reserve that the configuration asks for.
func openBlobs(cfg *Config) (*fs.Store, error) {
	total, err := fs.Capacity(cfg.Data)
	if err != nil {
		return nil, err
	}
	return fs.Open(BlobFolder(cfg.Data), fs.Options{Reserve: cfg.DiskReserve.Of(total), KeepOpen: keepable(openFiles())})
}

// observeStorage shows how much there is.
func observeStorage(m *Metrics, db *meta.DB) {
	value := func(read func(context.Context) (int64, error)) func() float64 {
		return func() float64 {
			n, err := read(context.Background())
			if err != nil {
				return math.NaN()
			}
			return float64(n)
		}
	}
	m.Gauge("berth_uploads", "Upload sessions that hold bytes.", value(db.CountUploads))
	m.Gauge("berth_blobs", "Blobs that are stored.", value(func(ctx context.Context) (int64, error) {
		n, _, err := db.Totals(ctx)
		return n, err
	}))
	m.Gauge("berth_blob_bytes", "Bytes of the blobs that are stored.", value(func(ctx context.Context) (int64, error) {
		_, n, err := db.Totals(ctx)
		return n, err
	}))
}

// observeCollection counts what the collector takes away.
func observeCollection(m *Metrics) func(gc.Result, time.Duration, error) {
	const passes = "berth_collection_passes_total"
	ok := m.Counter(passes, "Passes of the collector, by result.", "result", "ok")
	failed := m.Counter(passes, "Passes of the collector, by result.", "result", "failed")
	seconds := m.Counter("berth_collection_seconds_total", "Time that the collector was at work.")
	blobs := m.Counter("berth_collection_blobs_total", "Blobs that were collected.")
	bytes := m.Counter("berth_collection_bytes_total", "Bytes of the blobs that were collected.")
	uploads := m.Counter("berth_collection_uploads_total", "Upload sessions that expired.")
	orphans := m.Counter("berth_collection_orphans_total", "Objects that no row spoke of, such as a crash leaves.")
	return func(r gc.Result, took time.Duration, err error) {
		if err != nil {
			failed.Inc()
		} else {
			ok.Inc()
		}
		seconds.Add(took.Seconds())
		blobs.Add(float64(r.Blobs))
		bytes.Add(float64(r.Bytes))
		uploads.Add(float64(r.Uploads))
		orphans.Add(float64(r.Orphans))
	}
}
