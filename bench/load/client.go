//go:build linux

package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Script is what one client does. It runs on a loop that it shares with
// others, so it must not block but in Do, nor compute for long. When it returns an
// error, the whole Run ends with that error.
type Script func(c *Client) error

// Client is one connection to the server. It belongs to its Script.
type Client struct {
	fd     int
	loop   *loop
	index  int // in loop.clients
	in     reader
	out    []byte // what is to be sent of the head; the body follows
	body   Body   // what is to be sent of the body
	offset int64  // where in body.Fill the next byte is
	err    error
	// waiting tells whether epoll watches for room to write.
	waiting bool

	yield  func(struct{}) bool // hands control to the loop; false when the run has ended
	resume func() (struct{}, bool)
	stop   func()
}

var errStopped = errors.New("the run was stopped")

// Do sends r and returns the whole answer.
func (c *Client) Do(r Request) (*Response, error) {
	if c.err != nil {
		return nil, c.err
	}
	c.in.reset(bytes.HasPrefix(r.Head, []byte("HEAD ")), r.Sink)
	c.out, c.body, c.offset = r.Head, r.Body, 0
	if err := c.send(); err != nil {
		return nil, c.fail(r, err)
	}
	if !c.yield(struct{}{}) {
		return nil, errStopped
	}
	if c.err != nil {
		return nil, c.fail(r, c.err)
	}
	return &c.in.resp, nil
}

// Expect is Do that takes any other status for an error.
func (c *Client) Expect(status int, r Request) (*Response, error) {
	resp, err := c.Do(r)
	if err == nil && resp.Status != status {
		err = fmt.Errorf("%s: answered %d instead of %d: %s", line(r), resp.Status, status, resp.start)
	}
	return resp, err
}

func (c *Client) fail(r Request, err error) error {
	c.err = err
	return fmt.Errorf("%s: %w", line(r), err)
}

// line returns the method and the target of r.
func line(r Request) []byte {
	l, _, _ := bytes.Cut(r.Head, []byte(" HTTP/1.1\r\n"))
	return l
}

// sendfileFrom is the length of a body from which on sendfile is cheaper than a copy.
const sendfileFrom = 256 << 10

// send writes as much of the request as the connection takes, and watches for room
// if that is not all.
func (c *Client) send() error {
	for len(c.out) > 0 || c.body.Len() > 0 {
		switch err := c.sendSome(); err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			return c.watch(true)
		default:
			return fmt.Errorf("send: %w", err)
		}
	}
	return c.watch(false)
}

// sendSome sends a part of what is left by one system call, and drops it from c.
func (c *Client) sendSome() error {
	b := &c.body
	var fill []byte // the next bytes of the block
	if b.N > 0 {
		fill = b.Fill.data[c.offset:]
		fill = fill[:min(b.N, int64(len(fill)))]
	}
	n := 0
	var err error
	switch {
	case b.N < sendfileFrom:
		parts := [4][]byte{c.out, b.Prefix, fill}
		if int64(len(fill)) == b.N {
			parts[3] = b.Suffix
		}
		n, err = unix.Writev(c.fd, parts[:])
	case len(c.out) > 0 || len(b.Prefix) > 0:
		n, err = unix.SendmsgBuffers(c.fd, [][]byte{c.out, b.Prefix}, nil, nil, unix.MSG_MORE)
	default:
		at := c.offset
		n, err = unix.Sendfile(c.fd, b.Fill.fd, &at, len(fill))
	}
	if err != nil {
		return err
	}
	n = skip(&c.out, n)
	n = skip(&b.Prefix, n)
	sent := int64(min(n, len(fill)))
	b.N -= sent
	if b.Fill != nil {
		c.offset = (c.offset + sent) % int64(len(b.Fill.data))
	}
	skip(&b.Suffix, n-int(sent))
	return nil
}

// skip drops up to n bytes from the beginning of b and returns how many of n are left.
func skip(b *[]byte, n int) int {
	k := min(n, len(*b))
	*b = (*b)[k:]
	return n - k
}

// watch tells epoll whether room to write is waited for.
func (c *Client) watch(write bool) error {
	if write == c.waiting {
		return nil
	}
	c.waiting = write
	return c.loop.register(unix.EPOLL_CTL_MOD, c)
}

// receive reads once. It returns true when the answer is complete, or the connection broken.
func (c *Client) receive() bool {
	n, err := unix.Read(c.fd, c.loop.buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false
	case err != nil:
		c.err = fmt.Errorf("receive: %w", err)
	case n == 0:
		c.err = fmt.Errorf("receive: the server closed the connection: %w", io.ErrUnexpectedEOF)
	default:
		if err := c.in.take(c.loop.buf[:n]); err != nil {
			c.err = err
		}
	}
	if c.err != nil {
		return true
	}
	if c.in.state == done && c.waiting {
		c.err = fmt.Errorf("answered %d before the body was sent: %s", c.in.resp.Status, c.in.resp.start)
	}
	return c.in.state == done
}
