//go:build !linux

package http1

import (
	"io"
	"os"
)

// system is what a conn does by system calls of its own: nothing.
type system struct{}

func (c *conn) initSystem() {}

// fill reads what has come into in, and waits for something if nothing has.
func (c *conn) fill() error {
	if c.buf == nil {
		c.buf = c.server.buffers.Get().(*buffers)
	}
	n, err := c.peer.TCPConn.Read(c.buf.in[:])
	if n > 0 {
		c.in, err = c.buf.in[:n], nil
	}
	return err
}

// sendMore sends what a file will follow at once.
func (c *conn) sendMore(head []byte) error {
	_, err := c.peer.Write(head)
	return err
}

// sendFile sends n bytes of f from offset on, and returns how many it has sent.
func (c *conn) sendFile(head []byte, f *os.File, offset, n int64) (int64, error) {
	if err := c.sendMore(head); err != nil {
		return 0, err
	}
	sent, err := io.Copy(c.peer.TCPConn, io.NewSectionReader(f, offset, n))
	if err == nil && sent < n {
		err = io.ErrUnexpectedEOF
	}
	return sent, err
}
