package protocol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// helm pushes a chart's manifest by digest, reads it back, and tags it last.
func TestClients11_HelmReadsByDigestBeforeAnyTag(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("helm/untagged", "", im)
	path := "/v2/helm/untagged/manifests/" + im.Manifest.Digest.String()
	resp := a.Expect(http.StatusOK, "GET", path, nil, harness.Header{"Accept": allManifestTypes})
	if !bytes.Equal(resp.Bytes, im.Manifest.Bytes) {
		t.Error("the manifest changed")
	}
	if tags := a.Tags("helm/untagged"); len(tags) != 0 {
		t.Errorf("tags are %q, expected none", tags)
	}
	a.PushManifest("helm/untagged", "1.0.0", im.Manifest)
}

// A manifest is never converted: whatever Accept says, the stored bytes and their type are the
// answer. Old versions of Docker and Kubernetes list few types.
func TestClients12_DockerAcceptNeverConverts(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	docker := harness.Pack(v1.Manifest{MediaType: dockerManifest}, im.Blobs...)
	a.PushImage("docker/accept", "oci", im)
	a.PushManifest("docker/accept", "docker", docker.Manifest)
	a.PushManifest("docker/accept", "index", harness.NewIndex(im.Manifest.Descriptor))
	for tag, want := range map[string]string{"oci": v1.MediaTypeImageManifest, "docker": dockerManifest, "index": v1.MediaTypeImageIndex} {
		for _, accept := range []string{
			"", "*/*", "application/json", "text/html", dockerManifest, v1.MediaTypeImageManifest,
			"application/vnd.docker.distribution.manifest.v1+prettyjws", dockerList + ";q=0.5", "nonsense", v1.MediaTypeImageIndex,
		} {
			for _, method := range []string{"GET", "HEAD"} {
				resp := a.Expect(http.StatusOK, method, "/v2/docker/accept/manifests/"+tag, nil, harness.Header{"Accept": accept})
				wantHeader(t, resp, "Content-Type", want)
			}
		}
	}
}

// containerd fetches a layer in parallel ranges, and goes on from an offset.
func TestClients14_ContainerdRanges(t *testing.T) {
	t.Parallel()
	const size = 100_000
	for name, a := range map[string]*harness.API{"http1": api(t), "h2c": api(t).OverH2C()} {
		blob := harness.NewBlob("", harness.Random(size))
		repo := "ranges/" + name
		a.PushBlob(repo, blob)
		path := "/v2/" + repo + "/blobs/" + blob.Digest.String()
		wantHeader(t, a.Expect(http.StatusOK, "HEAD", path, nil), "Accept-Ranges", "bytes")
		for _, r := range []struct {
			asked       string
			first, last int
		}{
			{"bytes=0-", 0, size - 1},
			{"bytes=0-0", 0, 0},
			{"bytes=40000-", 40_000, size - 1},
			{"bytes=10-19", 10, 19},
			{"bytes=-100", size - 100, size - 1},
			{"bytes=99999-", size - 1, size - 1},
			{"bytes=99990-200000", 99_990, size - 1},
			{"bytes=-200000", 0, size - 1},
		} {
			resp := a.Expect(http.StatusPartialContent, "GET", path, nil, harness.Header{"Range": r.asked})
			wantHeader(t, resp, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", r.first, r.last, size))
			wantHeader(t, resp, "Docker-Content-Digest", blob.Digest.String())
			if !bytes.Equal(resp.Bytes, blob.Bytes[r.first:r.last+1]) {
				t.Errorf("%s: other bytes", r.asked)
			}
		}
		for _, asked := range []string{"bytes=100000-", "bytes=200000-300000"} {
			resp := a.Expect(http.StatusRequestedRangeNotSatisfiable, "GET", path, nil, harness.Header{"Range": asked})
			wantHeader(t, resp, "Content-Range", fmt.Sprintf("bytes */%d", size))
		}
		// If-Range with another version's ETag asks for the whole.
		resp := a.Expect(http.StatusOK, "GET", path, nil, harness.Header{"Range": "bytes=5-", "If-Range": `"other"`})
		if len(resp.Bytes) != size {
			t.Errorf("If-Range of another version was answered with %d bytes", len(resp.Bytes))
		}
		resp = a.Expect(http.StatusPartialContent, "GET", path, nil, harness.Header{"Range": "bytes=5-", "If-Range": resp.Header.Get("Etag")})
		if len(resp.Bytes) != size-5 {
			t.Errorf("If-Range of this version was answered with %d bytes", len(resp.Bytes))
		}

		const pieces = 10
		got := make([][]byte, pieces)
		var wg sync.WaitGroup
		for i := range pieces {
			wg.Go(func() {
				asked := fmt.Sprintf("bytes=%d-%d", i*size/pieces, (i+1)*size/pieces-1)
				if resp, err := a.Try(t.Context(), "GET", path, nil, harness.Header{"Range": asked}); err == nil {
					got[i] = resp.Bytes
				}
			})
		}
		wg.Wait()
		if !bytes.Equal(bytes.Join(got, nil), blob.Bytes) {
			t.Error("the pieces don't make the blob")
		}
	}
}

// Podman asks for several pieces of a zstd:chunked layer in one request.
func TestClients14_PodmanSeveralRangesInOneRequest(t *testing.T) {
	t.Parallel()
	a := api(t)
	blob := harness.NewBlob("", harness.Random(100_000))
	a.PushBlob("podman/ranges", blob)
	resp := a.Expect(http.StatusPartialContent, "GET", "/v2/podman/ranges/blobs/"+blob.Digest.String(), nil,
		harness.Header{"Range": "bytes=0-99,5000-5999,99990-"})
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		t.Fatalf("Content-Type is %q", resp.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(bytes.NewReader(resp.Bytes), params["boundary"])
	for _, want := range []struct{ first, last int }{{0, 99}, {5000, 5999}, {99_990, 99_999}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, blob.Bytes[want.first:want.last+1]) {
			t.Errorf("part %v has %d bytes (%v)", want, len(got), err)
		}
		if r := part.Header.Get("Content-Range"); r != fmt.Sprintf("bytes %d-%d/100000", want.first, want.last) {
			t.Errorf("part %v has Content-Range %q", want, r)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
}

// A client that has seen enough closes the connection. That ends the transfer, and is no
// error of the server's.
func TestClients14_ContainerdClosesEarly(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{Env: []string{"BERTH_LOG_FORMAT=json"}})
	a := harness.NewAPI(t, s)
	const size = 64 << 20
	blob := harness.NewBlob("", bytes.Repeat(harness.Random(1<<16), size>>16))
	a.PushBlob("containerd/early", blob)
	path := "/v2/containerd/early/blobs/" + blob.Digest.String()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", a.Base+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := a.Client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			io.CopyN(io.Discard, resp.Body, 1)
			cancel()
			resp.Body.Close()
		})
	}
	wg.Wait()
	// The server is as it was.
	if got := a.Expect(http.StatusPartialContent, "GET", path, nil, harness.Header{"Range": "bytes=-4"}); !bytes.Equal(got.Bytes, blob.Bytes[size-4:]) {
		t.Error("the end of the blob differs")
	}
	if log := s.Log(); strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("clients that left are errors in the log:\n%s", s.LogTail())
	}
	if log := s.Log(); strings.Contains(log, fmt.Sprintf(`"out":%d`, size)) {
		t.Error("a client that left was sent the whole blob")
	}
}

// containerd adds ns to what it asks a mirror for.
func TestClients15_ContainerdMirror(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("library/mirrored", "1", im)
	zero := "sha256:" + strings.Repeat("0", 64)
	for _, r := range []struct {
		path   string
		status int
	}{
		{"library/mirrored/manifests/1", 200},
		{"library/mirrored/blobs/" + im.Blobs[1].Digest.String(), 200},
		{"library/mirrored/manifests/2", 404}, // and not 5xx, which would end the client's search
		{"library/mirrored/blobs/" + zero, 404},
		{"library/absent/manifests/latest", 404},
		{"library/mirrored/referrers/" + im.Manifest.Digest.String(), 200},
		{"library/mirrored/tags/list", 200},
	} {
		for _, ns := range []string{"docker.io", "registry.example.com:5000", "[::1]:5000"} {
			for _, method := range []string{"GET", "HEAD"} {
				resp := a.Do(method, "/v2/"+r.path+"?ns="+ns, nil)
				a.Check(resp, r.status)
				wantHeader(t, resp, "Oci-Namespace", ns)
			}
		}
	}
	// Nothing is echoed that isn't the name of a host.
	for _, ns := range []string{"a%0d%0aSet-Cookie:%20x=y", "%3Cscript%3E", "a%20b", strings.Repeat("x", 5000)} {
		resp := a.Do("GET", "/v2/library/mirrored/manifests/1?ns="+ns, nil)
		if got := resp.Header.Get("Oci-Namespace"); resp.StatusCode >= 500 || got != "" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("ns=%.40s was answered with %d, OCI-Namespace %.40q", ns, resp.StatusCode, got)
		}
	}
}

// When bytes are missing on the disk, the answer is an error or breaks off; it never looks
// whole.
func TestClients21_DockerNeverSeesATruncatedBlobAsWhole(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	a := harness.NewAPI(t, s)
	const size = 5<<20 + 7
	blob := harness.NewBlob("", harness.Random(size))
	a.PushBlob("docker/truncated", blob)
	path := "/v2/docker/truncated/blobs/" + blob.Digest.String()
	truncated := 0
	if err := filepath.WalkDir(filepath.Join(s.Dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil && info.Size() == size {
			truncated++
			return os.Truncate(path, size/2)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if truncated != 1 {
		t.Fatalf("%d files have the size of the blob, expected 1", truncated)
	}
	for _, client := range []*harness.API{a, a.OverH2C()} {
		for _, r := range []harness.Header{nil, {"Range": "bytes=0-"}, {"Range": "bytes=1000000-"}, {"Range": "bytes=0-9,5000000-"}} {
			resp, err := client.Try(t.Context(), "GET", path, nil, r)
			if err == nil && resp.StatusCode < 300 {
				t.Errorf("with %v, the truncated blob was answered with %d and %d bytes, whole", r, resp.StatusCode, len(resp.Bytes))
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("with %v, the answer never ended", r)
			}
		}
	}
	a.Expect(http.StatusOK, "GET", "/v2/", nil)
}

// Compose and buildx both call themselves docker: no answer depends on the User-Agent.
func TestClients22_BuildxUserAgentChangesNothing(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("buildx/agent", "1", im)
	agents := []string{
		"docker/1.0 go/go1.3", "docker/28.2.2 go/go1.24.3 git-commit/45873be kernel/6.8 os/linux arch/amd64 UpstreamClient(Docker-Client/28.2.2 (linux))",
		"containerd/2.1.0", "containers/5.23.1 (github.com/containers/image)", "buildkit/v0.22", "Mozilla/5.0 (X11; Linux x86_64)", "Helm/3.18.0", "curl/8.0",
	}
	for _, r := range []struct{ method, path string }{
		{"GET", "/v2/"},
		{"GET", "/v2/buildx/agent/manifests/1"},
		{"GET", "/v2/buildx/agent/manifests/none"},
		{"GET", "/v2/buildx/agent/blobs/" + im.Blobs[1].Digest.String()},
		{"GET", "/v2/buildx/agent/tags/list"},
		{"GET", "/v1/_ping"},
	} {
		plain := a.Do(r.method, r.path, nil)
		for _, agent := range agents {
			resp := a.Do(r.method, r.path, nil, harness.Header{"User-Agent": agent})
			if resp.StatusCode != plain.StatusCode || !bytes.Equal(resp.Bytes, plain.Bytes) || resp.Header.Get("Content-Type") != plain.Header.Get("Content-Type") {
				t.Errorf("%s %s as %q: %d with %d bytes, expected %d with %d", r.method, r.path, agent, resp.StatusCode, len(resp.Bytes), plain.StatusCode, len(plain.Bytes))
			}
		}
	}
}
