package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// ecr behaves, in front of a real registry, as Amazon ECR does: a PATCH that completes the blob
// is answered with 201, and the closing PUT is refused, the session having ended.
type ecr struct {
	a     *harness.API
	proxy *httputil.ReverseProxy
	blobs map[string]bool // digests by which the end of an upload is known

	mu    sync.Mutex
	ended map[string]bool // paths of sessions that a PATCH completed
	puts  int             // to those
}

func (e *ecr) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upload := strings.Contains(r.URL.Path, "/blobs/uploads/")
	e.mu.Lock()
	ended := e.ended[r.URL.Path]
	if ended && r.Method == "PUT" {
		e.puts++
	}
	e.mu.Unlock()
	switch {
	case ended:
		http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"the upload is complete already"}]}`, http.StatusBadRequest)
	case upload && r.Method == "PATCH":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		sum := sha256.Sum256(body)
		d := "sha256:" + hex.EncodeToString(sum[:])
		if !e.blobs[d] {
			http.Error(w, "not a whole blob", http.StatusInternalServerError)
			return
		}
		resp, err := e.a.Try(r.Context(), "PUT", harness.WithDigest(r.URL.RequestURI(), d), bytes.NewReader(body))
		if err != nil || resp.StatusCode != http.StatusCreated {
			http.Error(w, "the registry behind refused", http.StatusBadGateway)
			return
		}
		e.mu.Lock()
		e.ended[r.URL.Path] = true
		e.mu.Unlock()
		w.Header().Set("Location", resp.Header.Get("Location"))
		w.WriteHeader(http.StatusCreated)
	default:
		e.proxy.ServeHTTP(w, r)
	}
}

// berth copy replicates an image to Amazon ECR.
func TestClients24_ECRCompletesWithTheLastPatch(t *testing.T) {
	t.Parallel()
	a := api(t)
	// The large layer goes as a PATCH.
	im := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}")), harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(3<<20)))
	a.PushImage("ecr/source", "1", im)
	// An empty registry to copy to.
	target := harness.Start(t, harness.Settings{})
	u, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	e := &ecr{a: harness.NewAPI(t, target), blobs: map[string]bool{}, ended: map[string]bool{}, proxy: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) },
	}}
	for _, b := range im.Blobs {
		e.blobs[b.Digest.String()] = true
	}
	front := httptest.NewServer(e)
	defer front.Close()

	berth := &harness.Client{T: t, Path: harness.Binary(t), Home: t.TempDir()}
	berth.Run("copy", "--quiet", strings.TrimPrefix(a.Base, "http://")+"/ecr/source:1", strings.TrimPrefix(front.URL, "http://")+"/ecr/target:1")
	got := e.a.Expect(http.StatusOK, "GET", "/v2/ecr/target/manifests/1", nil)
	if !bytes.Equal(got.Bytes, im.Manifest.Bytes) {
		t.Error("the manifest changed")
	}
	for _, b := range im.Blobs {
		if got := e.a.Expect(http.StatusOK, "GET", "/v2/ecr/target/blobs/"+b.Digest.String(), nil); !bytes.Equal(got.Bytes, b.Bytes) {
			t.Error("a blob changed")
		}
	}
	if len(e.ended) == 0 || e.puts != 0 {
		t.Errorf("%d PATCHes and %d PUTs after them were sent, expected some and none", len(e.ended), e.puts)
	}
}
