package server

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthregistry/berth/internal/meta"
)

// quotaObserver logs and counts what quotas do. It implements registry.QuotaObserver.
type quotaObserver struct {
	log     *slog.Logger
	refused prometheus.Counter

	mu   sync.Mutex
	near map[string]bool // organizations that have been warned of
}

func observeQuotas(m *Metrics, db *meta.DB, log *slog.Logger) *quotaObserver {
	m.registry.MustRegister(quotaMetrics{db})
	return &quotaObserver{
		log:     log,
		refused: m.Counter("berth_quota_refusals_total", "Pushes that did not fit into the quota of their organization."),
		near:    make(map[string]bool),
	}
}

// Standing logs once that an organization comes near its quota, and again when it has been away from it meanwhile.
func (q *quotaObserver) Standing(s meta.Standing) {
	near := s.Near()
	q.mu.Lock()
	known := q.near[s.Quota.Organization]
	if len(near) > 0 {
		q.near[s.Quota.Organization] = true
	} else {
		delete(q.near, s.Quota.Organization)
	}
	q.mu.Unlock()
	if known {
		return
	}
	for _, l := range near {
		q.log.Warn("an organization is near its quota", "organization", s.Quota.Organization, "resource", l.Resource, "used", l.Used, "limit", l.Limit)
	}
}

// Refused counts and logs a push that did not fit.
func (q *quotaObserver) Refused(e *meta.QuotaError) {
	q.refused.Inc()
	q.log.Warn("a push does not fit into the quota", "organization", e.Organization, "resource", e.Limit.Resource,
		"used", e.Limit.Used, "limit", e.Limit.Limit, "needed", e.Needed)
}

// quotaMetrics show how organizations stand that have a quota.
type quotaMetrics struct{ db *meta.DB }

// maxQuotas bounds the metrics.
const maxQuotas = 1000

var (
	quotaLimit = prometheus.NewDesc("berth_quota_limit", "What an organization may use at most.", []string{"organization", "resource"}, nil)
	quotaUsed  = prometheus.NewDesc("berth_quota_used", "What an organization uses of what its quota limits.", []string{"organization", "resource"}, nil)
)

// Describe implements prometheus.Collector.
func (quotaMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- quotaLimit
	to <- quotaUsed
}

// Collect implements prometheus.Collector. It shows nothing while the database cannot be reached, and of many quotas the first 1000.
func (q quotaMetrics) Collect(to chan<- prometheus.Metric) {
	all, err := q.db.Standings(context.Background(), "", maxQuotas)
	if err != nil {
		return
	}
	for _, s := range all {
		for _, l := range s.Quota.Limits(s.Usage) {
			to <- prometheus.MustNewConstMetric(quotaLimit, prometheus.GaugeValue, float64(l.Limit), s.Quota.Organization, string(l.Resource))
			to <- prometheus.MustNewConstMetric(quotaUsed, prometheus.GaugeValue, float64(l.Used), s.Quota.Organization, string(l.Resource))
		}
	}
}
