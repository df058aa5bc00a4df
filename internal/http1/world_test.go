package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long tests wait for what must happen.
const patience = 10 * time.Second

// world is a running server. Without plain it is net/http alone.
type world struct {
	addr   string
	log    *logBuffer
	plain  atomic.Int64 // requests that were served here
	others atomic.Int64 // requests that net/http served
	states *states
	server interface {
		Shutdown(context.Context) error
		Close() error
	}
	abort  context.CancelFunc
	served chan error
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// states remembers what ConnState was told.
type states struct {
	mu   sync.Mutex
	of   map[net.Conn][]http.ConnState
	last []http.ConnState // of all, in order
}

func (s *states) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[c] = append(s.of[c], state)
	s.last = append(s.last, state)
}

// only returns the states of the one connection that there was.
func (s *states) only(t testing.TB) []http.ConnState {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) != 1 {
		t.Errorf("there were %d connections", len(s.of))
	}
	for _, states := range s.of {
		return slices.Clone(states)
	}
	return nil
}

func start(t testing.TB, plain bool, h http.HandlerFunc, change func(*http.Server)) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{addr: l.Addr().String(), log: new(logBuffer), states: &states{of: make(map[net.Conn][]http.ConnState)}, served: make(chan error, 1)}
	ctx, abort := context.WithCancel(context.Background())
	w.abort = abort
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if _, ours := rw.(*response); ours {
				w.plain.Add(1)
			} else {
				w.others.Add(1)
			}
			h(rw, r)
		}),
		Protocols:   protocols,
		ErrorLog:    log.New(w.log, "", 0),
		ConnState:   w.states.note,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	if change != nil {
		change(srv)
	}
	var serve func(net.Listener) error
	if plain {
		s := New(srv)
		w.server, serve = s, s.Serve
	} else {
		w.server, serve = srv, srv.Serve
	}
	go func() { w.served <- serve(l) }()
	t.Cleanup(func() {
		abort()
		w.server.Close()
		select {
		case <-w.served:
		case <-time.After(patience):
			t.Error("Serve does not return")
		}
	})
	return w
}

func (w *world) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// answer is what a client can see of one.
type answer struct {
	Status string
	Header http.Header
	TE     []string
	Close  bool
	Body   string
	Err    string // that ended the body, or the connection
}

// exchange sends the parts of a text, one by one, then waits for as many answers as there are, until the connection
// ends. A connection that is still open when nothing comes any more gives "open" in the end.
func (w *world) exchange(t testing.TB, methods []string, parts ...string) (answers []answer, closed bool) {
	t.Helper()
	c := w.dial(t)
	for i, p := range parts {
		if i > 0 {
			time.Sleep(time.Millisecond)
		}
		if _, err := io.WriteString(c, p); err != nil {
			break // it was cut already
		}
	}
	r := bufio.NewReader(c)
	for len(methods) > 0 {
		method := methods[0]
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := r.Peek(1); err != nil {
			answers = append(answers, answer{Err: kindOf(err)})
			return answers, true
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			answers = append(answers, answer{Err: kindOf(err)})
			return answers, true
		}
		if resp.StatusCode >= 200 {
			methods = methods[1:]
		}
		body, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		if resp.Close && resp.ContentLength < 0 && resp.TransferEncoding == nil {
			err = nil // whatever ended it
		}
		answers = append(answers, answer{resp.Status, resp.Header, resp.TransferEncoding, resp.Close, string(body), kindOf(err)})
		if err != nil || resp.Close {
			c.SetReadDeadline(time.Now().Add(patience))
			_, err := r.ReadByte()
			return answers, err != nil && kindOf(err) == "cut"
		}
	}
	c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	b, err := r.ReadByte()
	if err == nil {
		rest, _ := io.ReadAll(r)
		answers = append(answers, answer{Err: fmt.Sprintf("and then %q", append([]byte{b}, rest...))})
	}
	var timeout net.Error
	return answers, !(errors.As(err, &timeout) && timeout.Timeout())
}

// kindOf tells errors apart as far as clients should. Whether an end is a FIN or a RST depends on what had been read.
func kindOf(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "reset by peer"):
		return "cut"
	default:
		return err.Error()
	}
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting until %s", what)
		}
	}
}

// noGoroutines fails a test at whose end a goroutine of ours is left.
func noGoroutines(t *testing.T) {
	t.Helper()
	left := func() string {
		buf := make([]byte, 1<<20)
		var ours []string
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "http1.(*conn)") || strings.Contains(g, "http1.(*Server)") || strings.Contains(g, "http1.(*listener)") {
				ours = append(ours, g)
			}
		}
		return strings.Join(ours, "\n\n")
	}
	t.Cleanup(func() { // runs after those of the servers that are started later
		for end := time.Now().Add(patience); left() != ""; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("goroutines are left:\n%s", left())
				return
			}
		}
	})
}
