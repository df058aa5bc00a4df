package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

func TestRedirectToMetadataService(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusTemporaryRedirect)
	})
	b := harness.NewBlob("application/octet-stream", []byte("secret"))
	_, err := at(t, host(s), "metadata").Blob(t.Context(), desc(t, b), 0)
	if err == nil || !strings.Contains(err.Error(), "more private") {
		t.Errorf("got %v", err)
	}
}

// stranger is a server that nobody should send credentials to.
type stranger struct {
	*httptest.Server
	requests, withCredentials atomic.Int32
}

func newStranger(t testing.TB, answer http.HandlerFunc) *stranger {
	s := new(stranger)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if r.Header.Get("Authorization") != "" {
			s.withCredentials.Add(1)
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// needsBasic answers requests without credentials as a registry does.
func needsBasic(w http.ResponseWriter, r *http.Request) bool {
	if _, _, ok := r.BasicAuth(); ok {
		return false
	}
	w.Header().Set("Www-Authenticate", `Basic realm="the registry"`)
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

func someone() func(*Options) {
	return withCredential(Credential{Username: "someone", Password: "secret"})
}

func TestRedirectedBlobHasNoCredentials(t *testing.T) {
	b := harness.NewBlob("application/octet-stream", []byte("content"))
	other := newStranger(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(b.Bytes)))
		w.Write(b.Bytes)
	})
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !needsBasic(w, r) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}
	})
	got, err := at(t, host(s), "redirected", someone()).BlobBytes(t.Context(), desc(t, b), 100)
	if err != nil || string(got) != "content" {
		t.Fatalf("%q, %v", got, err)
	}
	if other.requests.Load() != 1 || other.withCredentials.Load() != 0 {
		t.Errorf("%d requests, %d with credentials", other.requests.Load(), other.withCredentials.Load())
	}
}

// A challenge from where a request was redirected to is not the registry's.
func TestChallengeAfterRedirectIsNotAnswered(t *testing.T) {
	other := newStranger(t, func(w http.ResponseWriter, r *http.Request) { needsBasic(w, r) })
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	b := harness.NewBlob("application/octet-stream", []byte("content"))
	if _, err := at(t, host(s), "challenged", someone()).BlobBytes(t.Context(), desc(t, b), 100); err == nil {
		t.Error("expected an error")
	}
	if other.withCredentials.Load() != 0 {
		t.Error("credentials were sent to another host")
	}
}

func TestUploadLocationElsewhere(t *testing.T) {
	other := newStranger(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusCreated) })
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", other.URL+"/v2/elsewhere/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		next.ServeHTTP(w, r)
	})
	b := harness.NewBlob("application/octet-stream", []byte("content"))
	_, err := at(t, host(s), "elsewhere", someone()).PutBlob(t.Context(), Upload{Desc: desc(t, b), Open: bytesOf(b.Bytes)})
	if err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("got %v", err)
	}
	if n := other.requests.Load(); n != 0 {
		t.Errorf("%d requests went there", n)
	}
}

func TestNextPageElsewhere(t *testing.T) {
	other := newStranger(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"tags":["b"]}`) })
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Link", "<"+other.URL+`/v2/pages/tags/list?last=a>; rel="next"`)
		fmt.Fprint(w, `{"tags":["a"]}`)
	})
	var err error
	for _, err = range at(t, host(s), "pages").Tags(t.Context()) {
	}
	if err == nil {
		t.Error("expected an error")
	}
	if n := other.requests.Load(); n != 0 {
		t.Errorf("%d requests went there", n)
	}
}

func TestTokenServerWithoutTLS(t *testing.T) {
	other := newStranger(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"token":"t"}`) })
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Www-Authenticate", `Bearer realm="`+other.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	repo := at(t, host(s), "downgrade", someone(), func(o *Options) { o.PlainHTTP, o.CA = false, pool })
	_, err := repo.Resolve(t.Context(), tagRef("1"))
	if err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("got %v", err)
	}
	if n := other.requests.Load(); n != 0 {
		t.Errorf("%d requests went there", n)
	}
}

func TestTokenServerRedirectsElsewhere(t *testing.T) {
	for _, cred := range []Credential{{Username: "someone", Password: "secret"}, {IdentityToken: "identity"}} {
		other := newStranger(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"token":"t"}`) })
		g := newGuarded(t)
		g.realm.Config.Handler = http.RedirectHandler(other.URL, http.StatusTemporaryRedirect)
		_, err := at(t, host(g.Server), "tokenredirect", withCredential(cred)).Resolve(t.Context(), tagRef("1"))
		if err == nil || !strings.Contains(err.Error(), "redirects to") {
			t.Errorf("got %v", err)
		}
		if n := other.requests.Load(); n != 0 {
			t.Errorf("%d requests went there", n)
		}
	}
}

func TestTokenServerIsNoURL(t *testing.T) {
	for _, realm := range []string{"", "/token", "file:///etc/passwd", "ftp://example.com/", "https://user:secret@example.com/", "http://%zz/"} {
		s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Www-Authenticate", `Bearer realm="`+realm+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		if _, err := at(t, host(s), "norealm", someone()).Resolve(t.Context(), tagRef("1")); err == nil || !strings.Contains(err.Error(), "token server") {
			t.Errorf("realm %q: got %v", realm, err)
		}
	}
}

// A host that the registry names is not shown who the client is.
func TestCertificateIsForTheRegistryAlone(t *testing.T) {
	cert := harness.NewCert(t)
	pair, err := tls.LoadX509KeyPair(cert.CertFile, cert.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	shown := make(map[string]bool)
	serve := func(name string, h http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown[name] = len(r.TLS.PeerCertificates) > 0
			h(w, r)
		}))
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		s.StartTLS()
		t.Cleanup(s.Close)
		pool.AddCert(s.Certificate())
		return s
	}
	other := serve("other", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"tags":["x"]}`) })
	own := serve("own", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/", http.StatusTemporaryRedirect)
	})
	c, err := New(t.Context(), host(own), Options{CA: pool, Certificate: &pair})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, err := range c.Repository(repository(t, "x")).Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if was, asked := shown["other"]; !shown["own"] || was || !asked {
		t.Errorf("the certificate was shown to %v", shown)
	}
}
