package server

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/pulls"
	"github.com/berthregistry/berth/internal/retention"
)

// retentionJob carries out what policies of retention let go. Without one it finds nothing to do.
func retentionJob(cfg *Config, m *Metrics, db *meta.DB, pulled *pulls.Recorder, log *slog.Logger) job.Job {
	tags := m.Counter("berth_retention_tags_total", "Tags that retention has deleted on this node.")
	manifests := m.Counter("berth_retention_manifests_total", "Manifests that retention has deleted on this node.")
	bytes := m.Counter("berth_retention_bytes_total", "Bytes that are free when what retention has deleted on this node is collected.")
	stayed := m.Counter("berth_retention_stayed_total", "Tags and manifests of plans of this node that stayed because they had moved, or were used or needed since.")
	opts := retention.Options{
		Origin: meta.Origin{Actor: "retention", Method: "retention", Trash: cfg.Trash.Keep > 0, Audit: cfg.Auth.Enabled},
		Limit:  cfg.Retention.Limit,
		Flush:  pulled.Flush,
	}
	return job.Job{Name: retention.Job, Every: cfg.Retention.Interval.orNever(), Window: cfg.Retention.Window.Window, Run: func(ctx context.Context) (string, error) {
		if !cfg.Delete {
			return "deleting is switched off", nil
		}
		res, err := retention.Run(ctx, db, opts)
		tags.Add(float64(res.Tags))
		manifests.Add(float64(res.Manifests))
		bytes.Add(float64(res.Bytes))
		stayed.Add(float64(res.Stayed))
		if res.Tags+res.Manifests > 0 || res.More {
			log.Info("retention", "tags", res.Tags, "manifests", res.Manifests, "bytes", res.Bytes, "stayed", res.Stayed, "more", res.More)
		}
		text := fmt.Sprintf("%d tags, %d manifests, %d bytes", res.Tags, res.Manifests, res.Bytes)
		if res.More {
			text += "; there is more"
		}
		return text, err
	}}
}
