package hostile

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// databaseSize returns how many bytes the database has on disk.
func databaseSize(t testing.TB, s *harness.Server) (size int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "data", "berth.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

// Upload sessions that are begun and never used cost nothing, however many.
func TestUnusedUploads(t *testing.T) {
	const uploads = 100_000
	s := start(t, "BERTH_LOG_ACCESS=false")
	api := harness.NewAPI(t, s)
	works(t, api, "unused/uploads")
	database, files := databaseSize(t, s), len(objects(t, s.Dir))
	memory := resident(t, s)

	// Pipelined on few connections.
	const request = "POST /v2/unused/uploads/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	var clients sync.WaitGroup
	for range 4 {
		c := dial(t, s)
		clients.Go(func() {
			go io.WriteString(c, strings.Repeat(request, uploads/4))
			var answers int
			buf := make([]byte, 64<<10)
			carry := ""
			for answers < uploads/4 {
				n, err := c.Read(buf)
				if err != nil {
					t.Errorf("after %d uploads: %v", answers, err)
					return
				}
				text := carry + string(buf[:n])
				answers += strings.Count(text, "HTTP/1.1 202 Accepted")
				carry = text[max(0, len(text)-len("HTTP/1.1 202 Accepted")+1):]
			}
		})
	}
	clients.Wait()
	const jobs = 256 << 10 // which work beside; less than three bytes for an upload
	if d, f := databaseSize(t, s), len(objects(t, s.Dir)); d > database+jobs || f != files {
		t.Errorf("%d unused uploads: the database grew from %d to %d bytes, objects from %d to %d", uploads, database, d, files, f)
	}
	t.Logf("memory: %d MiB before, %d MiB after", memory>>20, resident(t, s)>>20)
	wantPeak(t, s, 64)
	// The first of so many is as good as any.
	b := octets(harness.Random(10))
	api.PushBlob("unused/uploads", b)
}

// Lists are written as they are read: the longest one costs hardly any memory.
func TestLongLists(t *testing.T) {
	const tags = 100_000
	s := start(t, "BERTH_LOG_ACCESS=false")
	api := harness.NewAPI(t, s)
	image := harness.Pack(v1.Manifest{}, octets(harness.Random(10)))
	api.PushImage("long/list", "", image)
	for page := range tags / 100 {
		q := url.Values{}
		for i := range 100 {
			q.Add("tag", fmt.Sprintf("tag-%06d", page*100+i))
		}
		api.Expect(201, "PUT", "/v2/long/list/manifests/"+image.Manifest.Digest.String()+"?"+q.Encode(), image.Manifest.Bytes,
			harness.Header{"Content-Type": v1.MediaTypeImageManifest})
	}
	before := peak(t, s)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			resp, err := api.Try(t.Context(), "GET", "/v2/long/list/tags/list", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if n := bytes.Count(resp.Bytes, []byte(`"tag-`)); n != tags {
				t.Errorf("the list has %d tags", n)
			}
		})
	}
	for range 200 { // who ask and do not read
		c := dial(t, s)
		io.WriteString(c, "GET /v2/long/list/tags/list HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	clients.Wait()
	works(t, api, "long/other")
	t.Logf("peak memory before the lists: %d MiB", before>>20)
	wantPeak(t, s, 128)
}

// A blob of a gigabyte passes through, in both directions, for the fast and the slow.
func TestLargeBlob(t *testing.T) {
	const size = 1 << 30
	s := start(t, "BERTH_DISK_RESERVE=0")
	api := harness.NewAPI(t, s)
	content := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
	h := sha256.New()
	io.Copy(h, content())
	d := oci.DigestOf(oci.SHA256, h).String()
	api.Check(api.Stream("PUT", harness.WithDigest(api.StartUpload("large/app"), d), content()), 201)
	wantPeak(t, s, 64)

	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			resp, err := http.Get(s.URL + "/v2/large/app/blobs/" + d)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			h := sha256.New()
			if n, err := io.Copy(h, resp.Body); err != nil || oci.DigestOf(oci.SHA256, h).String() != d {
				t.Errorf("a fast client got %d bytes, %v", n, err)
			}
		})
	}
	for range 50 {
		c := dial(t, s)
		fmt.Fprintf(c, "GET /v2/large/app/blobs/%s HTTP/1.1\r\nHost: x\r\nRange: bytes=1000-\r\n\r\n", d)
		clients.Go(func() {
			defer c.Close()
			for range 10 {
				io.ReadFull(c, make([]byte, 10_000))
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	clients.Wait()
	wantPeak(t, s, 64)
}
