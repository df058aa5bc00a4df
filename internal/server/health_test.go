package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func ask(h http.Handler, method, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestReadinessNamesWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		r := NewReadiness(slog.New(slog.NewTextHandler(log, nil)))
		h := withHealth(r, http.NotFoundHandler())
		if code, body := ask(h, "GET", "/readyz"); code != 200 || body != "{\"status\":\"ready\"}\n" {
			t.Errorf("without checks: %d %s", code, body)
		}
		var broken error
		r.Add("database", func(context.Context) error { return broken })
		r.Add("blobs", func(context.Context) error { return nil })
		if code, body := ask(h, "GET", "/readyz"); code != 200 {
			t.Errorf("all is well: %d %s", code, body)
		}

		broken = errors.New("dial postgres://user:s3cret@db: no route to host")
		since := time.Now()
		for range 2 { // the time of the first failure stays
			code, body := ask(h, "GET", "/readyz")
			var answer readyAnswer
			if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 503 || answer.Status != "failing" || len(answer.Failed) != 1 ||
				answer.Failed[0].Check != "database" || !answer.Failed[0].Since.Equal(since.Truncate(time.Second)) {
				t.Errorf("%d %s", code, body)
			}
			if strings.Contains(body, "s3cret") || strings.Contains(body, "postgres") {
				t.Errorf("the answer tells too much: %s", body)
			}
			time.Sleep(time.Minute)
		}
		if n := strings.Count(log.String(), "no route to host"); n != 1 {
			t.Errorf("the failure is logged %d times:\n%s", n, log)
		}
		if code, body := ask(h, "GET", "/livez"); code != 200 || body != "ok\n" {
			t.Errorf("/livez: %d %s", code, body)
		}

		broken = nil
		if code, _ := ask(h, "GET", "/readyz"); code != 200 || !strings.Contains(log.String(), "failed_for=2m0s") {
			t.Errorf("after the repair: %d\n%s", code, log)
		}
		r.stop()
		if code, body := ask(h, "GET", "/readyz"); code != 503 || body != "{\"status\":\"stopping\"}\n" {
			t.Errorf("while stopping: %d %s", code, body)
		}
	})
}

// A check that hangs, as a look at a dead network file system does, must not pile up.
func TestHangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReadiness(slog.New(slog.DiscardHandler))
		var runs atomic.Int64
		end := make(chan struct{})
		r.Add("blobs", func(context.Context) error { runs.Add(1); <-end; return nil })
		start := time.Now()
		for range 3 {
			if code, body := ask(r, "GET", "/readyz"); code != 503 || !strings.Contains(body, `"blobs"`) {
				t.Errorf("%d %s", code, body)
			}
		}
		if took := time.Since(start); took != 3*checkTimeout || runs.Load() != 1 {
			t.Errorf("three answers took %s, and the check ran %d times", took, runs.Load())
		}
		close(end)
		synctest.Wait()
		if code, body := ask(r, "GET", "/readyz"); code != 200 || runs.Load() != 2 {
			t.Errorf("after the check came back: %d %s", code, body)
		}
	})
}

// A client that goes away says nothing about the checks.
func TestClientLeavesBeforeTheChecksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		r := NewReadiness(slog.New(slog.NewTextHandler(log, nil)))
		r.Add("slow", func(context.Context) error { time.Sleep(time.Second); return nil })
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, leave)
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/readyz", nil).WithContext(ctx))
		if log.String() != "" {
			t.Errorf("the log says %s", log)
		}
		time.Sleep(2 * time.Second)
	})
}

func TestHealthIsServedWithTheRegistry(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "app "+r.URL.Path) }), nil)
	metrics := "http://" + s.MetricsAddr().String()
	for url, want := range map[string]string{
		s.url + "/livez": "ok\n", s.url + "/readyz": "{\"status\":\"ready\"}\n", metrics + "/livez": "ok\n", metrics + "/readyz": "{\"status\":\"ready\"}\n",
		s.url + "/livez/": "app /livez/", s.url + "/v2/": "app /v2/",
	} {
		if a := get(http.DefaultClient, url); a.err != nil || a.body != want {
			t.Errorf("%s answers %+v, want %q", url, a, want)
		}
	}
	if code, body := ask(withHealth(NewReadiness(nil), nil), "POST", "/livez"); code != 405 {
		t.Errorf("POST answers %d %s", code, body)
	}
}
