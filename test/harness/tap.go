package harness

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Exchange is one request over HTTP/1.1 and the head of its answer, as they went
// over the wire.
type Exchange struct {
	Method  string
	URL     *url.URL // path and query
	Header  http.Header
	Chunked bool // the request's body came without a Content-Length

	Status   int // 0 while there is no answer
	Response http.Header
}

// Tap passes TCP connections on to a server, byte for byte, and records the
// exchanges that it sees go by. What isn't HTTP/1.1, such as TLS, is passed on
// and not recorded.
type Tap struct {
	Addr string // host:port that clients connect to

	target   string
	listener net.Listener
	cutDown  atomic.Int64 // bytes that one connection may still carry to a client before it is cut; 0 for no limit
	cutUp    atomic.Int64 // likewise to the server
	cuts     atomic.Int64

	mu        sync.Mutex
	exchanges []*Exchange
	feeds     []*feed
}

// NewTap returns a tap in front of the server at addr. It ends with the test.
func NewTap(t testing.TB, addr string) *Tap {
	t.Helper()
	tap, err := StartTap(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tap.Close)
	return tap
}

// StartTap is NewTap for callers without a test; they call Close.
func StartTap(addr string) (*Tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	tap := &Tap{Addr: l.Addr().String(), target: addr, listener: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go tap.serve(conn)
		}
	}()
	return tap, nil
}

// Close refuses further connections.
func (p *Tap) Close() { p.listener.Close() }

// CutDownload cuts, once, the next connection that carries more than n bytes from
// the server to a client.
func (p *Tap) CutDownload(n int64) { p.cutDown.Store(n) }

// CutUpload cuts, once, the next connection that carries more than n bytes from a
// client to the server.
func (p *Tap) CutUpload(n int64) { p.cutUp.Store(n) }

// Cuts returns how many connections were cut.
func (p *Tap) Cuts() int { return int(p.cuts.Load()) }

// Exchanges returns the recorded exchanges whose path begins with prefix, in the
// order of their requests. An exchange is recorded no later than its client sees it.
func (p *Tap) Exchanges(prefix string) []Exchange {
	p.mu.Lock()
	feeds := append([]*feed{}, p.feeds...)
	p.mu.Unlock()
	for _, f := range feeds {
		f.settle()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Exchange
	for _, e := range p.exchanges {
		if strings.HasPrefix(e.URL.Path, prefix) {
			out = append(out, *e)
		}
	}
	return out
}

func (p *Tap) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	up, down := newFeed(), newFeed()
	p.mu.Lock()
	p.feeds = append(p.feeds, up, down)
	p.mu.Unlock()
	pending := make(chan pendingAnswer, 64)
	go p.readRequests(up, pending)
	go p.readAnswers(down, pending)

	var once sync.Once
	hangUp := func() { client.Close(); server.Close() }
	var done sync.WaitGroup
	done.Go(func() {
		p.pass(server, client, up, &p.cutUp, func() { once.Do(hangUp) })
	})
	done.Go(func() {
		p.pass(client, server, down, &p.cutDown, func() { once.Do(hangUp) })
	})
	done.Wait()
	once.Do(hangUp)
}

// pass copies from src to dst. The feed gets the bytes first, so that what a client
// has seen is recorded.
func (p *Tap) pass(dst, src net.Conn, f *feed, limit *atomic.Int64, hangUp func()) {
	defer f.close()
	buf := make([]byte, 32<<10)
	var passed int64
	for {
		n, err := src.Read(buf)
		f.write(buf[:n])
		if l := limit.Load(); l > 0 && passed+int64(n) > l && limit.CompareAndSwap(l, 0) {
			dst.Write(buf[:max(0, l-passed)])
			p.cuts.Add(1)
			hangUp()
			return
		}
		passed += int64(n)
		if _, werr := dst.Write(buf[:n]); werr != nil {
			hangUp()
			return
		}
		if err != nil {
			// A half-closed connection may still carry the other direction.
			if tcp, ok := dst.(*net.TCPConn); ok && err == io.EOF {
				tcp.CloseWrite()
			} else {
				hangUp()
			}
			return
		}
	}
}

type pendingAnswer struct {
	request  *http.Request
	exchange *Exchange
}

func (p *Tap) readRequests(f *feed, pending chan<- pendingAnswer) {
	defer io.Copy(io.Discard, f)
	defer close(pending)
	r := bufio.NewReader(f)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		e := &Exchange{Method: req.Method, URL: req.URL, Header: req.Header, Chunked: len(req.TransferEncoding) > 0}
		p.mu.Lock()
		p.exchanges = append(p.exchanges, e)
		p.mu.Unlock()
		pending <- pendingAnswer{req, e}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
	}
}

func (p *Tap) readAnswers(f *feed, pending <-chan pendingAnswer) {
	defer io.Copy(io.Discard, f)
	defer func() {
		go func() { // so that readRequests goes on, whatever ended this
			for range pending {
			}
		}()
	}()
	r := bufio.NewReader(f)
	for {
		if _, err := r.Peek(1); err != nil { // settled until there is an answer
			return
		}
		next, ok := <-pending
		if !ok {
			return
		}
		resp, err := http.ReadResponse(r, next.request)
		for err == nil && resp.StatusCode < 200 { // 100 Continue
			resp, err = http.ReadResponse(r, next.request)
		}
		if err != nil {
			return
		}
		p.mu.Lock()
		next.exchange.Status, next.exchange.Response = resp.StatusCode, resp.Header
		p.mu.Unlock()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return
		}
	}
}

// feed is a pipe whose writer waits only while much is unread, and which knows when its
// reader has taken everything and waits for more.
type feed struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     bytes.Buffer
	closed  bool
	waiting bool // the reader waits for more, or is gone
}

func newFeed() *feed {
	f := new(feed)
	f.changed.L = &f.mu
	return f
}

func (f *feed) write(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.buf.Len() > 1<<20 {
		f.changed.Wait()
	}
	f.buf.Write(b)
	f.changed.Broadcast()
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.changed.Broadcast()
}

// Read implements io.Reader.
func (f *feed) Read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.buf.Len() == 0 {
		f.waiting = true
		f.changed.Broadcast()
		if f.closed {
			return 0, io.EOF
		}
		f.changed.Wait()
	}
	f.waiting = false
	n, _ := f.buf.Read(b)
	f.changed.Broadcast()
	return n, nil
}

// settle waits until the reader has taken all that was written.
func (f *feed) settle() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		settled := f.buf.Len() == 0 && f.waiting
		f.mu.Unlock()
		if settled {
			return
		}
	}
}
