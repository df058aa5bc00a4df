package crash

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// stream is a source of bytes without end, the same for each seed.
func stream(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// TestLongUploadResumes kills the server in the middle of one long PATCH, again and again: the
// upload goes on at a checkpoint, without the client having ended a request.
func TestLongUploadResumes(t *testing.T) {
	server, err := harness.StartServer(harness.Binary(t), t.TempDir(), settings)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	api := harness.NewAPI(t, server)
	location := api.StartUpload("long")
	var at int64
	for kill := range 2 {
		from := at
		src := stream(1)
		io.CopyN(io.Discard, src, from)
		var done sync.WaitGroup
		done.Go(func() { api.Try(t.Context(), "PATCH", location, io.MultiReader(src)) }) // ends with the server
		deadline := time.Now().Add(time.Minute)
		for at == from && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
			at = uploaded(api, location)
		}
		server.Kill()
		done.Wait()
		if at == from {
			t.Fatalf("kill %d: nothing was checkpointed in a minute", kill)
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		after := uploaded(api, location)
		if after < at {
			t.Fatalf("kill %d: %d bytes are left, %d had been checkpointed", kill, after, at)
		}
		t.Logf("kill %d: goes on at %d", kill, after)
		at = after
	}

	const tail = 1 << 20
	whole := sha256.New()
	io.CopyN(whole, stream(1), at+tail)
	d := oci.DigestOf(oci.SHA256, whole)
	src := stream(1)
	io.CopyN(io.Discard, src, at)
	last, _ := io.ReadAll(io.LimitReader(src, tail))
	api.Check(api.Do("PUT", harness.WithDigest(location, d.String()), last,
		harness.Header{"Content-Range": fmt.Sprintf("%d-%d", at, at+tail-1)}), http.StatusCreated)

	resp, err := api.Client.Get(api.Base + "/v2/long/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := sha256.New()
	if n, err := io.Copy(got, resp.Body); err != nil || n != at+tail || !bytes.Equal(got.Sum(nil), whole.Sum(nil)) {
		t.Errorf("the blob of %d bytes is wrong: %d bytes, %v", at+tail, n, err)
	}
	if files := dataFiles(t, server.Dir); len(files) != 1 {
		t.Errorf("%d objects are stored, expected the blob alone: %v", len(files), files)
	}
}

// uploaded asks how many bytes of a session are durable.
func uploaded(api *harness.API, location string) int64 {
	api.T.Helper()
	resp := api.Expect(http.StatusNoContent, "GET", location, nil)
	var last int64
	if _, err := fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &last); err != nil {
		api.T.Fatalf("Range is %q", resp.Header.Get("Range"))
	}
	if last == 0 {
		return 0 // of one byte or none
	}
	return last + 1
}
