package s3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// plain makes GET requests over HTTP without TLS on connections of its own, whose bodies tell where their bytes are: the
// kernel can then pass them on to another connection, and they never come into this process. All
// other requests are the Transport's.
//
// It keeps no connection that has been anything but good: an answer of which the length is not known beforehand, or that was not
// read to its end, or a request that ended early, closes it.
type plain struct {
	*http.Transport

	mu   sync.Mutex
	idle []*plainConn
}

// newGetter returns the HTTP client that fetches objects.
func newGetter(t *http.Transport) getter { return &plain{Transport: t} }

// plainConn is a connection on which there is at most one request.
type plainConn struct {
	*net.TCPConn
	address string
	raw     syscall.RawConn
	reader  *bufio.Reader
	head    int64       // how much may still be read; the head of an answer has a limit
	expiry  *time.Timer // closes it when nobody has used it for long
}

// Limits of plain.
const (
	maxIdle  = 64      // connections that nobody uses
	maxHead  = 1 << 20 // bytes of the head of an answer
	noLimit  = 1<<63 - 1
	smallest = 16 << 10 // bytes; less is not worth the kernel's help
)

// Read implements io.Reader.
func (c *plainConn) Read(p []byte) (int, error) {
	if c.head <= 0 {
		return 0, fmt.Errorf("the head of the answer has more than %d bytes", maxHead)
	}
	n, err := c.TCPConn.Read(p[:min(int64(len(p)), c.head)])
	if c.head != noLimit {
		c.head -= int64(n)
	}
	return n, err
}

// RoundTrip implements http.RoundTripper.
func (p *plain) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet || r.URL.Scheme != "http" || r.Body != nil && r.Body != http.NoBody {
		return p.Transport.RoundTrip(r)
	}
	if proxy, err := p.Proxy(r); err != nil || proxy != nil {
		return p.Transport.RoundTrip(r)
	}
	for {
		c, used, err := p.conn(r)
		if err != nil {
			return nil, err
		}
		resp, err := p.exchange(c, r)
		if err == nil {
			return resp, nil
		}
		_ = c.Close()
		if r.Context().Err() != nil {
			return nil, context.Cause(r.Context())
		}
		if !used { // else the server may have closed it for its age, and to ask again changes nothing
			return nil, err
		}
	}
}

// conn returns a connection, which may have been used before.
func (p *plain) conn(r *http.Request) (c *plainConn, used bool, err error) {
	address := r.URL.Host
	if r.URL.Port() == "" {
		address = net.JoinHostPort(r.URL.Hostname(), "80")
	}
	for c := p.take(address); c != nil; c = p.take(address) {
		if c.silent() {
			return c, true, nil
		}
		_ = c.Close()
	}
	nc, err := p.DialContext(r.Context(), "tcp", address)
	if err != nil {
		return nil, false, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		_ = nc.Close()
		return nil, false, errors.New("the connection to the store is not TCP")
	}
	c = &plainConn{TCPConn: tcp, address: address}
	if c.raw, err = tcp.SyscallConn(); err != nil {
		_ = tcp.Close()
		return nil, false, err
	}
	c.reader = bufio.NewReader(c)
	return c, false, nil
}

// take returns the idle connection to an address that was used last, or nil.
func (p *plain) take(address string) *plainConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range slices.Backward(p.idle) {
		if c.address == address {
			p.idle = slices.Delete(p.idle, i, i+1)
			c.expiry.Stop() // or it has begun, and will not find c
			return c
		}
	}
	return nil
}

// silent tells that the server has neither closed the connection nor sent something that nobody asked for, such as that it is
// going to.
func (c *plainConn) silent() bool {
	silent := false
	_ = c.raw.Control(func(fd uintptr) {
		_, err := peek(fd)
		silent = err == unix.EAGAIN
	})
	return silent
}

// peek returns 1 if a connection has bytes to read, 0 if it was closed, and EAGAIN if neither.
func peek(fd uintptr) (n int, err error) {
	var first [1]byte
	for err = unix.EINTR; err == unix.EINTR; {
		n, _, err = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}
	return n, err
}

// keep takes a connection for the next request.
func (p *plain) keep(c *plainConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == maxIdle {
		_ = c.Close()
		return
	}
	p.idle = append(p.idle, c)
	c.expiry = time.AfterFunc(p.IdleConnTimeout, func() { p.expire(c) })
}

func (p *plain) expire(c *plainConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		_ = c.Close()
	}
}

// CloseIdleConnections closes the connections that nobody uses.
func (p *plain) CloseIdleConnections() {
	p.Transport.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.expiry.Stop()
		_ = c.Close()
	}
	p.idle = nil
}

// exchange makes a request on a connection, which is closed when the request's context ends before the body has been read.
func (p *plain) exchange(c *plainConn, r *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(r.Context(), func() { _ = c.Close() })
	resp, err := c.exchange(r)
	if err != nil {
		stop()
		return nil, err
	}
	b := &plainBody{ReadCloser: resp.Body, from: p, conn: c, stop: stop}
	if !resp.Close && resp.ContentLength >= 0 && len(resp.TransferEncoding) == 0 {
		b.rest = &io.LimitedReader{R: c.reader, N: resp.ContentLength}
	}
	resp.Body = b
	b.checkEnd()
	return resp, nil
}

func (c *plainConn) exchange(r *http.Request) (*http.Response, error) {
	c.head = maxHead
	if err := r.Write(c.TCPConn); err != nil {
		return nil, err
	}
	for {
		resp, err := http.ReadResponse(c.reader, r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if resp.StatusCode >= 200 {
			c.head = noLimit
			return resp, nil
		}
	}
}

// plainBody is the body of an answer.
type plainBody struct {
	io.ReadCloser // of the HTTP library, if rest is nil
	from          *plain
	conn          *plainConn
	rest          *io.LimitedReader // what is left of a body of known length
	stop          func() bool
	closed        bool
}

// Read implements io.Reader.
func (b *plainBody) Read(p []byte) (int, error) {
	if b.rest == nil {
		return b.ReadCloser.Read(p)
	}
	if b.rest.N == 0 {
		return 0, io.EOF
	}
	n, err := b.rest.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	b.checkEnd()
	return n, err
}

// checkEnd gives the connection back if all of the body has been read.
func (b *plainBody) checkEnd() {
	if b.closed || b.rest == nil || b.rest.N > 0 {
		return
	}
	b.closed = true
	if b.stop() && b.conn.reader.Buffered() == 0 {
		b.from.keep(b.conn)
	} else {
		_ = b.conn.Close()
	}
}

// Close implements io.Closer.
func (b *plainBody) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	b.stop()
	return b.conn.Close()
}

// arrived waits until the next bytes of the body are in the kernel, and returns the connection and how many they are; or
// nil if Read is the way to get them.
func (b *plainBody) arrived() (*net.TCPConn, int64, error) {
	if b.rest == nil || b.conn.reader.Buffered() > 0 {
		return nil, 0, nil
	}
	var n int
	var err error
	if closed := b.conn.raw.Read(func(fd uintptr) bool {
		if n, err = peek(fd); err == unix.EAGAIN {
			return false
		}
		if err == nil && n > 0 {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		}
		return true
	}); closed != nil {
		err = closed
	}
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil || n < smallest {
		return nil, 0, err
	}
	return b.conn.TCPConn, min(int64(n), b.rest.N), nil
}

// took tells that n bytes of the body were taken from the connection.
func (b *plainBody) took(n int64) {
	b.rest.N -= n
	b.checkEnd()
}
