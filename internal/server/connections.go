package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections bounds how many connections are open. It watches them through
// http.Server.ConnState instead of wrapping them, so that the kernel can still copy
// files to them.
//
// A connection waits from its beginning, or from the end of a request, until the
// header of the next request is complete. When there is no room, the one that has
// waited longest makes it: a client that sends its requests keeps its connection, however many
// others only hold theirs open. A quarter of all may wait, because each keeps a
// buffer with the part of a header that has come; but each may wait for headStart, so that a
// flood of connections cannot push out a header that is about to be read.
type connections struct {
	max     int
	evicted atomic.Int64 // count of connections closed to make room

	mu   sync.Mutex
	room sync.Cond                  // signalled when makeRoom should look again
	open map[net.Conn]*list.Element // with its place in order
	// order has those that wait, the longest first, then atWork, then those that work on a request: to
	// move an element costs no memory.
	order   list.List // of *connection
	atWork  *list.Element
	waiting int // how many wait
}

type connection struct {
	net.Conn
	since time.Time // it waits; zero while it works on a request
}

const headStart = 250 * time.Millisecond

func newConnections(limit int) *connections {
	c := &connections{max: limit, open: make(map[net.Conn]*list.Element)}
	c.room.L = &c.mu
	c.atWork = c.order.PushBack((*connection)(nil))
	return c
}

// count returns how many connections are open.
func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// track is the server's ConnState hook.
func (c *connections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place := c.open[conn]
	switch {
	case state == http.StateNew && place == nil:
		place = c.order.PushBack(&connection{Conn: conn})
		c.open[conn] = place
	case place == nil:
		return // already gone to make room
	}
	switch state {
	case http.StateNew, http.StateIdle: // the former a second time, when it is handed over to net/http
		c.wait(place, time.Now())
		for c.waiting > max(c.max/4, 1) && c.early(time.Now()) <= 0 {
			c.evict()
		}
		c.room.Signal()
	case http.StateActive:
		c.wait(place, time.Time{})
	case http.StateHijacked, http.StateClosed:
		c.remove(place)
		c.room.Signal()
	}
}

// wait moves a connection to those that have begun to wait, or, since the zero time, to those at work.
func (c *connections) wait(place *list.Element, since time.Time) {
	conn := place.Value.(*connection)
	if !conn.since.IsZero() {
		c.waiting--
	}
	if conn.since = since; since.IsZero() {
		c.order.MoveAfter(place, c.atWork)
	} else {
		c.order.MoveBefore(place, c.atWork)
		c.waiting++
	}
}

func (c *connections) remove(place *list.Element) {
	c.wait(place, time.Time{})
	delete(c.open, c.order.Remove(place).(*connection).Conn)
}

// makeRoom returns when one more connection may be served, or with false when
// stopped says that none will be.
func (c *connections) makeRoom(stopped func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.open) >= c.max && !stopped() {
		if c.waiting == 0 {
			c.room.Wait() // all are at work, each within its timeouts
			continue
		}
		if early := c.early(time.Now()); early > 0 {
			c.mu.Unlock()
			time.Sleep(early)
			c.mu.Lock()
			continue
		}
		c.evict()
	}
	return !stopped()
}

// early returns for how long the connection that has waited longest may still wait.
func (c *connections) early(now time.Time) time.Duration {
	return headStart - now.Sub(c.order.Front().Value.(*connection).since)
}

// evict closes the connection that has waited longest. The server's goroutine, which reads from
// it, does the rest.
func (c *connections) evict() {
	place := c.order.Front()
	c.remove(place)
	c.evicted.Add(1)
	conn := place.Value.(*connection).Conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // its own Close says good-bye first, and waits for a client that does not read
	}
	_ = conn.Close()
}

// limited is a listener whose connections are counted by c.
type limited struct {
	net.Listener
	c      *connections
	closed atomic.Bool
}

// Accept waits for a connection, and then for room for it.
func (l *limited) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.c.makeRoom(l.closed.Load) {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Close also ends an Accept that waits for room.
func (l *limited) Close() error {
	l.closed.Store(true)
	l.c.mu.Lock()
	l.c.room.Broadcast()
	l.c.mu.Unlock()
	return l.Listener.Close()
}
