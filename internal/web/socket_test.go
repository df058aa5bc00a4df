package web

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// socket is a Socket whose content comes over a connection that sends it from some byte on.
type socket struct {
	t       *testing.T
	content []byte
	at      int64
	conn    *net.TCPConn
	taken   *atomic.Int64 // bytes that were taken from connections
	dialed  *atomic.Int64 // connections
}

func (s *socket) open() {
	if s.conn != nil {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Error(err)
		return
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Error(err)
		return
	}
	peer, err := l.Accept()
	if err != nil {
		s.t.Error(err)
		return
	}
	s.conn = c.(*net.TCPConn)
	s.dialed.Add(1)
	rest := s.content[s.at:]
	go func() {
		defer peer.Close()
		peer.Write(rest)
	}()
}

func (s *socket) Read(p []byte) (int, error) {
	s.open()
	n, err := s.conn.Read(p[:min(len(p), 1000)])
	s.at += int64(n)
	return n, err
}

// Arrived has every fourth stretch read.
func (s *socket) Arrived() (*net.TCPConn, int64, error) {
	s.open()
	left := int64(len(s.content)) - s.at
	if left == 0 || s.at>>16&3 == 0 {
		return nil, 0, nil
	}
	return s.conn, left, nil
}

func (s *socket) Took(n int64, more bool) {
	s.at += n
	s.taken.Add(n)
	if more {
		s.close()
	}
}

func (s *socket) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// What comes over a connection gets to the client as it is, and where it can, without having been read.
func TestSocket(t *testing.T) {
	for name, test := range map[string]struct {
		slow, http2 bool
	}{"fast": {}, "slow": {slow: true}, "HTTP/2": {http2: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := make([]byte, 550<<10)
			for i := range content {
				content[i] = byte(i>>8 ^ i)
			}
			var taken, dialed atomic.Int64
			s := serve(t, Options{Idle: 2 * time.Second}, func(w *Response, _ *http.Request) error {
				src := &socket{t: t, content: content, taken: &taken, dialed: &dialed}
				defer src.close()
				w.Header().Set("Content-Length", strconv.Itoa(len(content)))
				_, err := w.ReadFrom(&io.LimitedReader{R: src, N: int64(len(content))})
				return err
			})
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!test.http2)
			tr.Protocols.SetUnencryptedHTTP2(test.http2)
			if test.slow {
				// A step takes longer than the idle timeout, so that what it had taken from the connection is lost.
				tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil {
						err = c.(*net.TCPConn).SetReadBuffer(32 << 10)
					}
					return verySlowly{c}, err
				}
			}
			defer tr.CloseIdleConnections()
			wantBody(t, tr, s.URL, content)
			if (taken.Load() > 0) == test.http2 {
				t.Errorf("%d bytes were taken from the connection", taken.Load())
			}
			if (dialed.Load() > 1) != test.slow {
				t.Errorf("there were %d connections", dialed.Load())
			}
		})
	}
}

// verySlowly is a connection from which little is read at a time.
type verySlowly struct{ net.Conn }

func (c verySlowly) Read(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return c.Conn.Read(p[:min(len(p), 4<<10)])
}

// failing is a Socket that breaks.
type failing struct{ socket }

func (f *failing) Arrived() (*net.TCPConn, int64, error) {
	if f.at > 300<<10 {
		return nil, 0, errors.New("the store is gone")
	}
	f.open()
	return f.conn, 100 << 10, nil
}

// An answer whose content breaks off does not look whole.
func TestSocketBreaks(t *testing.T) {
	content := make([]byte, 700<<10)
	var taken, dialed atomic.Int64
	s := serve(t, Options{}, func(w *Response, _ *http.Request) error {
		src := &failing{socket{t: t, content: content, taken: &taken, dialed: &dialed}}
		defer src.close()
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, err := w.ReadFrom(&io.LimitedReader{R: src, N: int64(len(content))})
		return err
	})
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n < 300<<10 {
		t.Errorf("got %d bytes of %d, %v", n, len(content), err)
	}
}
