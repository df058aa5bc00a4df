package certificate

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

const host = "registry.example.com"

// node is what a server is to an authority: an address with TLS and one without.
type node struct {
	*ACME
	store           *Store
	log             *logBuffer
	secure, plain   string // host:port
	tlsPort, port80 int
}

// embedded opens a database of SQLite.
func embedded(t *testing.T) *meta.DB { return openDB(t, filepath.Join(t.TempDir(), "berth.db")) }

func openDB(t *testing.T, source string) *meta.DB {
	t.Helper()
	db, err := meta.Open(t.Context(), source, meta.Options{Connections: 4, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// newNode makes a node that orders nothing yet: set gives it its authority.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{log: new(logBuffer)}
	var err error
	if n.store, err = Open(Options{Log: n.log.logger()}); err != nil {
		t.Fatal(err)
	}
	n.secure = serve(t, n.store)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n.plain = l.Addr().String()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := net.SplitHostPort(r.Host)
		answer, ok := n.store.HTTPChallenge(r.Context(), name, strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, answer)
	}))
	n.tlsPort, n.port80 = port(n.secure), port(n.plain)
	return n
}

func port(addr string) int {
	var p int
	_, text, _ := net.SplitHostPort(addr)
	fmt.Sscan(text, &p)
	return p
}

// set gives a node its authority and database.
func (n *node) set(t *testing.T, db *meta.DB, a *service.Authority, change func(*ACMEOptions)) {
	t.Helper()
	ca, err := os.ReadFile(a.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	opts := ACMEOptions{Log: n.log.logger(), Hosts: []string{host}, Directory: a.Directory, Roots: x509.NewCertPool(), Every: 100 * time.Millisecond}
	opts.Roots.AppendCertsFromPEM(ca)
	if change != nil {
		change(&opts)
	}
	// Leases of nodes that are gone end soon.
	n.ACME, err = NewACME(t.Context(), n.store, db, job.New(db, job.Options{Log: n.log.logger(), Lease: 5 * time.Second}), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.log)
		}
	})
}

func (n *node) run(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(t.Context())
	}()
	t.Cleanup(func() { <-done }) // the context has ended by then
}

// waitFor waits until the node shows a certificate of the authority for a name, other than the one given.
func (n *node) waitFor(t *testing.T, name string, roots *x509.CertPool, other *x509.Certificate) (cert *x509.Certificate) {
	t.Helper()
	eventually(t, "a certificate for "+name+" is there", func() bool {
		var err error
		cert, err = service.Handshake(n.secure, name, roots)
		return err == nil && (other == nil || !cert.Equal(other))
	})
	return cert
}

func (n *node) ordered() int { return strings.Count(n.log.String(), `msg="certificate ordered"`) }

func TestOrder(t *testing.T) {
	for kind, http := range map[string]bool{challengeHTTP: true, challengeALPN: false} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: n.port80, TLSPort: n.tlsPort})
			db := embedded(t)
			n.set(t, db, a, func(o *ACMEOptions) {
				o.HTTP, o.Email = http, "me@example.com"
				o.Hosts = append(o.Hosts, "other.example.com")
			})
			n.run(t)
			roots := a.Roots(t)
			cert := n.waitFor(t, host, roots, nil)
			if other := n.waitFor(t, "other.example.com", roots, nil); other.Equal(cert) {
				t.Error("hosts share a certificate")
			}
			if !strings.Contains(n.log.String(), "challenge="+kind) {
				t.Error("another challenge was used")
			}
			if strings.Contains(n.log.String(), "PRIVATE") {
				t.Error("a key is in the log")
			}
			// Nothing is left of the challenge, neither to be asked for nor in the database.
			eventually(t, "the challenge is gone", func() bool {
				_, err := db.Setting(t.Context(), challengeName(host))
				return errors.Is(err, meta.ErrNotFound)
			})

			// Another process has it from the database, at once and without the authority.
			again := newNode(t)
			a.Directory = "https://127.0.0.1:1/dir"
			again.set(t, db, a, func(o *ACMEOptions) { o.Directory, o.ReadOnly = n.opts.Directory, true })
			if got, err := service.Handshake(again.secure, host, roots); err != nil || !got.Equal(cert) {
				t.Errorf("after a restart: %v", err)
			}
			if in := again.store.InUse(); len(in) != 1 || in[0].Name != host || !in[0].NotAfter.Equal(cert.NotAfter) {
				t.Errorf("in use after a restart: %+v", in)
			}
		})
	}
}

// A certificate is replaced before its end, and the old one serves until then.
func TestRenewal(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: n.port80, TLSPort: n.tlsPort, Validity: 9 * time.Second})
	n.set(t, embedded(t), a, nil)
	n.run(t)
	roots := a.Roots(t)
	cert := n.waitFor(t, host, roots, nil)
	for range 2 {
		next := n.waitFor(t, host, roots, cert)
		if !next.NotAfter.After(cert.NotAfter) {
			t.Errorf("valid until %s, and the one before until %s", next.NotAfter, cert.NotAfter)
		}
		cert = next
	}
}

func TestRenewAfter(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	got := renewAfter(&x509.Certificate{NotBefore: begin, NotAfter: begin.AddDate(0, 0, 90)})
	if want := begin.AddDate(0, 0, 60); !got.Equal(want) {
		t.Errorf("one of 90 days is renewed %s, expected %s", got, want)
	}
}

// The authority asks a node for what another has ordered.
func TestChallengeArrivesAtAnotherNode(t *testing.T) {
	for kind, http := range map[string]bool{challengeHTTP: true, challengeALPN: false} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := service.Postgres(t).URL
			orders, answers := newNode(t), newNode(t)
			a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: answers.port80, TLSPort: answers.tlsPort})
			change := func(o *ACMEOptions) { o.HTTP = http }
			answers.set(t, openDB(t, url), a, change)
			orders.set(t, openDB(t, url), a, change)
			orders.run(t)
			roots := a.Roots(t)
			cert := orders.waitFor(t, host, roots, nil)
			answers.run(t)
			if got := answers.waitFor(t, host, roots, nil); !got.Equal(cert) || answers.ordered() != 0 {
				t.Error("the node that answered has ordered another certificate")
			}
		})
	}
}

// newNodes returns three nodes of one database. The authority asks the first one.
func newNodes(t *testing.T, validity time.Duration) ([]*node, *service.Authority) {
	t.Helper()
	url := service.Postgres(t).URL
	nodes := []*node{newNode(t), newNode(t), newNode(t)}
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: nodes[0].port80, TLSPort: nodes[0].tlsPort, Validity: validity})
	for _, n := range nodes {
		n.set(t, openDB(t, url), a, nil)
	}
	for _, n := range nodes {
		n.run(t)
	}
	return nodes, a
}

// Of nodes that start at the same time one orders, and all show what it got.
func TestOneNodeOrders(t *testing.T) {
	t.Parallel()
	nodes, a := newNodes(t, 0)
	roots := a.Roots(t)
	ordered := 0
	cert := nodes[0].waitFor(t, host, roots, nil)
	for _, n := range nodes {
		if got := n.waitFor(t, host, roots, nil); !got.Equal(cert) {
			t.Error("nodes show different certificates")
		}
	}
	for _, n := range nodes {
		ordered += n.ordered()
		if strings.Contains(n.log.String(), "certificate cannot be had") {
			t.Error("a node got in the way of another:", n.log)
		}
	}
	if ordered != 1 {
		t.Errorf("%d certificates were ordered", ordered)
	}
}

// All nodes show the next certificate, too.
func TestNodesRenew(t *testing.T) {
	t.Parallel()
	nodes, a := newNodes(t, 15*time.Second)
	roots := a.Roots(t)
	first := nodes[0].waitFor(t, host, roots, nil)
	eventually(t, "all nodes show the same new certificate", func() bool {
		var cert *x509.Certificate
		for _, n := range nodes {
			got, err := service.Handshake(n.secure, host, roots)
			if err != nil || got.Equal(first) || cert != nil && !got.Equal(cert) {
				return false
			}
			cert = got
		}
		return true
	})
}

// A failure is told and remembered for all nodes; the next attempt uses the other challenge.
func TestFailure(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	nothing := newNode(t) // answers 404
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: nothing.port80, TLSPort: n.tlsPort})
	db := embedded(t)
	n.set(t, db, a, func(o *ACMEOptions) { o.HTTP = true })
	n.run(t)
	const line = "certificate cannot be had"
	eventually(t, "the failure is told", func() bool { return strings.Contains(n.log.String(), line) })
	if !strings.Contains(n.log.String(), "404") || !strings.Contains(n.log.String(), "challenge="+challengeHTTP) {
		t.Error("the log does not tell what the authority says")
	}
	var f failure
	eventually(t, "the failure is remembered", func() bool {
		b, err := db.Setting(t.Context(), n.failureName(host))
		return err == nil && json.Unmarshal(b, &f) == nil
	})
	if wait := time.Until(f.Until); f.Count != 1 || wait <= 0 || wait > backoff(1) {
		t.Errorf("the next attempt after %d failures is in %s", f.Count, wait)
	}
	// Another node waits, too.
	other := newNode(t)
	other.set(t, db, a, nil)
	if due, err := other.due(t.Context()); err != nil || len(due) != 0 {
		t.Errorf("due for another node: %v, %v", due, err)
	}
	// As if the time had come.
	if err := db.SetSetting(t.Context(), n.failureName(host), []byte(`{"count":1}`)); err != nil {
		t.Fatal(err)
	}
	n.waitFor(t, host, a.Roots(t), nil)
	if !strings.Contains(n.log.String(), "challenge="+challengeALPN) || strings.Count(n.log.String(), line) != 1 {
		t.Error("the second attempt did not use the other challenge")
	}
	eventually(t, "the failure is forgotten", func() bool {
		_, err := db.Setting(t.Context(), n.failureName(host))
		return errors.Is(err, meta.ErrNotFound)
	})
}

func TestBackoff(t *testing.T) {
	hour, day := 0, 0
	var at time.Duration
	for n := 1; at < 48*time.Hour; n++ {
		if at < time.Hour {
			hour++
		}
		if at >= 24*time.Hour {
			day++
		}
		if backoff(n) < backoff(max(n-1, 1)) {
			t.Errorf("the pause after %d failures is %s", n, backoff(n))
		}
		at += backoff(n)
	}
	if hour != 5 || day > 3 {
		t.Errorf("%d attempts in the first hour, %d on the second day", hour, day)
	}
}

func TestPauseThatTheAuthorityWants(t *testing.T) {
	limited := &acme.Error{ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {"86400"}}}
	if got := pause(1, fmt.Errorf("order: %w", limited)); got != 24*time.Hour {
		t.Errorf("the pause is %s", got)
	}
	limited.Header.Set("Retry-After", "1")
	if got := pause(3, limited); got != backoff(3) {
		t.Errorf("the pause is %s although the authority wants less", got)
	}
}

// An authority may want an account that was made elsewhere.
func TestExternalAccountBinding(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: n.port80, TLSPort: n.tlsPort, KeyID: "kid-1", Key: "c2VjcmV0LWtleS1vZi1hbi1hY2NvdW50LW9mLTMyLWI"})
	db := embedded(t)
	n.set(t, db, a, nil)
	if _, err := n.obtain(t.Context(), host, challengeALPN); err == nil || !strings.Contains(err.Error(), "register an account") {
		t.Errorf("without the key: %v", err)
	}
	n.opts.KeyID, n.opts.Key = "kid-1", []byte("secret-key-of-an-account-of-32-b")
	n.run(t)
	n.waitFor(t, host, a.Roots(t), nil)
}

// What cannot be used is ordered anew.
func TestDamageInTheDatabase(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: n.port80, TLSPort: n.tlsPort})
	db := embedded(t)
	if err := db.SetSetting(t.Context(), "acme certificate "+host+" "+a.Directory, []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	n.set(t, db, a, nil)
	if !strings.Contains(n.log.String(), "certificate in the database cannot be used") {
		t.Error("the damage is not told")
	}
	n.run(t)
	n.waitFor(t, host, a.Roots(t), nil)
}

// A key of a kind that cannot sign is an error like any other damage.
func TestDamagedAccountKey(t *testing.T) {
	t.Parallel()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	db := embedded(t)
	a := &ACME{db: db, opts: ACMEOptions{Directory: "https://ca.example/"}}
	for _, stored := range [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), []byte("damaged"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"})} {
		if err := db.SetSetting(t.Context(), a.accountName(), stored); err != nil {
			t.Fatal(err)
		}
		if _, err := a.accountKey(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("%v", err)
		}
	}
}

// An authority whose answer has no end costs neither memory nor time.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, err := io.WriteString(w, `{"newNonce":"`); err == nil && sent.Load() < 64<<20; sent.Add(64 << 10) {
			_, err = w.Write(bytes.Repeat([]byte{'x'}, 64<<10))
		}
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	a := &ACME{db: embedded(t), opts: ACMEOptions{Directory: s.URL, Roots: roots}}
	if _, err := a.client(t.Context()); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("%v", err)
	}
	if sent.Load() >= 64<<20 {
		t.Error("all of it was read")
	}
}

// Who asks for a challenge that nobody expects gets nothing, whatever the name.
func TestNoChallenge(t *testing.T) {
	n := newNode(t)
	db := embedded(t)
	n.ACME = &ACME{store: n.store, db: db, opts: ACMEOptions{Hosts: []string{host}}}
	n.store.acme = n.ACME
	for name, c := range map[string]challenge{host: {Type: challengeHTTP, Token: "right", Answer: "answer"}, "stranger.example.com": {Type: challengeHTTP, Token: "right"}} {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.SetSetting(t.Context(), challengeName(name), b); err != nil {
			t.Fatal(err)
		}
	}
	if answer, ok := n.store.HTTPChallenge(t.Context(), "Registry.Example.com", "right"); !ok || answer != "answer" {
		t.Errorf("what is expected gives %q, %v", answer, ok)
	}
	for _, ask := range [][2]string{{host, "wrong"}, {host, ""}, {"stranger.example.com", "right"}, {"", "right"}} {
		if answer, ok := n.store.HTTPChallenge(t.Context(), ask[0], ask[1]); ok {
			t.Errorf("%q is answered with %q", ask, answer)
		}
	}
	for _, name := range []string{host, "stranger.example.com", ""} {
		c, err := tls.Dial("tcp", n.secure, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{acme.ALPNProto}})
		if err == nil {
			c.Close()
			t.Errorf("a handshake for the challenge of %q succeeds", name)
		}
	}
}
