package http1

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
)

// While it waits, a connection holds no buffers.
func TestIdleHoldsNothing(t *testing.T) {
	w := start(t, true, func(w http.ResponseWriter, r *http.Request) {}, nil)
	inUse := func() int64 {
		var m runtime.MemStats
		for range 3 { // a pool keeps what it has for two collections
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const n = 300
	var open [n]net.Conn
	before := inUse()
	for i := range open {
		open[i] = w.dial(t)
		io.WriteString(open[i], plain)
		if n, err := open[i].Read(make([]byte, 1000)); n == 0 {
			t.Fatal(err)
		}
	}
	// Of this the client's side is a part.
	if each := (inUse() - before) / n; each > 4<<10 {
		t.Errorf("an idle connection holds %d bytes", each)
	}
}
