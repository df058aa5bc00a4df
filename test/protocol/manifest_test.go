package protocol

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// buildx writes indexes that mix Docker's types with OCI's and name a child twice.
func TestClients18_BuildxIndexMixesTypesAndRepeatsChildren(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	docker := harness.Pack(v1.Manifest{MediaType: dockerManifest}, im.Blobs...)
	a.PushImage("buildx/mixed", "", im)
	a.PushManifest("buildx/mixed", "", docker.Manifest)
	attestation := im.Manifest.Descriptor
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	children := []v1.Descriptor{im.Manifest.Descriptor, docker.Manifest.Descriptor, attestation, im.Manifest.Descriptor}
	index := harness.NewIndex(children...)
	list := harness.NewBlob(dockerList, []byte(strings.Replace(string(index.Bytes), v1.MediaTypeImageIndex, dockerList, 1)))
	for _, m := range []harness.Blob{index, list} {
		a.PushManifest("buildx/mixed", "latest", m)
		resp := a.Expect(http.StatusOK, "GET", "/v2/buildx/mixed/manifests/latest", nil)
		wantHeader(t, resp, "Content-Type", m.MediaType)
		if !bytes.Equal(resp.Bytes, m.Bytes) {
			t.Error("the index changed")
		}
	}
}

// Each level names the level below twice: 2^40 paths, 41 manifests.
func TestClients18_BuildxDeeplyNestedIndexIsBounded(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("buildx/nested", "", im)
	below := im.Manifest.Descriptor
	start := time.Now()
	for range 40 {
		second := below
		second.Annotations = map[string]string{"again": "yes"}
		index := harness.NewIndex(below, second)
		a.PushManifest("buildx/nested", "top", index)
		below = index.Descriptor
	}
	a.Expect(http.StatusOK, "GET", "/v2/buildx/nested/manifests/top", nil)
	a.Expect(http.StatusAccepted, "DELETE", "/v2/buildx/nested/manifests/"+below.Digest.String(), nil)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("40 nested indexes took %v", took)
	}
}

// regctl pushes with sha512: the algorithm is a parameter of the upload, or follows from the
// digest.
func TestClients19_RegctlSHA512(t *testing.T) {
	t.Parallel()
	a := api(t)
	config, layer := harness.NewBlob(v1.MediaTypeImageConfig, []byte(`{"sha512":true}`)), harness.NewBlob(v1.MediaTypeImageLayerGzip, harness.Random(5000))
	for _, b := range []*harness.Blob{&config, &layer} {
		b.Digest = digest.SHA512.FromBytes(b.Bytes)
	}
	// In chunks with the parameter.
	resp := a.Expect(http.StatusAccepted, "POST", "/v2/regctl/sha512/blobs/uploads/?digest-algorithm=sha512", []byte{})
	resp = a.Expect(http.StatusAccepted, "PATCH", resp.Path(), layer.Bytes[:2000], octets, harness.Header{"Content-Range": "0-1999"})
	resp = a.Expect(http.StatusAccepted, "PATCH", resp.Path(), layer.Bytes[2000:], octets, harness.Header{"Content-Range": "2000-4999"})
	resp = a.Expect(http.StatusCreated, "PUT", harness.WithDigest(resp.Path(), layer.Digest.String()), []byte{})
	wantHeader(t, resp, "Docker-Content-Digest", layer.Digest.String())
	// At once, without it; and a session that was begun without it.
	a.PushBlob("regctl/sha512", config)
	other := harness.Blob{Bytes: harness.Random(3000)}
	other.Digest = digest.SHA512.FromBytes(other.Bytes)
	resp = a.Expect(http.StatusAccepted, "PATCH", a.StartUpload("regctl/sha512"), other.Bytes, octets)
	a.Expect(http.StatusCreated, "PUT", harness.WithDigest(resp.Path(), other.Digest.String()), []byte{})
	a.Expect(http.StatusCreated, "POST", harness.WithDigest("/v2/regctl/sha512-post/blobs/uploads/", other.Digest.String()), other.Bytes, octets)

	im := harness.Pack(v1.Manifest{}, config, layer)
	d := digest.SHA512.FromBytes(im.Manifest.Bytes)
	kind := harness.Header{"Content-Type": im.Manifest.MediaType}
	resp = a.Expect(http.StatusCreated, "PUT", "/v2/regctl/sha512/manifests/"+d.String()+"?tag=1&tag=latest", im.Manifest.Bytes, kind)
	wantHeader(t, resp, "Docker-Content-Digest", d.String())
	if got := strings.Join(resp.Header.Values("Oci-Tag"), ", "); got != "1, latest" {
		t.Errorf("OCI-Tag is %q", got)
	}
	for _, reference := range []string{"1", "latest", d.String()} {
		resp = a.Expect(http.StatusOK, "GET", "/v2/regctl/sha512/manifests/"+reference, nil)
		wantHeader(t, resp, "Docker-Content-Digest", d.String())
		if !bytes.Equal(resp.Bytes, im.Manifest.Bytes) {
			t.Error("the manifest changed")
		}
	}
	for _, b := range []harness.Blob{config, layer, other} {
		resp = a.Expect(http.StatusOK, "GET", "/v2/regctl/sha512/blobs/"+b.Digest.String(), nil)
		wantHeader(t, resp, "Docker-Content-Digest", b.Digest.String())
		if !bytes.Equal(resp.Bytes, b.Bytes) {
			t.Error("a blob changed")
		}
	}
	wantCode(t, a.Do("POST", "/v2/regctl/sha512/blobs/uploads/?digest-algorithm=md5", []byte{}), http.StatusBadRequest, "DIGEST_INVALID")
}

// padded returns a manifest of exactly n bytes.
func padded(n int) (harness.Image, harness.Blob) {
	im := image()
	m := im.Manifest.Bytes
	b := append(append(m[:len(m)-1:len(m)-1], []byte(`,"annotations":{"pad":"`)...), bytes.Repeat([]byte("x"), n-len(m)-len(`,"annotations":{"pad":""}`))...)
	b = append(b, `"}}`...)
	return im, harness.NewBlob(im.Manifest.MediaType, b)
}

// A manifest may have 4 MiB. Clients that build large indexes count on it.
func TestClients20_CraneManifestOf4MiB(t *testing.T) {
	t.Parallel()
	a := api(t)
	im, large := padded(4 << 20)
	if large.Size != 4<<20 {
		t.Fatalf("the manifest has %d bytes", large.Size)
	}
	for _, b := range im.Blobs {
		a.PushBlob("crane/large", b)
	}
	a.PushManifest("crane/large", "1", large)
	if got := a.Expect(http.StatusOK, "GET", "/v2/crane/large/manifests/1", nil); !bytes.Equal(got.Bytes, large.Bytes) {
		t.Error("the manifest changed")
	}
	_, tooLarge := padded(4<<20 + 1)
	kind := harness.Header{"Content-Type": tooLarge.MediaType}
	resp := a.Do("PUT", "/v2/crane/large/manifests/2", tooLarge.Bytes, kind)
	if resp.StatusCode != http.StatusRequestEntityTooLarge || resp.Code() == "" {
		t.Errorf("4 MiB and 1 byte was answered with %d %s", resp.StatusCode, resp.Code())
	}
	// Of unknown length, the limit is found on the way.
	resp, err := a.Try(t.Context(), "PUT", "/v2/crane/large/manifests/2", struct{ io.Reader }{bytes.NewReader(bytes.Repeat([]byte(" "), 10<<20))}, kind)
	if err == nil && resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("10 MiB of unknown length was answered with %d", resp.StatusCode)
	}
	a.Expect(http.StatusNotFound, "HEAD", "/v2/crane/large/manifests/2", nil)
}

func TestClients20_DockerDigestMismatch(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	zero := "sha256:" + strings.Repeat("0", 64)
	b := im.Blobs[1]
	wantCode(t, a.Do("PUT", harness.WithDigest(a.StartUpload("docker/mismatch"), zero), b.Bytes, octets), 400, "DIGEST_INVALID")
	wantCode(t, a.Do("POST", harness.WithDigest("/v2/docker/mismatch/blobs/uploads/", zero), b.Bytes, octets), 400, "DIGEST_INVALID")
	resp := a.Expect(http.StatusAccepted, "PATCH", a.StartUpload("docker/mismatch"), b.Bytes, octets)
	wantCode(t, a.Do("PUT", harness.WithDigest(resp.Path(), zero), []byte{}), 400, "DIGEST_INVALID")
	for _, malformed := range []string{"", "sha256:", "sha256:" + strings.Repeat("g", 64), "sha256:" + strings.Repeat("A", 64), "md5:" + strings.Repeat("0", 32), strings.Repeat("0", 64)} {
		wantCode(t, a.Do("PUT", harness.WithDigest(a.StartUpload("docker/mismatch"), malformed), b.Bytes, octets), 400, "DIGEST_INVALID")
	}
	a.PushBlob("docker/mismatch", im.Blobs[0])
	a.PushBlob("docker/mismatch", im.Blobs[1])
	wantCode(t, a.Do("PUT", "/v2/docker/mismatch/manifests/"+zero, im.Manifest.Bytes, harness.Header{"Content-Type": im.Manifest.MediaType}), 400, "DIGEST_INVALID")
	a.Expect(http.StatusNotFound, "HEAD", "/v2/docker/mismatch/blobs/"+zero, nil)
	a.Expect(http.StatusNotFound, "HEAD", "/v2/docker/mismatch/manifests/"+zero, nil)
}

// A client that is told to slow down is told when to come back.
func TestClients20_DockerTooManyUploads(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{Env: []string{"BERTH_LIMITS_UPLOADS=1"}})
	a := harness.NewAPI(t, s)
	blob := harness.NewBlob("", harness.Random(1000))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var w *io.PipeWriter
	var first chan *harness.Response
	begin := func() {
		location := a.StartUpload("docker/busy")
		var r *io.PipeReader
		r, w = io.Pipe()
		answer := make(chan *harness.Response, 1)
		first = answer
		go func() {
			resp, err := a.Try(ctx, "PATCH", location, r, octets)
			if err != nil {
				t.Errorf("the first upload: %v", err)
			}
			answer <- resp
		}()
		go w.Write(blob.Bytes[:500])
	}
	begin()
	var resp *harness.Response
	for range 200 { // until the first one has taken its place
		if resp = a.Do("PATCH", a.StartUpload("docker/busy"), blob.Bytes, octets); resp.StatusCode == http.StatusTooManyRequests {
			break
		}
		select {
		case <-first: // the second one had the place just then
			begin()
		case <-time.After(10 * time.Millisecond):
		}
	}
	wantCode(t, resp, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if resp.Header.Get("Retry-After") == "" {
		t.Error("429 has no Retry-After")
	}
	w.Write(blob.Bytes[500:])
	w.Close()
	if resp := <-first; resp != nil && resp.StatusCode != http.StatusAccepted {
		t.Errorf("the first upload: status %d", resp.StatusCode)
	}
	a.PushBlob("docker/busy", blob) // there is a place again
}

// Windows base images name layers that lie elsewhere; their manifests are pushed
// without them.
func TestClients23_DockerForeignLayersMayBeMissing(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushBlob("docker/foreign", im.Blobs[0])
	for _, mediaType := range []string{
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	} {
		foreign := harness.NewBlob(mediaType, harness.Random(10)).Descriptor
		foreign.URLs = []string{"https://example.com/layer"}
		for _, kind := range []string{v1.MediaTypeImageManifest, dockerManifest} {
			m := harness.Pack(v1.Manifest{MediaType: kind, Layers: []v1.Descriptor{foreign}}, im.Blobs[0])
			a.PushManifest("docker/foreign", "1", m.Manifest)
		}
	}
	// Other layers may not.
	wantCode(t, a.Do("PUT", "/v2/docker/foreign/manifests/2", im.Manifest.Bytes, harness.Header{"Content-Type": im.Manifest.MediaType}), 400, "MANIFEST_BLOB_UNKNOWN")
}

// BuildKit pushes what is there already: the same digest under the same tag is a
// success, however often.
func TestClients25_BuildKitPushesSameDigestAgain(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	for range 3 {
		a.PushImage("buildkit/again", "1", im)
		a.PushManifest("buildkit/again", "", im.Manifest)
	}
	// Also if the client makes sure to overwrite nothing else.
	kind := harness.Header{"Content-Type": im.Manifest.MediaType, "If-Match": `"` + im.Manifest.Digest.String() + `"`}
	a.Expect(http.StatusCreated, "PUT", "/v2/buildkit/again/manifests/1", im.Manifest.Bytes, kind)
	if tags := a.Tags("buildkit/again"); len(tags) != 1 {
		t.Errorf("tags are %q", tags)
	}
}
