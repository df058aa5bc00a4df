package hostile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// A hundred megabytes of header are refused before they are held.
func TestHugeHeaders(t *testing.T) {
	s := start(t)
	line := "X-Filler: " + strings.Repeat("x", 4000) + "\r\n"
	for name, head := range map[string]string{
		"many lines":  "GET /v2/ HTTP/1.1\r\nHost: x\r\n",
		"one line":    "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Filler: ",
		"request":     "GET /v2/",
		"of a chunk":  "PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;",
		"of trailers": "PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					c := dial(t, s)
					defer c.Close()
					filler := line
					if name == "one line" || name == "request" || name == "of a chunk" {
						filler = strings.Repeat("x", 4000)
					}
					io.WriteString(c, head)
					for sent := 0; sent < 100<<20; sent += len(filler) {
						if _, err := io.WriteString(c, filler); err != nil {
							return // as it should be
						}
					}
					t.Error("the server has read it all")
				})
			}
			clients.Wait()
		})
	}
	resp, _ := raw(t, s, "GET /v2/ HTTP/1.1\r\nHost: x\r\n"+strings.Repeat(line, 20)+"\r\n")
	if resp.StatusCode != 431 {
		t.Errorf("status %d, expected 431", resp.StatusCode)
	}
	wantPeak(t, s, 64)
	works(t, harness.NewAPI(t, s), "huge/headers")
}

// blanks is a body of so many bytes that are left to be read.
type blanks struct{ left atomic.Int64 }

func (b *blanks) Read(p []byte) (int, error) {
	n := min(int64(len(p)), b.left.Load())
	if n == 0 {
		return 0, io.EOF
	}
	b.left.Add(-n)
	for i := range p[:n] {
		p[i] = ' '
	}
	return int(n), nil
}

// A manifest of a hundred megabytes is refused before it is held, by its length or by
// what comes.
func TestHugeManifest(t *testing.T) {
	s := start(t)
	api := harness.NewAPI(t, s)
	for range 3 {
		// Of unknown length, as io.Reader is sent in chunks.
		body := new(blanks)
		body.left.Store(100 << 20)
		resp, err := api.Try(t.Context(), "PUT", "/v2/huge/manifests/1", body, harness.Header{"Content-Type": v1.MediaTypeImageManifest})
		if err == nil { // else the server has hung up while it was sent
			wantFailure(t, resp, 413, "SIZE_INVALID")
		}
		if left := body.left.Load(); left < 50<<20 {
			t.Errorf("the server has read it but for %d bytes", left)
		}
	}
	c := dial(t, s)
	io.WriteString(c, "PUT /v2/huge/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\nExpect: 100-continue\r\n\r\n")
	resp, body := answer(t, c)
	wantError(t, resp, body, 413, "SIZE_INVALID")
	wantPeak(t, s, 64)
	works(t, api, "huge/manifest")
}

// Manifests of the largest size whose content is as laborious as possible cost memory in proportion, and
// are answered with an error of a bearable size.
func TestLaboriousManifests(t *testing.T) {
	s := start(t)
	api := harness.NewAPI(t, s)
	const size = 4 << 20
	image := func(layers string) string {
		return `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + someDigest + `","size":2},"layers":` + layers + `}`
	}
	repeat := func(unit string) string { return strings.Repeat(unit, size/len(unit)-100) }
	var distinct strings.Builder
	rng := rand.New(rand.NewPCG(1, 2))
	for distinct.Len() < size-10_000 {
		fmt.Fprintf(&distinct, `{"mediaType":"a","digest":"sha256:%016x%016x%016x%016x","size":1},`, rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())
	}
	for name, test := range map[string]struct {
		body string
		code string
	}{
		"arrays in arrays":   {strings.Repeat("[", size-10), "MANIFEST_INVALID"},
		"objects in objects": {repeat(`{"a":`), "MANIFEST_INVALID"},
		"deep in a field":    {image(strings.Repeat("[", 9000) + strings.Repeat("]", 9000)), "MANIFEST_INVALID"},
		"deep and unknown":   {`{"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}", "MANIFEST_INVALID"},
		"one name, repeated": {"{" + repeat(`"layers":0,`) + `"layers":0}`, "MANIFEST_INVALID"},
		"many names":         {"{" + manyNames(size/2) + `"x":0}`, "MANIFEST_INVALID"},
		"empty layers":       {image("[" + repeat("{},") + "{}]"), "MANIFEST_INVALID"},
		"zeros":              {image("[" + repeat("0,") + "0]"), "MANIFEST_INVALID"},
		"one layer, repeated": {image("[" + strings.TrimSuffix(strings.Repeat(`{"mediaType":"a","digest":"`+someDigest+`","size":1},`, 30_000), ",") + "]"),
			"MANIFEST_BLOB_UNKNOWN"},
		"other layers": {image("[" + strings.TrimSuffix(distinct.String(), ",") + "]"), "MANIFEST_BLOB_UNKNOWN"},
		"escapes":      {`{"mediaType":"` + repeat(`\u0041`) + `"}`, "MANIFEST_INVALID"},
		"no UTF-8":     {`{"mediaType":"` + repeat("\xff") + `"}`, "MANIFEST_INVALID"},
		"blanks":       {repeat(" \n"), "MANIFEST_INVALID"},
		"a number":     {`{"schemaVersion":` + repeat("9") + `}`, "MANIFEST_INVALID"},
		"null":         {"null", "MANIFEST_INVALID"},
		"nothing":      {"", "MANIFEST_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			if len(test.body) > size {
				t.Fatalf("the test's manifest has %d bytes", len(test.body))
			}
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					resp, err := api.Try(t.Context(), "PUT", "/v2/laborious/app/manifests/1", strings.NewReader(test.body), harness.Header{"Content-Type": v1.MediaTypeImageManifest})
					if err != nil {
						t.Error(err)
						return
					}
					wantFailure(t, resp, 400, test.code)
				})
			}
			clients.Wait()
			t.Logf("memory: %d MiB, peak: %d MiB", resident(t, s)>>20, peak(t, s)>>20)
		})
	}
	wantPeak(t, s, 256)
	works(t, api, "laborious/after")
}

func manyNames(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	return b.String()
}

// Clients that announce a large manifest and send it slowly, or not, do not fill the memory, and small
// manifests pass them by.
func TestSlowManifests(t *testing.T) {
	s := start(t, "BERTH_TIMEOUTS_IDLE=2s")
	api := harness.NewAPI(t, s)
	const size = 4 << 20
	part := bytes.Repeat([]byte(" "), size-1000)
	var busy atomic.Int64
	var clients sync.WaitGroup
	for i := range 60 {
		c := dial(t, s)
		clients.Go(func() {
			defer c.Close()
			fmt.Fprintf(c, "PUT /v2/slow/manifests/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", i, size)
			c.Write(part) // and the last bytes never
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "" {
				busy.Add(1)
			}
		})
	}
	for range 20 {
		works(t, api, "slow/manifests")
	}
	clients.Wait()
	if busy.Load() == 0 {
		t.Error("no client was told to come again")
	}
	wantPeak(t, s, 96)
	// The places are free again.
	large := harness.Pack(v1.Manifest{Annotations: map[string]string{"x": strings.Repeat("x", 3<<20)}}, octets(harness.Random(10)))
	api.PushImage("slow/manifests", "large", large)
}

// Clients that read a large manifest slowly, or not at all, cost hardly any memory.
func TestSlowManifestReaders(t *testing.T) {
	s := start(t)
	api := harness.NewAPI(t, s)
	const distinct = 10
	var digests []string
	for range distinct {
		m := harness.Pack(v1.Manifest{Annotations: map[string]string{"x": strings.Repeat("x", 4<<20-2000)}}, octets(harness.Random(10)))
		api.PushImage("slow/readers", "", m)
		digests = append(digests, m.Manifest.Digest.String())
	}
	t.Logf("peak memory after the pushes: %d MiB", peak(t, s)>>20)
	for i := range 80 {
		c := dial(t, s)
		c.(*net.TCPConn).SetReadBuffer(16 << 10)
		fmt.Fprintf(c, "GET /v2/slow/readers/manifests/%s HTTP/1.1\r\nHost: x\r\n\r\n", digests[i%distinct])
		io.ReadFull(c, make([]byte, 1000))
	}
	works(t, api, "slow/readers")
	wantPeak(t, s, 200)
}
