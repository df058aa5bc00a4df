//go:build linux

package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// serve starts a real HTTP server and returns its address.
func serve(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return netip.MustParseAddrPort(srv.Listener.Addr().String())
}

// one runs a single script.
func one(t *testing.T, addr netip.AddrPort, s Script) error {
	t.Helper()
	return Run(t.Context(), addr, 1, []Script{s})
}

func TestAnswersOfEveryFraming(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 100_000)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(len(long)))
			io.WriteString(w, long)
		case "/chunks":
			for i := 0; i < len(long); i += 7777 {
				io.WriteString(w, long[i:min(len(long), i+7777)])
				w.(http.Flusher).Flush()
			}
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "1")
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/empty":
		}
	})
	// Twice over one connection: an answer that is cut at the wrong place spoils the next.
	err := one(t, addr, func(c *Client) error {
		for range 2 {
			for _, want := range []struct {
				method, path, body string
				status             int
			}{
				{"GET", "/length", long, 200},
				{"HEAD", "/length", "", 200},
				{"GET", "/chunks", long, 200},
				{"GET", "/trailer", "body", 200},
				{"GET", "/none", "", 204},
				{"GET", "/empty", "", 200},
			} {
				var got bytes.Buffer
				resp, err := c.Expect(want.status, Request{Head: Head(want.method, want.path), Sink: func(p []byte) { got.Write(p) }})
				if err != nil {
					return err
				}
				if got.String() != want.body || resp.Length != int64(len(want.body)) {
					t.Errorf("%s %s: got %d bytes, Length %d, want %d", want.method, want.path, got.Len(), resp.Length, len(want.body))
				}
				if want.path == "/length" && resp.Header("content-LENGTH") != fmt.Sprint(len(long)) {
					t.Errorf("%s %s: Content-Length %q", want.method, want.path, resp.Header("content-LENGTH"))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// An answer may arrive in pieces of any size; cut it everywhere.
func TestAnswerInPieces(t *testing.T) {
	answer := "HTTP/1.1 100 Continue\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n" +
		"5\r\nhello\r\n11;ext=1\r\n, world. And more\r\n0\r\nX-Trailer: c\r\n\r\n"
	for size := 1; size <= len(answer); size++ {
		var r reader
		var body []byte
		r.reset(false, func(p []byte) { body = append(body, p...) })
		for i := 0; i < len(answer); i += size {
			if r.state == done {
				t.Fatalf("pieces of %d: done after %d of %d bytes", size, i, len(answer))
			}
			// The caller's buffer is overwritten by the next read.
			piece := []byte(answer[i:min(len(answer), i+size)])
			if err := r.take(piece); err != nil {
				t.Fatalf("pieces of %d: %v", size, err)
			}
			clear(piece)
		}
		if r.state != done || string(body) != "hello, world. And more" || r.resp.Header("X-A") != "b" {
			t.Fatalf("pieces of %d: state %d, body %q, header %q", size, r.state, body, r.resp.head)
		}
	}
}

func TestBodiesArriveAsHashed(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%x %d %d", h.Sum(nil), n, r.ContentLength)
	})
	fill, err := NewFill(Random(3<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	bodies := []Body{
		{},
		{Prefix: []byte("only a prefix")},
		{Suffix: []byte("only a suffix")},
		{Prefix: []byte("x"), Fill: fill, N: 16 << 10},
		{Prefix: []byte("x"), Fill: fill, N: 16 << 10, Suffix: []byte("end")},
		{Fill: fill, N: sendfileFrom},
		{Prefix: []byte("large"), Fill: fill, N: 20<<20 + 12345, Suffix: []byte("end")},
	}
	var scripts []Script
	for _, b := range bodies {
		scripts = append(scripts, func(c *Client) error {
			h := sha256.New()
			n, err := b.WriteTo(h)
			if err != nil || n != b.Len() {
				return fmt.Errorf("WriteTo: %d of %d bytes, %v", n, b.Len(), err)
			}
			want := fmt.Sprintf("%x %d %d", h.Sum(nil), n, n)
			for range 2 {
				var got bytes.Buffer
				_, err := c.Expect(200, Request{
					Head: HeadWithLength("PUT", "/", b.Len()), Body: b,
					Sink: func(p []byte) { got.Write(p) },
				})
				if err != nil {
					return err
				}
				if got.String() != want {
					t.Errorf("body of %d bytes: got %s, want %s", b.Len(), &got, want)
				}
			}
			return nil
		})
	}
	if err := Run(t.Context(), addr, 2, scripts); err != nil {
		t.Fatal(err)
	}
}

func TestFailures(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/404":
			http.Error(w, "there is no such thing", http.StatusNotFound)
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "short")
			panic(http.ErrAbortHandler)
		}
	})
	err := one(t, addr, func(c *Client) error {
		_, err := c.Expect(200, Request{Head: Head("GET", "/404")})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "GET /404: answered 404 instead of 200: there is no such thing") {
		t.Errorf("wrong status: %v", err)
	}
	err = one(t, addr, func(c *Client) error {
		_, err := c.Expect(200, Request{Head: Head("GET", "/cut")})
		return err
	})
	if err == nil {
		t.Error("a broken body was taken for a whole one")
	}
	// One script's error ends the others, which see it as an error of their request.
	stopped := false
	wrong := errors.New("wrong")
	err = Run(t.Context(), addr, 1, []Script{
		func(c *Client) error {
			for {
				if _, err := c.Do(Request{Head: Head("GET", "/404")}); err != nil {
					stopped = true
					return err
				}
			}
		},
		func(c *Client) error {
			_, err := c.Do(Request{Head: Head("GET", "/404")})
			return errors.Join(err, wrong)
		},
	})
	if !errors.Is(err, wrong) || !stopped {
		t.Errorf("error %v, other script stopped: %v", err, stopped)
	}
}

func TestSilentServerIsLeftWhenTheContextEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = Run(ctx, netip.MustParseAddrPort(l.Addr().String()), 1, []Script{func(c *Client) error {
		_, err := c.Do(Request{Head: Head("GET", "/")})
		return err
	}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestTarget(t *testing.T) {
	for location, want := range map[string]string{
		"/v2/a/blobs/uploads/1?x=y":                   "/v2/a/blobs/uploads/1?x=y",
		"http://localhost:5000/v2/a/blobs/uploads/1?": "/v2/a/blobs/uploads/1?",
		"http://localhost":                            "/",
	} {
		r := Response{head: []byte("HTTP/1.1 202 Accepted\r\nlocation: " + location + "\r\n")}
		if got := r.Target(); got != want {
			t.Errorf("Target of %q is %q, want %q", location, got, want)
		}
	}
}
