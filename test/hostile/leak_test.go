package hostile

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// Clients that leave at any moment leave nothing behind: no goroutine, no open file, no
// place among the uploads.
func TestClientsThatLeave(t *testing.T) {
	s := start(t, "BERTH_METRICS_LISTEN=127.0.0.1:0", "BERTH_LOG_ACCESS=false", "BERTH_LIMITS_UPLOADS=20")
	api := harness.NewAPI(t, s)
	b := octets(harness.Random(3 << 20))
	api.PushBlob("leave/app", b)
	works(t, api, "leave/app")
	api.Client.CloseIdleConnections()
	settled := func() bool { return metric(t, s, "berth_http_connections") == 0 }
	if !eventually(settled) {
		t.Fatal("connections stay open")
	}
	goroutines, open := metric(t, s, "go_goroutines"), files(t, s)

	var clients sync.WaitGroup
	for n := range 8 {
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		clients.Go(func() {
			for range 60 {
				leave(t, s, rng, b)
			}
		})
	}
	clients.Wait()
	http.DefaultClient.CloseIdleConnections()
	if !eventually(settled) {
		t.Errorf("%g connections stay open", metric(t, s, "berth_http_connections"))
	}
	// The database may have opened its other connections meanwhile, of three files each. A leak would be of hundreds.
	if !eventually(func() bool { return metric(t, s, "go_goroutines") <= goroutines+2 && files(t, s) <= open+10 }) {
		t.Errorf("goroutines: %g before, %g after; open files: %d before, %d after",
			goroutines, metric(t, s, "go_goroutines"), open, files(t, s))
	}
	works(t, api, "leave/app")
	for range 20 { // every place is free
		api.PushBlob("leave/app", octets(harness.Random(1000)))
	}
}

// leave sends a request and goes away in the middle of it or of the answer.
func leave(t *testing.T, s *harness.Server, rng *rand.Rand, b harness.Blob) {
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if rng.IntN(2) == 0 {
		c.(*net.TCPConn).SetLinger(0) // with a reset
	}
	upload := "POST /v2/leave/app/blobs/uploads/?digest=" + b.Digest.String() + " HTTP/1.1\r\nHost: x\r\n"
	switch rng.IntN(6) {
	case 0: // in the header
		io.WriteString(c, upload[:rng.IntN(len(upload))])
	case 1: // in an upload
		fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n", upload, b.Size)
		c.Write(b.Bytes[:rng.IntN(len(b.Bytes))])
	case 2: // in a streamed upload
		fmt.Fprintf(c, "%sTransfer-Encoding: chunked\r\n\r\nfffff\r\n", upload)
		c.Write(b.Bytes[:rng.IntN(1<<20)])
	case 3: // in a manifest
		fmt.Fprintf(c, "PUT /v2/leave/app/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat(" ", rng.IntN(100_000)))
	case 4: // in a download
		fmt.Fprintf(c, "GET /v2/leave/app/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", b.Digest)
		io.ReadFull(c, make([]byte, rng.IntN(len(b.Bytes))))
	case 5: // with requests that nobody waits for
		for range 5 {
			fmt.Fprintf(c, "GET /v2/leave/app/blobs/%s HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99,%d-\r\n\r\n", b.Digest, rng.IntN(len(b.Bytes)))
		}
	}
}
