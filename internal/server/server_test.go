package server

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/certificate"
)

// patience is how long tests wait for what must happen. It is never reached when all is well.
const patience = 30 * time.Second

// logBuffer collects a log that many goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a server on real listeners.
type running struct {
	*Server
	url    string
	log    *logBuffer
	stop   context.CancelFunc // as a signal would
	result chan error         // of Serve
	closed chan struct{}      // closed when the application is
	done   context.Context    // what the application was built with
}

// start serves app with the default configuration as changed by set. The
// server is stopped when the test ends.
func start(t *testing.T, app http.Handler, set func(*Config)) *running {
	t.Helper()
	cfg := Default()
	cfg.Listen, cfg.Data = "127.0.0.1:0", filepath.Join(t.TempDir(), "data")
	cfg.Metrics.Listen = "127.0.0.1:0"
	if set != nil {
		set(cfg)
	}
	r := &running{log: new(logBuffer), result: make(chan error, 1), closed: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := newServer(ctx, cfg, log, func(ctx context.Context, _ *Config, _ *slog.Logger, _ *Metrics, _ *Readiness, _ *certificate.Store) (http.Handler, func() error, error) {
		r.done = ctx
		return app, func() error { close(r.closed); return nil }, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	r.url = "http://" + s.Addr().String()
	go func() {
		r.result <- s.Serve(ctx)
		close(r.result)
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.result:
		case <-time.After(patience):
			t.Error("the server does not stop")
		}
		if t.Failed() {
			t.Log(r.log)
		}
	})
	return r
}

// await returns the value that comes, or fails the test.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waiting for %s", what)
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting until %s", what)
		}
	}
}

// client returns an HTTP client with connections of its own, for HTTP/1.1 or HTTP/2 without TLS.
func client(t *testing.T, h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// dial opens a connection and sends what is given.
func dial(t *testing.T, addr net.Addr, send string) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(send)); err != nil {
		t.Fatal(err)
	}
	return c
}
