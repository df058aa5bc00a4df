package web

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// patience is after how long a test gives up waiting for what must come.
const patience = 10 * time.Second

// serve runs handlers behind a real socket, HTTP/1.1 and h2c.
func serve(t *testing.T, opts Options, h HandlerFunc) *httptest.Server {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := httptest.NewUnstartedServer(NewServer(opts).Handler(h))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	// Small, so that a client that does not read is felt soon.
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetWriteBuffer(64 << 10)
		}
		return ctx
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// http2Client speaks HTTP/2 without TLS.
func http2Client() *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: tr}
}

// dial opens a connection on which every wait ends.
func dial(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// exchange sends text as it is and reads one answer, and whether the connection is closed then.
func exchange(t *testing.T, s *httptest.Server, text string) (resp *http.Response, body []byte, closed bool) {
	t.Helper()
	c := dial(t, s)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if resp.Close {
		_, err := r.ReadByte()
		closed = err == io.EOF
	}
	return resp, body, closed
}
