package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// download serves size bytes, from a file or from memory.
func download(t *testing.T, opts Options, size int, file bool) (*httptest.Server, []byte) {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return serve(t, opts, func(w *Response, r *http.Request) error {
		var src io.Reader = bytes.NewReader(content)
		if file {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			src = f
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, err := w.ReadFrom(&io.LimitedReader{R: src, N: int64(len(content))})
		return err
	}), content
}

// slowly is a connection from which little is read at a time.
type slowly struct{ net.Conn }

func (c slowly) Read(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return c.Conn.Read(p[:min(len(p), 4<<10)])
}

// A client that is slow, but takes something all the time, gets everything, although a
// stride takes longer than the idle timeout.
func TestSlowReader(t *testing.T) {
	for name, test := range map[string]struct {
		file  bool
		http2 bool
	}{"file": {true, false}, "memory": {false, false}, "file, HTTP/2": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, content := download(t, Options{Idle: time.Second}, 2<<20, test.file)
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					err = c.(*net.TCPConn).SetReadBuffer(32 << 10)
				}
				return slowly{c}, err
			}
			tr := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!test.http2)
			tr.Protocols.SetUnencryptedHTTP2(test.http2)
			defer tr.CloseIdleConnections()
			wantBody(t, tr, s.URL, content)
		})
	}
}

// wantBody gets everything, over a connection as tr makes it.
func wantBody(t *testing.T, tr *http.Transport, url string, want []byte) {
	t.Helper()
	resp, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(want), err)
	}
}

// A client that takes nothing is let go, and its answer does not look whole.
func TestStalledReader(t *testing.T) {
	for name, file := range map[string]bool{"file": true, "memory": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			s, content := download(t, Options{Idle: 100 * time.Millisecond, Observer: observer(func() { close(ended) })}, 64<<20, file)
			c := dial(t, s)
			c.(*net.TCPConn).SetReadBuffer(32 << 10)
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatal("the handler is still at it")
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil || errors.Is(err, io.EOF) && n == int64(len(content)) {
				t.Errorf("the answer looks whole: %d bytes, %v", n, err)
			}
		})
	}
}

// observer calls a function when a request has ended.
type observer func()

func (o observer) Observe(string, string, int, int64, int64, time.Duration) { o() }

// What breaks off must look broken.
func TestBrokenOff(t *testing.T) {
	s := serve(t, Options{}, func(w *Response, _ *http.Request) error {
		w.Write([]byte("half"))
		return errors.New("the disk broke")
	})
	for name, client := range map[string]*http.Client{"HTTP/1.1": {}, "HTTP/2": http2Client()} {
		resp, err := client.Get(s.URL)
		if err != nil {
			continue // cut before anything was sent
		}
		if got, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: the answer looks whole: %q", name, got)
		}
		resp.Body.Close()
	}
}
