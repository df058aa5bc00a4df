package hostile

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// trickle sends text a byte at a time until the server hangs up or the test ends.
func trickle(t *testing.T, c net.Conn, text string) {
	for i := range text {
		if t.Context().Err() != nil {
			return
		}
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// hungUp waits until the server has closed a connection and returns what it said before.
func hungUp(t *testing.T, c net.Conn) []byte {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
		t.Errorf("the server still waits for the client, %q", b)
	}
	return b
}

// Who is slow with the header, or connects and says nothing, is let go; the others are served meanwhile.
func TestSlowHeaders(t *testing.T) {
	s := start(t, "BERTH_TIMEOUTS_HEADER=1s", "BERTH_TIMEOUTS_KEEP_ALIVE=1s", "BERTH_LIMITS_CONNECTIONS=200")
	api := harness.NewAPI(t, s)
	var clients sync.WaitGroup
	for i := range 300 { // more than may be connected
		c := dial(t, s)
		clients.Go(func() {
			defer c.Close()
			switch i % 3 {
			case 0:
				trickle(t, c, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: "+strings.Repeat("x", 1000))
			case 1: // says nothing
			case 2:
				io.WriteString(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n") // and nothing more
			}
			hungUp(t, c)
		})
	}
	works(t, api, "slow/headers")
	clients.Wait()
	works(t, api, "slow/headers")
	wantPeak(t, s, 64)
}

// Who stalls in a body is let go after the idle timeout, whatever the request; also one whose
// body nobody reads.
func TestStalledBodies(t *testing.T) {
	s := start(t, "BERTH_TIMEOUTS_IDLE=1s")
	api := harness.NewAPI(t, s)
	location := api.StartUpload("stalled/app")
	b := octets(harness.Random(100))
	t.Run("group", func(t *testing.T) {
		stalled(t, s, map[string]string{
			"upload":          "POST /v2/stalled/app/blobs/uploads/?digest=" + b.Digest.String() + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
			"streamed upload": "PATCH " + location + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
			"manifest":        "PUT /v2/stalled/app/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
			"of a GET":        "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
			"of a 404":        "PUT /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
			"of a bad name":   "PUT /v2/UPPER/manifests/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		})
	})
	wantRange(t, api, location, 5) // what came is kept
	works(t, api, "stalled/app")
}

// stalled sends the beginnings of requests and waits until the server has had enough.
func stalled(t *testing.T, s *harness.Server, requests map[string]string) {
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, s)
			io.WriteString(c, request)
			if got := hungUp(t, c); !bytes.HasPrefix(got, []byte("HTTP/1.1 ")) {
				t.Errorf("the client got %q", got)
			}
		})
	}
}

// Hundreds of uploads that hardly send anything cost little, and one more is told to come later.
func TestSlowUploads(t *testing.T) {
	const limit = 400
	s := start(t, fmt.Sprintf("BERTH_LIMITS_UPLOADS=%d", limit), "BERTH_METRICS_LISTEN=127.0.0.1:0")
	api := harness.NewAPI(t, s)
	b := octets(harness.Random(200_000))
	var conns []net.Conn
	for range limit {
		c := dial(t, s)
		conns = append(conns, c)
		fmt.Fprintf(c, "POST /v2/slow/uploads/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", b.Digest, b.Size)
		c.Write(b.Bytes[:1000])
	}
	if !eventually(func() bool { return metric(t, s, "berth_http_requests_in_flight") == limit }) {
		t.Fatal("not all uploads are taken")
	}
	refused := api.Do("POST", "/v2/slow/uploads/blobs/uploads/?digest="+b.Digest.String(), b.Bytes)
	wantFailure(t, refused, 429, "TOOMANYREQUESTS")
	if refused.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	location := api.StartUpload("slow/uploads")
	for method, path := range map[string]string{"PATCH": location, "PUT": harness.WithDigest(location, b.Digest.String())} {
		resp := api.Do(method, path, b.Bytes)
		wantFailure(t, resp, 429, "TOOMANYREQUESTS")
		if resp.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	wantPeak(t, s, 64)
	// They are slow, but they were welcome: whoever ends well has pushed.
	for _, c := range conns[:limit/2] {
		c.Close()
	}
	for _, c := range conns[limit/2:] {
		c.Write(b.Bytes[1000:])
	}
	for _, c := range conns[limit/2:] {
		if resp, body := answer(t, c); resp.StatusCode != 201 {
			t.Fatalf("a slow upload ends with status %d: %s", resp.StatusCode, body)
		}
		c.Close()
	}
	// The places are free again.
	if !eventually(func() bool {
		return api.Do("PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes).StatusCode == 201
	}) {
		t.Error("no upload is taken any more")
	}
	wantPeak(t, s, 96)
}

// The same with many requests on one connection, over HTTP/2.
func TestSlowStreams(t *testing.T) {
	const limit, streams = 20, 100
	s := start(t, fmt.Sprintf("BERTH_LIMITS_UPLOADS=%d", limit))
	api := harness.NewAPI(t, s).OverH2C()
	b := octets(harness.Random(200_000))
	var clients sync.WaitGroup
	var busy, taken atomic.Int64
	end := make(chan struct{})
	for range streams {
		body, pipe := io.Pipe()
		go func() {
			pipe.Write(b.Bytes[:100_000])
			<-end
			pipe.Write(b.Bytes[100_000:])
			pipe.Close()
		}()
		clients.Go(func() {
			defer body.Close() // ends the writer
			resp, err := api.Try(t.Context(), "POST", "/v2/slow/streams/blobs/uploads/?digest="+b.Digest.String(), body)
			switch {
			case err != nil:
				t.Error(err)
			case resp.StatusCode == 201:
				taken.Add(1)
			default:
				wantFailure(t, resp, 429, "TOOMANYREQUESTS")
				busy.Add(1)
			}
		})
	}
	if !eventually(func() bool { return busy.Load() == streams-limit }) {
		t.Errorf("%d uploads are refused, expected %d", busy.Load(), streams-limit)
	}
	harness.NewAPI(t, s).Expect(200, "GET", "/v2/", nil)
	close(end)
	clients.Wait()
	if taken.Load() != limit {
		t.Errorf("%d uploads are taken, expected %d", taken.Load(), limit)
	}
	wantPeak(t, s, 96)
}

// Readers that take a large blob slowly, or not at all, cost hardly any memory.
func TestSlowReaders(t *testing.T) {
	s := start(t)
	api := harness.NewAPI(t, s)
	b := octets(harness.Random(64 << 20))
	api.PushBlob("slow/readers", b)
	var conns []net.Conn
	for range 200 {
		c := dial(t, s)
		c.(*net.TCPConn).SetReadBuffer(16 << 10)
		conns = append(conns, c)
		fmt.Fprintf(c, "GET /v2/slow/readers/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", b.Digest)
		io.ReadFull(c, make([]byte, 1000))
	}
	works(t, api, "slow/readers")
	wantPeak(t, s, 64)
	for _, c := range conns {
		c.Close()
	}
}
