// Package http1 serves the plain requests of HTTP/1.1 by itself, and leaves every other
// connection to net/http. A pull is little more than its request: what net/http does for
// each one (a goroutine that watches the connection, contexts, timers, cloned and sorted
// headers) costs more than the lookup and the file that answer it.
//
// What holds true: a request is plain if it is a GET or HEAD without a body whose head has
// arrived as a whole and is beyond any doubt (see parse); with the first one that is not, the connection
// becomes net/http's for good, with every byte that has been read and not been answered. So
// nothing here judges what a client did wrong, waits for the rest of a head, or answers with an error. One http.Handler serves
// both ways, and cannot tell which one, but for these: the context of a plain request ends with
// the server, not with the request or when the client leaves; a plain request cannot be
// hijacked; its answer has no trailers, and no Transfer-Encoding of the handler's choice.
package http1

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server is an http.Server before which plain requests are served. Its methods may be called
// concurrently.
type Server struct {
	http    *http.Server
	request *http.Request // which all plain ones are copies of; it carries their context
	buffers sync.Pool     // of *buffers
	copies  sync.Pool     // of *[copySize]byte
	date    atomic.Pointer[date]

	mu       sync.Mutex
	conns    map[*conn]struct{} // those served here
	stopping atomic.Bool        // changes once, under mu
	empty    chan struct{}      // closed when it is stopping and there are no conns
}

// New returns a Server with the handler, the hooks, ReadHeaderTimeout, IdleTimeout and ErrorLog of srv, which serves what is
// not plain and must not be used otherwise. A ReadTimeout or WriteTimeout has no effect on plain requests.
//
// ConnState is told of a connection that is given to net/http as if it were a new one: StateNew
// comes twice for it, and StateClosed or StateHijacked once.
func New(srv *http.Server) *Server {
	s := &Server{http: srv, conns: make(map[*conn]struct{}), empty: make(chan struct{})}
	s.buffers.New = func() any { return new(buffers) }
	s.copies.New = func() any { return new([copySize]byte) }
	return s
}

// Serve accepts connections from l until it fails, or Shutdown or Close is called, which makes the error
// http.ErrServerClosed. It closes l, and is called once.
func (s *Server) Serve(l net.Listener) error {
	ctx := context.Background()
	if s.http.BaseContext != nil {
		ctx = s.http.BaseContext(l)
	}
	plain := &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}
	s.request = plain.WithContext(ctx)
	ours := &listener{Listener: l, others: make(chan accepted), closed: make(chan struct{})}
	go s.accept(ours)
	return s.http.Serve(ours)
}

// ServeTLS is Serve with the TLSConfig of the http.Server, and leaves every connection to net/http: beside what TLS costs,
// little can be saved, and most clients speak HTTP/2 there. Of Serve and ServeTLS, one may be called.
func (s *Server) ServeTLS(l net.Listener) error { return s.http.ServeTLS(l, "", "") }

// Shutdown stops accepting, closes idle connections, and waits until the requests under way
// have been answered, or for ctx, whose error it returns then.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(func(c *conn) {
		if c.state.CompareAndSwap(idle, cut) {
			_ = c.peer.Close()
		}
	})
	if err := s.http.Shutdown(ctx); err != nil {
		return err
	}
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close closes the listener and every connection, and does not wait for handlers.
func (s *Server) Close() error {
	s.stop(func(c *conn) { _ = c.peer.Close() })
	return s.http.Close()
}

// stop sees to it that no request is begun any more, and calls end for each connection.
func (s *Server) stop(end func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping.Swap(true) && len(s.conns) == 0 {
		close(s.empty)
	}
	for c := range s.conns {
		end(c)
	}
}

// add takes on a connection, unless the server is stopping.
func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.stopping.Load() && len(s.conns) == 0 {
		close(s.empty)
	}
}

// note tells the hook of http.Server about a connection.
func (s *Server) note(c *peer, state http.ConnState) {
	if hook := s.http.ConnState; hook != nil {
		hook(c, state)
	}
}

func (s *Server) logf(format string, args ...any) {
	if s.http.ErrorLog != nil {
		s.http.ErrorLog.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}

// date is a Date header for one second.
type date struct {
	second int64 // of Unix time
	line   string
}

// dateLine returns the Date header of this moment, with the end of its line.
func (s *Server) dateLine() string {
	now := time.Now()
	d := s.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &date{now.Unix(), now.UTC().Format("Date: " + http.TimeFormat + "\r\n")}
		s.date.Store(d)
	}
	return d.line
}

// listener is where net/http gets the connections that are not served here.
type listener struct {
	net.Listener
	others chan accepted
	once   sync.Once
	closed chan struct{}
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // and not one of the others, which would be served while the server stops
		return nil, net.ErrClosed
	default:
	}
	select {
	case a := <-l.others:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// give hands something to Accept. It is false if the listener was closed.
func (l *listener) give(a accepted) bool {
	select {
	case l.others <- a:
		return true
	case <-l.closed:
		return false
	}
}

// accept takes connections until the listener is closed. What a failure means is net/http's to know: it calls
// Accept again, after a pause, or closes the listener.
func (s *Server) accept(l *listener) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			if !l.give(accepted{err: err}) {
				return
			}
			continue
		}
		tcp, ok := nc.(*net.TCPConn)
		if !ok {
			if !l.give(accepted{conn: nc}) {
				_ = nc.Close()
			}
			continue
		}
		c, err := newConn(s, l, tcp)
		if err == nil && !s.add(c) {
			err = errors.New("stopping")
		}
		if err != nil {
			_ = tcp.Close()
			continue
		}
		s.note(c.peer, http.StateNew)
		go c.serve()
	}
}
