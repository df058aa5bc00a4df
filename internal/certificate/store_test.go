package certificate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// patience is how long tests wait for what must happen. It is never reached when all is well.
const patience = 2 * time.Minute

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting until %s", what)
		}
	}
}

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

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *Authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// write makes a file, or takes its place, so that nobody sees a part of it.
func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// writePair writes DIR/tls.crt and DIR/tls.key of a new certificate.
func writePair(t *testing.T, a *Authority, dir string, hosts ...string) Pair {
	t.Helper()
	cert, key, err := a.Server(hosts)
	if err != nil {
		t.Fatal(err)
	}
	p := Pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	write(t, p.Certificate, cert)
	write(t, p.Key, key)
	return p
}

// serve answers every connection with the name in the client's certificate, and returns the address.
func serve(t *testing.T, s *Store) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0)}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		if r.TLS.DidResume {
			name += ", as before"
		}
		io.WriteString(w, name)
	})
	go srv.Serve(l)
	return l.Addr().String()
}

// open opens a store whose files are looked at all the time.
func open(t *testing.T, opts Options) (*Store, *logBuffer) {
	t.Helper()
	log := new(logBuffer)
	opts.Log, opts.Every = log.logger(), time.Millisecond
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	go s.Watch(t.Context())
	return s, log
}

// shown returns the names in the certificate that a client is shown who asks for a name.
func shown(t *testing.T, addr, name string, roots *x509.CertPool) string {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: roots, InsecureSkipVerify: roots == nil})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return strings.Join(c.ConnectionState().PeerCertificates[0].DNSNames, " ")
}

func TestCertificateIsChosenByName(t *testing.T) {
	a := newAuthority(t)
	s, _ := open(t, Options{Pairs: []Pair{
		writePair(t, a, t.TempDir(), "a.example.com", "127.0.0.1"), writePair(t, a, t.TempDir(), "b.example.com", "*.b.example.com"),
	}})
	addr := serve(t, s)
	for name, want := range map[string]string{
		"a.example.com": "a.example.com", "b.example.com": "b.example.com *.b.example.com", "x.b.example.com": "b.example.com *.b.example.com",
		"127.0.0.1": "a.example.com", // no name is asked for
	} {
		if got := shown(t, addr, name, a.pool()); got != want {
			t.Errorf("who asks for %s is shown %q, expected %q", name, got, want)
		}
	}
	if got := shown(t, addr, "other.example.com", nil); got != "a.example.com" {
		t.Errorf("who asks for another name is shown %q", got)
	}
}

// However files are replaced, a handshake shows what is there.
func TestFilesAreReadAgain(t *testing.T) {
	a := newAuthority(t)
	swap := func(t *testing.T, link, to string) { // as Kubernetes does with the folder ..data
		t.Helper()
		if err := os.Symlink(to, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	for name, replace := range map[string]func(t *testing.T, dir string){
		"written": func(t *testing.T, dir string) {
			cert, key, err := a.Server([]string{"new.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"renamed": func(t *testing.T, dir string) {
			fresh := writePair(t, a, t.TempDir(), "new.example.com")
			for from, to := range map[string]string{fresh.Certificate: "tls.crt", fresh.Key: "tls.key"} {
				if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"linked": func(t *testing.T, dir string) {
			second := t.TempDir()
			writePair(t, a, second, "new.example.com")
			swap(t, filepath.Join(dir, "data"), second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			pair := Pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
			if name == "linked" {
				first := t.TempDir()
				writePair(t, a, first, "old.example.com")
				swap(t, filepath.Join(dir, "data"), first)
				swap(t, pair.Certificate, filepath.Join("data", "tls.crt"))
				swap(t, pair.Key, filepath.Join("data", "tls.key"))
			} else {
				writePair(t, a, dir, "old.example.com")
			}
			s, _ := open(t, Options{Pairs: []Pair{pair}})
			addr := serve(t, s)
			if got := shown(t, addr, "old.example.com", a.pool()); got != "old.example.com" {
				t.Fatalf("the client is shown %q", got)
			}
			replace(t, dir)
			eventually(t, "the new certificate is in use", func() bool { return shown(t, addr, "new.example.com", a.pool()) == "new.example.com" })
		})
	}
}

// What cannot be used is said once, and what was in use before stays.
func TestBrokenFilesLeaveTheOldPair(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	pair := writePair(t, a, dir, "old.example.com")
	s, log := open(t, Options{Pairs: []Pair{pair}})
	addr := serve(t, s)
	cert, key, err := a.Server([]string{"new.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for i, breaks := range []struct {
		how string
		do  func()
		say string
	}{
		{"the key of another certificate", func() { write(t, pair.Key, key) }, "does not match"},
		{"half a certificate", func() { write(t, pair.Certificate, cert[:len(cert)/2]) }, "tls.crt"},
		{"nothing", func() { write(t, pair.Certificate, nil) }, "tls.crt"},
		{"no file", func() { os.Remove(pair.Certificate) }, "no such file"},
		{"too much", func() { write(t, pair.Certificate, make([]byte, maxFile+1)) }, "has more than 1 MiB"},
	} {
		breaks.do()
		const line = "certificate cannot be used, the one before stays"
		eventually(t, breaks.how+" is noticed", func() bool { return strings.Count(log.String(), line) == i+1 })
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, breaks.say) || strings.Contains(last, "PRIVATE KEY") {
			t.Errorf("%s is logged as %s", breaks.how, last)
		}
		if got := shown(t, addr, "old.example.com", a.pool()); got != "old.example.com" {
			t.Errorf("with %s in the file, the client is shown %q", breaks.how, got)
		}
		if in := s.InUse(); len(in) != 1 || !in[0].Stale {
			t.Errorf("in use with %s: %+v", breaks.how, in)
		}
	}
	write(t, pair.Certificate, cert) // the key is there already
	eventually(t, "the new certificate is in use", func() bool { return shown(t, addr, "new.example.com", a.pool()) == "new.example.com" })
	if in := s.InUse(); in[0].Stale || in[0].Name != pair.Certificate || time.Until(in[0].NotAfter) < 800*24*time.Hour {
		t.Errorf("in use at the end: %+v", in)
	}
}

func TestFilesThatCannotBeUsedAtTheStart(t *testing.T) {
	a := newAuthority(t)
	good := writePair(t, a, t.TempDir(), "a.example.com")
	other := writePair(t, a, t.TempDir(), "b.example.com")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, nil)
	for name, opts := range map[string]Options{
		"no file":       {Pairs: []Pair{good, {good.Certificate, filepath.Join(t.TempDir(), "missing.key")}}},
		"another's key": {Pairs: []Pair{{good.Certificate, other.Key}}},
		"no authority":  {Pairs: []Pair{good}, ClientCA: empty},
	} {
		opts.Log = slog.New(slog.DiscardHandler)
		if _, err := Open(opts); err == nil || !strings.Contains(err.Error(), map[string]string{"no file": "missing.key", "another's key": good.Certificate, "no authority": empty}[name]) {
			t.Errorf("%s gives %v", name, err)
		}
	}
}

// asClient returns what the server says to who has a certificate of the authority, or none.
func asClient(t *testing.T, addr string, server, own *Authority, name string) *http.Client {
	t.Helper()
	config := &tls.Config{ServerName: "a.example.com", RootCAs: server.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if own != nil {
		cert, key, err := own.Client(name)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		// Shown whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func ask(c *http.Client, addr string) string {
	resp, err := c.Get("https://" + addr)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestClientCertificates(t *testing.T) {
	server, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	write(t, ca, certificatePEM(clients.cert.Raw))
	pair := writePair(t, server, t.TempDir(), "a.example.com")
	for _, required := range []bool{false, true} {
		s, _ := open(t, Options{Pairs: []Pair{pair}, ClientCA: ca, RequireClient: required})
		addr := serve(t, s)
		if got := ask(asClient(t, addr, server, clients, "alice"), addr); got != "alice" {
			t.Errorf("required %v: alice is %q", required, got)
		}
		if got := ask(asClient(t, addr, server, nil, ""), addr); required == (got == "nobody") {
			t.Errorf("required %v: who has none gets %q", required, got)
		}
		if got := ask(asClient(t, addr, server, strangers, "mallory"), addr); !strings.Contains(got, "unknown certificate authority") {
			t.Errorf("required %v: who has another authority's gets %q", required, got)
		}
		// A certificate for servers is none for clients.
		forServers := asClient(t, addr, server, clients, "x")
		cert, key, err := clients.Server([]string{"alice"})
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		forServers.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &wrong, nil }
		if got := ask(forServers, addr); !strings.Contains(got, "bad certificate") {
			t.Errorf("required %v: who has a server's certificate gets %q", required, got)
		}
	}
}

// Who is not trusted any more cannot go on with a session of before.
func TestClientAuthoritiesAreReadAgain(t *testing.T) {
	server, before, after := newAuthority(t), newAuthority(t), newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	write(t, ca, certificatePEM(before.cert.Raw))
	s, _ := open(t, Options{Pairs: []Pair{writePair(t, server, t.TempDir(), "a.example.com")}, ClientCA: ca, RequireClient: true})
	addr := serve(t, s)
	alice, bob := asClient(t, addr, server, before, "alice"), asClient(t, addr, server, after, "bob")
	if got := ask(alice, addr); got != "alice" {
		t.Fatalf("alice is %q", got)
	}
	if got := ask(alice, addr); got != "alice, as before" {
		t.Fatalf("alice is %q the second time, so that sessions are not tested", got)
	}
	write(t, ca, certificatePEM(after.cert.Raw))
	eventually(t, "bob is welcome", func() bool { return strings.HasPrefix(ask(bob, addr), "bob") })
	if got := ask(alice, addr); !strings.Contains(got, "unknown certificate authority") {
		t.Errorf("alice gets %q", got)
	}
}

func TestVersionsAndSuites(t *testing.T) {
	a := newAuthority(t)
	s, _ := open(t, Options{Pairs: []Pair{writePair(t, a, t.TempDir(), "a.example.com")}})
	addr := serve(t, s)
	dial := func(c *tls.Config) error {
		c.ServerName, c.RootCAs = "a.example.com", a.pool()
		conn, err := tls.Dial("tcp", addr, c)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		if err := dial(&tls.Config{MinVersion: version, MaxVersion: version}); (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.SupportedVersions[0] == tls.VersionTLS13 || !strings.Contains(suite.Name, "_ECDSA_") {
			continue // cannot be chosen, or is not for this key
		}
		good := strings.Contains(suite.Name, "_GCM_") || strings.Contains(suite.Name, "_POLY1305_")
		if err := dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}}); (err == nil) != good {
			t.Errorf("%s: %v", suite.Name, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	a := newAuthority(t)
	cert, key, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := again.Server([]string{"a.example.com", "192.0.2.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, text)
	for _, host := range []string{"a.example.com", "192.0.2.1", "::1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: a.pool()}); err != nil {
			t.Error(err)
		}
	}
	if got := leaf.IPAddresses; len(got) != 2 || !got[0].Equal(net.IPv4(192, 0, 2, 1)) {
		t.Errorf("addresses %v", got)
	}
	// Some clients take none that lasts longer.
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 825*24*time.Hour {
		t.Errorf("the certificate lasts %s", life)
	}
	// It cannot be an authority itself.
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 || !a.cert.MaxPathLenZero {
		t.Error("the certificate of a server can issue others")
	}
}

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%q is not PEM", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
