package protocol

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthregistry/berth/test/harness"
)

// containerd compares the digest that a PUT answers with, and fails without it.
func TestClients05_ContainerdPutAnswersWithDigest(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	resp := a.PushBlob("containerd/put", im.Blobs[0])
	wantHeader(t, resp, "Docker-Content-Digest", im.Blobs[0].Digest.String())
	wantHeader(t, resp, "Location", "/v2/containerd/put/blobs/"+im.Blobs[0].Digest.String())
	resp = a.Expect(http.StatusCreated, "POST", harness.WithDigest("/v2/containerd/put/blobs/uploads/", im.Blobs[1].Digest.String()), im.Blobs[1].Bytes, octets)
	wantHeader(t, resp, "Docker-Content-Digest", im.Blobs[1].Digest.String())
	for _, reference := range []string{"tag", im.Manifest.Digest.String()} {
		resp = a.PushManifest("containerd/put", reference, im.Manifest)
		wantHeader(t, resp, "Docker-Content-Digest", im.Manifest.Digest.String())
		a.Expect(http.StatusOK, "GET", resp.Path(), nil)
	}
}

// Clients add their digest to the query of a Location and send credentials only to where they
// were: a Location stays relative, whatever headers a stranger sends.
func TestClients06_DockerLocationKeepsHostAndQuery(t *testing.T) {
	t.Parallel()
	a := api(t)
	for _, h := range []harness.Header{
		nil,
		{"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"},
		{"Forwarded": "host=evil.example;proto=https;for=192.0.2.1"},
		{"Host": "other.example:1234"},
		{"X-Forwarded-Prefix": "/elsewhere", "X-Forwarded-Port": "444"},
	} {
		resp := a.Expect(http.StatusAccepted, "POST", "/v2/docker/location/blobs/uploads/", []byte{}, h)
		location := resp.Header.Get("Location")
		if !strings.HasPrefix(location, "/v2/docker/location/blobs/uploads/") {
			t.Errorf("with %v, Location is %q", h, location)
		}
		// The Location of each answer leads on, its query being kept.
		resp = a.Expect(http.StatusAccepted, "PATCH", location, []byte("some "), octets, h)
		resp = a.Expect(http.StatusAccepted, "PATCH", resp.Header.Get("Location"), []byte("bytes"), octets, h)
		d := digest.FromString("some bytes")
		resp = a.Expect(http.StatusCreated, "PUT", harness.WithDigest(resp.Header.Get("Location"), d.String()), []byte{}, h)
		wantHeader(t, resp, "Location", "/v2/docker/location/blobs/"+d.String())
	}
}

// With an external URL every Location and Link begins with it.
func TestClients06_DockerLocationUnderExternalURL(t *testing.T) {
	t.Parallel()
	const external = "https://registry.example.com:8443"
	s := harness.Start(t, harness.Settings{Env: []string{"BERTH_EXTERNAL_URL=" + external, "BERTH_TRUSTED_PROXIES=127.0.0.1"}})
	a := harness.NewAPI(t, s)
	forwarded := harness.Header{"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
	resp := a.Expect(http.StatusAccepted, "POST", "/v2/docker/external/blobs/uploads/", []byte{}, forwarded)
	location := resp.Header.Get("Location")
	if !strings.HasPrefix(location, external+"/v2/docker/external/blobs/uploads/") {
		t.Fatalf("Location is %q", location)
	}
	blob := harness.NewBlob("", harness.Random(100))
	resp = a.Expect(http.StatusCreated, "PUT", harness.WithDigest(strings.TrimPrefix(location, external), blob.Digest.String()), blob.Bytes, forwarded)
	wantHeader(t, resp, "Location", external+"/v2/docker/external/blobs/"+blob.Digest.String())
	im := image()
	a.PushBlob("docker/external", im.Blobs[0])
	a.PushBlob("docker/external", im.Blobs[1])
	resp = a.PushManifest("docker/external", "1", im.Manifest)
	if l := resp.Header.Get("Location"); !strings.HasPrefix(l, external+"/v2/docker/external/manifests/") {
		t.Errorf("Location of a manifest is %q", l)
	}
}

// An upload that is redirected with 301 or 302 loses its method and its body.
func TestClients07_DockerUploadsAreNeverRedirected(t *testing.T) {
	t.Parallel()
	a := api(t)
	session := a.StartUpload("docker/redirect")
	zero := "sha256:" + strings.Repeat("0", 64)
	for _, r := range []struct{ method, path string }{
		{"POST", "/v2/docker/redirect/blobs/uploads/"},
		{"POST", "/v2/docker/redirect/blobs/uploads"},
		{"POST", "/v2//docker/redirect/blobs/uploads/"},
		{"POST", "//v2/docker/redirect/blobs/uploads/"},
		{"POST", "/v2/docker/./redirect/blobs/uploads/"},
		{"POST", "/v2/docker/../docker/redirect/blobs/uploads/"},
		{"POST", "/v2/docker/redirect/blobs/uploads/?mount=" + zero + "&from=docker/none"},
		{"PATCH", session},
		{"PATCH", session + "/"},
		{"PUT", harness.WithDigest(session, zero)},
		{"PUT", "/v2/docker/redirect/manifests/tag"},
		{"PUT", "/v2/docker/redirect/manifests/tag/"},
		{"PUT", "/v2/docker/redirect/manifests//tag"},
	} {
		// Not through net/url's cleaning: the path goes out as it stands.
		req, err := http.NewRequestWithContext(t.Context(), r.method, a.Base, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		path, query, _ := strings.Cut(r.path, "?")
		req.URL.Opaque, req.URL.RawQuery = path, query
		if strings.HasPrefix(path, "//") {
			req.URL.Opaque = ""
			req.URL.Path = path
		}
		resp, err := a.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode >= 300 && resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s %s was answered with %d, Location %q", r.method, r.path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

// Docker streams one PATCH of unknown length, containerd sends one PUT; both over
// HTTP/1.1 and HTTP/2.
func TestClients08_DockerStreamsAndContainerdPuts(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]*harness.API{"http1": api(t), "h2c": api(t).OverH2C()} {
		repo := "streams/" + name
		blob := harness.NewBlob("", harness.Random(300_000))
		d := blob.Digest.String()

		unknown := struct{ io.Reader }{bytes.NewReader(blob.Bytes)} // hides the length
		resp := a.Stream("PATCH", a.StartUpload(repo), unknown, octets)
		a.Check(resp, http.StatusAccepted)
		wantHeader(t, resp, "Range", "0-299999")
		a.Expect(http.StatusCreated, "PUT", harness.WithDigest(resp.Path(), d), []byte{})

		resp = a.Expect(http.StatusCreated, "PUT", harness.WithDigest(a.StartUpload(repo+"/put"), d), blob.Bytes, octets)
		wantHeader(t, resp, "Docker-Content-Digest", d)

		// A PUT and a single POST of unknown length.
		unknown = struct{ io.Reader }{bytes.NewReader(blob.Bytes)}
		a.Check(a.Stream("PUT", harness.WithDigest(a.StartUpload(repo+"/put-stream"), d), unknown, octets), http.StatusCreated)
		unknown = struct{ io.Reader }{bytes.NewReader(blob.Bytes)}
		a.Check(a.Stream("POST", harness.WithDigest("/v2/"+repo+"/post/blobs/uploads/", d), unknown, octets), http.StatusCreated)

		for _, r := range []string{repo, repo + "/put", repo + "/put-stream", repo + "/post"} {
			got := a.Expect(http.StatusOK, "GET", "/v2/"+r+"/blobs/"+d, nil)
			if !bytes.Equal(got.Bytes, blob.Bytes) {
				t.Errorf("%s: the blob changed", r)
			}
			if want := map[string]int{"http1": 1, "h2c": 2}[name]; got.ProtoMajor != want {
				t.Errorf("%s: spoke %s", r, got.Proto)
			}
		}
	}
}

// Chunks name their range without the word bytes; each answer tells how far the
// upload is.
func TestClients09_RegctlChunks(t *testing.T) {
	t.Parallel()
	a := api(t)
	blob := harness.NewBlob("", harness.Random(3000))
	chunk := func(location string, first, last int) *harness.Response {
		return a.Do("PATCH", location, blob.Bytes[first:last+1], octets, harness.Header{"Content-Range": fmt.Sprintf("%d-%d", first, last)})
	}
	resp := a.Expect(http.StatusAccepted, "POST", "/v2/regctl/chunks/blobs/uploads/", []byte{})
	wantHeader(t, resp, "Range", "0-0") // not 0--1
	resp = a.Expect(http.StatusNoContent, "GET", resp.Path(), nil)
	wantHeader(t, resp, "Range", "0-0")

	location := resp.Path()
	a.Check(chunk(location, 1000, 1999), http.StatusRequestedRangeNotSatisfiable)
	resp = chunk(location, 0, 999)
	a.Check(resp, http.StatusAccepted)
	wantHeader(t, resp, "Range", "0-999")
	location = resp.Path()
	a.Check(chunk(location, 0, 999), http.StatusRequestedRangeNotSatisfiable)
	a.Check(chunk(location, 1001, 1999), http.StatusRequestedRangeNotSatisfiable)
	a.Check(chunk(location, 999, 1999), http.StatusRequestedRangeNotSatisfiable)

	// After 416 the client asks where to go on.
	resp = a.Expect(http.StatusNoContent, "GET", location, nil)
	wantHeader(t, resp, "Range", "0-999")
	resp = chunk(resp.Path(), 1000, 1999)
	a.Check(resp, http.StatusAccepted)
	wantHeader(t, resp, "Range", "0-1999")
	location = resp.Path()

	put := func(first, last int) *harness.Response {
		return a.Do("PUT", harness.WithDigest(location, blob.Digest.String()), blob.Bytes[first:last+1], octets,
			harness.Header{"Content-Range": fmt.Sprintf("%d-%d", first, last)})
	}
	a.Check(put(2500, 2999), http.StatusRequestedRangeNotSatisfiable) // on the closing PUT too
	a.Check(put(0, 2999), http.StatusRequestedRangeNotSatisfiable)
	a.Check(put(2000, 2999), http.StatusCreated)
	if got := a.Expect(http.StatusOK, "GET", "/v2/regctl/chunks/blobs/"+blob.Digest.String(), nil); !bytes.Equal(got.Bytes, blob.Bytes) {
		t.Error("the blob changed")
	}
	// The session has ended. The last chunk, sent once more, is answered as before and makes no blob of itself.
	wantCode(t, a.Do("GET", location, nil), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	wantCode(t, chunk(location, 2000, 2999), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	a.Check(put(2000, 2999), http.StatusCreated)
	a.Expect(http.StatusNotFound, "HEAD", "/v2/regctl/chunks/blobs/"+harness.NewBlob("", blob.Bytes[2000:]).Digest.String(), nil)
}

func TestClients09_RegctlMalformedChunks(t *testing.T) {
	t.Parallel()
	a := api(t)
	location := a.StartUpload("regctl/malformed")
	for _, contentRange := range []string{"bytes=0-9", "0", "-9", "9-0", "0-9/10", "a-b", "0-9,10-19", "99999999999999999999-99999999999999999999", "0-4", "0-99"} {
		resp := a.Do("PATCH", location, []byte("0123456789"), octets, harness.Header{"Content-Range": contentRange})
		if resp.StatusCode != 400 && resp.StatusCode != 416 || resp.Code() == "" {
			t.Errorf("Content-Range %q was answered with %d %s", contentRange, resp.StatusCode, resp.Code())
		}
	}
	resp := a.Expect(http.StatusNoContent, "GET", location, nil)
	wantHeader(t, resp, "Range", "0-0")
	a.Expect(http.StatusNoContent, "DELETE", location, nil)
	wantCode(t, a.Do("PATCH", location, []byte("x"), octets), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

// A mount that cannot be is an upload; a client told 400 or 403 would give up.
func TestClients10_ContainerdMountFallsBackToUpload(t *testing.T) {
	t.Parallel()
	a := api(t)
	blob, other := harness.NewBlob("", harness.Random(500)), harness.NewBlob("", harness.Random(500))
	a.PushBlob("containerd/mount-source", blob)
	mount := func(query url.Values) *harness.Response {
		return a.Do("POST", "/v2/containerd/mount-target/blobs/uploads/?"+query.Encode(), []byte{})
	}
	for _, from := range []string{"containerd/none", "Not/A/Name", "", "../../etc", strings.Repeat("x", 300), "docker.io/library/nginx:latest", "a//b"} {
		for _, b := range []harness.Blob{blob, other} {
			resp := mount(url.Values{"mount": {b.Digest.String()}, "from": {from}})
			a.Check(resp, http.StatusAccepted)
			if resp.Path() == "" {
				t.Errorf("from %q: no Location to upload to", from)
			}
		}
	}
	// The upload that it became works.
	resp := mount(url.Values{"mount": {other.Digest.String()}, "from": {"containerd/mount-source"}})
	a.Check(resp, http.StatusAccepted)
	a.Expect(http.StatusCreated, "PUT", harness.WithDigest(resp.Path(), other.Digest.String()), other.Bytes)

	resp = mount(url.Values{"mount": {blob.Digest.String()}, "from": {"containerd/mount-source"}})
	a.Check(resp, http.StatusCreated)
	wantHeader(t, resp, "Location", "/v2/containerd/mount-target/blobs/"+blob.Digest.String())
	wantHeader(t, resp, "Docker-Content-Digest", blob.Digest.String())
	if got := a.Expect(http.StatusOK, "GET", resp.Path(), nil); !bytes.Equal(got.Bytes, blob.Bytes) {
		t.Error("the mounted blob differs")
	}
}

// Without from, the blob is taken from wherever it is.
func TestClients10_RegctlAnonymousMount(t *testing.T) {
	t.Parallel()
	a := api(t)
	blob := harness.NewBlob("", harness.Random(500))
	path := "/v2/regctl/anonymous/blobs/uploads/?mount=" + blob.Digest.String()
	a.Expect(http.StatusAccepted, "POST", path, []byte{})
	a.PushBlob("regctl/elsewhere", blob)
	resp := a.Expect(http.StatusCreated, "POST", path, []byte{})
	wantHeader(t, resp, "Location", "/v2/regctl/anonymous/blobs/"+blob.Digest.String())
}

// A push that takes longer than any token lives, and longer than the idle timeout,
// goes on as long as bytes arrive.
func TestClients26_DockerSlowPushCompletes(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{Env: []string{"BERTH_TIMEOUTS_IDLE=1s"}})
	a := harness.NewAPI(t, s)
	blob := harness.NewBlob("", harness.Random(8000))
	r, w := io.Pipe()
	go func() {
		for piece := range 8 {
			time.Sleep(300 * time.Millisecond)
			w.Write(blob.Bytes[piece*1000:][:1000])
		}
		w.Close()
	}()
	location := a.StartUpload("docker/slow")
	start := time.Now()
	resp := a.Stream("PATCH", location, r, octets)
	a.Check(resp, http.StatusAccepted)
	if took := time.Since(start); took < 2*time.Second {
		t.Fatalf("the push took %v, which tests nothing", took)
	}
	time.Sleep(1500 * time.Millisecond) // between two requests, more than idle
	a.Expect(http.StatusCreated, "PUT", harness.WithDigest(resp.Path(), blob.Digest.String()), []byte{})
}
