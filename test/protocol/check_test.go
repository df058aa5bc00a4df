package protocol

import (
	"mime"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// Docker takes a host for a registry if its answers, errors included, carry the version.
func TestClients01_DockerVersionHeaderOnEveryAnswer(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("docker/version", "1", im)
	blob := "/v2/docker/version/blobs/" + im.Blobs[1].Digest.String()
	zero := "sha256:" + strings.Repeat("0", 64)
	for _, r := range []struct {
		method, path string
		status       int
		headers      harness.Header
	}{
		{"GET", "/v2/", 200, nil},
		{"HEAD", "/v2/", 200, nil},
		{"GET", "/v2/_catalog", 200, nil},
		{"GET", "/v2/docker/version/tags/list", 200, nil},
		{"GET", "/v2/docker/none/tags/list", 404, nil},
		{"GET", "/v2/docker/version/manifests/1", 200, nil},
		{"HEAD", "/v2/docker/version/manifests/1", 200, nil},
		{"GET", "/v2/docker/version/manifests/2", 404, nil},
		{"GET", "/v2/docker/version/manifests/1", 304, harness.Header{"If-None-Match": `"` + im.Manifest.Digest.String() + `"`}},
		{"GET", blob, 200, nil},
		{"GET", blob, 206, harness.Header{"Range": "bytes=0-9"}},
		{"GET", blob, 416, harness.Header{"Range": "bytes=5000-"}},
		{"GET", "/v2/docker/version/blobs/" + zero, 404, nil},
		{"GET", "/v2/docker/version/blobs/sha256:0", 400, nil},
		{"GET", "/v2/docker/version/referrers/" + zero, 200, nil},
		{"GET", "/v2/docker/UPPER/tags/list", 400, nil},
		{"GET", "/v2/nothing/like/this", 404, nil},
		{"POST", "/v2/docker/version/blobs/uploads/", 202, nil},
		{"PATCH", "/v2/docker/version/blobs/uploads/none", 404, nil},
		{"PUT", "/v2/docker/version/manifests/1", 400, nil},
		{"DELETE", "/v2/docker/version/manifests/none", 404, nil},
		{"DELETE", "/v2/docker/version/tags/list", 405, nil},
		{"POST", "/v2/", 405, nil},
	} {
		var body []byte
		if r.method == "POST" || r.method == "PUT" || r.method == "PATCH" {
			body = []byte{}
		}
		resp := a.Do(r.method, r.path, body, r.headers)
		if resp.StatusCode != r.status {
			t.Errorf("%s %s: status %d, expected %d", r.method, r.path, resp.StatusCode, r.status)
		}
		wantHeader(t, resp, "Docker-Distribution-Api-Version", "registry/2.0")
	}
}

// Without accounts, /v2/ asks nobody for credentials, and takes any.
func TestClients01_DockerIsNotAskedForCredentials(t *testing.T) {
	t.Parallel()
	for _, authorization := range []string{"", "Basic YW55OmJvZHk=", "Basic nonsense", "Bearer of.some.token", "Negotiate x"} {
		resp := api(t).Do("GET", "/v2/", nil, harness.Header{"Authorization": authorization})
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Www-Authenticate") != "" {
			t.Errorf("Authorization %q was answered with %d, WWW-Authenticate %q", authorization, resp.StatusCode, resp.Header.Get("Www-Authenticate"))
		}
	}
}

// containerd tries POST and then GET at a token endpoint. What isn't served is JSON, 404
// or 405, and no page for people.
func TestClients02_ContainerdGetsJSONForWhatIsNotServed(t *testing.T) {
	t.Parallel()
	form := harness.Header{"Content-Type": "application/x-www-form-urlencoded"}
	for _, path := range []string{"/v2/token", "/token", "/auth/token", "/v2/auth", "/service/token", "/v2/a/token", "/v1/auth", "/oauth2/token"} {
		for _, r := range []struct {
			method string
			body   []byte
		}{{"POST", []byte("grant_type=password&service=berth&scope=repository:a:pull")}, {"GET", nil}} {
			resp := api(t).Do(r.method, path, r.body, form, harness.Header{"Accept": "application/json"})
			kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			if resp.StatusCode != 404 && resp.StatusCode != 405 || kind != "application/json" || resp.Code() == "" {
				t.Errorf("%s %s was answered with %d, Content-Type %q: %s", r.method, path, resp.StatusCode, resp.Header.Get("Content-Type"), resp.Bytes)
			}
		}
	}
}

// containerd relies on what HEAD tells about a manifest.
func TestClients03_ContainerdHeadOfManifestIsExact(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("containerd/head", "oci", im)
	docker := harness.Pack(v1.Manifest{MediaType: dockerManifest}, im.Blobs...)
	a.PushManifest("containerd/head", "docker", docker.Manifest)
	index := harness.NewIndex(im.Manifest.Descriptor, docker.Manifest.Descriptor)
	a.PushManifest("containerd/head", "index", index)
	list := harness.NewBlob(dockerList, []byte(strings.Replace(string(index.Bytes), v1.MediaTypeImageIndex, dockerList, 1)))
	a.PushManifest("containerd/head", "list", list)
	for tag, m := range map[string]harness.Blob{"oci": im.Manifest, "docker": docker.Manifest, "index": index, "list": list} {
		for _, reference := range []string{tag, m.Digest.String()} {
			for _, method := range []string{"HEAD", "GET"} {
				resp := a.Expect(http.StatusOK, method, "/v2/containerd/head/manifests/"+reference, nil, harness.Header{"Accept": allManifestTypes})
				wantHeader(t, resp, "Content-Type", m.MediaType)
				wantHeader(t, resp, "Docker-Content-Digest", m.Digest.String())
				if resp.ContentLength != m.Size {
					t.Errorf("%s of %s: Content-Length %d, expected %d", method, reference, resp.ContentLength, m.Size)
				}
				if method == "GET" && string(resp.Bytes) != string(m.Bytes) {
					t.Errorf("GET of %s: the bytes changed", reference)
				}
			}
		}
	}
}

// After a login containerd gives up on any answer but 200 and 404.
func TestClients04_ContainerdExistenceChecksAre200Or404(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("containerd/exists", "1", im)
	a.PushBlob("containerd/no-manifests", im.Blobs[0])
	zero := "sha256:" + strings.Repeat("0", 64)
	for _, authorization := range []string{"", "Basic YW55OmJvZHk=", "Bearer token"} {
		for _, r := range []struct {
			path   string
			status int
		}{
			{"containerd/exists/manifests/1", 200},
			{"containerd/exists/manifests/" + im.Manifest.Digest.String(), 200},
			{"containerd/exists/blobs/" + im.Blobs[0].Digest.String(), 200},
			{"containerd/exists/manifests/2", 404},
			{"containerd/exists/manifests/" + zero, 404},
			{"containerd/exists/blobs/" + zero, 404},
			{"containerd/exists/blobs/" + im.Manifest.Digest.String(), 404},
			{"containerd/no-manifests/manifests/1", 404},
			{"containerd/nowhere/manifests/1", 404},
			{"containerd/nowhere/blobs/" + im.Blobs[0].Digest.String(), 404},
			{"containerd/nowhere/blobs/sha512:" + strings.Repeat("0", 128), 404},
		} {
			for _, method := range []string{"HEAD", "GET"} {
				resp := a.Do(method, "/v2/"+r.path, nil, harness.Header{"Authorization": authorization, "Accept": allManifestTypes})
				if resp.StatusCode != r.status {
					t.Errorf("%s %s with %q: status %d, expected %d", method, r.path, authorization, resp.StatusCode, r.status)
				}
			}
		}
	}
}
