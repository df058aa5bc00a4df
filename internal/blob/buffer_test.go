package blob_test

import (
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/oci"
)

// TestBufferSizes looks at what room readers are offered: little to slow clients, much to fast ones.
func TestBufferSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const little, much = 32 << 10, 256 << 10
		u := blob.NewUpload(create(t, newStore(t)), oci.SHA256)
		defer u.Abort()
		offered := func(piece int, pause time.Duration, total int) (first, last, most int) {
			r := readerFunc(func(p []byte) (int, error) {
				if first == 0 {
					first = len(p)
				}
				last, most = len(p), max(most, len(p))
				if total <= 0 {
					return 0, io.EOF
				}
				time.Sleep(pause)
				n := min(piece, len(p), total)
				total -= n
				return n, nil
			})
			if _, err := u.ReadFrom(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			return first, last, most
		}
		for _, test := range []struct {
			name        string
			piece       int
			pause       time.Duration
			first, most int
		}{
			{"1 MiB/s in packets", 1448, 1448 * time.Microsecond, little, little},
			{"10 MiB/s in large pieces", 16 << 10, 1600 * time.Microsecond, little, little},
			{"100 MiB/s in large pieces", 64 << 10, 600 * time.Microsecond, little, much},
			{"100 MiB/s in packets", 1448, 14 * time.Microsecond, little, much},
		} {
			if first, _, most := offered(test.piece, test.pause, 2<<20); first != test.first || most != test.most {
				t.Errorf("a client of %s is offered %d first and %d at most, want %d and %d", test.name, first, most, test.first, test.most)
			}
		}
		// A client that becomes slow.
		total, most := 4<<20, 0
		r := readerFunc(func(p []byte) (int, error) {
			n := min(total, 8<<10, len(p))
			if total -= n; total < 1<<20 {
				time.Sleep(10 * time.Millisecond)
			}
			if total < 512<<10 {
				most = max(most, len(p))
			}
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		})
		if _, err := u.ReadFrom(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if most > little {
			t.Errorf("a client that became slow is offered %d", most)
		}
	})
}

// TestMemory looks at the heap while a long body comes from a fast client.
func TestMemory(t *testing.T) {
	u := blob.NewUpload(create(t, newStore(t)), oci.SHA256)
	defer u.Abort()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, most := heap(), int64(0)
	total, reads := 128<<20, 0
	r := readerFunc(func(p []byte) (int, error) {
		if total <= 0 {
			return 0, io.EOF
		}
		if reads++; reads%50 == 0 {
			most = max(most, heap())
		}
		total -= len(p)
		return len(p), nil
	})
	if _, err := u.ReadFrom(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	// At most four buffers of 256 KiB, and those that the pool has not let go yet.
	if n := most - before; n > 2<<20 {
		t.Errorf("an upload holds %d bytes", n)
	}
}
