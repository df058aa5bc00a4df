package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/retention"
)

const (
	retentionEvery = 24 * time.Hour
	retentionLimit = 100_000 // tags and manifests that one run deletes
)

// retentionJob carries out what policies of retention let go. Without one it finds nothing to do.
func retentionJob(m *Metrics, db *meta.DB, enabled bool, by meta.Origin, log *slog.Logger) job.Job {
	tags := m.Counter("berth_retention_tags_total", "Tags that retention has deleted on this node.")
	manifests := m.Counter("berth_retention_manifests_total", "Manifests that retention has deleted on this node.")
	bytes := m.Counter("berth_retention_bytes_total", "Bytes that are free when what retention has deleted on this node is collected.")
	return job.Job{Name: "retention", Every: retentionEvery, Run: func(ctx context.Context) (string, error) {
		if !enabled {
			return "deleting is switched off", nil
		}
		res, err := retention.Run(ctx, db, by, retentionLimit, time.Now)
		tags.Add(float64(res.Tags))
		manifests.Add(float64(res.Manifests))
		bytes.Add(float64(res.Bytes))
		if res.Tags+res.Manifests > 0 || res.More {
			log.Info("retention", "tags", res.Tags, "manifests", res.Manifests, "bytes", res.Bytes, "stayed", res.Stayed, "more", res.More)
		}
		return fmt.Sprintf("%d tags, %d manifests, %d bytes", res.Tags, res.Manifests, res.Bytes), err
	}}
}
