package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

const plain = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// ask sends a request and reads its answer.
func ask(t testing.TB, c net.Conn, r *bufio.Reader, raw string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// ended waits until the server has closed a connection.
func ended(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil && kindOf(err) != "cut" {
		t.Errorf("instead of the end comes %q, %v", b, err)
	}
}

// The hook is told the same as by net/http, but for the second beginning of a connection that was handed over.
func TestStates(t *testing.T) {
	noGoroutines(t)
	const n, a, i, c = http.StateNew, http.StateActive, http.StateIdle, http.StateClosed
	post := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
	for name, test := range map[string]struct {
		raw   []string
		plain bool
		want  []http.ConnState
	}{
		"net/http":    {[]string{plain, plain}, false, []http.ConnState{n, a, i, a, i, c}},
		"plain":       {[]string{plain, plain}, true, []http.ConnState{n, a, i, a, i, c}},
		"handed over": {[]string{plain, post, plain}, true, []http.ConnState{n, a, i, n, a, i, a, i, c}},
		"never plain": {[]string{post}, true, []http.ConnState{n, n, a, i, c}},
		"nothing":     {nil, true, []http.ConnState{n, c}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, test.plain, echo, nil)
			conn := w.dial(t)
			r := bufio.NewReader(conn)
			for _, raw := range test.raw {
				ask(t, conn, r, raw)
			}
			conn.Close()
			eventually(t, "the connection is closed", func() bool {
				w.states.mu.Lock()
				defer w.states.mu.Unlock()
				return len(w.states.last) > 0 && slices.Contains(w.states.last, c)
			})
			if got := w.states.only(t); !slices.Equal(got, test.want) {
				t.Errorf("the states are %v, expected %v", got, test.want)
			}
		})
	}
}

// HTTP/2 goes to net/http, and what cannot be plain, such as the connections of a Unix socket.
func TestOthers(t *testing.T) {
	noGoroutines(t)
	w := start(t, true, echo, nil)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://" + w.addr)
	if err != nil || resp.Proto != "HTTP/2.0" {
		t.Fatal(resp, err)
	}
	resp.Body.Close()

	l, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	s := New(&http.Server{Handler: http.HandlerFunc(echo)})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if resp, _ := ask(t, c, bufio.NewReader(c), plain); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	s.Close()
	if err := <-served; err != http.ErrServerClosed {
		t.Errorf("Serve returns %v", err)
	}
}

// A connection that waits is closed after its timeout, not before, and goes on if it was used in time.
func TestTimeouts(t *testing.T) {
	noGoroutines(t)
	const header, keep = 150 * time.Millisecond, 100 * time.Millisecond
	w := start(t, true, echo, func(s *http.Server) { s.ReadHeaderTimeout, s.IdleTimeout = header, keep })
	for name, test := range map[string]struct {
		before string
		part   string
		least  time.Duration
	}{
		"nothing":                 {"", "", header},
		"a part":                  {"", "GET / HT", header},
		"idle":                    {plain, "", keep},
		"a part of a second head": {plain, "GET / HTTP/1.1\r\nHost", header},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			c := w.dial(t)
			r := bufio.NewReader(c)
			if test.before != "" {
				for range 8 { // longer than either timeout, so that it must have been set again
					begin = time.Now()
					ask(t, c, r, test.before)
					time.Sleep(keep / 2)
				}
			}
			io.WriteString(c, test.part)
			if test.part == "" {
				ended(t, c)
			} else if _, err := io.ReadAll(c); err != nil && kindOf(err) != "cut" { // net/http may say something
				t.Error(err)
			}
			if took := time.Since(begin); took < test.least || took > 20*test.least {
				t.Errorf("it was closed after %s", took)
			}
		})
	}
}

// gate is a handler that waits.
func gate() (h http.HandlerFunc, begun chan struct{}, end chan struct{}) {
	begun, end = make(chan struct{}, 10), make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			begun <- struct{}{}
			select {
			case <-end:
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		}
		io.WriteString(w, "done")
	}, begun, end
}

const waits = " /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

func TestShutdown(t *testing.T) {
	noGoroutines(t)
	h, begun, end := gate()
	w := start(t, true, h, nil)
	fresh, used, working, other := w.dial(t), w.dial(t), w.dial(t), w.dial(t)
	ask(t, used, bufio.NewReader(used), plain)
	io.WriteString(working, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"+plain)
	io.WriteString(other, "POST"+waits)
	<-begun
	<-begun
	result := make(chan error, 1)
	go func() { result <- w.server.Shutdown(context.Background()) }()
	ended(t, fresh)
	ended(t, used)
	eventually(t, "no connection is accepted", func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-result:
		t.Fatalf("it does not wait for requests: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(end)
	for _, c := range []net.Conn{working, other} {
		r := bufio.NewReader(c)
		resp, body := ask(t, c, r, "")
		if body != "done" || !resp.Close {
			t.Errorf("the answer is %q, close %v", body, resp.Close)
		}
		if _, err := r.ReadByte(); kindOf(err) != "cut" {
			t.Errorf("then comes %v", err)
		}
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if n := w.plain.Load(); n != 2 {
		t.Errorf("%d requests were plain", n)
	}
	if err := w.server.Shutdown(context.Background()); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// A connection that net/http has just got is its own to end.
func TestShutdownDuringHandOver(t *testing.T) {
	for range 200 {
		h, begun, end := gate()
		w := start(t, true, h, nil)
		c := w.dial(t)
		io.WriteString(c, "POST"+waits)
		<-begun
		result := make(chan error, 1)
		go func() { result <- w.server.Shutdown(context.Background()) }()
		time.Sleep(100 * time.Microsecond)
		close(end)
		if _, body := ask(t, c, bufio.NewReader(c), ""); body != "done" {
			t.Fatalf("the answer is %q", body)
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
	}
}

// A server without connections stops at once; and a connection whose answer had begun before is closed behind it.
func TestShutdownAtOddMoments(t *testing.T) {
	noGoroutines(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := start(t, true, echo, nil).server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	flushed, end := make(chan bool), make(chan bool)
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(flushed)
		<-end
	}, nil)
	c := w.dial(t)
	io.WriteString(c, plain)
	<-flushed
	result := make(chan error, 1)
	go func() { result <- w.server.Shutdown(ctx) }()
	eventually(t, "it stops", w.server.(*Server).stopping.Load)
	close(end)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestShutdownHasALimit(t *testing.T) {
	noGoroutines(t)
	h, begun, _ := gate()
	w := start(t, true, h, nil)
	c := w.dial(t)
	io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	<-begun
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := w.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returns %v", err)
	}
	w.server.Close()
	ended(t, c)
	w.abort() // what ends the handler, too
}

// A connection that is not taken over any more is closed.
func TestHandOverToAClosedListener(t *testing.T) {
	noGoroutines(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(&http.Server{Handler: http.HandlerFunc(echo)})
	s.request = new(http.Request)
	l := &listener{Listener: inner, others: make(chan accepted), closed: make(chan struct{})}
	go s.accept(l) // and nobody calls Accept
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\n")
	eventually(t, "it is there", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.conns) == 1 })
	time.Sleep(10 * time.Millisecond)
	l.Close()
	ended(t, c)
	if conn, err := l.Accept(); err != net.ErrClosed {
		t.Errorf("Accept returns %v, %v", conn, err)
	}
	eventually(t, "none is left", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.conns) == 0 })
}

// A connection that someone else closes, as to make room, ends.
func TestEvicted(t *testing.T) {
	noGoroutines(t)
	var evict func()
	h, begun, end := gate()
	w := start(t, true, h, func(s *http.Server) {
		note := s.ConnState
		s.ConnState = func(c net.Conn, state http.ConnState) {
			note(c, state)
			evict = func() { c.Close() }
		}
	})
	c := w.dial(t)
	io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	<-begun
	evict()
	close(end)
	ended(t, c)
}
