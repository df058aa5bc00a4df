package s3

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/service"
)

// countConns makes a server count its connections.
func countConns(n *atomic.Int64) func(http.Handler) *httptest.Server {
	return func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				n.Add(1)
			}
		}
		s.Start()
		return s
	}
}

// pass reads what is left of r as a response to a client does, by the kernel where it can, and returns it and how many bytes
// were taken from connections. After each step of the kernel, lose is asked how many bytes of it are lost.
func pass(t *testing.T, r *reader, lose func(n int64) int64) (got []byte, taken int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := make([]byte, 64<<10)
	for r.at < r.size {
		conn, n, err := r.Arrived()
		if err != nil {
			t.Fatal(err)
		}
		if conn == nil {
			n, err := r.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, p[:n]...)
			continue
		}
		n = min(n, 64<<10)
		step := make([]byte, n)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := io.ReadFull(out, step); err != nil {
				t.Error(err)
			}
		})
		if m, err := in.(*net.TCPConn).ReadFrom(&io.LimitedReader{R: conn, N: n}); m != n || err != nil {
			t.Fatalf("%d bytes of %d, %v", m, n, err)
		}
		wg.Wait()
		lost := lose(n)
		got = append(got, step[:n-lost]...)
		r.Took(n-lost, lost > 0)
		taken += n
	}
	return got, taken
}

func loseNothing(int64) int64 { return 0 }

// TestTapped reads objects from the connections to the store.
func TestTapped(t *testing.T) {
	b := service.S3(t)
	var conns atomic.Int64
	p := startProxy(t, b, countConns(&conns))
	o := p.options(b)
	o.Stall = 300 * time.Millisecond
	var failed atomic.Int64
	o.Observe = func(o Observation) {
		if o.Err != nil {
			failed.Add(1)
		}
	}
	s := openStore(t, o)
	want := content(1, 12<<20)
	key := put(t, s, want)
	open := func(t *testing.T) *reader {
		t.Helper()
		r, err := s.Open(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r.(*reader)
	}
	check := func(t *testing.T, r *reader, from int, lose func(int64) int64) {
		t.Helper()
		got, taken := pass(t, r, lose)
		if !bytes.Equal(got, want[from:]) {
			t.Errorf("got %d bytes, which are not the %d that were written", len(got), len(want)-from)
		}
		if taken == 0 {
			t.Error("nothing was taken from a connection")
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("behind the end: %d, %v", n, err)
		}
		if conn, n, err := r.Arrived(); conn != nil || n != 0 || err != nil {
			t.Errorf("behind the end: %v, %d, %v", conn, n, err)
		}
	}
	t.Run("again and again", func(t *testing.T) {
		before := conns.Load()
		for range 5 {
			check(t, open(t), 0, loseNothing)
		}
		if n := conns.Load() - before; n > 1 {
			t.Errorf("%d connections were made", n)
		}
	})
	t.Run("from a place on", func(t *testing.T) {
		r := open(t)
		if _, err := r.Seek(5_000_001, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		check(t, r, 5_000_001, loseNothing)
	})
	t.Run("closed by the server while idle", func(t *testing.T) {
		p.CloseClientConnections()
		before := failed.Load()
		check(t, open(t), 0, loseNothing)
		if n := failed.Load() - before; n > 0 {
			t.Errorf("%d requests failed", n)
		}
	})
	t.Run("lost in between", func(t *testing.T) {
		steps := 0
		check(t, open(t), 0, func(n int64) int64 {
			if steps++; steps%7 != 3 {
				return 0
			}
			return n / 2
		})
	})
	for name, f := range map[string]fault{
		"breaks off": {gives: 3<<20 + 17},
		"stalls":     {gives: 3<<20 + 17, stalls: true},
	} {
		t.Run(name, func(t *testing.T) {
			p.setFault(func(op string, n int) fault {
				if n <= 3 {
					return f
				}
				return fault{}
			})
			defer p.setFault(nil)
			check(t, open(t), 0, loseNothing)
			if gets := p.all("get object"); len(gets) != 4 {
				t.Errorf("%d requests", len(gets))
			}
		})
	}
}

// TestPlain compares answers of all kinds with what the HTTP library makes of them.
func TestPlain(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 10<<10)
	var conns atomic.Int64
	server := countConns(&conns)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		write := func(s string) { io.WriteString(w, s) }
		switch r.URL.Path {
		case "/empty":
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
			write("no")
		case "/no-content":
			w.WriteHeader(http.StatusNoContent)
		case "/large":
			w.Header().Set("Content-Length", fmt.Sprint(len(large)))
			write(large)
		case "/chunked":
			write(large)
		case "/close":
			w.Header().Set("Connection", "close")
			write("hello")
		case "/hints":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(http.StatusEarlyHints)
			write("hello")
		case "/short":
			w.Header().Set("Content-Length", "100")
			write("hello")
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/long-head":
			for i := range 3000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
			}
		}
	}))
	defer server.Close()
	transport := &http.Transport{DisableCompression: true, DialContext: new(net.Dialer).DialContext, Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	ours := newGetter(transport)
	defer ours.CloseIdleConnections()
	ask := func(tr http.RoundTripper, path string) string {
		resp, err := (&http.Client{Transport: tr}).Get(server.URL + path)
		if err != nil {
			return "an error"
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.Status, resp.Proto, resp.ContentLength, resp.TransferEncoding, resp.Close, resp.Header["Link"], string(body), err)
	}
	for _, path := range []string{"/empty", "/missing", "/no-content", "/large", "/chunked", "/close", "/hints", "/short", "/cut", "/large"} {
		for range 2 {
			want := ask(transport, path)
			if got := ask(ours, path); got != want {
				t.Errorf("%s: %.200s, and the HTTP library's answer %.200s", path, got, want)
			}
		}
	}
	if got := ask(ours, "/long-head"); got != "an error" {
		t.Errorf("/long-head: %.200s", got)
	}
	before := conns.Load()
	for range 10 {
		ask(ours, "/large")
		ask(ours, "/missing")
		ask(ours, "/empty")
	}
	if n := conns.Load() - before; n > 1 {
		t.Errorf("30 requests made %d connections", n)
	}
	ours.CloseIdleConnections()
	if ours.(*plain).idle != nil {
		t.Error("idle connections are left")
	}
}

// TestPlainExpires closes what nobody uses.
func TestPlainExpires(t *testing.T) {
	closed := make(chan struct{}, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.Start()
	defer server.Close()
	ours := newGetter(&http.Transport{DialContext: new(net.Dialer).DialContext, Proxy: http.ProxyFromEnvironment, IdleConnTimeout: 10 * time.Millisecond})
	resp, err := (&http.Client{Transport: ours}).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-closed
}

// TestPlainEnds ends requests by their contexts.
func TestPlainEnds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.Header().Set("Content-Length", "100000")
			io.WriteString(w, "hello")
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}))
	defer server.Close()
	transport := &http.Transport{DialContext: new(net.Dialer).DialContext, Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute}
	ours := newGetter(transport)
	why := errors.New("enough")
	for _, path := range []string{"/head", "/body", "/tap"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+strings.Replace(path, "tap", "body", 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
		resp, err := ours.RoundTrip(req)
		if path == "/head" {
			if !errors.Is(err, why) {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(resp.Body, make([]byte, 5)); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		if path == "/tap" {
			_, _, err = resp.Body.(tapped).arrived()
		} else {
			_, err = io.ReadAll(resp.Body)
		}
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", path, err)
		}
		resp.Body.Close()
	}
	if len(ours.(*plain).idle) != 0 {
		t.Error("a connection was kept")
	}
}

// TestPlainUnasked has a server say why it closes an idle connection: that is no answer to the next request.
func TestPlainUnasked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan struct{})
	read := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				t.Error(err)
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			<-read
			io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 3\r\n\r\nbye")
			said <- struct{}{}
			defer c.Close()
		}
	}()
	ours := newGetter(&http.Transport{DialContext: new(net.Dialer).DialContext, Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute})
	defer ours.CloseIdleConnections()
	for range 3 {
		resp, err := (&http.Client{Transport: ours}).Get("http://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "hi" || err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %q, %v", resp.Status, body, err)
		}
		resp.Body.Close()
		read <- struct{}{}
		<-said
	}
}
