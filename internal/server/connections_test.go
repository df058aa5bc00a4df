package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Thousands of clients that never finish their header cost a bounded amount of memory,
// and the others are served meanwhile.
func TestSlowLoris(t *testing.T) {
	const limit, attackers = 400, 3000
	s := start(t, newGate(), func(c *Config) { c.Limits.Connections = limit })
	stop := make(chan struct{})
	var attack sync.WaitGroup
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 10 {
		attack.Go(func() {
			var open []net.Conn
			defer func() {
				for _, c := range open {
					c.Close()
				}
			}()
			for range attackers / 10 {
				c, err := net.Dial("tcp", s.Addr().String())
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				open = append(open, c)
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Padding: %01024d", 0)
			}
			<-stop
		})
	}
	defer attack.Wait()
	defer close(stop)

	// Good clients, some with a connection each time, some with one for all.
	for _, h2 := range []bool{false, true} {
		one := client(t, h2)
		for i := range 200 {
			if a := get(one, s.url); a.err != nil {
				t.Fatalf("h2=%v request %d on a lasting connection: %v", h2, i, a.err)
			}
			fresh := client(t, h2)
			if a := get(fresh, s.url); a.err != nil {
				t.Fatalf("h2=%v request %d on a new connection: %v", h2, i, a.err)
			}
			fresh.CloseIdleConnections()
		}
	}
	eventually(t, "a quarter of the limit is left of all attackers", func() bool {
		if a := get(client(t, false), s.url); a.err != nil { // room is made when there is a need for it
			t.Fatal(a.err)
		}
		return s.conns.evicted.Load() >= attackers-limit/4 && s.conns.count() <= limit/4+1
	})
	runtime.GC()
	runtime.ReadMemStats(&during)
	// The attackers' own sockets are in this process, too.
	if grown := int64(during.HeapInuse+during.StackInuse) - int64(before.HeapInuse+before.StackInuse); grown > 64<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

func TestConnectionsAtWorkAreNotEvicted(t *testing.T) {
	const limit = 8
	g := newGate()
	s := start(t, g, func(c *Config) { c.Limits.Connections = limit })
	answers := make(chan answer, limit+1)
	for range limit {
		go func() { answers <- get(client(t, false), s.url+"/wait") }()
		await(t, g.begun, "a request")
	}
	if n := s.conns.count(); n != limit {
		t.Fatalf("%d connections are open", n)
	}
	// One more waits, and is served when another has gone.
	go func() { answers <- get(client(t, false), s.url+"/wait") }()
	select {
	case <-g.begun:
		t.Error("there are more connections than allowed")
	case <-time.After(50 * time.Millisecond):
	}
	g.end <- struct{}{} // lets one end; its connection becomes idle and makes room
	await(t, g.begun, "the request that had to wait")
	close(g.end)
	for range limit + 1 {
		if a := await(t, answers, "an answer"); a.err != nil || a.body != "done" {
			t.Errorf("the answer is %+v", a)
		}
	}
	if n := s.conns.evicted.Load(); n < 1 {
		t.Errorf("%d idle connections were closed", n)
	}
}

func TestStopWhileAllConnectionsAreAtWork(t *testing.T) {
	g := newGate()
	s := start(t, g, func(c *Config) { c.Limits.Connections = 1 })
	result := make(chan answer, 1)
	go func() { result <- get(client(t, false), s.url+"/wait") }()
	await(t, g.begun, "the request")
	waiting := dial(t, s.Addr(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(20 * time.Millisecond) // so that Accept waits for room, most of the time
	s.stop()
	if b, err := io.ReadAll(waiting); len(b) > 0 {
		t.Errorf("the connection that waited got %q, %v", b, err)
	}
	close(g.end)
	if a := await(t, result, "the answer"); a.err != nil {
		t.Error(a.err)
	}
	if err := await(t, s.result, "the end"); err != nil {
		t.Error(err)
	}
}

// A connection that goes from one way of serving to the other is one connection all the time.
func TestConnectionsThatAreHandedOver(t *testing.T) {
	const limit = 4
	g := newGate()
	s := start(t, g, func(c *Config) { c.Limits.Connections = limit })
	var open []net.Conn
	for range limit {
		conn := dial(t, s.Addr(), "GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		open = append(open, conn)
		await(t, g.begun, "a request")
	}
	more := dial(t, s.Addr(), "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-g.begun:
		t.Error("there are more connections than allowed")
	case <-time.After(50 * time.Millisecond):
	}
	if n := s.conns.count(); n != limit {
		t.Errorf("%d connections are counted", n)
	}
	close(g.end)
	await(t, g.begun, "the request that had to wait")
	for _, conn := range append(open, more) {
		conn.Close()
	}
	eventually(t, "no connection is left", func() bool { return s.conns.count() == 0 })
}

// Every way in which a connection ends must be counted, or the server fills up.
func TestConnectionsAreCountedToZero(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/hijack":
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				c.Close()
			}
		}
	}), nil)
	var clients []*http.Client
	for _, h2 := range []bool{false, true} {
		for _, path := range []string{"/", "/abort", "/hijack", "/"} {
			c := client(t, h2)
			clients = append(clients, c)
			_ = get(c, s.url+path) // plain over HTTP/1.1
			if res, err := c.Post(s.url+path, "", strings.NewReader("x")); err == nil {
				res.Body.Close()
			}
			_ = get(c, s.url+path)
		}
	}
	for _, garbage := range []string{"", "\x16\x03\x01\x02\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nxx", "GET / HTTP/9\r\n\r\n"} {
		dial(t, s.Addr(), garbage).Close()
	}
	eventually(t, "no connection is left", func() bool {
		for _, c := range clients {
			c.CloseIdleConnections() // again, as a client may have dialled one more than it used
		}
		return s.conns.count() == 0
	})
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if n, left := s.conns.waiting, s.conns.order.Len()-1; n != 0 || left != 0 {
		t.Errorf("%d connections that have gone still wait, %d are in their order", n, left)
	}
}
