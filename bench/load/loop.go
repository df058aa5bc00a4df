//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Run connects one client to addr, which is IPv4 on loopback, for each script and runs all of
// them at the same time, on the given number of loops, each of which keeps at most one
// processor busy. It returns when all scripts have, or with the first error.
func Run(ctx context.Context, addr netip.AddrPort, loops int, scripts []Script) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range min(loops, len(scripts)) {
		wg.Go(func() {
			var mine []Script
			for j := i; j < len(scripts); j += loops {
				mine = append(mine, scripts[j])
			}
			if err := runLoop(ctx, addr, mine); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// loop serves its clients one after the other as epoll reports them.
type loop struct {
	epoll   int
	buf     []byte    // what is received is looked at here
	clients []*Client // nil for one that has ended
	alive   int
	err     error // the first error of a script
}

func runLoop(ctx context.Context, addr netip.AddrPort, scripts []Script) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create: %w", err)
	}
	l := &loop{epoll: epoll, buf: make([]byte, 256<<10)}
	defer l.close()
	for _, script := range scripts {
		if err := l.connect(addr, script); err != nil {
			return err
		}
	}
	for _, c := range l.clients {
		l.resume(c)
	}
	events := make([]unix.EpollEvent, 256)
	for l.alive > 0 && l.err == nil {
		const wake = 100 // ms, to see that ctx is done
		n, err := unix.EpollWait(l.epoll, events, wake)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			l.serve(l.clients[ev.Fd], ev.Events)
		}
		if n < len(events) && ctx.Err() != nil {
			return nil // the cause is known to whoever canceled
		}
	}
	return l.err
}

// serve moves c on after an event.
func (l *loop) serve(c *Client, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		if err := c.send(); err != nil {
			c.err = err
			l.resume(c)
			return
		}
	}
	if events&^unix.EPOLLOUT != 0 && c.receive() {
		l.resume(c)
	}
}

// resume runs the script of c until it waits again, or ends.
func (l *loop) resume(c *Client) {
	if _, ok := c.resume(); !ok {
		l.remove(c)
	}
}

func (l *loop) connect(addr netip.AddrPort, script Script) error {
	fd, err := dial(addr)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	c := &Client{fd: fd, loop: l, index: len(l.clients)}
	c.resume, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		c.yield = yield
		if err := script(c); err != nil && l.err == nil {
			l.err = err
		}
	})
	l.clients = append(l.clients, c)
	l.alive++
	return l.register(unix.EPOLL_CTL_ADD, c)
}

// remove ends the script of c, if that has not happened, and closes the connection.
func (l *loop) remove(c *Client) {
	if c.err == nil {
		c.err = errStopped
	}
	c.stop()
	unix.Close(c.fd)
	l.clients[c.index] = nil
	l.alive--
}

func (l *loop) close() {
	for _, c := range l.clients {
		if c != nil {
			l.remove(c)
		}
	}
	unix.Close(l.epoll)
}

// register tells epoll what c waits for.
func (l *loop) register(op int, c *Client) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.index)}
	if c.waiting {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.epoll, op, c.fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// dial connects, which over loopback takes no waiting, and makes the connection
// non-blocking.
func dial(addr netip.AddrPort) (int, error) {
	if !addr.Addr().Is4() {
		return 0, errors.New("not an IPv4 address")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
