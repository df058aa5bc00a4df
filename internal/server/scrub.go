package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/berthregistry/berth/internal/backup"
	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/scrub"
	"github.com/berthregistry/berth/internal/upstream"
)

// retry returns how long after a scrub that failed it goes on, which is sooner than after one that ended; 0 where it is left to people.
func (s Scrub) retry() time.Duration { return min(s.Interval.D(), time.Hour) }

// newScrubber returns what reads all that is stored.
func newScrubber(cfg *Config, db *meta.DB, store blob.Store, log *slog.Logger, metrics *Metrics) (*scrub.Scrubber, error) {
	blobs := metrics.Counter("berth_scrub_blobs_total", "Blobs that a scrub has read on this node.")
	bytes := metrics.Counter("berth_scrub_bytes_total", "Bytes that a scrub has read on this node.")
	opts := scrub.Options{
		Log:   log,
		Rate:  int64(cfg.Scrub.Rate),
		Audit: cfg.Auth.Enabled,
		Observe: func(n int64) {
			blobs.Inc()
			bytes.Add(float64(n))
		},
	}
	if cfg.Scrub.Replica != "" {
		var who upstream.CredentialFunc
		if cfg.Scrub.ReplicaUser != "" {
			who = func(context.Context, string) (upstream.Credential, error) {
				return upstream.Credential{Username: cfg.Scrub.ReplicaUser, Password: cfg.Scrub.ReplicaPassword.Reveal()}, nil
			}
		}
		replica, err := scrub.NewReplica(string(cfg.Scrub.Replica), who)
		if err != nil {
			return nil, err
		}
		opts.Menders = append(opts.Menders, replica)
	}
	if to := cfg.Backup.To; to != "" {
		opts.Menders = append(opts.Menders, backup.NewSource(string(to), "", to.Open))
	}
	return scrub.New(db, store, opts), nil
}
