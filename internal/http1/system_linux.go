package http1

import (
	"io"
	"os"
	"syscall"
)

// system is what a conn does by system calls of its own: it waits without a buffer, and sends parts of
// files that others read, too.
type system struct {
	read, write func(fd uintptr) bool // are tryRead and tryWrite, bound once
	err         error                 // of either

	// What there is to write: bytes, and then a part of a file.
	head         []byte
	file         int
	offset, left int64
}

func (c *conn) initSystem() {
	c.system.read, c.system.write = c.tryRead, c.tryWrite
}

// fill reads what has come into in, and waits for something if nothing has.
func (c *conn) fill() error {
	if err := c.raw.Read(c.system.read); err != nil {
		return err
	}
	return c.system.err
}

// tryRead is called by the poller until it returns true. Between the calls there is no buffer.
func (c *conn) tryRead(fd uintptr) bool {
	if c.buf == nil {
		c.buf = c.server.buffers.Get().(*buffers)
	}
	n, err := syscall.Read(int(fd), c.buf.in[:])
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), c.buf.in[:])
	}
	switch {
	case err == syscall.EAGAIN:
		c.release()
		return false
	case err != nil:
		c.system.err = os.NewSyscallError("read", err)
	case n == 0:
		c.system.err = io.EOF
	default:
		c.in = c.buf.in[:n]
	}
	return true
}

// sendMore sends what a file will follow at once: the kernel puts both into one packet.
func (c *conn) sendMore(head []byte) error {
	c.system.head, c.system.left = head, 0
	return c.send()
}

// sendFile sends n bytes of f from offset on, and returns how many it has sent.
func (c *conn) sendFile(head []byte, f *os.File, offset, n int64) (int64, error) {
	file, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	c.system.head, c.system.offset, c.system.left = head, offset, n
	// Not Read, which is for one at a time.
	if closed := file.Control(func(fd uintptr) {
		c.system.file = int(fd)
		err = c.send()
	}); closed != nil {
		err = closed
	}
	return n - c.system.left, err
}

func (c *conn) send() error {
	c.system.err = nil
	if err := c.raw.Write(c.system.write); err != nil {
		return err
	}
	return c.system.err
}

// tryWrite is called by the poller until it returns true.
func (c *conn) tryWrite(fd uintptr) bool {
	for s := &c.system; len(s.head) > 0 || s.left > 0; {
		var n int
		var err error
		if len(s.head) > 0 {
			if n, err = syscall.SendmsgN(int(fd), s.head, nil, nil, syscall.MSG_MORE|syscall.MSG_NOSIGNAL); err == nil {
				s.head = s.head[n:]
			}
		} else if n, err = syscall.Sendfile(int(fd), s.file, &s.offset, int(min(s.left, stride))); err == nil {
			if s.left -= int64(n); n == 0 {
				s.err = io.ErrUnexpectedEOF
				return true
			}
		}
		switch err {
		case nil, syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("send", err)
			return true
		}
	}
	return true
}
