package cluster

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// chunks are the sizes of the requests that an upload is sent in.
var chunks = []struct {
	name  string
	sizes []int
}{
	{"a few bytes", []int{10, 1, 7, 30}},
	{"100 KiB each", []int{100 << 10, 100 << 10, 100 << 10, 100 << 10, 100 << 10}},
	{"less than a part", []int{5<<20 - 1, 5<<20 - 1, 1}},
	{"parts", []int{5 << 20, 5 << 20}},
	{"more than a part", []int{17<<20 + 3, 6 << 20, 100}},
	{"mixed", []int{1, 9 << 20, 3, 5 << 20, 2 << 20}},
}

// An upload begins at one node, and each request of it goes to the next one.
func TestUploadWandersFromNodeToNode(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	for _, last := range []string{"PUT without a body", "PUT with the last chunk", "stream"} {
		for k, u := range chunks {
			t.Run(u.name+", "+last, func(t *testing.T) {
				c.wander(t, name("wander-%d", k), u.sizes, last, nil)
			})
		}
	}
	c.fsck("--deep")
}

// The node that took a chunk is killed before the next one is sent.
func TestUploadOutlivesItsNodes(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	for k, u := range chunks {
		t.Run(u.name, func(t *testing.T) {
			dead := -1
			c.wander(t, name("outlive-%d", k), u.sizes, "PUT without a body", func(node int) {
				if dead >= 0 {
					c.restart(dead)
				}
				c.nodes[node].Kill()
				dead = node
			})
			if dead >= 0 {
				c.restart(dead)
			}
		})
	}
	c.fsck("--deep")
}

// wander uploads chunks, each to the next node, and calls after with the node that has answered.
func (c *cluster) wander(t *testing.T, repo string, sizes []int, last string, after func(node int)) {
	t.Helper()
	node := 0
	next := func() *harness.API {
		node = (node + 1) % nodes
		return &harness.API{T: t, Base: c.nodes[node].URL, Client: c.at(node).Client}
	}
	answered := func() {
		if after != nil {
			after(node)
		}
	}
	var all []byte
	location := next().StartUpload(repo)
	answered()
	for i, size := range sizes {
		chunk := harness.Random(size)
		headers := harness.Header{"Content-Type": "application/octet-stream"}
		if last != "stream" {
			headers["Content-Range"] = fmt.Sprintf("%d-%d", len(all), len(all)+size-1)
		}
		if i == len(sizes)-1 && last == "PUT with the last chunk" {
			all = append(all, chunk...)
			next().Expect(http.StatusCreated, "PUT", harness.WithDigest(location, harness.NewBlob("", all).Digest.String()), chunk, headers)
			break
		}
		all = append(all, chunk...)
		var body io.Reader = bytes.NewReader(chunk)
		if last == "stream" {
			body = io.MultiReader(body) // of unknown length
		}
		api := next()
		resp := api.Stream("PATCH", location, body, headers)
		api.Check(resp, http.StatusAccepted)
		location = resp.Path()
		answered()
		resp = next().Expect(http.StatusNoContent, "GET", location, nil)
		if n, ok := received(resp); !ok || n != len(all) {
			t.Fatalf("node %d knows of %d bytes, %d were acknowledged", node, n, len(all))
		}
	}
	blob := harness.NewBlob("application/octet-stream", all)
	if last != "PUT with the last chunk" {
		next().Expect(http.StatusCreated, "PUT", harness.WithDigest(location, blob.Digest.String()), nil)
		answered()
	}
	for range nodes - 1 { // one may be dead
		resp := next().Do("GET", "/v2/"+repo+"/blobs/"+blob.Digest.String(), nil)
		if resp.StatusCode != http.StatusOK || !bytes.Equal(resp.Bytes, all) {
			t.Errorf("node %d: status %d, %d bytes, expected %d", node, resp.StatusCode, len(resp.Bytes), len(all))
		}
	}
}

// What holds for a session holds for it at every node.
func TestSessionAtOtherNodes(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	repo := name("session")
	octets := harness.Header{"Content-Type": "application/octet-stream"}

	// A chunk that does not follow is refused, and told where to go on.
	location := c.at(0).StartUpload(repo)
	c.at(1).Expect(http.StatusAccepted, "PATCH", location, harness.Random(1000), octets)
	resp := c.at(2).Do("PATCH", location, harness.Random(10), octets, harness.Header{"Content-Range": "500-509"})
	if n, _ := received(resp); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable || n != 1000 {
		t.Errorf("status %d, Range %q", resp.StatusCode, resp.Header.Get("Range"))
	}
	// One that was cancelled is gone.
	c.at(2).Expect(http.StatusNoContent, "DELETE", location, nil)
	for n := range nodes {
		c.at(n).Expect(http.StatusNotFound, "GET", location, nil)
		c.at(n).Expect(http.StatusNotFound, "PATCH", location, harness.Random(10), octets)
	}
	// A session of another repository is unknown.
	location = c.at(0).StartUpload(repo)
	c.at(1).Expect(http.StatusNotFound, "GET", "/v2/"+name("other")+location[len("/v2/"+repo):], nil)

	// A closing request that is sent again, to another node, is answered as before.
	blob := harness.NewBlob("application/octet-stream", harness.Random(70_000))
	c.at(1).Expect(http.StatusAccepted, "PATCH", location, blob.Bytes, octets)
	for n := range nodes {
		c.at(n).Expect(http.StatusCreated, "PUT", harness.WithDigest(location, blob.Digest.String()), nil)
	}
	// Wrong bytes are refused by whichever node ends the upload.
	location = c.at(2).StartUpload(repo)
	c.at(0).Expect(http.StatusAccepted, "PATCH", location, harness.Random(10), octets)
	c.at(1).Expect(http.StatusBadRequest, "PUT", harness.WithDigest(location, harness.NewBlob("", harness.Random(10)).Digest.String()), nil)

	// Another algorithm than that of the session's beginning.
	location = c.at(0).StartUpload(repo)
	c.at(1).Expect(http.StatusAccepted, "PATCH", location, blob.Bytes, octets)
	c.at(2).Expect(http.StatusCreated, "PUT", harness.WithDigest(location, fmt.Sprintf("sha512:%x", sha512.Sum512(blob.Bytes))), nil)
	c.fsck("--deep")
}

// Two requests for the same session at two nodes: whatever is acknowledged is what the blob is made of.
func TestTwoNodesReceiveTheSameSession(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 8 {
		repo := name("two-%d", round)
		location := c.at(0).StartUpload(repo)
		b := makeContent(rng.Uint64(), 6<<20)
		all := b.bytes()
		status := make(chan int, 2)
		for n := range 2 {
			api := c.at(n + 1)
			go func() {
				resp, err := api.Try(t.Context(), "PATCH", location, bytes.NewReader(all), harness.Header{"Content-Range": fmt.Sprintf("0-%d", len(all)-1)})
				if err != nil {
					t.Error(err)
					status <- 0
					return
				}
				status <- resp.StatusCode
			}()
		}
		got := []int{<-status, <-status}
		if !slices.Contains(got, http.StatusAccepted) {
			t.Errorf("neither request was accepted: %v", got)
		}
		resp := c.at(0).Expect(http.StatusNoContent, "GET", location, nil)
		if n, _ := received(resp); n != len(all) {
			t.Fatalf("after the answers %v, the upload has %d bytes, expected %d", got, n, len(all))
		}
		c.at(0).Expect(http.StatusCreated, "PUT", harness.WithDigest(location, b.digest.String()), nil)
		if resp := c.at(1).Expect(http.StatusOK, "GET", "/v2/"+repo+"/blobs/"+b.digest.String(), nil); !bytes.Equal(resp.Bytes, all) {
			t.Errorf("the blob came back as %d bytes", len(resp.Bytes))
		}
	}
	c.fsck("--deep")
}

// A node stands still in the middle of an upload (a virtual machine that is moved), the client goes on at another one, and then
// the first one wakes up and goes on, too.
func TestNodeStandsStillDuringUpload(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	repo := name("still")
	b := makeContent(7, 30<<20)
	all := b.bytes()
	location := c.at(0).StartUpload(repo)
	c.at(0).Expect(http.StatusAccepted, "PATCH", location, all[:6<<20], harness.Header{"Content-Range": fmt.Sprintf("0-%d", 6<<20-1)})

	slow, fast := io.Pipe()
	old := make(chan *harness.Response, 1)
	api := c.at(0)
	go func() {
		resp, err := api.Try(t.Context(), "PATCH", location, slow, harness.Header{"Content-Range": fmt.Sprintf("%d-%d", 6<<20, 20<<20-1)})
		if err != nil {
			t.Logf("the old request: %v", err)
		}
		old <- resp
	}()
	fast.Write(all[6<<20 : 13<<20])
	if err := c.nodes[0].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// What the first node has not acknowledged is sent again.
	resp := c.at(1).Expect(http.StatusNoContent, "GET", location, nil)
	at, _ := received(resp)
	if at < 6<<20 || at > 13<<20 {
		t.Fatalf("the other node knows of %d bytes", at)
	}
	c.at(1).Expect(http.StatusAccepted, "PATCH", location, all[at:25<<20], harness.Header{"Content-Range": fmt.Sprintf("%d-%d", at, 25<<20-1)})
	if err := c.nodes[0].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	fast.Write(all[13<<20 : 20<<20])
	fast.Close()
	if resp := <-old; resp != nil && resp.StatusCode == http.StatusAccepted {
		t.Error("the old request was acknowledged, although another node had gone on")
	}
	resp = c.at(2).Expect(http.StatusNoContent, "GET", location, nil)
	if n, _ := received(resp); n != 25<<20 {
		t.Fatalf("the upload has %d bytes, %d were acknowledged", n, 25<<20)
	}
	c.at(2).Expect(http.StatusAccepted, "PATCH", location, all[25<<20:], harness.Header{"Content-Range": fmt.Sprintf("%d-%d", 25<<20, len(all)-1)})
	c.at(0).Expect(http.StatusCreated, "PUT", harness.WithDigest(location, b.digest.String()), nil)
	for n := range nodes {
		if resp := c.at(n).Expect(http.StatusOK, "GET", "/v2/"+repo+"/blobs/"+b.digest.String(), nil); !bytes.Equal(resp.Bytes, all) {
			t.Errorf("node %d returns %d bytes that are not the ones that were sent", n, len(resp.Bytes))
		}
	}
	time.Sleep(100 * time.Millisecond) // for the old request to end whatever it does
	c.fsck("--deep")
}
