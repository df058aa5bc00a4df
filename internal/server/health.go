package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// checkTimeout is how long /readyz waits for a check.
const checkTimeout = 5 * time.Second

// Readiness tells whether the server can do its work. It serves /readyz: 200 if
// every check succeeds, 503 if not, with JSON that names the checks that fail and since when. Why they fail is
// logged and not answered, because anyone can ask.
//
// All methods may be called concurrently.
type Readiness struct {
	log      *slog.Logger
	stopping atomic.Bool
	flight   singleflight.Group // one run of a check at a time, even if it hangs for ever

	mu     sync.Mutex
	checks []*check
}

type check struct {
	name  string
	run   func(context.Context) error
	since time.Time // of the first failure in an unbroken row; under Readiness.mu
}

// NewReadiness returns a Readiness without checks.
func NewReadiness(log *slog.Logger) *Readiness { return &Readiness{log: log} }

// Add adds a check, which should answer within a second and may be called
// concurrently with everything else. What it returns is for the log only.
func (r *Readiness) Add(name string, run func(ctx context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(r.checks, &check{name: name, run: run})
}

// stop makes the answer 503 from now on.
func (r *Readiness) stop() { r.stopping.Store(true) }

// readyAnswer is the body of /readyz.
type readyAnswer struct {
	Status string        `json:"status"` // ready, failing or stopping
	Failed []failedCheck `json:"failed,omitempty"`
}

type failedCheck struct {
	Check string    `json:"check"`
	Since time.Time `json:"since"`
}

// ServeHTTP implements http.Handler.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	answer, status := readyAnswer{Status: "ready"}, http.StatusOK
	if r.stopping.Load() {
		answer.Status, status = "stopping", http.StatusServiceUnavailable
	} else if failed := r.failed(req.Context()); len(failed) > 0 {
		answer, status = readyAnswer{"failing", failed}, http.StatusServiceUnavailable
	}
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, "the answer cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// failed runs all checks at once.
func (r *Readiness) failed(ctx context.Context) []failedCheck {
	r.mu.Lock()
	checks := slices.Clone(r.checks)
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(checks))
	for i, c := range checks {
		wg.Go(func() { errs[i] = r.run(ctx, c) })
	}
	wg.Wait()
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil // the client has gone, which says nothing about the checks
	}

	var failed []failedCheck
	for i, c := range checks {
		if since, ok := r.note(c, errs[i]); !ok {
			failed = append(failed, failedCheck{c.name, since})
		}
	}
	return failed
}

// run waits for one check as long as ctx lasts. Who asks while it runs waits for the same run.
func (r *Readiness) run(ctx context.Context, c *check) error {
	result := r.flight.DoChan(c.name, func() (any, error) {
		// Others may wait for this run when the first one who asked has gone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		return nil, c.run(ctx)
	})
	select {
	case res := <-result:
		return res.Err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %s: %w", checkTimeout, ctx.Err())
	}
}

// note remembers and logs when a check begins and ceases to fail.
func (r *Readiness) note(c *check, err error) (since time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && !c.since.IsZero():
		r.log.Info("readiness check succeeds again", "check", c.name, "failed_for", time.Since(c.since).Round(time.Second))
		c.since = time.Time{}
	case err != nil && c.since.IsZero():
		r.log.Warn("readiness check fails", "check", c.name, "error", err)
		c.since = time.Now().UTC().Truncate(time.Second)
	}
	return c.since, err == nil
}

// livez answers that the process serves requests. It looks at nothing else: a
// restart mends no database.
func livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte("ok\n"))
}

// withHealth answers /livez and /readyz, and leaves the rest to next.
func withHealth(ready *Readiness, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var health http.Handler
		switch r.URL.Path {
		case "/livez":
			health = http.HandlerFunc(livez)
		case "/readyz":
			health = ready
		default:
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are allowed", http.StatusMethodNotAllowed)
			return
		}
		health.ServeHTTP(w, r)
	})
}
