// Package protocol holds one test, or more, for each thing that a real client is known to
// demand of a registry. Names begin with the number of the demand and the
// client it was learned from. The tests speak plain HTTP with the real server.
package protocol

import (
	"net/http"
	"os"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m, server.Close)) }

var server = harness.Shared[*harness.Server]{Start: func(t testing.TB) (*harness.Server, func() error) {
	path := harness.Binary(t)
	dir, err := os.MkdirTemp("", "berth-protocol-")
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

// api speaks to the server that the tests share; each has repositories of its own.
func api(t *testing.T) *harness.API {
	t.Helper()
	return harness.NewAPI(t, server.Get(t))
}

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// allManifestTypes is the Accept header of a client that takes everything.
const allManifestTypes = v1.MediaTypeImageManifest + ", " + v1.MediaTypeImageIndex + ", " + dockerManifest + ", " + dockerList

// image returns a small image with content that no other has.
func image() harness.Image {
	return harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, harness.JSON(map[string]string{"architecture": "amd64", "os": "linux", "id": string(harness.NewBlob("", harness.Random(16)).Digest)})),
		harness.NewBlob(v1.MediaTypeImageLayerGzip, harness.Random(1000)))
}

// octets is the media type that uploads are sent with.
var octets = harness.Header{"Content-Type": "application/octet-stream"}

// wantHeader fails the test unless the answer has the header's value.
func wantHeader(t *testing.T, resp *harness.Response, name, want string) {
	t.Helper()
	if got := resp.Header.Get(name); got != want {
		t.Errorf("%s %s: %s is %q, expected %q", resp.Request.Method, resp.Request.URL, name, got, want)
	}
}

// wantCode fails the test unless the answer has the status and its first error the code.
func wantCode(t *testing.T, resp *harness.Response, status int, code string) {
	t.Helper()
	if resp.StatusCode != status || resp.Request.Method != http.MethodHead && resp.Code() != code {
		t.Errorf("%s %s: %d %s, expected %d %s\n%.500s", resp.Request.Method, resp.Request.URL, resp.StatusCode, resp.Code(), status, code, resp.Bytes)
	}
}
