// Package certificates drives the real server with TLS of its own: with certificates of an authority that "berth cert" makes,
// and with those of a real ACME server; by curl, openssl, Docker, podman and containerd.
package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

var dockerEngine = harness.NewDockerEngine()

func TestMain(m *testing.M) {
	os.Exit(harness.Main(m, dockerEngine.Close))
}

// patience is how long tests wait for what must happen. It is never reached when all is well.
const patience = 2 * time.Minute

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting until %s", what)
		}
	}
}

// berth runs the command line and returns what it wrote to stdout.
func berth(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(harness.Binary(t), args...).Output()
	if err != nil {
		t.Fatalf("berth %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// authority is a folder that "berth cert" has filled.
type authority struct{ dir string }

// newAuthority makes an authority and a certificate for a server of these hosts.
func newAuthority(t *testing.T, hosts ...string) authority {
	t.Helper()
	a := authority{filepath.Join(t.TempDir(), "tls")}
	berth(t, append([]string{"cert", "self-signed", "--out", a.dir}, hosts...)...)
	return a
}

func (a authority) file(name string) string { return filepath.Join(a.dir, name) }

// env returns the settings of a server with the certificate.
func (a authority) env(more ...string) []string {
	return append([]string{"BERTH_TLS_CERTIFICATE=" + a.file("server.crt"), "BERTH_TLS_KEY=" + a.file("server.key")}, more...)
}

func (a authority) pool(t *testing.T) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(a.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// api speaks to a server over HTTP/1.1 or HTTP/2.
func (a authority) api(t *testing.T, s *harness.Server, h2 bool) *harness.API {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{Protocols: protocols, DisableCompression: true, TLSClientConfig: &tls.Config{RootCAs: a.pool(t)}}
	t.Cleanup(transport.CloseIdleConnections)
	return &harness.API{T: t, Base: s.URL, Client: &http.Client{Transport: transport, Timeout: patience}}
}

// start starts a server with TLS.
func start(t *testing.T, env []string, args ...string) *harness.Server {
	t.Helper()
	return harness.Start(t, harness.Settings{TLS: true, Env: env, Args: args})
}

// freeAddr returns an address that nothing listens on at this moment, and its port.
func freeAddr(t *testing.T) (string, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String(), l.Addr().(*net.TCPAddr).Port
}
