package upstream

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

func TestIsLoopbackName(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "LOCALHOST:5000": true, "registry.localhost": true,
		"127.0.0.1": true, "127.1.2.3:80": true, "[::1]:5000": true, "[::1]": true,
		"example.com": false, "example.com:5000": false, "10.0.0.1:5000": false, "localhost.example.com": false,
		"[2001:db8::1]:5000": false, "": false,
	} {
		if got := isLoopbackName(host); got != want {
			t.Errorf("isLoopbackName(%q) = %t", host, got)
		}
	}
}

func TestLoopbackIsAskedForTLS(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"tags":["x"]}`) })
	secure := httptest.NewTLSServer(answer)
	defer secure.Close()
	secure.Config.ErrorLog = quietLog()
	plain := httptest.NewServer(answer)
	defer plain.Close()
	pool := x509.NewCertPool()
	pool.AddCert(secure.Certificate())

	list := func(host string, opt Options) error {
		c, err := New(t.Context(), host, opt)
		if err != nil {
			return err
		}
		defer c.Close()
		for _, err = range c.Repository(repository(t, "x")).Tags(t.Context()) {
		}
		return err
	}
	if err := list(host(plain), Options{}); err != nil {
		t.Errorf("plain HTTP: %v", err)
	}
	if err := list(host(secure), Options{CA: pool}); err != nil {
		t.Errorf("TLS with a trusted authority: %v", err)
	}
	if err := list(host(secure), Options{Insecure: true}); err != nil {
		t.Errorf("TLS unverified: %v", err)
	}
	var authority x509.UnknownAuthorityError
	if err := list(host(secure), Options{}); !errors.As(err, &authority) {
		t.Errorf("TLS with an unknown authority: got %v", err)
	}
	_, port, _ := net.SplitHostPort(host(plain))
	if err := list("localhost:"+port, Options{}); err != nil {
		t.Errorf("plain HTTP by name: %v", err)
	}
}

func TestLoopbackWithNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = New(t.Context(), l.Addr().String(), Options{})
	var op *OpError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Host != l.Addr().String() {
		t.Errorf("got %v", err)
	}
}

func TestNotAHost(t *testing.T) {
	for _, host := range []string{"", "a b", "http://example.com", "example.com/x", "user@example.com"} {
		if _, err := New(t.Context(), host, Options{}); err == nil {
			t.Errorf("New(%q): expected an error", host)
		}
	}
}

func TestDockerHub(t *testing.T) {
	for _, host := range []string{"docker.io", "index.docker.io", "registry-1.docker.io"} {
		c, err := New(t.Context(), host, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c.Host() != "docker.io" || c.base != "https://registry-1.docker.io" {
			t.Errorf("%s: host %s, base %s", host, c.Host(), c.base)
		}
		if r := c.Repository(repository(t, "library/alpine")); r.remote.Reference.Host() != "registry-1.docker.io" {
			t.Errorf("%s: requests go to %s", host, r.remote.Reference.Host())
		}
	}
}

// A registry that says that it is overloaded is asked again; one whose disk is full is not, nor one that wants to be asked in hours.
func TestRetries(t *testing.T) {
	api(t).PushImage("retries", "1", harness.NewImage("amd64", nil))
	for _, test := range []struct {
		status     int
		retryAfter string
		want       int32
	}{
		{http.StatusServiceUnavailable, "", 2},
		{http.StatusInsufficientStorage, "", 1},
		{http.StatusTooManyRequests, "1", 2},
		{http.StatusTooManyRequests, "7200", 1},
	} {
		var requests atomic.Int32
		s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if requests.Add(1) == 1 {
				if test.retryAfter != "" {
					w.Header().Set("Retry-After", test.retryAfter)
				}
				w.WriteHeader(test.status)
				return
			}
			next.ServeHTTP(w, r)
		})
		_, err := at(t, host(s), "retries").Resolve(t.Context(), tagRef("1"))
		if n := requests.Load(); n != test.want || (err == nil) != (test.want > 1) {
			t.Errorf("%d, Retry-After %q: %d requests, expected %d; %v", test.status, test.retryAfter, n, test.want, err)
		}
	}
}

func TestErrorsArePrintable(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, "{\"errors\":[{\"code\":\"DENIED\\u001b[31m\",\"message\":\"line\\nline\\u0007\\u202e\"}]}")
	})
	_, err := at(t, host(s), "printable").Manifest(t.Context(), tagRef("1"))
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\n\x07\u202e") || !strings.Contains(err.Error(), "line line") {
		t.Errorf("got %q", err)
	}
	if got := Printable("a\tb\x9bc\xffd é 日本"); got != "a b\uFFFDc\uFFFDd é 日本" {
		t.Errorf("got %q", got)
	}
}

func TestManifestIsVerified(t *testing.T) {
	image := harness.NewImage("amd64", nil)
	api(t).PushImage("verified", "1", image)
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.Write(bytes.Replace(rec.Body.Bytes(), []byte("layers"), []byte("lAyers"), 1))
	})
	good, bad := at(t, addr(t), "verified"), at(t, host(s), "verified")
	byDigest := desc(t, image.Manifest).Digest
	m, err := good.Manifest(t.Context(), tagRef("1"))
	if err != nil || m.Digest != byDigest || !bytes.Equal(m.Body, image.Manifest.Bytes) || m.MediaType != image.Manifest.MediaType {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := bad.Manifest(t.Context(), tagRef("1")); err == nil {
		t.Error("by tag: expected an error")
	}
	m.Digest = byDigest
	if _, err := bad.Manifest(t.Context(), digestRef(byDigest)); err == nil {
		t.Error("by digest: expected an error")
	}
}

func TestNotFound(t *testing.T) {
	repo := at(t, addr(t), "notfound")
	if _, err := repo.Manifest(t.Context(), tagRef("1")); !errors.Is(err, ErrNotFound) {
		t.Errorf("manifest: %v", err)
	}
	if _, err := repo.Resolve(t.Context(), tagRef("1")); !errors.Is(err, ErrNotFound) {
		t.Errorf("resolve: %v", err)
	}
	b := harness.NewBlob("", harness.Random(10))
	if _, err := repo.BlobSize(t.Context(), desc(t, b).Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("blob size: %v", err)
	}
	if _, err := repo.Blob(t.Context(), desc(t, b), 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("blob: %v", err)
	}
	if list, err := repo.Referrers(t.Context(), desc(t, b).Digest, ""); err != nil || len(list) > 0 {
		t.Errorf("referrers: %v, %v", list, err)
	}
}
