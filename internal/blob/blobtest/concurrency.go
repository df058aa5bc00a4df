package blobtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/oci"
)

// testConcurrency writes in many goroutines, reads each object from another Store
// the moment that its Commit returned, and deletes half of them.
func testConcurrency(t *testing.T, open func() blob.Store) {
	const writers, objects = 16, 12
	s, other := open(), open()
	var mu sync.Mutex
	stay := map[string][]byte{}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range objects {
				want := content(uint64(i*objects+j), 10_000*j*j)
				if err := concurrently(t, s, other, want, j, func(key string) {
					mu.Lock()
					defer mu.Unlock()
					stay[key] = want
				}); err != nil {
					t.Errorf("writer %d, object %d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
	keys := list(t, s)
	if len(keys) != len(stay) || len(stay) != writers*objects/3 {
		t.Errorf("List yields %d objects; %d should be there", len(keys), len(stay))
	}
	for key, want := range stay {
		checkObject(t, other, key, want)
	}
}

// concurrently writes one object, reads it through other, and then deletes, aborts or keeps
// it, depending on turn.
func concurrently(t *testing.T, s, other blob.Store, want []byte, turn int, keep func(key string)) error {
	ctx := t.Context()
	w, err := s.Create(ctx)
	if err != nil {
		return err
	}
	half := len(want) / 2
	if _, err := w.Write(want[:half]); err != nil {
		return err
	}
	if turn%3 == 0 {
		w.Abort()
		return nil
	}
	var state blob.State
	if turn%2 == 0 {
		if state, err = w.Suspend(ctx); err != nil {
			return err
		}
		if w, err = other.Resume(ctx, state); err != nil {
			return err
		}
	}
	if _, err := w.Write(want[half:]); err != nil {
		return err
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	if turn%2 == 0 && state.Key != w.Key() {
		if err := s.Delete(ctx, state.Key); err != nil {
			return err
		}
	}
	r, err := other.Open(ctx, w.Key())
	if err != nil {
		return fmt.Errorf("just committed: %w", err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("just committed: read %d bytes of %d: %w", len(got), len(want), err)
	}
	if turn%3 == 1 {
		return other.Delete(ctx, w.Key())
	}
	keep(w.Key())
	return nil
}

// TestLeaks repeats every operation, those that fail included, and counts the goroutines and open files of the process. So no other test may run
// beside it.
func TestLeaks(t *testing.T, place Place) {
	s := place(t)()
	// The collector would close files that nobody refers to any more.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	round := func() {
		key := put(t, s, content(1, 100_000))
		checkObject(t, s, key, content(1, 100_000))
		list(t, s)
		for range s.List(t.Context(), time.Time{}, time.Time{}) {
			break
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		checkGone(t, s, key)
		if _, err := s.Resume(t.Context(), blob.State{Key: key, Size: 1}); err == nil {
			t.Fatal("Resume of a deleted upload succeeded")
		}
		w := create(t, s)
		write(t, w, content(1, 1000))
		state, err := w.Suspend(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		short := state
		short.Size++
		if _, err := s.Resume(t.Context(), short); err == nil {
			t.Fatal("Resume at more bytes than there are succeeded")
		}
		w = resume(t, s, state)
		w.Close()
		u := blob.NewUpload(resume(t, s, state), oci.SHA256)
		_, err = u.ReadFrom(t.Context(), io.MultiReader(bytes.NewReader(content(2, 2<<20)), iotest.ErrReader(io.ErrUnexpectedEOF)))
		if err == nil {
			t.Fatal("ReadFrom a broken connection succeeded")
		}
		u.Abort()
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		round()
	}
	const rounds = 20
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range rounds {
		round()
	}
	// A leak would have left one of something in each round.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g, f := runtime.NumGoroutine()-goroutines, openFiles(t)-files
		if g < rounds/2 && f < rounds/2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d open files more after %d rounds", g, f, rounds)
		}
	}
}

// openFiles counts this process's file descriptors, where the system tells them.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(entries)
}
