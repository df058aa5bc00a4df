package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/certificate"
)

// gate is a handler whose requests say that they have begun and end when they are let.
type gate struct {
	begun chan *http.Request
	end   chan struct{}
}

func newGate() *gate {
	return &gate{begun: make(chan *http.Request, 100), end: make(chan struct{})}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/wait" {
		fmt.Fprint(w, r.Proto)
		return
	}
	g.begun <- r
	select {
	case <-g.end:
		fmt.Fprint(w, "done")
	case <-r.Context().Done():
	}
}

type answer struct {
	body  string
	close bool // "Connection: close"
	err   error
}

func get(c *http.Client, url string) answer {
	res, err := c.Get(url)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{body: string(b), close: res.Close, err: err}
}

func TestBothProtocolsWithoutTLS(t *testing.T) {
	s := start(t, newGate(), nil)
	for h2, want := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		if a := get(client(t, h2), s.url); a.err != nil || a.body != want {
			t.Errorf("h2=%v answers %+v, want %s", h2, a, want)
		}
	}
}

func TestGracefulStop(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			g := newGate()
			s := start(t, g, nil)
			c := client(t, h2)
			idle := dial(t, s.Addr(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			idleReader := bufio.NewReader(idle)
			if res, err := http.ReadResponse(idleReader, nil); err != nil {
				t.Fatal(err)
			} else if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}

			result := make(chan answer, 1)
			go func() { result <- get(c, s.url+"/wait") }()
			request := await(t, g.begun, "the request")
			s.stop()

			// New connections are refused, idle ones are closed.
			eventually(t, "the listener is closed", func() bool {
				c, err := net.Dial("tcp", s.Addr().String())
				if err == nil {
					c.Close()
				}
				return errors.Is(err, syscall.ECONNREFUSED)
			})
			if _, err := idleReader.ReadByte(); err != io.EOF {
				t.Errorf("the idle connection gives %v, want EOF", err)
			}
			// Whoever asks learns that the server stops.
			if res, err := http.Get("http://" + s.MetricsAddr().String() + "/readyz"); err != nil || res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("/readyz while stopping: %v, %v", res, err)
			}
			// The request and what the application needs go on.
			select {
			case err := <-s.result:
				t.Fatalf("the server has stopped with a request in flight: %v", err)
			case <-s.closed:
				t.Fatal("the application is closed under a request")
			case <-request.Context().Done():
				t.Fatal("the request was cancelled")
			case <-s.done.Done():
				t.Fatal("background work was ended under a request")
			default:
			}
			close(g.end)
			a := await(t, result, "the answer")
			if a.err != nil || a.body != "done" {
				t.Errorf("the request in flight got %+v", a)
			}
			if !h2 && !a.close {
				t.Error("the answer of a stopping server keeps the connection")
			}
			if err := await(t, s.result, "the end"); err != nil {
				t.Errorf("Serve returns %v", err)
			}
			await(t, s.closed, "the application's end")
			if s.done.Err() == nil {
				t.Error("background work was not ended")
			}
			// The folder is free again.
			lock, err := LockData(s.cfg.Data)
			if err != nil {
				t.Fatal(err)
			}
			lock.Release()
		})
	}
}

// On HTTP/2 a new stream on an old connection is a new request.
func TestStopRefusesNewStreams(t *testing.T) {
	g := newGate()
	s := start(t, g, nil)
	c := client(t, true)
	first := make(chan answer, 1)
	go func() { first <- get(c, s.url+"/wait") }()
	await(t, g.begun, "the request")
	s.stop()
	eventually(t, "new requests fail", func() bool { return get(c, s.url).err != nil })
	close(g.end)
	if a := await(t, first, "the answer"); a.err != nil || a.body != "done" {
		t.Errorf("the request in flight got %+v", a)
	}
	if err := await(t, s.result, "the end"); err != nil {
		t.Error(err)
	}
}

func TestStopHasALimit(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		g := newGate()
		s := start(t, g, func(c *Config) { c.Timeouts.Stop = Duration(50 * time.Millisecond) })
		result := make(chan answer, 1)
		go func() { result <- get(client(t, h2), s.url+"/wait") }()
		await(t, g.begun, "the request")
		s.stop()
		if err := await(t, s.result, "the end"); err == nil || err.Error() != "stop: 1 requests were cut off after 50ms" {
			t.Errorf("h2=%v: Serve returns %v", h2, err)
		}
		if a := await(t, result, "the answer"); a.err == nil {
			t.Errorf("h2=%v: a request that was cut off got %+v", h2, a)
		}
		await(t, s.closed, "the application's end")
	}
}

func TestServeEndsWhenTheListenerFails(t *testing.T) {
	s := start(t, newGate(), nil)
	if a := get(client(t, false), s.url); a.err != nil {
		t.Fatal(a.err)
	}
	s.listener.Close()
	if err := await(t, s.result, "the end"); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "accept connections: ") {
		t.Errorf("Serve returns %v", err)
	}
	await(t, s.closed, "the application's end")
}

func TestSecondServerIsRefused(t *testing.T) {
	s := start(t, newGate(), nil)
	cfg := Default()
	cfg.Listen, cfg.Data = "127.0.0.1:0", s.cfg.Data
	_, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by another server: process %d", os.Getpid())) {
		t.Errorf("a second server on the same data: %v", err)
	}
}

// What New has taken must be given back when it fails, or the next try fails, too.
func TestFailedStartLeavesNothing(t *testing.T) {
	s := start(t, newGate(), nil)
	cfg := Default()
	cfg.Data = t.TempDir()
	cfg.Listen = Address(s.Addr().String())
	if _, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), string(cfg.Listen)) {
		t.Fatalf("a taken address gives %v", err)
	}
	cfg.Listen = "127.0.0.1:0"
	broken := errors.New("the database is from the future")
	_, err := newServer(t.Context(), cfg, slog.New(slog.DiscardHandler), func(context.Context, *Config, *slog.Logger, *Metrics, *Readiness, *certificate.Store) (http.Handler, func() error, error) {
		return nil, nil, broken
	})
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	again, err := newServer(t.Context(), cfg, slog.New(slog.DiscardHandler), func(context.Context, *Config, *slog.Logger, *Metrics, *Readiness, *certificate.Store) (http.Handler, func() error, error) {
		return newGate(), func() error { return nil }, nil
	})
	if err != nil {
		t.Fatalf("a start after failed ones: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := again.Serve(ctx); err != nil {
		t.Errorf("a server that is stopped before it serves: %v", err)
	}

	cfg.Data = filepath.Join(cfg.Data, lockName, "x")
	if _, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "make the data folder") {
		t.Errorf("an impossible folder gives %v", err)
	}
}

func TestLargeHeaders(t *testing.T) {
	s := start(t, newGate(), func(c *Config) { c.Limits.Header = 8 << 10 })
	long := strings.Repeat("x", 100<<10)

	conn := dial(t, s.Addr(), "GET / HTTP/1.1\r\nHost: x\r\n")
	go func() { // 100 MB, or as much as is taken
		for range 1000 {
			if _, err := io.WriteString(conn, "X-Header: "+long+"\r\n"); err != nil {
				return
			}
		}
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("100 MB of headers: %v, %v", res, err)
	}

	req, err := http.NewRequest("GET", s.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Header", long)
	if res, err := client(t, true).Do(req); err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a large header over HTTP/2: %s", res.Status)
		}
	}
	if a := get(client(t, false), s.url); a.err != nil {
		t.Error(a.err)
	}
}

func TestSlowHeaderIsCut(t *testing.T) {
	s := start(t, newGate(), func(c *Config) { c.Timeouts.Header = Duration(50 * time.Millisecond) })
	for _, part := range []string{"", "G", "GET / HTTP/1.1\r\nHost: x\r\nX-", "PRI * HTTP/2.0\r\n"} {
		if b, err := io.ReadAll(dial(t, s.Addr(), part)); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %q: %q, %v", part, b, err)
		}
	}
	// A slow body is not the header's business.
	slow := dial(t, s.Addr(), "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
	time.Sleep(100 * time.Millisecond)
	if _, err := slow.Write([]byte("body")); err != nil {
		t.Error(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil || res.StatusCode != 200 {
		t.Errorf("a slow body: %v, %v", res, err)
	}
}

// The kernel copies a file to a connection (sendfile) only if net/http holds the kernel's own connection, or what
// passes on its method.
func TestConnectionsAreNotWrapped(t *testing.T) {
	kind := make(chan string, 1)
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, direct := w.(io.ReaderFrom)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			kind <- err.Error()
			return
		}
		defer conn.Close()
		_, handsOver := conn.(io.ReaderFrom)
		kind <- fmt.Sprint(handsOver, direct)
	}), nil)
	if res, err := client(t, false).Post(s.url, "", nil); err == nil {
		res.Body.Close()
	}
	if got := await(t, kind, "the request"); got != "true true" {
		t.Errorf("handlers write to what takes files: %s", got)
	}
}
