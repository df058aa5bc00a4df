package server

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthregistry/berth/internal/certificate"
	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
)

// on tells whether the registry is served with TLS.
func (t TLS) on() bool { return t.Certificate != "" || len(t.ACME.Hosts) > 0 }

// eabKey decodes the key. Authorities give it with padding or without, and in either alphabet.
func (a ACME) eabKey() ([]byte, error) {
	text := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(a.EABKey.Reveal(), "="))
	return base64.RawURLEncoding.DecodeString(text)
}

// openCertificates reads the files of certificates. It returns nil without TLS.
func openCertificates(cfg *Config, log *slog.Logger) (*certificate.Store, error) {
	t := cfg.TLS
	if !t.on() {
		return nil, nil
	}
	opts := certificate.Options{Log: log, ClientCA: t.ClientCA, RequireClient: t.ClientCertificate == PresenceRequired}
	if t.Certificate != "" {
		opts.Pairs = append(opts.Pairs, certificate.Pair{Certificate: t.Certificate, Key: t.Key})
	}
	for _, m := range t.More {
		opts.Pairs = append(opts.Pairs, certificate.Pair(m))
	}
	return certificate.Open(opts)
}

// openACME returns what orders certificates for the store, or nil if none are ordered.
func openACME(ctx context.Context, cfg *Config, log *slog.Logger, store *certificate.Store, db *meta.DB, jobs *job.Runner) (*certificate.ACME, error) {
	c := cfg.TLS.ACME
	if len(c.Hosts) == 0 {
		return nil, nil
	}
	opts := certificate.ACMEOptions{
		Log:       log,
		Directory: string(c.Directory),
		Email:     c.Email,
		KeyID:     c.EABKeyID,
		HTTP:      cfg.TLS.RedirectListen != "",
		ReadOnly:  cfg.ReadOnly,
	}
	for _, h := range c.Hosts {
		opts.Hosts = append(opts.Hosts, string(h))
	}
	var err error
	if opts.Key, err = c.eabKey(); err != nil {
		return nil, err
	}
	if c.CAFile != "" {
		pem, err := readSmall(c.CAFile, maxConfig)
		if err != nil {
			return nil, fmt.Errorf("read tls.acme.ca_file: %w", err)
		}
		opts.Roots = x509.NewCertPool()
		if !opts.Roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.acme.ca_file: %s holds no certificate in PEM", c.CAFile)
		}
	}
	return certificate.NewACME(ctx, store, db, jobs, opts)
}

// useTLS makes a server speak TLS. A connection on which an authority has made its challenge may have come about without a
// client's certificate. net/http closes it, as any whose protocol it does not speak.
func useTLS(srv *http.Server, certs *certificate.Store) {
	srv.TLSConfig = certs.Config()
	srv.Protocols.SetUnencryptedHTTP2(false)
	srv.Protocols.SetHTTP2(true)
}

// challengePath is where an authority looks for the answer to HTTP-01 (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// newRedirectServer sends clients from HTTP to HTTPS, and answers the challenges of authorities.
func (s *Server) newRedirectServer() *http.Server {
	_, port, _ := net.SplitHostPort(s.listener.Addr().String()) // none of a Unix socket
	redirect := func(w http.ResponseWriter, r *http.Request) {
		if token, ok := strings.CutPrefix(r.URL.Path, challengePath); ok {
			if answer, ok := s.certs.HTTPChallenge(r.Context(), hostOf(r.Host), token); ok {
				w.Header().Set("Content-Type", "application/octet-stream")
				_, _ = w.Write([]byte(answer))
				return
			}
		}
		to := secureURL(string(s.cfg.ExternalURL), r.Host, port, r.URL)
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			// What was sent has been seen by everyone on the way: better to have it noticed than mended in silence.
			http.Error(w, "use https", http.StatusForbidden)
		case to == "":
			http.Error(w, "the Host header names no host", http.StatusBadRequest)
		default:
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusPermanentRedirect)
		}
	}
	t := s.cfg.Timeouts
	return &http.Server{
		Handler:           http.HandlerFunc(redirect),
		ReadHeaderTimeout: t.Header.D(),
		ReadTimeout:       t.Header.D(),
		WriteTimeout:      t.Header.D() + 10*time.Second, // the database may be asked
		IdleTimeout:       t.KeepAlive.D(),
		MaxHeaderBytes:    int(s.cfg.Limits.Header),
		ConnState:         s.conns.track,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// secureURL returns where a client is sent that has asked host for u without TLS: to the external URL, or to the same
// host at a port. It is empty if host names none.
func secureURL(external, host, port string, u *url.URL) string {
	base, err := url.Parse(external)
	if err != nil || external == "" {
		name := hostOf(host)
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(hostChars+"_:", r) }) {
			return ""
		}
		if _, err := netip.ParseAddr(name); err != nil && strings.Contains(name, ":") {
			return ""
		}
		base = &url.URL{Scheme: "https", Host: strings.TrimSuffix(net.JoinHostPort(name, cmp.Or(port, "443")), ":443")}
	}
	return (&url.URL{Scheme: base.Scheme, Host: base.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
}

// hostOf returns the name or address in a Host header, in lower case and without brackets.
func hostOf(header string) string {
	if host, _, err := net.SplitHostPort(header); err == nil {
		header = host
	}
	return strings.ToLower(strings.Trim(header, "[]"))
}

// certificateMetrics tells of the certificates in use.
type certificateMetrics struct{ store *certificate.Store }

var (
	certificateEnd   = prometheus.NewDesc("berth_tls_certificate_expiry_timestamp_seconds", "When a certificate in use expires, by its file or host; 0 while there is none for the host.", []string{"certificate"}, nil)
	certificateStale = prometheus.NewDesc("berth_tls_certificate_stale", "1 if a file holds what cannot be used, so that the certificate before it is in use.", []string{"certificate"}, nil)
)

// Describe implements prometheus.Collector.
func (c certificateMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- certificateEnd
	to <- certificateStale
}

// Collect implements prometheus.Collector.
func (c certificateMetrics) Collect(to chan<- prometheus.Metric) {
	truth := map[bool]float64{true: 1}
	for _, u := range c.store.InUse() {
		end := 0.0
		if !u.NotAfter.IsZero() {
			end = float64(u.NotAfter.Unix())
		}
		to <- prometheus.MustNewConstMetric(certificateEnd, prometheus.GaugeValue, end, u.Name)
		to <- prometheus.MustNewConstMetric(certificateStale, prometheus.GaugeValue, truth[u.Stale], u.Name)
	}
}
