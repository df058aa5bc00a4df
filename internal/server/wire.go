package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/audit"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/certificate"
	"github.com/berthregistry/berth/internal/distribution"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/pulls"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/scrub"
	"github.com/berthregistry/berth/internal/signin"
	"github.com/berthregistry/berth/internal/token"
	"github.com/berthregistry/berth/internal/web"
)

// DatabaseFile and BlobFolder say where under the data folder things are.
func DatabaseFile(data string) string { return filepath.Join(data, "berth.db") }

// BlobFolder is the folder of the blob store.
func BlobFolder(data string) string { return filepath.Join(data, "blobs") }

// build makes the application that a server serves. Background work that it
// starts ends when ctx does, which is after the last request; the function that it
// returns waits for that and closes what was opened. With ACME, certificates are ordered for certs.
func build(ctx context.Context, cfg *Config, log *slog.Logger, metrics *Metrics, ready *Readiness, certs *certificate.Store) (http.Handler, func() error, error) {
	store, err := openBlobs(ctx, cfg, observeBucket(metrics))
	if err != nil {
		return nil, nil, err
	}
	db, err := openDatabase(ctx, cfg, cfg.ReadOnly)
	if err != nil {
		return nil, nil, err
	}
	storage := &Storage{DB: db, Blobs: store}
	copied := newJournal(cfg, log, metrics, storage)
	if err := beginJournal(ctx, cfg, log, copied); err != nil {
		return nil, nil, errors.Join(err, storage.Close())
	}
	reg, err := newRegistry(ctx, cfg, db, store, observeQuotas(metrics, db, log))
	if err != nil {
		return nil, nil, errors.Join(err, storage.Close())
	}
	ready.Add("database", db.Check)
	ready.Add("blobs", func(ctx context.Context) error {
		if err := store.Check(ctx); !errors.Is(err, blob.ErrNoSpace) {
			return err
		}
		return nil // pulls go on, so the node is not taken out of service
	})
	observeStorage(metrics, db)
	observeDatabase(metrics, db)
	metrics.registry.MustRegister(jobMetrics{db}, storedMetrics{db}, backupMetrics{db})

	server := web.NewServer(web.Options{
		Log:            log,
		AccessLog:      cfg.Log.Access,
		Observer:       metrics,
		Idle:           cfg.Timeouts.Idle.D(),
		TrustedProxies: cfg.Proxies(),
		Explain:        registry.Explain,
	})
	limits := cfg.RateLimits.limiter(server.Client, observeRefusals(metrics))
	metrics.Gauge("berth_rate_limit_subjects", "Accounts and networks that are remembered for rate limits.", func() float64 { return float64(limits.Subjects()) })
	options := distribution.Options{
		Limits:         limits,
		ExternalURL:    string(cfg.ExternalURL),
		MaxManifest:    int64(cfg.Limits.Manifest),
		MaxUploads:     cfg.Limits.Uploads,
		Client:         server.Client,
		Redirect:       cfg.redirects(),
		RedirectExpire: cfg.Storage.S3.RedirectExpire.D(),
		ReadOnly:       cfg.ReadOnly,
	}
	var accounts *auth.Auth
	var tokens *token.Handler
	var people *signin.Handler
	var receivers []audit.Receiver
	closeSources := func() {}
	if cfg.Auth.Enabled {
		if receivers, err = cfg.Auth.AuditForward.receivers(); err != nil {
			return nil, nil, errors.Join(err, storage.Close())
		}
		var sources []auth.Source
		if sources, closeSources, err = openSources(&cfg.Auth, log); err != nil {
			return nil, nil, errors.Join(err, storage.Close())
		}
		if accounts, err = newAccounts(cfg, db, log, sources, server.ClientCertificate); err != nil {
			return nil, nil, errors.Join(err, storage.Close())
		}
	}
	pulled := pulls.New(db, log)
	management := admin.New(admin.Options{
		Auth: accounts, DB: db, Registry: reg, Log: log, TrashKeep: cfg.Trash.Keep.D(), Service: cfg.Service(), Client: server.Client, Limits: limits, Delete: cfg.Delete, ReadOnly: cfg.ReadOnly,
		Backups: string(cfg.Backup.To), FlushPulls: pulled.Flush,
	})
	if accounts != nil {
		if err := offerSetup(ctx, cfg, log, management); err != nil {
			return nil, nil, errors.Join(err, storage.Close())
		}
		if people, err = newSignin(ctx, cfg, db, accounts, server, limits, log); err != nil {
			return nil, nil, errors.Join(err, storage.Close())
		}
		options.Auth, options.Service, options.Origin = accounts, cfg.Service(), server.Origin
		tokens = token.New(token.Options{Auth: accounts, Service: cfg.Service(), Client: server.Client, Limits: limits})
	}
	if !cfg.ReadOnly {
		metrics.CounterFunc("berth_pulls_not_noted_total", "Pulls whose time was not noted, because there were too many at once.", func() float64 { return float64(pulled.Lost()) })
		options.Pulled = pulled.Note
	}
	protocol := distribution.New(reg, options)

	runner := job.New(db, job.Options{Log: log})
	authority, err := openACME(ctx, cfg, log, certs, db, runner)
	if err != nil {
		return nil, nil, errors.Join(err, storage.Close())
	}
	var background sync.WaitGroup
	if !cfg.ReadOnly {
		background.Go(func() { pulled.Run(ctx) })
	}
	if authority != nil {
		background.Go(func() { authority.Run(ctx) })
	}
	collector := gc.New(db, store, gc.Options{
		Log:          log,
		Grace:        cfg.Collection.Grace.D(),
		UploadExpiry: cfg.Uploads.Expire.D(),
		TrashKeep:    cfg.Trash.Keep.D(),
		Rate:         cfg.Collection.Rate,
		Busy:         metrics.Used,
		Observe:      observeCollection(metrics),
	})
	scrubber, err := newScrubber(cfg, db, store, log, metrics)
	if err != nil {
		return nil, nil, errors.Join(err, storage.Close())
	}
	jobs := []job.Job{
		{Name: gc.Job, Every: cfg.Collection.Interval.orNever(), Window: cfg.Collection.Window.Window, Run: collector.Run},
		{Name: scrub.Job, Every: cfg.Scrub.Interval.orNever(), Retry: cfg.Scrub.retry(), Window: cfg.Scrub.Window.Window, Run: scrubber.Run},
	}
	if bucket, ok := store.(*s3.Store); ok && cfg.Collection.Interval > 0 {
		jobs = append(jobs, job.Job{Name: "bucket", Every: countUnfinished, Run: observeUnfinished(metrics, bucket, time.Now)})
	}
	jobs = append(jobs, retentionJob(cfg, metrics, db, pulled, log))
	if accounts != nil {
		for _, to := range receivers {
			jobs = append(jobs, audit.NewForwarder(db, to, log).Job())
			observeAudit(metrics, db, to.Name())
		}
		jobs = append(jobs, job.Job{Name: "credentials", Every: time.Hour, Run: accounts.Forget})
		if cfg.Auth.SyncInterval > 0 && (cfg.Auth.Htpasswd != "" || cfg.Auth.LDAP.URL != "") {
			jobs = append(jobs, job.Job{Name: "accounts", Every: cfg.Auth.SyncInterval.D(), Run: accounts.Sync})
		}
	}
	if !cfg.ReadOnly {
		if cfg.Backup.To != "" {
			jobs = append(jobs, backupEvery(cfg, log, storage))
		}
		jobs = append(jobs, job.Job{Name: "journal_merge", Every: mergeEvery, Run: copied.Merge})
		// A short lease, so that a node that is killed does not hold the others up.
		background.Go(func() { copied.Run(ctx, job.New(db, job.Options{Log: log, Lease: journalLease})) })
		background.Go(func() { runner.Run(ctx, jobs...) })
	}
	return server.Handler(routes(protocol, tokens, management, people)), func() error {
		background.Wait()
		closeSources()
		return storage.Close()
	}, nil
}

// newRegistry returns the registry of a configuration over what was opened.
func newRegistry(ctx context.Context, cfg *Config, db *meta.DB, store blob.Store, quota registry.QuotaObserver) (*registry.Registry, error) {
	return registry.New(ctx, db, store, registry.Options{
		Sparse:       func(r oci.Repository) registry.Sparse { return registry.Sparse(cfg.SparseFor(r)) },
		Delete:       cfg.Delete,
		Grace:        cfg.Collection.Grace.D(),
		UploadExpiry: cfg.Uploads.Expire.D(),
		Trash:        cfg.Trash.Keep > 0,
		ReadOnly:     cfg.ReadOnly,
		Quota:        quota,
	})
}

// routes sends a request to what serves its path. Without access control there is no token service and no page for the first account, without
// providers nobody signs in at one.
func routes(protocol *distribution.Handler, tokens *token.Handler, management *admin.Handler, people *signin.Handler) web.HandlerFunc {
	return func(w *web.Response, r *http.Request) error {
		if strings.HasPrefix(r.URL.Path, admin.Prefix) {
			return management.Serve(w, r)
		}
		if tokens == nil {
			return protocol.Serve(w, r)
		}
		switch r.URL.Path {
		case distribution.TokenPath:
			return tokens.Serve(w, r)
		case "/.well-known/jwks.json":
			return tokens.ServeKeys(w, r)
		case admin.SetupPath:
			return management.Serve(w, r)
		}
		if people != nil && signin.Serves(r.URL.Path) {
			return people.Serve(w, r)
		}
		return protocol.Serve(w, r)
	}
}
