package http1

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// A conn is in one of these states. Only an idle one is closed by Shutdown, and none is at work
// that Shutdown has closed. One that is handed over is net/http's work.
const (
	idle = iota
	atWork
	cut
)

// conn is a connection of which every request was plain so far. Its fields belong to the goroutine that
// runs serve, but for state.
type conn struct {
	server   *Server
	listener *listener
	peer     *peer
	raw      syscall.RawConn
	remote   string
	state    atomic.Int32

	// Deadlines as the kernel's poller has them; zero for none.
	readUntil, writeUntil time.Time

	buf      *buffers // nil while it waits
	in       []byte   // the part of buf.in that has been read and not been answered
	system   system
	response response
}

// buffers are what a connection needs while it is at work.
type buffers struct {
	in   [maxHead]byte
	out  [4 << 10]byte
	body [bodySize]byte
}

// peer is a connection as net/http and ConnState get to know it. It is one and the same before and after it was handed over,
// so that it counts as one.
type peer struct {
	*net.TCPConn
	unread []byte // comes before what the kernel has
}

// Read implements io.Reader.
func (p *peer) Read(b []byte) (int, error) {
	if len(p.unread) == 0 {
		return p.TCPConn.Read(b)
	}
	n := copy(b, p.unread)
	if p.unread = p.unread[n:]; len(p.unread) == 0 {
		p.unread = nil
	}
	return n, nil
}

// WriteTo is not for use: that of TCPConn would pass by what is unread.
func (p *peer) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{p})
}

func newConn(s *Server, l *listener, tcp *net.TCPConn) (*conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &conn{server: s, listener: l, peer: &peer{TCPConn: tcp}, raw: raw, remote: tcp.RemoteAddr().String()}
	c.initSystem()
	c.response.c = c
	c.response.header = make(http.Header)
	return c, nil
}

// serve answers requests until the connection ends or is handed over.
func (c *conn) serve() {
	defer c.server.remove(c)
	if !c.answerAll() {
		c.release()
		_ = c.peer.Close()
		c.server.note(c.peer, http.StateClosed)
	}
}

// answerAll returns true if the connection is net/http's now.
func (c *conn) answerAll() bool {
	if d := c.server.http.ReadHeaderTimeout; d > 0 {
		c.readUntil = time.Now().Add(d)
		_ = c.peer.SetReadDeadline(c.readUntil) // which fails if the read will
	}
	for {
		if len(c.in) == 0 {
			if err := c.fill(); err != nil {
				return false
			}
		}
		r, n := parse(c.in, c.server.request)
		if r == nil {
			return c.handOver()
		}
		if !c.state.CompareAndSwap(idle, atWork) {
			return false
		}
		c.in = c.in[n:]
		r.RemoteAddr = c.remote
		c.server.note(c.peer, http.StateActive)
		if !c.answer(r) {
			return false
		}
		c.state.Store(idle)
		c.server.note(c.peer, http.StateIdle)
		if c.server.stopping.Load() {
			return false
		}
		c.expectWithin(c.server.http.IdleTimeout)
	}
}

// answer calls the handler. It is false if the connection cannot be used any more. After a panic, what has not been sent
// never is.
func (c *conn) answer(r *http.Request) (reuse bool) {
	w := &c.response
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				stack := make([]byte, 64<<10)
				c.server.logf("http: panic serving %s: %v\n%s", c.remote, p, stack[:runtime.Stack(stack, false)])
			}
			reuse = false
		}
	}()
	w.begin(r.Method == http.MethodHead)
	c.server.http.Handler.ServeHTTP(w, r)
	return w.finish()
}

// handOver gives the connection to net/http. Of a server that stops, or a connection that was cut, it cannot.
func (c *conn) handOver() bool {
	if !c.state.CompareAndSwap(idle, atWork) { // or Shutdown would close what net/http serves already
		return false
	}
	c.peer.unread = bytes.Clone(c.in)
	c.release()
	if err := c.peer.SetDeadline(time.Time{}); err != nil {
		return false
	}
	return c.listener.give(accepted{conn: c.peer})
}

// release gives the buffers back.
func (c *conn) release() {
	if c.buf != nil {
		c.server.buffers.Put(c.buf)
		c.buf, c.in = nil, nil
	}
}

// expectWithin lets the next read wait for d, or for up to a quarter more: to change
// a deadline costs more than to leave it. Zero is for ever.
func (c *conn) expectWithin(d time.Duration) {
	var until time.Time
	if d > 0 {
		now := time.Now()
		if left := c.readUntil.Sub(now); d <= left && left <= d+d/4 {
			return
		}
		until = now.Add(d + d/4)
	} else if c.readUntil.IsZero() {
		return
	}
	c.readUntil = until
	_ = c.peer.SetReadDeadline(until)
}
