package server

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/certificate"
)

// withTLS makes a configuration serve with a certificate for 127.0.0.1, and returns what verifies it.
func withTLS(t *testing.T, c *Config) *x509.CertPool {
	t.Helper()
	authority, err := certificate.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	ca, _, err := authority.PEM()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.Server([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c.TLS.Certificate, c.TLS.Key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, content := range map[string][]byte{c.TLS.Certificate: cert, c.TLS.Key: key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return pool
}

// startTLS is start with TLS, and returns a client for it.
func startTLS(t *testing.T, app http.Handler, h2 bool, set func(*Config)) (*running, *http.Client) {
	t.Helper()
	var pool *x509.CertPool
	s := start(t, app, func(c *Config) {
		pool = withTLS(t, c)
		if set != nil {
			set(c)
		}
	})
	s.url = "https://" + s.Addr().String()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return s, &http.Client{Transport: transport, Timeout: patience}
}

func TestBothProtocolsWithTLS(t *testing.T) {
	for h2, want := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		s, c := startTLS(t, newGate(), h2, nil)
		if a := get(c, s.url); a.err != nil || a.body != want {
			t.Errorf("h2=%v answers %+v, want %s", h2, a, want)
		}
		// Without TLS nothing is served, not even HTTP/2 with prior knowledge.
		if res, err := client(t, false).Get("http://" + s.Addr().String()); err != nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("a request without TLS: %v, %v", res, err)
		}
		if a := get(client(t, true), "http://"+s.Addr().String()); a.err == nil {
			t.Errorf("HTTP/2 without TLS answers %+v", a)
		}
		metrics := get(http.DefaultClient, "http://"+s.MetricsAddr().String()+"/metrics")
		name := fmt.Sprintf("berth_tls_certificate_expiry_timestamp_seconds{certificate=%q} ", s.cfg.TLS.Certificate)
		if !strings.Contains(metrics.body, name) || !strings.Contains(metrics.body, "berth_tls_certificate_stale{") {
			t.Errorf("the metrics lack %s", name)
		}
	}
}

func TestGracefulStopWithTLS(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		g := newGate()
		s, c := startTLS(t, g, h2, nil)
		result := make(chan answer, 1)
		go func() { result <- get(c, s.url+"/wait") }()
		await(t, g.begun, "the request")
		s.stop()
		eventually(t, "the listener is closed", func() bool {
			c, err := net.Dial("tcp", s.Addr().String())
			if err == nil {
				c.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		close(g.end)
		if a := await(t, result, "the answer"); a.err != nil || a.body != "done" {
			t.Errorf("h2=%v: the request in flight got %+v", h2, a)
		}
		if err := await(t, s.result, "the end"); err != nil {
			t.Errorf("h2=%v: Serve returns %v", h2, err)
		}
	}
}

// Who begins a handshake and does not end it is let go after timeouts.header.
func TestSlowHandshake(t *testing.T) {
	s, c := startTLS(t, newGate(), false, func(c *Config) { c.Timeouts.Header = Duration(time.Second) })
	for _, begin := range []string{"", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
		conn := dial(t, s.Addr(), begin)
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q the server waits for ever", begin)
		}
	}
	if a := get(c, s.url); a.err != nil {
		t.Error(a.err)
	}
}

// Connections that do not end their handshake make room for those that do.
func TestHandshakeFlood(t *testing.T) {
	s, c := startTLS(t, newGate(), false, func(c *Config) { c.Limits.Connections = 8 })
	for range 40 {
		dial(t, s.Addr(), "\x16\x03\x01")
	}
	if a := get(c, s.url); a.err != nil {
		t.Error(a.err)
	}
	if n := s.conns.evicted.Load(); n == 0 {
		t.Error("no connection had to make room")
	}
	if n := s.conns.count(); n > 8 {
		t.Errorf("%d connections are open", n)
	}
}

// A client that reads nothing cannot hold up the server when its connection has to make room.
func TestEvictionDoesNotSayGoodbye(t *testing.T) {
	client, server := net.Pipe() // which takes nothing unless it is read
	defer client.Close()
	conns := newConnections(4)
	secure := tls.Server(server, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return selfSigned(t), nil }})
	handshake := make(chan error, 1)
	go func() { handshake <- secure.Handshake() }()
	if err := tls.Client(client, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := await(t, handshake, "the handshake"); err != nil {
		t.Fatal(err)
	}
	conns.track(secure, http.StateNew)
	evicted := make(chan struct{})
	go func() {
		conns.mu.Lock()
		defer conns.mu.Unlock()
		conns.evict()
		close(evicted)
	}()
	// To say good-bye, the server would wait until the client reads, or for seconds; it closes the pipe instead.
	if n, err := io.Copy(io.Discard, client); n > 0 || err != nil {
		t.Errorf("the client is sent %d bytes, %v", n, err)
	}
	await(t, evicted, "the eviction")
}

func selfSigned(t *testing.T) *tls.Config {
	var c Config
	withTLS(t, &c)
	pair, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
	if err != nil {
		t.Error(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

func TestRedirectListener(t *testing.T) {
	s, _ := startTLS(t, newGate(), false, func(c *Config) { c.TLS.RedirectListen = "127.0.0.1:0" })
	_, port, _ := net.SplitHostPort(s.Addr().String())
	for _, tt := range []struct {
		request, host, location string
		status                  int
	}{
		{"GET /v2/?n=1", "registry.example.com", "https://registry.example.com:" + port + "/v2/?n=1", 308},
		{"HEAD /v2/a%2Fb", "Registry.Example.com:80", "https://registry.example.com:" + port + "/v2/a%2Fb", 308},
		{"GET //evil.example.com/", "[::1]:80", "https://[::1]:" + port + "//evil.example.com/", 308},
		{"GET http://other.example.com/x", "registry.example.com", "https://other.example.com:" + port + "/x", 308}, // RFC 9112 section 3.2.2
		{"GET /", "evil.example.com/x", "", 400},
		{"GET /", "a@b", "", 400},
		{"GET /", "", "", 400},
		{"PUT /v2/a/manifests/1", "registry.example.com", "", 403},
		{"GET /.well-known/acme-challenge/x", "registry.example.com", "https://registry.example.com:" + port + "/.well-known/acme-challenge/x", 308},
	} {
		conn := dial(t, s.RedirectAddr(), tt.request+" HTTP/1.1\r\nHost: "+tt.host+"\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tt.status || res.Header.Get("Location") != tt.location {
			t.Errorf("%s of %s is answered with %d, %q; expected %d, %q", tt.request, tt.host, res.StatusCode, res.Header.Get("Location"), tt.status, tt.location)
		}
	}
	// It does not keep the server from stopping.
	idle := dial(t, s.RedirectAddr(), "")
	s.stop()
	await(t, s.result, "the end")
	if _, err := io.ReadAll(idle); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

func TestRedirectToExternalURL(t *testing.T) {
	u := &url.URL{Path: "/v2/", RawQuery: "a=b"}
	for _, tt := range []struct{ external, host, port, want string }{
		{"https://registry.example.com", "192.0.2.1", "5000", "https://registry.example.com/v2/?a=b"},
		{"", "192.0.2.1:80", "443", "https://192.0.2.1/v2/?a=b"},
		{"", "[2001:db8::1]:80", "443", "https://[2001:db8::1]/v2/?a=b"},
		{"", "a.example.com", "", "https://a.example.com/v2/?a=b"}, // behind a Unix socket
	} {
		if got := secureURL(tt.external, tt.host, tt.port, u); got != tt.want {
			t.Errorf("%+v gives %s", tt, got)
		}
	}
}

// Whatever a client asks for, it is sent to the host that it has asked, and to no other.
func FuzzSecureURL(f *testing.F) {
	f.Add("registry.example.com:80", "/v2/?x#y")
	f.Add("[::1]", "//a@b\\c")
	f.Add("a:b:c", "/%2f%00%zz")
	f.Add(":0:", "/0")
	f.Add("evil.com#", "http://x/")
	f.Fuzz(func(t *testing.T, host, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Skip()
		}
		got := secureURL("", host, "5000", u)
		if got == "" {
			return
		}
		back, err := url.Parse(got)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		if back.Scheme != "https" || back.Hostname() != hostOf(host) || back.Port() != "5000" || back.User != nil {
			t.Errorf("%q with %q is sent to %q", host, target, got)
		}
		if strings.ContainsAny(got, "\r\n") {
			t.Errorf("%q breaks the header", got)
		}
	})
}
