package s3

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/service"
)

// proxy stands between a store and the S3 server, notes what is asked for, and spoils some of it.
type proxy struct {
	*httptest.Server
	to        *url.URL
	transport *http.Transport

	mu       sync.Mutex
	requests []request
	counts   map[string]int
	fault    func(op string, n int) fault // of the n-th request of its kind, from 1 on
	rate     int64                        // bytes a second of the bodies that are sent, 0 for no limit
}

type request struct {
	op     string
	header http.Header
}

// fault is what happens to a request. The zero value lets it pass.
type fault struct {
	status   int    // is answered, and the server never asked
	code     string // of S3, in the body
	before   func() // is called first
	hang     bool   // nothing is answered
	closed   bool   // the connection is closed
	lost     bool   // the server does it, but its answer is lost, or is the status
	takes    int64  // bytes of the request's body, then the connection is closed
	gives    int64  // bytes of the answer's body, then the connection is closed
	stalls   bool   // with gives: the connection stays open
	damage   bool   // a byte of the request's body is changed
	header   func(http.Header)
	unsigned bool // with header: it is applied to the answer
}

func newProxy(t testing.TB, b *service.Bucket) *proxy {
	t.Helper()
	return startProxy(t, b, httptest.NewServer)
}

// newTLSProxy returns a proxy that has a certificate of its own.
func newTLSProxy(t testing.TB, b *service.Bucket) *proxy {
	t.Helper()
	return startProxy(t, b, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		return s
	})
}

func (p *proxy) certificate() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

func startProxy(t testing.TB, b *service.Bucket, start func(http.Handler) *httptest.Server) *proxy {
	t.Helper()
	to, err := url.Parse(b.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to, transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32}, counts: map[string]int{}}
	p.Server = start(p)
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		p.transport.CloseIdleConnections()
	})
	return p
}

// options returns those of a store behind the proxy, with little patience.
func (p *proxy) options(b *service.Bucket) Options {
	o := optionsOf(b)
	o.Endpoint, o.Stall, o.Patience = p.URL, 2*time.Second, 5*time.Second
	return o
}

// operation names a request as Observation does, mostly.
func operation(r *http.Request) string {
	q := r.URL.Query()
	_, bare, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case bare == "" && q.Has("uploads"):
		return "list uploads"
	case bare == "":
		return "list objects"
	case q.Has("uploads"):
		return "begin upload"
	case r.Method == http.MethodPost:
		return "complete upload"
	case q.Has("uploadId") && r.Method == http.MethodGet:
		return "list parts"
	case q.Has("uploadId") && r.Method == http.MethodDelete:
		return "abort upload"
	case q.Has("uploadId"):
		return "put part"
	}
	return map[string]string{
		http.MethodPut: "put object", http.MethodGet: "get object", http.MethodHead: "stat object", http.MethodDelete: "delete object",
	}[r.Method]
}

// setFault replaces what is spoilt, and forgets what was asked for.
func (p *proxy) setFault(f func(op string, n int) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.requests, p.counts = f, nil, map[string]int{}
}

// seen returns what was asked for since, each followed by how often if more than once, in alphabetic order.
func (p *proxy) seen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for op, n := range p.counts {
		if n > 1 {
			op = fmt.Sprint(op, " ", n)
		}
		list = append(list, op)
	}
	slices.Sort(list)
	p.requests, p.counts = nil, map[string]int{}
	return strings.Join(list, ", ")
}

// all returns the requests of a kind.
func (p *proxy) all(op string) (found []request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		if r.op == op {
			found = append(found, r)
		}
	}
	return found
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := operation(r)
	p.mu.Lock()
	p.counts[op]++
	var f fault
	if p.fault != nil {
		f = p.fault(op, p.counts[op])
	}
	p.requests = append(p.requests, request{op: op, header: r.Header.Clone()})
	rate := p.rate
	p.mu.Unlock()
	p.serve(w, r, f, rate)
}

var errCut = errors.New("cut")

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, f fault, rate int64) {
	if f.before != nil {
		f.before()
	}
	switch {
	case f.closed:
		panic(http.ErrAbortHandler)
	case f.hang:
		_, _ = io.Copy(io.Discard, r.Body) // or the server would not notice that the client leaves
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case f.status != 0 && !f.lost:
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(f.status)
		if f.code != "" {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as the test wants</Message></Error>", f.code)
		}
		return
	}
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", p.to.Scheme, p.to.Host
	if f.header != nil && !f.unsigned {
		f.header(out.Header)
	}
	var body io.Reader = r.Body
	if rate > 0 {
		body = &slow{r: body, rate: rate}
	}
	if f.damage {
		body = &damaged{r: body}
	}
	if f.takes > 0 {
		body = io.MultiReader(io.LimitReader(body, f.takes), failing{})
	}
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	} else {
		out.Body = io.NopCloser(body)
	}
	resp, err := p.transport.RoundTrip(out)
	if err != nil || f.lost {
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if f.status != 0 {
				w.WriteHeader(f.status)
				return
			}
		}
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	if f.header != nil && f.unsigned {
		f.header(resp.Header)
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
	w.WriteHeader(resp.StatusCode)
	if f.gives > 0 {
		_, _ = io.CopyN(w, resp.Body, f.gives)
		_ = http.NewResponseController(w).Flush()
		if f.stalls {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	_, _ = io.Copy(w, resp.Body)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errCut }

type damaged struct {
	r    io.Reader
	done bool
}

func (d *damaged) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if n > 0 && !d.done {
		p[n/2] ^= 1
		d.done = true
	}
	return n, err
}

type slow struct {
	r    io.Reader
	rate int64
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}
