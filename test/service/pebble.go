package service

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// Authority is a running ACME server, Pebble, for which every name is at 127.0.0.1.
type Authority struct {
	Directory string // the URL
	CAFile    string // PEM, by which the directory is verified

	client     *http.Client
	management string
}

// AuthoritySettings say how an Authority behaves.
type AuthoritySettings struct {
	// HTTPPort and TLSPort are where it validates, in place of 80 and 443. Both are needed.
	HTTPPort, TLSPort int
	// Validity is how long certificates last, in whole seconds; 0 for 90 days.
	Validity time.Duration
	// KeyID and Key, in base64 without padding, are of the only account that may be bound to, unless they are empty.
	KeyID, Key string
}

// NewAuthority starts an ACME server. It ends with the test. Without Pebble the test is skipped, or fails if CI=true.
func NewAuthority(t testing.TB, settings AuthoritySettings) *Authority {
	t.Helper()
	pebble, names := need(t, "pebble"), need(t, "pebble-challtestsrv")
	dns := loopback(t)
	start(t, func() bool { return true }, names, "-dnsserver", dns, "-management", loopback(t), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")

	cert := harness.NewCert(t)
	listen, management := loopback(t), loopback(t)
	a := &Authority{Directory: "https://" + listen + "/dir", CAFile: cert.CertFile, client: cert.HTTP(), management: "https://" + management}
	config := map[string]any{
		"listenAddress": listen, "managementListenAddress": management,
		"certificate": cert.CertFile, "privateKey": cert.KeyFile,
		"httpPort": settings.HTTPPort, "tlsPort": settings.TLSPort,
		"keyAlgorithm": "ecdsa",
		"retryAfter":   map[string]int{"authz": 1, "order": 1},
		"profiles":     map[string]any{"default": map[string]any{"description": "all", "validityPeriod": int(settings.Validity.Seconds())}},
	}
	if settings.KeyID != "" {
		config["externalAccountBindingRequired"] = true
		config["externalAccountMACKeys"] = map[string]string{settings.KeyID: settings.Key}
	}
	file := filepath.Join(t.TempDir(), "pebble.json")
	if err := os.WriteFile(file, harness.JSON(map[string]any{"pebble": config}), 0o600); err != nil {
		t.Fatal(err)
	}
	ready := func() bool {
		resp, err := a.client.Get(a.Directory)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}
	// Every authorization is validated, at once.
	start(t, ready, "/usr/bin/env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", pebble, "-config", file, "-dnsserver", dns)
	return a
}

// loopback returns an address that nothing listens on at this moment.
func loopback(t testing.TB) string {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// start starts a program that ends with the test.
func start(t testing.TB, ready func() bool, path string, args ...string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-service-")
	if err != nil {
		t.Fatal(err)
	}
	stop := harness.StartDaemon(t, dir, ready, path, args...)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// Roots returns what verifies the certificates that are issued.
func (a *Authority) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.get(t, "/roots/0")) {
		t.Fatal("the authority shows no certificate of its own")
	}
	return pool
}

func (a *Authority) get(t testing.TB, path string) []byte {
	t.Helper()
	resp, err := a.client.Get(a.management + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d, %v: %s", path, resp.StatusCode, err, b)
	}
	return b
}

// Handshake returns the certificate that a server at addr shows who asks for a name, verified by roots.
func Handshake(addr, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}
