package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/berthregistry/berth/internal/certificate"
	"github.com/berthregistry/berth/internal/http1"
)

// Server is one running registry. It is made by New and used by one goroutine.
type Server struct {
	cfg *Config
	log *slog.Logger

	lock     *Lock
	ready    *Readiness
	conns    *connections
	requests atomic.Int64 // handlers that run at this moment

	certs *certificate.Store // nil without TLS

	listener, metricsListener, redirectListener net.Listener // the latter two are nil without metrics and redirect
	http                                        *http1.Server
	metricsHTTP, redirectHTTP                   *http.Server

	// Of the application: abort cuts the requests that are left, endWork ends background
	// work, closeApp waits for it and closes storage.
	abort, endWork context.CancelFunc
	closeApp       func() error
}

// Run serves the registry until ctx ends, then stops as Serve says.
func Run(ctx context.Context, cfg *Config, log *slog.Logger) error {
	s, err := New(ctx, cfg, log)
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}

// New takes the data folder, builds the application and binds the listeners; the
// kernel accepts connections from then on. Serve must be called next. Its
// cost does not depend on how much is stored.
func New(ctx context.Context, cfg *Config, log *slog.Logger) (*Server, error) {
	return newServer(ctx, cfg, log, build)
}

// builder is the type of build.
type builder func(context.Context, *Config, *slog.Logger, *Metrics, *Readiness, *certificate.Store) (http.Handler, func() error, error)

func newServer(ctx context.Context, cfg *Config, log *slog.Logger, build builder) (_ *Server, err error) {
	s := &Server{cfg: cfg, log: log, ready: NewReadiness(log), conns: newConnections(openable(cfg.Limits.Connections, log))}
	var undo []func() error
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				err = errors.Join(err, undo[i]())
			}
		}
	}()

	if !cfg.Stateless() {
		if s.lock, err = useData(cfg); err != nil {
			return nil, err
		}
		undo = append(undo, s.lock.Release)
	}

	if s.certs, err = openCertificates(cfg, log); err != nil {
		return nil, err
	}
	// Bound before anything is opened, so that a wrong address costs nothing.
	if s.listener, err = listen(ctx, cfg.Listen, s.refusal("listen", cfg.checkExposure)); err != nil {
		return nil, err
	}
	undo = append(undo, s.listener.Close)
	if cfg.Metrics.Listen != "" {
		if s.metricsListener, err = listen(ctx, cfg.Metrics.Listen, s.refusal("metrics.listen", cfg.checkMetricsExposure)); err != nil {
			return nil, err
		}
		undo = append(undo, s.metricsListener.Close)
	}
	if cfg.TLS.RedirectListen != "" {
		// There is nothing of the registry to be had.
		if s.redirectListener, err = listen(ctx, cfg.TLS.RedirectListen, func(Address, netip.Addr) error { return nil }); err != nil {
			return nil, err
		}
		undo = append(undo, s.redirectListener.Close)
	}

	metrics := NewMetrics()
	metrics.Gauge("berth_http_connections", "Open connections.", func() float64 { return float64(s.conns.count()) })
	metrics.Gauge("berth_http_requests_in_flight", "Requests that are being answered.", func() float64 { return float64(s.requests.Load()) })
	metrics.CounterFunc("berth_http_connections_evicted_total", "Connections closed to keep within limits.connections.",
		func() float64 { return float64(s.conns.evicted.Load()) })

	if s.certs != nil {
		metrics.registry.MustRegister(certificateMetrics{s.certs})
	}

	// The application outlives ctx, until the last request has ended.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	app, closeApp, err := build(work, cfg, log, metrics, s.ready, s.certs)
	if err != nil {
		endWork()
		return nil, err
	}
	s.endWork, s.closeApp = endWork, closeApp
	s.http = s.newHTTPServer(work, withHealth(s.ready, app))
	if s.certs != nil {
		go s.certs.Watch(work)
	}
	if s.redirectListener != nil {
		s.redirectHTTP = s.newRedirectServer()
	}
	if s.metricsListener != nil {
		s.metricsHTTP = metricsServer(cfg.Metrics, metrics, s.ready, log)
	}
	return s, nil
}

// useData makes the data folder if need be and takes it.
func useData(cfg *Config) (*Lock, error) {
	if cfg.ReadOnly {
		return LockDataShared(cfg.Data)
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	return LockData(cfg.Data)
}

// refusal makes a ConfigError of what a check of an address says.
func (s *Server) refusal(key string, check func(Address, netip.Addr) error) func(Address, netip.Addr) error {
	return func(a Address, ip netip.Addr) error {
		if err := check(a, ip); err != nil {
			return &ConfigError{[]Problem{s.cfg.problem(key, err.Error())}}
		}
		return nil
	}
}

// newHTTPServer sets the limits that hold before a handler sees a request. Bodies have no
// timeouts here; the handlers ask for progress instead.
func (s *Server) newHTTPServer(work context.Context, app http.Handler) *http1.Server {
	requests, abort := context.WithCancel(work)
	s.abort = abort
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	t := s.cfg.Timeouts
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.requests.Add(1)
			defer s.requests.Add(-1)
			app.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: t.Header.D(),
		IdleTimeout:       t.KeepAlive.D(),
		MaxHeaderBytes:    int(s.cfg.Limits.Header),
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			// A stream of its own does not notice that the connection below it is dead.
			SendPingTimeout:  t.Idle.D() / 2,
			PingTimeout:      t.Idle.D() / 2,
			WriteByteTimeout: t.Idle.D(),
		},
		ConnState:   s.conns.track,
		BaseContext: func(net.Listener) context.Context { return requests },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what clients do wrong
	}
	if s.certs != nil {
		useTLS(srv, s.certs)
	}
	return http1.New(srv)
}

// Addr returns the address that clients connect to.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// MetricsAddr returns the address of the metrics, or nil without them.
func (s *Server) MetricsAddr() net.Addr {
	if s.metricsListener == nil {
		return nil
	}
	return s.metricsListener.Addr()
}

// RedirectAddr returns the address that sends clients to the first one, or nil without it.
func (s *Server) RedirectAddr() net.Addr {
	if s.redirectListener == nil {
		return nil
	}
	return s.redirectListener.Addr()
}

// Serve answers requests until ctx ends, or a listener fails. Then /readyz turns 503, no
// connection is accepted any more, idle ones are closed, and requests go on for at most
// timeouts.stop. In the end storage is closed and the data folder given back.
// The error is nil if every request could end.
func (s *Server) Serve(ctx context.Context) error {
	switch {
	case !s.cfg.InsecureOpen:
	case !s.cfg.Auth.Enabled:
		s.log.Warn("insecure_open is set: everyone who reaches this server can pull, push and delete")
	case !s.cfg.guarded():
		s.log.Warn("insecure_open is set, and nothing says that TLS ends here or before: passwords and tokens can be read on the way")
	}
	failed := make(chan error, 3)
	serve := s.http.Serve
	if s.certs != nil {
		serve = s.http.ServeTLS
	}
	go func() { failed <- serve(&limited{Listener: s.listener, c: s.conns}) }()
	if s.redirectHTTP != nil {
		go func() { failed <- s.redirectHTTP.Serve(&limited{Listener: s.redirectListener, c: s.conns}) }()
		s.log.Info("redirecting to https", "address", s.redirectListener.Addr().String())
	}
	if s.metricsHTTP != nil {
		go func() { failed <- s.metricsHTTP.Serve(s.metricsListener) }()
		s.log.Info("serving metrics", "address", s.metricsListener.Addr().String())
	}
	s.log.Info("serving", "address", s.listener.Addr().String(), "tls", s.certs != nil, "data", s.cfg.place())
	notifyManager("READY=1")

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("accept connections: %w", err)
	}
	return errors.Join(err, s.stop())
}

// abortWait is how long handlers have to return after their requests were cut off.
const abortWait = 5 * time.Second

func (s *Server) stop() error {
	s.ready.stop()
	notifyManager("STOPPING=1")
	s.log.Info("stopping", "requests", s.requests.Load(), "limit", s.cfg.Timeouts.Stop.String())

	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeouts.Stop.D())
	defer cancel()
	if s.redirectHTTP != nil {
		_ = s.redirectHTTP.Close() // its answers are short, and lead here
	}
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		n := s.requests.Load()
		_ = s.http.Close() // first, so that nothing that is cut off looks whole
		s.abort()
		err = fmt.Errorf("stop: %d requests were cut off after %s", n, s.cfg.Timeouts.Stop)
	}
	// Storage must not be closed under a handler. Shutdown waits for connections, and Close
	// for nothing.
	for deadline := time.Now().Add(abortWait); s.requests.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	s.abort()
	s.endWork()
	err = errors.Join(err, s.closeApp())
	if s.metricsHTTP != nil {
		err = errors.Join(err, s.metricsHTTP.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Release())
	}
	s.log.Info("stopped")
	return err
}
