package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestHandlers runs each handler behind net/http and behind us, on a connection that is used twice.
func TestHandlers(t *testing.T) {
	noGoroutines(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, h := range handlers {
		for _, method := range []string{"GET", "HEAD"} {
			if name == "a length that is none" && method == "HEAD" {
				continue // which net/http sends
			}
			t.Run(name+", "+method, func(t *testing.T) {
				t.Parallel()
				run := func(plain bool) result {
					given := make(chan any, 2)
					w := start(t, plain, func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/before" {
							w.Header().Set("Before", "it")
							w.WriteHeader(404)
							return
						}
						f, err := os.Open(path)
						if err != nil {
							t.Error(err)
						}
						defer f.Close()
						defer func() {
							if p := recover(); p != nil {
								given <- fmt.Sprint(p)
								panic(p)
							}
						}()
						given <- h(w, r, f)
					}, nil)
					var res result
					res.Answers, res.Closed = w.exchange(t, []string{"HEAD", method}, "HEAD /before HTTP/1.1\r\nHost: x\r\n\r\n"+method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
					res.Given = <-given
					w.server.Close()
					res.Logged = w.log.String() != ""
					if n := w.plain.Load(); plain != (n == 2) {
						t.Errorf("%d requests were plain", n)
					}
					return res
				}
				if want, got := run(false), run(true); !reflect.DeepEqual(got, want) {
					t.Errorf("the result is\n%.2000v, and net/http's\n%.2000v", got, want)
				}
			})
		}
	}
}

// SendFile sends a part of a file that others send, too, and leaves alone where it is being read.
func TestSendFile(t *testing.T) {
	noGoroutines(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	const offset, size = 7, 900 << 10
	given := make(chan string, 100)
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		n := int64(size)
		switch r.URL.Path {
		case "/":
			h.Set("Content-Type", "text/x")
			h.Set("Content-Length", strconv.Itoa(size))
		case "/untyped":
			h.Set("Content-Length", strconv.Itoa(size))
		case "/end":
			n = 2 << 20
			h.Set("Content-Type", "text/x")
			h.Set("Content-Length", strconv.Itoa(2<<20))
		case "/too-much":
			h.Set("Content-Type", "text/x")
			h.Set("Content-Length", "5")
		}
		sent, err := w.(*response).SendFile(f, offset, n)
		given <- fmt.Sprint(r.Method, r.URL.Path, sent, err)
	}, nil)
	whole := text[offset : offset+size]
	for request, want := range map[string]struct{ given, body, err string }{
		"GET /":         {fmt.Sprint(size, " <nil>"), whole, ""},
		"HEAD /":        {fmt.Sprint(size, " <nil>"), "", ""},
		"GET /untyped":  {fmt.Sprint(size, " <nil>"), whole, ""},
		"GET /chunked":  {fmt.Sprint(size, " <nil>"), whole, ""},
		"GET /end":      {fmt.Sprint(len(text)-offset, " unexpected EOF"), text[offset:], "cut"},
		"GET /too-much": {fmt.Sprint(0, " ", http.ErrContentLength), "", "cut"},
	} {
		t.Run(request, func(t *testing.T) {
			method, path, _ := strings.Cut(request, " ")
			answers, _ := w.exchange(t, []string{method}, request+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if got := <-given; got != method+path+want.given {
				t.Errorf("the handler was given %s, expected %s", got, want.given)
			}
			if a := answers[0]; a.Body != want.body || a.Err != want.err {
				t.Errorf("got %d bytes of %d, and %q", len(a.Body), len(want.body), a.Err)
			}
		})
	}
	if at, err := f.Seek(0, io.SeekCurrent); at != 0 || err != nil {
		t.Errorf("the file is being read at %d now, %v", at, err)
	}
	// Many at once, of which some do not read.
	for range 3 {
		io.WriteString(w.dial(t), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for range 8 {
		t.Run("at once", func(t *testing.T) {
			t.Parallel()
			if a, closed := w.exchange(t, []string{"GET"}, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); a[0].Body != whole || closed {
				t.Errorf("got %d bytes, closed %v", len(a[0].Body), closed)
			}
		})
	}
}

// A client that takes nothing is let go at the deadline, by whatever way it is sent to; and a deadline does not outlast its request.
func TestWriteDeadline(t *testing.T) {
	noGoroutines(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	given := make(chan error, 1)
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
		if r.URL.Path == "/none" {
			time.Sleep(wait)
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("Content-Length", "11")
			if r.URL.Query().Get("file") == "" {
				io.WriteString(w, "still there")
			} else if f, err := os.Open(path); err != nil {
				t.Error(err)
			} else {
				io.Copy(w, &io.LimitedReader{R: f, N: 11})
				f.Close()
			}
			return
		}
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
		}
		defer f.Close()
		w.Header().Set("Content-Type", "text/x")
		w.Header().Set("Content-Length", "1000000000")
		for begin := time.Now(); err == nil; {
			if time.Since(begin) > patience {
				err = errors.New("there is no deadline")
			}
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait)); err != nil {
				t.Error(err)
			}
			switch r.URL.Path {
			case "/file":
				f.Seek(0, io.SeekStart)
				_, err = io.Copy(w, &io.LimitedReader{R: f, N: int64(len(text))})
			case "/send":
				_, err = w.(*response).SendFile(f, 0, int64(len(text)))
			case "/memory":
				_, err = io.WriteString(w, text)
			case "/end":
				return
			}
		}
		given <- err
	}, nil)
	for _, path := range []string{"/file", "/send", "/memory"} {
		c := w.dial(t)
		io.WriteString(c, "GET "+path+"?wait=40ms HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := <-given; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s ends with %v", path, err)
		}
	}
	for request, want := range map[string]string{
		"GET /none?wait=80ms":        "still there",
		"POST /none?wait=80ms":       "still there", // by net/http
		"GET /none?wait=80ms&file=1": text[:11],
	} {
		answers, _ := w.exchange(t, []string{"HEAD", "GET"}, "HEAD /end?wait=40ms HTTP/1.1\r\nHost: x\r\n\r\n"+request+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if a := answers[len(answers)-1]; a.Body != want {
			t.Errorf("behind a deadline comes %+v", a)
		}
	}
}

// A deadline is never earlier than asked, and moves when it must.
func TestDeadlineIsKept(t *testing.T) {
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		c := w.(*response).c
		for i, step := range []time.Duration{0, time.Second, time.Minute, 0, -time.Second, time.Hour, time.Millisecond} {
			want := time.Now().Add(step)
			if err := w.(*response).SetWriteDeadline(want); err != nil {
				t.Error(err)
			}
			if late := c.writeUntil.Sub(want); late < 0 || late > max(step, 0)/4 {
				t.Errorf("%d: the deadline %s from now is set %s too late", i, step, late)
			}
		}
		first := time.Now().Add(time.Minute)
		w.(*response).SetWriteDeadline(first)
		set := c.writeUntil
		w.(*response).SetWriteDeadline(first.Add(time.Second))
		if c.writeUntil != set {
			t.Error("a deadline that moves by a second is set again")
		}
	}, nil)
	w.exchange(t, []string{"GET"}, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if w.plain.Load() != 1 {
		t.Error("nothing was tested")
	}
}

// An answer is written at once, in one packet: what comes in the first read is all of it.
func TestOneWrite(t *testing.T) {
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text[:1000]) }, nil)
	c := w.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	b := make([]byte, 64<<10)
	n, err := c.Read(b)
	if err != nil || !bytes.HasSuffix(b[:n], []byte(text[:1000])) {
		t.Errorf("first comes %q, %v", b[:n], err)
	}
}

// What there is of a file may be nothing: the header does not wait for it.
func TestNothingOfAFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x")
		w.Header().Set("Content-Length", "0")
		io.Copy(w, &io.LimitedReader{R: f})
	}, nil)
	c := w.dial(t)
	r := bufio.NewReader(c)
	best := time.Hour
	for range 5 {
		begin := time.Now()
		ask(t, c, r, plain)
		best = min(best, time.Since(begin))
	}
	if best > 100*time.Millisecond {
		t.Errorf("the quickest answer took %s", best)
	}
}

// An answer names each field once, and always in the same order.
func TestFieldsOnTheWire(t *testing.T) {
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {
		for _, k := range []string{"Connection", "B", "Date", "C", "A"} {
			w.Header().Set(k, "close")
		}
		io.WriteString(w, "x")
	}, nil)
	want := "HTTP/1.1 200 OK\r\nA: close\r\nB: close\r\nC: close\r\nDate: close\r\nContent-Length: 1\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nx"
	for range 5 {
		c := w.dial(t)
		io.WriteString(c, plain)
		if b, err := io.ReadAll(c); string(b) != want {
			t.Errorf("got %q, %v", b, err)
		}
	}
}

// A Date is of this second.
func TestDate(t *testing.T) {
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {}, nil)
	for range 3 {
		before := time.Now().Truncate(time.Second)
		resp, err := http.Get("http://" + w.addr)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if d, err := http.ParseTime(resp.Header.Get("Date")); err != nil || d.Before(before) || d.After(time.Now()) {
			t.Errorf("Date is %v, %v", d, err)
		}
		time.Sleep(600 * time.Millisecond)
	}
}
