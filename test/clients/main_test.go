// Package clients drives the real clients against the real server: each file holds
// the tests of one client, each test names it.
package clients

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(m, dockerEngine.Close, containerd.Close, registry.Close))
}

// served is the server that most tests share, configured by nothing. Each test has
// repositories of its own in it.
type served struct {
	*harness.Server
	tap *harness.Tap // the address that clients are given
}

var registry = harness.Shared[*served]{Start: func(t testing.TB) (*served, func() error) {
	path := harness.Binary(t)
	dir, err := os.MkdirTemp("", "berth-clients-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := harness.StartServer(path, dir, harness.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	tap, err := harness.StartTap(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return &served{s, tap}, func() error {
		tap.Close()
		defer os.RemoveAll(dir)
		return s.Stop()
	}
}}

// host returns the address of the shared server as clients name it.
func host(t testing.TB) string { return registry.Get(t).tap.Addr }

// api speaks to the shared server, past the tap.
func api(t testing.TB) *harness.API { return harness.NewAPI(t, registry.Get(t).Server) }

// seen returns what went over the wire for a repository of the shared server.
func seen(t testing.TB, repo string) []harness.Exchange {
	return registry.Get(t).tap.Exchanges("/v2/" + repo + "/")
}

// withMethod returns the exchanges with one of the methods.
func withMethod(in []harness.Exchange, methods ...string) []harness.Exchange {
	return slices.DeleteFunc(slices.Clone(in), func(e harness.Exchange) bool { return !slices.Contains(methods, e.Method) })
}

// uploads returns the exchanges that sent bytes of blobs.
func uploads(in []harness.Exchange) []harness.Exchange {
	return slices.DeleteFunc(withMethod(in, "PATCH", "PUT"), func(e harness.Exchange) bool {
		return !strings.Contains(e.URL.Path, "/blobs/uploads/")
	})
}

// mounts returns the digests that were mounted from another repository.
func mounts(in []harness.Exchange) []string {
	var digests []string
	for _, e := range withMethod(in, "POST") {
		if q := e.URL.Query(); q.Get("mount") != "" && e.Status == http.StatusCreated {
			digests = append(digests, q.Get("mount"))
		}
	}
	return digests
}

// wantStatuses fails the test if a recorded answer has another status than those that
// belong to the flow under test.
func wantStatuses(t testing.TB, in []harness.Exchange, allowed ...int) {
	t.Helper()
	for _, e := range in {
		if e.Status != 0 && !slices.Contains(allowed, e.Status) {
			t.Errorf("%s %s was answered with %d, expected one of %v", e.Method, e.URL, e.Status, allowed)
		}
	}
}

// digestOf returns the digest of a tag on the shared server.
func digestOf(t testing.TB, repo, tag string) string {
	t.Helper()
	resp := api(t).Expect(http.StatusOK, "HEAD", "/v2/"+repo+"/manifests/"+tag, nil)
	return resp.Header.Get("Docker-Content-Digest")
}

// hello returns an image that prints text when it is run. No other image has its layers,
// so that no client has them from another test.
func hello(t testing.TB, text string) harness.Image {
	t.Helper()
	return helloFor(t, hostArch, text)
}

func helloFor(t testing.TB, arch, text string) harness.Image {
	t.Helper()
	return harness.NewImage(arch, []string{"/bin/busybox", "cat", "/text"},
		map[string][]byte{"bin/busybox": harness.Busybox(t), "random/1": harness.Random(1 << 10)},
		map[string][]byte{"text": []byte(text), "random/2": harness.Random(1 << 10)})
}
