package server

import (
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrape reads /metrics as Prometheus does.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	a := get(http.DefaultClient, url+"/metrics")
	if a.err != nil {
		t.Fatal(a.err)
	}
	problems, err := promlint.New(strings.NewReader(a.body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "berth_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(a.body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, a.body)
	}
	return families
}

// sample finds the metric with these labels, given as "name=value".
func sample(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	if families[name] == nil || families[name].GetHelp() == "" {
		t.Fatalf("%s is not there, or without help", name)
	}
	for _, m := range families[name].Metric {
		var have []string
		for _, l := range m.Label {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if strings.Join(have, ",") == strings.Join(labels, ",") {
			return m
		}
	}
	t.Fatalf("%s%v is not there", name, labels)
	return nil
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	log := NewLogger(Log{}, new(logBuffer))
	srv := metricsServer(MetricsConfig{}, m, NewReadiness(log), log)
	l, err := listen(t.Context(), "127.0.0.1:0", allow)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	url := "http://" + l.Addr().String()

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				m.Observe("manifest", "GET", 200, 0, 500, 3*time.Millisecond)
				m.Observe("blob", "PUT", 201, 1<<20, 0, 2*time.Second)
			}
		})
	}
	wg.Wait()
	m.Observe("manifest", "GET", 404, 0, 100, time.Millisecond)
	m.Observe("manifest", "GET", 0, 0, 0, time.Hour)
	m.Observe("manifest", "BREW", 999, 0, 0, 0)
	m.Gauge("berth_blobs", "Blobs that are stored.", func() float64 { return 42 })
	m.Gauge("berth_blob_bytes", "Bytes that blobs take.", func() float64 { return math.NaN() })
	m.Counter("berth_collection_runs_total", "Collections that have ended.", "result", "ok").Add(3)
	m.Counter("berth_collection_runs_total", "Collections that have ended.", "result", "failed").Inc()

	f := scrape(t, url)
	for _, tt := range []struct {
		code string
		want float64
	}{{"2xx", 8000}, {"4xx", 1}, {"none", 1}, {"5xx", 0}} {
		if got := sample(t, f, "berth_http_requests_total", "code="+tt.code, "method=GET", "route=manifest").GetCounter().GetValue(); got != tt.want {
			t.Errorf("%s: %v requests, want %v", tt.code, got, tt.want)
		}
	}
	if got := sample(t, f, "berth_http_requests_total", "code=none", "method=other", "route=manifest").GetCounter().GetValue(); got != 1 {
		t.Errorf("an invented method: %v", got)
	}
	if got := sample(t, f, "berth_http_received_bytes_total", "method=PUT", "route=blob").GetCounter().GetValue(); got != 8000<<20 {
		t.Errorf("%v bytes were received", got)
	}
	if got := sample(t, f, "berth_http_sent_bytes_total", "method=GET", "route=manifest").GetCounter().GetValue(); got != 8000*500+100 {
		t.Errorf("%v bytes were sent", got)
	}
	h := sample(t, f, "berth_http_request_duration_seconds", "method=GET", "route=manifest").GetHistogram()
	if h.GetSampleCount() != 8002 || math.Abs(h.GetSampleSum()-(8000*.003+.001+3600)) > 1e-6 {
		t.Errorf("%d requests took %v s", h.GetSampleCount(), h.GetSampleSum())
	}
	for _, b := range h.Bucket {
		if b.GetUpperBound() == .0025 && b.GetCumulativeCount() != 1 || b.GetUpperBound() == .005 && b.GetCumulativeCount() != 8001 {
			t.Errorf("%d requests took at most %v s", b.GetCumulativeCount(), b.GetUpperBound())
		}
	}
	if got := sample(t, f, "berth_blobs").GetGauge().GetValue(); got != 42 {
		t.Errorf("berth_blobs is %v", got)
	}
	if got := sample(t, f, "berth_collection_runs_total", "result=ok").GetCounter().GetValue(); got != 3 {
		t.Errorf("berth_collection_runs_total is %v", got)
	}
	for _, name := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes"} {
		if f[name] == nil {
			t.Errorf("%s is not there", name)
		}
	}
}

// Pushes and pulls are use of the registry; looks at its state are not.
func TestUsed(t *testing.T) {
	m := NewMetrics()
	for route, want := range map[string]bool{"manifest": true, "blob": true, "uploads": true, "upload": true, "api": false, "base": false, "token": false} {
		m.Observe(route, "GET", 200, 0, 0, 0)
		if got := m.Used(); got != want {
			t.Errorf("after %s: used: %t", route, got)
		}
		if m.Used() {
			t.Errorf("%s counts twice", route)
		}
	}
}

func TestMetricsOfConnections(t *testing.T) {
	g := newGate()
	s := start(t, g, nil)
	done := make(chan answer)
	go func() { done <- get(client(t, false), s.url+"/wait") }()
	await(t, g.begun, "the request")
	f := scrape(t, "http://"+s.MetricsAddr().String())
	for name, want := range map[string]float64{"berth_http_connections": 1, "berth_http_requests_in_flight": 1} {
		if got := sample(t, f, name).GetGauge().GetValue(); got != want {
			t.Errorf("%s is %v", name, got)
		}
	}
	sample(t, f, "berth_http_connections_evicted_total")
	close(g.end)
	await(t, done, "the answer")
}

func TestMetricsListenerAsConfigured(t *testing.T) {
	off := start(t, newGate(), func(c *Config) { c.Metrics.Listen = "" })
	if off.MetricsAddr() != nil {
		t.Errorf("metrics are served at %s", off.MetricsAddr())
	}
	if a := get(http.DefaultClient, off.url+"/metrics"); a.body != "HTTP/1.1" {
		t.Errorf("the registry's listener answers /metrics with %+v", a)
	}

	s := start(t, newGate(), func(c *Config) {
		c.Metrics.Token = NewSecret("s3cret")
		c.Metrics.Profiles = true
	})
	status := func(path, authorization string) int {
		req, err := http.NewRequest("GET", "http://"+s.MetricsAddr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline"} {
		for authorization, want := range map[string]int{"Bearer s3cret": 200, "bearer s3cret": 200, "": 401, "Bearer s3cre": 401, "Bearer": 401, "Basic s3cret": 401, "s3cret": 401} {
			if got := status(path, authorization); got != want {
				t.Errorf("%s with %q: %d, want %d", path, authorization, got, want)
			}
		}
	}
	if got := status("/livez", ""); got != 200 {
		t.Errorf("/livez needs a token: %d", got)
	}
	plain := start(t, newGate(), nil)
	if a := get(http.DefaultClient, "http://"+plain.MetricsAddr().String()+"/debug/pprof/"); a.body != "404 page not found\n" {
		t.Errorf("profiles without the setting: %+v", a)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	m := NewMetrics()
	observe := func() { m.Observe("manifest", "GET", 200, 10, 500, time.Millisecond) }
	observe()
	if n := testing.AllocsPerRun(1000, observe); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := NewMetrics()
	routes := []string{"manifest", "blob", "upload", "tags", "referrers", "catalog", "base"}
	for _, r := range routes {
		m.Observe(r, "GET", 200, 1, 1, 1)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			m.Observe(routes[i%len(routes)], "GET", 200, 10, 500, time.Duration(i)*time.Microsecond)
		}
	})
}
