package deploy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// node stands for one that fails as the test wants, which a real one does seldom.
type node struct {
	addr string

	mu   sync.Mutex
	seen []string // the header "Id" of each request
}

// newNode starts a node. serve answers a request whose body has been read.
func newNode(t *testing.T, serve func(w http.ResponseWriter, r *http.Request)) *node {
	t.Helper()
	n := new(node)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.seen = append(n.seen, r.Header.Get("Id"))
		n.mu.Unlock()
		serve(w, r)
	}))
	t.Cleanup(s.Close)
	n.addr = s.Listener.Addr().String()
	return n
}

// times returns how often the node has seen a request.
func (n *node) times(id string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.seen {
		if s == id {
			count++
		}
	}
	return count
}

// refusing returns an address at which connections are refused.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func good(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }

// hangUp ends the connection when it has the request.
func hangUp(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	panic(http.ErrAbortHandler)
}

func unavailable(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Retry-After", "7")
	w.WriteHeader(http.StatusServiceUnavailable)
}

const (
	manifest = "/v2/team/app/manifests/1.0"
	blob     = "/v2/team/app/blobs/sha256:0000"
	uploads  = "/v2/team/app/blobs/uploads/"
	session  = "/v2/team/app/blobs/uploads/1234?_state=abc"
)

// A request that was not sent goes to another node, whatever it is.
func TestNginxAsksAnotherNodeIfOneRefuses(t *testing.T) {
	t.Parallel()
	other := newNode(t, good)
	b := harness.NewBalancer(t, refusing(t), other.addr, refusing(t))
	api := balanced(t, b)
	for i, r := range []struct {
		method, path string
		size         int
	}{
		{"GET", manifest, 0}, {"GET", blob, 0}, {"HEAD", blob, 0}, {"POST", uploads, 0}, {"PATCH", session, 3 << 20},
		{"PUT", session, 0}, {"PUT", session, 3 << 20}, {"PUT", manifest, 500}, {"DELETE", manifest, 0}, {"PATCH", session, 10},
	} {
		id := fmt.Sprint(i)
		resp := api.Do(r.method, r.path, make([]byte, r.size), harness.Header{"Id": id})
		if resp.StatusCode != http.StatusOK || other.times(id) != 1 {
			t.Errorf("%s %s with %d bytes: status %d, seen %d times", r.method, r.path, r.size, resp.StatusCode, other.times(id))
		}
	}
}

// A request that was sent goes to another node only if it may be done twice.
func TestNginxRepeatsOnlyWhatMayBeDoneTwice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, method, path string
		size               int
		chunked            bool
		fail               http.HandlerFunc
		again              bool
	}{
		{"GET of a manifest", "GET", manifest, 0, false, hangUp, true},
		{"GET of a blob", "GET", blob, 0, false, hangUp, true},
		{"HEAD", "HEAD", blob, 0, false, hangUp, true},
		{"small PUT", "PUT", manifest, 100, false, hangUp, true},
		{"DELETE", "DELETE", manifest, 0, false, hangUp, true},
		{"POST that begins an upload", "POST", uploads, 0, false, hangUp, true},
		{"mount", "POST", uploads + "?mount=sha256:0000&from=a", 0, false, hangUp, true},
		{"small PATCH", "PATCH", session, 100, false, hangUp, false},
		{"large PATCH", "PATCH", session, 3 << 20, false, hangUp, false},
		{"PATCH of unknown length", "PATCH", session, 3 << 20, true, hangUp, false},
		{"large PUT", "PUT", session, 3 << 20, false, hangUp, false},
		{"PUT of unknown length", "PUT", session, 3 << 20, true, hangUp, false},
		{"POST with a large blob", "POST", uploads + "?digest=sha256:0000", 3 << 20, false, hangUp, false},
		{"503 for a manifest", "GET", manifest, 0, false, unavailable, true},
		{"503 for tags", "GET", "/v2/team/app/tags/list", 0, false, unavailable, true},
		{"503 for a PUT of a manifest", "PUT", manifest, 100, false, unavailable, true},
		{"503 for a blob", "GET", blob, 0, false, unavailable, false},
		{"503 for a PATCH", "PATCH", session, 100, false, unavailable, false},
		{"503 for a POST", "POST", uploads, 0, false, unavailable, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad, other := newNode(t, c.fail), newNode(t, good)
			api := balanced(t, harness.NewBalancer(t, bad.addr, other.addr))
			for i := range 10 {
				id := fmt.Sprint(i)
				var body io.Reader = bytes.NewReader(make([]byte, c.size))
				if c.chunked {
					body = io.MultiReader(body)
				} else if c.size == 0 {
					body = http.NoBody
				}
				resp := api.Stream(c.method, c.path, body, harness.Header{"Id": id})
				if bad.times(id) == 0 {
					continue // it came to the other one first
				}
				want, seen := http.StatusOK, 1
				if !c.again {
					want, seen = http.StatusServiceUnavailable, 0
				}
				if resp.StatusCode != want || bad.times(id) != 1 || other.times(id) != seen {
					t.Errorf("status %d, expected %d; the node that failed saw it %d times, the other one %d times, expected 1 and %d",
						resp.StatusCode, want, bad.times(id), other.times(id), seen)
				}
				if want != http.StatusOK && resp.Header.Get("Retry-After") == "" {
					t.Error("503 without Retry-After")
				}
				return
			}
			t.Fatal("no request came to the node that fails")
		})
	}
}

// What a client gets when no node can be reached is in the form that the specification has for errors.
func TestNginxWithoutNodes(t *testing.T) {
	t.Parallel()
	api := balanced(t, harness.NewBalancer(t, refusing(t), refusing(t)))
	for range 3 { // they are known to have failed from the second one on
		for _, path := range []string{manifest, blob, "/v2/", "/readyz"} {
			resp := api.Do("GET", path, nil)
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Code() != "UNAVAILABLE" {
				t.Errorf("GET %s: status %d, Retry-After %q, body %q", path, resp.StatusCode, resp.Header.Get("Retry-After"), resp.Bytes)
			}
		}
	}
}

// A bucket that fails for every node does not keep manifests from being pulled.
func TestNginxKeepsNodesWhoseBucketFails(t *testing.T) {
	t.Parallel()
	serve := func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") || r.URL.Path == "/readyz" {
			unavailable(w, r)
		}
	}
	api := balanced(t, harness.NewBalancer(t, newNode(t, serve).addr, newNode(t, serve).addr))
	for range 6 {
		for _, r := range []struct{ method, path string }{{"GET", blob}, {"POST", uploads}, {"PATCH", session}, {"GET", "/readyz"}} {
			resp := api.Do(r.method, r.path, nil)
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "7" {
				t.Fatalf("%s %s: status %d, Retry-After %q, expected the answer of a node", r.method, r.path, resp.StatusCode, resp.Header.Get("Retry-After"))
			}
		}
		api.Expect(http.StatusOK, "GET", manifest, nil)
	}
}

// Neither an upload nor a download waits in nginx until it is whole.
func TestNginxStreams(t *testing.T) {
	t.Parallel()
	const part = 2 << 20
	arrived, taken := make(chan bool, 1), make(chan bool, 1)
	n := newNode(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			w.Write(make([]byte, part))
			http.NewResponseController(w).Flush()
			<-taken // the client has the first part before there is a second
			w.Write(make([]byte, part))
			return
		}
		io.ReadFull(r.Body, make([]byte, part))
		arrived <- true
		rest, _ := io.ReadAll(r.Body)
		w.Write(rest)
	})
	api := balanced(t, harness.NewBalancer(t, n.addr))
	for _, length := range []int64{-1, 2 * part} {
		pr, pw := io.Pipe()
		go func() {
			pw.Write(make([]byte, part))
			<-arrived // the node has the first part before the client has the second
			pw.Write(make([]byte, part))
			pw.Close()
		}()
		req, err := http.NewRequestWithContext(t.Context(), "PATCH", api.Base+session, pr)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := api.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != part || err != nil {
			t.Errorf("%d bytes came after the first part (%v), expected %d", n, err, part)
		}
		resp.Body.Close()
	}
	resp, err := api.Client.Get(api.Base + blob)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, part)); err != nil {
		t.Fatal(err)
	}
	taken <- true
	if n, err := io.Copy(io.Discard, resp.Body); n != part || err != nil {
		t.Errorf("the second part has %d bytes (%v), expected %d", n, err, part)
	}
}

// The nodes are told who the client is, and a client cannot pretend to be another one.
func TestNginxForwardsTheClient(t *testing.T) {
	t.Parallel()
	got := make(chan *http.Request, 1)
	b := harness.NewBalancer(t, newNode(t, func(w http.ResponseWriter, r *http.Request) { got <- r }).addr)
	api := balanced(t, b)
	api.Do("GET", "/v2/", nil, harness.Header{"X-Forwarded-For": "203.0.113.7", "Host": "registry.example.com:8443"})
	r := <-got
	if r.Host != "registry.example.com:8443" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Header.Get("X-Forwarded-Proto") != "http" || r.ProtoMinor != 1 {
		t.Errorf("the node got host %q over HTTP/1.%d with %v", r.Host, r.ProtoMinor, r.Header)
	}
	api.Do("GET", "/v2/", nil, harness.Header{"X-Forwarded-Proto": "https"})
	if r := <-got; r.Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the scheme became %q behind a proxy with TLS", r.Header.Get("X-Forwarded-Proto"))
	}
}

// Connections to the nodes are used again.
func TestNginxKeepsConnections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	from := make(map[string]bool)
	api := balanced(t, harness.NewBalancer(t, newNode(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		from[r.RemoteAddr] = true
	}).addr))
	for range 20 {
		api.Expect(http.StatusOK, "GET", manifest, nil)
	}
	if len(from) > 2 { // one of each worker
		t.Errorf("20 requests took %d connections", len(from))
	}
}

// A node that is marked as down gets nothing new, while a request that it has goes on.
func TestNginxTakesNodeOutOfService(t *testing.T) {
	t.Parallel()
	begun, end := make(chan int, 2), make(chan bool)
	var nodes []*node
	for i := range 2 {
		nodes = append(nodes, newNode(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Id") == "slow" {
				begun <- i
				<-end
			}
		}))
	}
	b := harness.NewBalancer(t, nodes[0].addr, nodes[1].addr)
	api := balanced(t, b)
	slow := make(chan int)
	go func() {
		resp, err := api.Try(t.Context(), "PATCH", session, strings.NewReader("bytes"), harness.Header{"Id": "slow"})
		if err != nil {
			t.Error(err)
			slow <- 0
			return
		}
		slow <- resp.StatusCode
	}()
	down := <-begun
	time.AfterFunc(500*time.Millisecond, func() { close(end) }) // nginx waits for it
	b.InService(down, false)
	if status := <-slow; status != http.StatusOK || nodes[down].times("slow") != 1 {
		t.Errorf("the request under way ended with %d", status)
	}
	for i := range 10 {
		id := fmt.Sprint(i)
		api.Do("GET", manifest, nil, harness.Header{"Id": id})
		if nodes[down].times(id) != 0 || nodes[1-down].times(id) != 1 {
			t.Errorf("request %d went to the node that is down", i)
		}
	}
}

// balanced speaks to the nodes through nginx. Every request has a connection of its own, because clients have to live
// with nginx closing one that is idle when it is told to reload.
func balanced(t *testing.T, b *harness.Balancer) *harness.API {
	t.Helper()
	return &harness.API{T: t, Base: b.URL, Client: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Timeout:   time.Minute,
	}}
}
