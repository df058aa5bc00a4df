package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthregistry/berth/internal/backup"
	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
)

// BackupPlace is where backups are kept: a folder, or a URL of a bucket.
type BackupPlace string

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *BackupPlace) UnmarshalText(b []byte) error {
	*p = BackupPlace(b)
	_, _, err := p.bucket()
	return err
}

// bucket returns the bucket that the place is, if it is one.
func (p BackupPlace) bucket() (opts s3.Options, ok bool, err error) {
	if !strings.HasPrefix(string(p), "s3:") {
		return opts, false, nil
	}
	u, err := url.Parse(string(p))
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return opts, false, errors.New("this is no bucket: write s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION, without credentials")
	}
	opts = s3.Options{Bucket: u.Host}
	if opts.Prefix = strings.Trim(u.Path, "/"); opts.Prefix != "" {
		opts.Prefix += "/"
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return opts, false, errors.New("what follows the question mark is not of the form NAME=VALUE&NAME=VALUE")
	}
	for name := range values {
		value := values.Get(name)
		switch name {
		case "endpoint":
			opts.Endpoint = value
		case "region":
			opts.Region = value
		case "ca_file":
			opts.CAFile = value
		case "storage_class":
			opts.StorageClass = value
		case "profile":
			opts.Profile = value
		case "path_style":
			switch value {
			case "on":
				opts.PathStyle = s3.PathStyleOn
			case "off":
				opts.PathStyle = s3.PathStyleOff
			default:
				return opts, false, errors.New("path_style must be on or off")
			}
		default:
			return opts, false, fmt.Errorf("a bucket has no %q: there are endpoint, region, ca_file, storage_class, profile and path_style", name)
		}
	}
	if opts.Endpoint == "" && opts.Region == "" {
		return opts, false, errors.New("a region is needed where no endpoint is given, such as s3://BUCKET?region=eu-central-1")
	}
	return opts, true, nil
}

// IsBucket tells whether the place is a bucket.
func (p BackupPlace) IsBucket() bool {
	_, ok, err := p.bucket()
	return ok && err == nil
}

// Open opens the store of the backups. A folder is made if it is missing.
func (p BackupPlace) Open(ctx context.Context) (blob.Store, error) {
	opts, ok, err := p.bucket()
	if err != nil {
		return nil, fmt.Errorf("backup %s: %w", p, err)
	}
	if ok {
		store, err := s3.Open(ctx, opts)
		if err != nil {
			return nil, err
		}
		return store, nil
	}
	store, err := fs.Open(filepath.Clean(string(p)), fs.Options{})
	if err != nil {
		return nil, err
	}
	return store, nil
}

// backupCopies is how many blobs a backup copies at a time.
const backupCopies = 4

// backupLease is how long a process that is killed in the middle of a backup keeps others from making one, and the collector from
// deleting bytes.
const backupLease = 30 * time.Second

// BackUp makes a set of backups in a place now, unless a process of the registry is at it already, and then deletes old sets, if keep is not 0. lost
// is called for each blob whose bytes the registry has lost.
func BackUp(ctx context.Context, cfg *Config, storage *Storage, to BackupPlace, keep int, log *slog.Logger, lost func(digest, what string)) (set backup.Set, err error) {
	if err := cfg.checkBackup(to); err != nil {
		return set, err
	}
	work := func(ctx context.Context) (string, error) {
		set, err = backUp(ctx, storage, to, keep, log, lost)
		return backupResult(set), err
	}
	if storage.lock != nil && !cfg.Database.IsSet() { // then whoever has the lease is dead
		j, err := storage.DB.Job(ctx, meta.BackupJob)
		if err == nil && j.Holder != "" {
			err = storage.DB.ReleaseJob(ctx, meta.BackupJob, j.Holder)
		}
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return set, err
		}
	}
	runner := job.New(storage.DB, job.Options{Log: log, Lease: backupLease})
	ran, failed := false, error(nil)
	// One that was killed has the lease for a while.
	for give := time.Now().Add(2 * backupLease); !ran && failed == nil && time.Now().Before(give) && ctx.Err() == nil; {
		if j, err := storage.DB.Job(ctx, meta.BackupJob); err == nil && !j.Paused.IsZero() {
			return set, fmt.Errorf("backups are paused by %s: \"berth backup resume\" lets them go on", j.By)
		}
		if ran, failed = runner.Now(ctx, job.Job{Name: meta.BackupJob, Run: work}); !ran && failed == nil {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	switch {
	case failed != nil:
		return set, failed
	case !ran:
		return set, cmp.Or(ctx.Err(), errors.New("another process is making a backup of this registry"))
	case err == nil && set.Name == "":
		err = errors.New("the lease on the backup was lost: the database could not be reached in time")
	case cfg.Backup.To != "" && cfg.Backup.To != to: // whose servers' own backup would only be due after another interval
		err = errors.Join(err, storage.DB.AskJob(ctx, meta.BackupJob))
	}
	return set, err
}

// backupRetry is the time from a backup that failed to the next, if that is less than the interval.
const backupRetry = 10 * time.Minute

// backupNoted is how often it is noted how far a backup is.
const backupNoted = 3 * time.Second

func backUp(ctx context.Context, storage *Storage, to BackupPlace, keep int, log *slog.Logger, lost func(digest, what string)) (backup.Set, error) {
	target, err := to.Open(ctx)
	if err != nil {
		return backup.Set{}, err
	}
	defer closeStore(target)
	j, err := storage.DB.Job(ctx, meta.BackupJob)
	if err != nil {
		return backup.Set{}, err
	}
	state, err := backup.StateOf(j)
	if err != nil {
		log.Warn("what is known of the last backup cannot be read", "error", err)
		state = backup.State{}
	}
	note := func(s backup.State) error { return storage.DB.SetJobState(ctx, meta.BackupJob, j.Holder, s.Text()) }
	set, err := backup.Create(ctx, backup.Options{
		DB: storage.DB, Blobs: storage.Blobs, Target: target, Parallel: backupCopies, Lost: lost,
		Damaged: func(set string, err error) {
			log.Error("a set of the backup is damaged; what it has is copied again, unless another set has it", "set", set, "error", err)
		},
		Every: backupNoted,
		Progress: func(p backup.Progress) {
			state.Run = &p
			if err := note(state); err != nil && ctx.Err() == nil {
				log.Warn("how far the backup is cannot be noted", "error", err)
			}
		},
	})
	if set.Name != "" {
		err = errors.Join(err, note(backup.State{Last: &set, To: string(to)}))
	}
	if err != nil || keep == 0 {
		return set, err
	}
	if _, err := backup.Prune(ctx, target, backup.PruneOptions{Keep: keep, Settled: backup.Settled(time.Now())}); err != nil {
		return set, fmt.Errorf("the set is made, but old ones cannot be deleted: %w", err)
	}
	return set, nil
}

func backupResult(s backup.Set) string {
	if s.Name == "" {
		return ""
	}
	return fmt.Sprintf("set %s: %d blobs of %d bytes, %d of %d bytes new, %d lost", s.Name, s.Blobs, s.Bytes, s.Copied, s.CopiedBytes, s.Lost)
}

// backupEvery is the periodic job that makes backups.
func backupEvery(cfg *Config, log *slog.Logger, storage *Storage) job.Job {
	every := cfg.Backup.Interval.D()
	return job.Job{Name: meta.BackupJob, Every: every, Retry: min(every, backupRetry), Run: func(ctx context.Context) (string, error) {
		set, err := backUp(ctx, storage, cfg.Backup.To, cfg.Backup.Keep, log, func(digest, what string) {
			log.Error("a blob cannot be backed up, its bytes are lost: push an image that has it again", "digest", digest, "what", what)
		})
		switch {
		case err == nil:
			log.Info("backed up", "set", set.Name, "blobs", set.Blobs, "bytes", set.Bytes, "copied", set.Copied, "copied_bytes", set.CopiedBytes, "lost", set.Lost)
		case ctx.Err() == nil:
			log.Error("backup failed", "error", err)
		}
		return backupResult(set), err
	}}
}

// backupMetrics tells of the last set what the database knows, so that every node shows the same.
type backupMetrics struct{ db *meta.DB }

var (
	lastSet  = prometheus.NewDesc("berth_backup_last_set_timestamp_seconds", "The moment that the last set of a backup shows.", nil, nil)
	lastLost = prometheus.NewDesc("berth_backup_last_set_lost_blobs", "Blobs that the last set of a backup lacks, because the registry has lost their bytes.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m backupMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- lastSet
	to <- lastLost
}

// Collect implements prometheus.Collector. It shows nothing before the first set, and while the database cannot be reached.
func (m backupMetrics) Collect(to chan<- prometheus.Metric) {
	j, err := m.db.Job(context.Background(), meta.BackupJob)
	if err != nil {
		return
	}
	if s, err := backup.StateOf(j); err == nil && s.Last != nil {
		to <- prometheus.MustNewConstMetric(lastSet, prometheus.GaugeValue, float64(s.Last.At.UnixMilli())/1000)
		to <- prometheus.MustNewConstMetric(lastLost, prometheus.GaugeValue, float64(s.Last.Lost))
	}
}

// checkBackup fails if backups in a place would be among what they are copies of, where the collector finds objects of no use.
func (c *Config) checkBackup(to BackupPlace) error {
	opts, ok, err := to.bucket()
	if err != nil {
		return err
	}
	s := c.Storage.S3
	mine := errors.New("this is where the registry itself keeps its blobs: backups need a place of their own")
	switch {
	case ok && opts.Bucket == s.Bucket && opts.Endpoint == string(s.Endpoint) && opts.Prefix == s.Prefix:
		return mine
	case !ok && s.Bucket == "":
		for folder := string(to); ; folder = filepath.Dir(folder) {
			if sameFolder(folder, BlobFolder(c.Data)) {
				return mine
			}
			if filepath.Dir(folder) == folder {
				return nil
			}
		}
	}
	return nil
}

// closeStore gives back what a store has opened.
func closeStore(store blob.Store) {
	if s, ok := store.(interface{ Close() }); ok {
		s.Close()
	}
}
