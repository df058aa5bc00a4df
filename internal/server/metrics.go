package server

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics counts what the server does, for Prometheus. All methods may be
// called concurrently.
type Metrics struct {
	registry *prometheus.Registry

	requests *prometheus.CounterVec
	received *prometheus.CounterVec
	sent     *prometheus.CounterVec
	duration *prometheus.HistogramVec

	// The counters of each route, resolved once. The map is copied when a route is
	// seen for the first time, so that counting takes no lock.
	series atomic.Pointer[map[routeMethod]*routeSeries]
	add    sync.Mutex // held while series is replaced

	used atomic.Bool // see Used
}

type routeMethod struct{ route, method string }

type routeSeries struct {
	requests       [6]prometheus.Counter // by the first digit of the status
	received, sent prometheus.Counter
	duration       prometheus.Observer
	content        bool // it is a request of a push or a pull
}

// durationBuckets are upper bounds in seconds: a request is a look into the database, or a large
// layer over a slow line.
var durationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}

// NewMetrics returns a set that holds the runtime's own measurements so far.
func NewMetrics() *Metrics {
	route := []string{"route", "method"}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_requests_total",
			Help: "Requests that were answered, by route, method and class of the status; the class is none if the client went before an answer.",
		}, []string{"route", "method", "code"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_received_bytes_total",
			Help: "Bytes of request bodies that were read.",
		}, route),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_sent_bytes_total",
			Help: "Bytes of response bodies that were sent.",
		}, route),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_http_request_duration_seconds",
			Help:    "Time from the end of a request's header to the end of the answer, bodies included.",
			Buckets: durationBuckets,
		}, route),
	}
	m.series.Store(&map[routeMethod]*routeSeries{})
	m.registry.MustRegister(m.requests, m.received, m.sent, m.duration,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector())
	return m
}

// Observe counts a request that has ended. The route is one of a fixed set, such as
// "manifest", never anything that a client chose; the status is 0 if there was no answer; in and
// out are the bytes of both bodies. It allocates nothing but for the first request of a route.
func (m *Metrics) Observe(route, method string, status int, in, out int64, d time.Duration) {
	key := routeMethod{route, knownMethod(method)}
	s := (*m.series.Load())[key]
	if s == nil {
		s = m.resolve(key)
	}
	class := status / 100
	if class < 0 || class >= len(s.requests) {
		class = 0
	}
	s.requests[class].Inc()
	if s.content && !m.used.Load() { // written seldom, so processors do not wait for each other
		m.used.Store(true)
	}
	if in > 0 {
		s.received.Add(float64(in))
	}
	if out > 0 {
		s.sent.Add(float64(out))
	}
	s.duration.Observe(d.Seconds())
}

// knownMethod keeps what clients invent out of the labels.
func knownMethod(method string) string {
	switch method {
	case "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS":
		return method
	}
	return "other"
}

func (m *Metrics) resolve(key routeMethod) *routeSeries {
	m.add.Lock()
	defer m.add.Unlock()
	old := *m.series.Load()
	if s := old[key]; s != nil {
		return s
	}
	s := &routeSeries{
		received: m.received.WithLabelValues(key.route, key.method),
		sent:     m.sent.WithLabelValues(key.route, key.method),
		duration: m.duration.WithLabelValues(key.route, key.method),
	}
	switch key.route {
	case "manifest", "blob", "uploads", "upload":
		s.content = true
	}
	for i, class := range [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		s.requests[i] = m.requests.WithLabelValues(key.route, key.method, class)
	}
	replaced := maps.Clone(old)
	replaced[key] = s
	m.series.Store(&replaced)
	return s
}

// Used tells whether something was pushed or pulled since it was called last. So it is for one caller.
func (m *Metrics) Used() bool { return m.used.Swap(false) }

// Gauge adds a value that goes up and down, read by calling value for each
// scrape. A value that cannot be had is math.NaN(). Names follow
// https://prometheus.io/docs/practices/naming/; one that is taken panics.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// CounterFunc adds a total that only grows and that is kept elsewhere.
func (m *Metrics) CounterFunc(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
}

// Counter adds a total that only grows; its name ends with _total. Labels are pairs of name and
// value; counters of one name differ in the values of the same labels.
func (m *Metrics) Counter(name, help string, labels ...string) prometheus.Counter {
	pairs := make(prometheus.Labels, len(labels)/2)
	for i := 0; i < len(labels); i += 2 {
		pairs[labels[i]] = labels[i+1]
	}
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: pairs})
	m.registry.MustRegister(c)
	return c
}
