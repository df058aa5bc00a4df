package upstream

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m, shared.Close)) }

// shared is the server that the tests share. Each test has repositories of its own in it.
var shared = harness.Shared[*harness.Server]{Start: func(t testing.TB) (*harness.Server, func() error) {
	path := harness.Binary(t)
	dir, err := os.MkdirTemp("", "berth-upstream-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := harness.StartServer(path, dir, harness.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return s, func() error {
		defer os.RemoveAll(dir)
		return s.Stop()
	}
}}

func addr(t testing.TB) string { return shared.Get(t).Addr }

func api(t testing.TB) *harness.API { return harness.NewAPI(t, shared.Get(t)) }

// at returns a client of a repository of the registry at addr.
func at(t testing.TB, addr, name string, options ...func(*Options)) *Repository {
	t.Helper()
	opt := Options{PlainHTTP: true, UserAgent: "berth-test"}
	for _, o := range options {
		o(&opt)
	}
	c, err := New(t.Context(), addr, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.Repository(repository(t, name))
}

func repository(t testing.TB, name string) oci.Repository {
	t.Helper()
	r, err := oci.ParseRepository(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tagRef(tag string) oci.Reference { return oci.Reference{Tag: oci.Tag(tag)} }

// desc converts the harness's descriptor.
func desc(t testing.TB, b harness.Blob) oci.Descriptor {
	t.Helper()
	d, err := fromOCI(b.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// bytesOf is an Upload.Open that reads b.
func bytesOf(b []byte) func(context.Context, int64) (io.ReadCloser, error) {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
}

// front is a server before the shared registry that does something of its own with requests. It
// stands for registries that behave otherwise than Berth, and for networks that fail.
func front(t testing.TB, handle func(w http.ResponseWriter, r *http.Request, next http.Handler)) *httptest.Server {
	t.Helper()
	target, err := url.Parse(shared.Get(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: quietLog(),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, proxy) }))
	s.Config.ErrorLog = quietLog()
	t.Cleanup(s.Close)
	return s
}

func host(s *httptest.Server) string {
	return strings.TrimPrefix(strings.TrimPrefix(s.URL, "http://"), "https://")
}

// only returns the exchanges with one of the methods.
func only(in []harness.Exchange, methods ...string) []harness.Exchange {
	return slices.DeleteFunc(slices.Clone(in), func(e harness.Exchange) bool { return !slices.Contains(methods, e.Method) })
}
