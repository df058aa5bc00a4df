package server

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/scrub"
)

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

// observeBucket counts the requests to a bucket.
func observeBucket(m *Metrics) func(s3.Observation) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_bucket_requests_total",
		Help: "Requests to the bucket, by operation and result: ok, failed, or retried if it failed and was made again.",
	}, []string{"operation", "result"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "berth_bucket_request_duration_seconds",
		Help:    "Time until the bucket answered, by operation.",
		Buckets: durationBuckets,
	}, []string{"operation"})
	m.registry.MustRegister(requests, duration)
	return func(o s3.Observation) {
		result := "ok"
		switch {
		case o.Retried:
			result = "retried"
		case o.Err != nil:
			result = "failed"
		}
		requests.WithLabelValues(o.Operation, result).Inc()
		duration.WithLabelValues(o.Operation).Observe(o.Duration.Seconds())
	}
}

// observeRefusals counts requests that were refused because a client asked too often.
func observeRefusals(m *Metrics) func(ratelimit.Kind, bool) {
	type key struct {
		kind    ratelimit.Kind
		account bool
	}
	counters := make(map[key]prometheus.Counter) // not changed from now on
	add := func(kind ratelimit.Kind, account bool, by string) {
		counters[key{kind, account}] = m.Counter("berth_rate_limited_requests_total",
			"Requests that were refused because a client asked too often, by what was limited and who.", "limit", string(kind), "by", by)
	}
	for _, kind := range []ratelimit.Kind{ratelimit.Requests, ratelimit.Pulls, ratelimit.Pushes} {
		add(kind, true, "account")
		add(kind, false, "network")
	}
	add(ratelimit.SignIns, false, "network")
	return func(kind ratelimit.Kind, account bool) { counters[key{kind, account}].Inc() }
}

// observeCollection counts what the collector takes away.
func observeCollection(m *Metrics) func(gc.Progress, time.Duration, error) {
	const passes = "berth_collection_passes_total"
	ok := m.Counter(passes, "Passes of the collector, by result.", "result", "ok")
	failed := m.Counter(passes, "Passes of the collector, by result.", "result", "failed")
	seconds := m.Counter("berth_collection_seconds_total", "Time that the collector was at work.")
	blobs := m.Counter("berth_collection_blobs_total", "Blobs that were collected.")
	bytes := m.Counter("berth_collection_bytes_total", "Bytes of the blobs that were collected.")
	uploads := m.Counter("berth_collection_uploads_total", "Upload sessions that expired.")
	trash := m.Counter("berth_collection_trash_total", "Manifests whose time in the trash was over.")
	orphans := m.Counter("berth_collection_orphans_total", "Objects that no row spoke of, such as a crash leaves.")
	objects := m.Counter("berth_collection_objects_total", "Objects that were deleted from the storage.")
	rows := m.Counter("berth_collection_rows_read_total", "Rows of the database that were read to find and take away garbage.")
	return func(r gc.Progress, took time.Duration, err error) {
		if err != nil {
			failed.Inc()
		} else {
			ok.Inc()
		}
		seconds.Add(took.Seconds())
		blobs.Add(float64(r.Blobs))
		bytes.Add(float64(r.Bytes))
		uploads.Add(float64(r.Uploads))
		trash.Add(float64(r.Trash))
		orphans.Add(float64(r.Orphans))
		objects.Add(float64(r.Objects))
		rows.Add(float64(r.Rows))
	}
}

// storedMetrics tells what the scrub and the collection have noted in the database, so that every node shows the same.
type storedMetrics struct{ db *meta.DB }

var (
	damagedBlobs  = prometheus.NewDesc("berth_damaged_blobs", "Blobs whose stored bytes are known to be damaged: rotten, missing or unreadable.", []string{"damage"}, nil)
	scrubbedAll   = prometheus.NewDesc("berth_scrub_last_pass_timestamp_seconds", "When the last scrub ended that read everything.", nil, nil)
	trashed       = prometheus.NewDesc("berth_trash_manifests", "Manifests that lay in the trash when the last collection ended.", nil, nil)
	trashedBytes  = prometheus.NewDesc("berth_trash_bytes", "Bytes that only what lay in the trash needed when the last collection ended.", nil, nil)
	verifiedSince = prometheus.NewDesc("berth_scrub_verified_since_timestamp_seconds", "Since then, all that is stored was read and found to be right, or damaged.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s storedMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- trashed
	to <- trashedBytes
	to <- damagedBlobs
	to <- scrubbedAll
	to <- verifiedSince
}

// Collect implements prometheus.Collector. It shows nothing while the database cannot be reached.
func (s storedMetrics) Collect(to chan<- prometheus.Metric) {
	ctx := context.Background()
	counts, err := s.db.CountDamaged(ctx)
	if err != nil {
		return
	}
	for damage, n := range counts {
		to <- prometheus.MustNewConstMetric(damagedBlobs, prometheus.GaugeValue, float64(n), string(damage))
	}
	if since, err := s.db.AllVerifiedSince(ctx); err == nil && !since.IsZero() {
		to <- prometheus.MustNewConstMetric(verifiedSince, prometheus.GaugeValue, float64(since.UnixMilli())/1000)
	}
	if j, err := s.db.Job(ctx, gc.Job); err == nil {
		if state, err := gc.StateOf(j); err == nil && state.Last != nil {
			to <- prometheus.MustNewConstMetric(trashed, prometheus.GaugeValue, float64(state.Last.InTrash.Manifests))
			to <- prometheus.MustNewConstMetric(trashedBytes, prometheus.GaugeValue, float64(state.Last.InTrash.Bytes))
		}
	}
	if j, err := s.db.Job(ctx, scrub.Job); err == nil {
		if state, err := scrub.StateOf(j); err == nil && state.Last != nil {
			to <- prometheus.MustNewConstMetric(scrubbedAll, prometheus.GaugeValue, float64(state.Last.Ended.UnixMilli())/1000)
		}
	}
}

// observeDatabase shows how busy the database's connections are.
func observeDatabase(m *Metrics, db *meta.DB) {
	value := func(of func(meta.Stats) float64) func() float64 {
		return func() float64 { return of(db.Stats()) }
	}
	m.Gauge("berth_database_connections_limit", "Connections to the database that may be open.",
		value(func(s meta.Stats) float64 { return float64(s.Limit) }))
	m.Gauge("berth_database_connections_open", "Connections to the database that are open.",
		value(func(s meta.Stats) float64 { return float64(s.Open) }))
	m.Gauge("berth_database_connections_in_use", "Connections to the database that are in use.",
		value(func(s meta.Stats) float64 { return float64(s.InUse) }))
	m.CounterFunc("berth_database_waits_total", "How often a connection to the database had to be waited for.",
		value(func(s meta.Stats) float64 { return float64(s.Waits) }))
	m.CounterFunc("berth_database_wait_seconds_total", "How long connections to the database were waited for.",
		value(func(s meta.Stats) float64 { return s.Waited.Seconds() }))
	m.CounterFunc("berth_database_retries_total", "Changes and queries that were made again after a conflict or a lost connection.",
		value(func(s meta.Stats) float64 { return float64(s.Retries) }))
	m.CounterFunc("berth_database_statements_total", "SQL statements, those aside that begin and end transactions.",
		value(func(s meta.Stats) float64 { return float64(s.Statements) }))
	m.CounterFunc("berth_database_rows_read_total", "Rows that statements returned.",
		value(func(s meta.Stats) float64 { return float64(s.Rows) }))
}

// jobMetrics tells of periodic jobs what the database knows, so that every node shows the same.
type jobMetrics struct{ db *meta.DB }

var (
	jobEnded  = prometheus.NewDesc("berth_job_last_end_timestamp_seconds", "When the last run of a job ended, on whichever node.", []string{"job"}, nil)
	jobTook   = prometheus.NewDesc("berth_job_last_duration_seconds", "How long the last run of a job took.", []string{"job"}, nil)
	jobFailed = prometheus.NewDesc("berth_job_last_failed", "1 if the last run of a job failed.", []string{"job"}, nil)
	jobPaused = prometheus.NewDesc("berth_job_paused", "1 if somebody has paused a job.", []string{"job"}, nil)
	jobRuns   = prometheus.NewDesc("berth_job_running", "1 if a node has the lease on a job.", []string{"job"}, nil)
)

// Describe implements prometheus.Collector.
func (j jobMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{jobEnded, jobTook, jobFailed, jobRuns, jobPaused} {
		to <- d
	}
}

// Collect implements prometheus.Collector. It shows nothing while the database cannot be reached.
func (j jobMetrics) Collect(to chan<- prometheus.Metric) {
	jobs, err := j.db.Jobs(context.Background())
	if err != nil {
		return
	}
	gauge := func(d *prometheus.Desc, name string, v float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
	}
	truth := map[bool]float64{true: 1}
	for _, job := range jobs {
		gauge(jobRuns, job.Name, truth[job.Holder != ""])
		gauge(jobPaused, job.Name, truth[!job.Paused.IsZero()])
		if job.Took < 0 {
			continue // it has not run yet
		}
		gauge(jobEnded, job.Name, float64(job.Ended.UnixMilli())/1000)
		gauge(jobTook, job.Name, job.Took.Seconds())
		gauge(jobFailed, job.Name, truth[job.Error != ""])
	}
}

// countUnfinished is the time between two counts of unfinished uploads.
const countUnfinished = time.Hour

// observeUnfinished is a job that shows how many multipart uploads were begun in the bucket and given up. The collector
// removes those of this registry in time; others stay for ever, and cost. One node at a time counts; what another one
// counted before is not shown for long, since it changes no more.
func observeUnfinished(m *Metrics, bucket *s3.Store, now func() time.Time) func(context.Context) (string, error) {
	type count struct {
		n  int64
		at time.Time
	}
	var last atomic.Pointer[count]
	m.Gauge("berth_bucket_unfinished_uploads",
		"Multipart uploads in the bucket that were begun more than a day ago and have not ended, by the node that counted them last.",
		func() float64 {
			if c := last.Load(); c != nil && now().Sub(c.at) < 2*countUnfinished {
				return float64(c.n)
			}
			return math.NaN()
		})
	return func(ctx context.Context) (string, error) {
		n, err := bucket.Unfinished(ctx)
		if err != nil {
			return "", err
		}
		last.Store(&count{n, now()})
		return fmt.Sprintf("%d unfinished uploads", n), nil
	}
}
