// Package blobtest is the conformance suite of blob.Store: what every store must
// do, whatever it keeps its bytes in.
package blobtest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// Place makes an empty place for a store, and returns a function that opens a store there. Each call of
// that function returns a new Store on the same place, as a process that
// starts again would; what it needs to close it registers with t.Cleanup.
type Place func(t *testing.T) (open func() blob.Store)

// Test runs the suite.
func Test(t *testing.T, place Place) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open func() blob.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Seek", testSeek},
		{"NotFound", testNotFound},
		{"InvalidKeys", testInvalidKeys},
		{"Keys", testKeys},
		{"Writer", testWriter},
		{"Abort", testAbort},
		{"Delete", testDelete},
		{"Suspend", testSuspend},
		{"SuspendCommit", testSuspendCommit},
		{"Checkpoint", testCheckpoint},
		{"CheckpointBesideWrite", testCheckpointBesideWrite},
		{"ResumeShort", testResumeShort},
		{"List", testList},
		{"ListStops", testListStops},
		{"Documents", testDocuments},
		{"DocumentsStop", testDocumentsStop},
		{"Check", testCheck},
		{"Concurrency", testConcurrency},
		{"Upload", testUpload},
		{"UploadResume", testUploadResume},
		{"HashObject", testHashObject},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, place(t)) })
	}
}

// sizes are those at which stores have edges: nothing, a page, a buffer, a part.
var sizes = []int{0, 1, 4095, 4096, 4097, 64 << 10, 5 << 20, 8<<20 + 1, 20 << 20}

// content returns n bytes that depend on the seed.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(b)
	return b
}

func create(t *testing.T, s blob.Store) blob.Writer {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return w
}

func write(t *testing.T, w blob.Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
	}
}

func commit(t *testing.T, w blob.Writer) {
	t.Helper()
	if err := w.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

// put stores an object and returns its key.
func put(t *testing.T, s blob.Store, p []byte) string {
	t.Helper()
	w := create(t, s)
	write(t, w, p)
	commit(t, w)
	return w.Key()
}

func resume(t *testing.T, s blob.Store, state blob.State) blob.Writer {
	t.Helper()
	w, err := s.Resume(t.Context(), state)
	if err != nil {
		t.Fatalf("Resume at %d: %v", state.Size, err)
	}
	if w.Key() != state.Key || w.Size() != state.Size {
		t.Fatalf("Resume of %s at %d gave %s at %d", state.Key, state.Size, w.Key(), w.Size())
	}
	return w
}

// drop deletes the key of a state when w has another one, as the caller does.
func drop(t *testing.T, s blob.Store, state blob.State, w blob.Writer) {
	t.Helper()
	if state.Key == w.Key() {
		return
	}
	if err := s.Delete(t.Context(), state.Key); err != nil {
		t.Fatalf("Delete: %v", err)
	}
}

// checkObject fails the test unless the object has these bytes.
func checkObject(t *testing.T, s blob.Store, key string, want []byte) {
	t.Helper()
	if size, err := s.Stat(t.Context(), key); size != int64(len(want)) || err != nil {
		t.Errorf("Stat: %d, %v; want %d", size, err, len(want))
	}
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Errorf("Open: %v", err)
		return
	}
	defer r.Close()
	if r.Size() != int64(len(want)) {
		t.Errorf("Reader.Size = %d, want %d", r.Size(), len(want))
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want the %d that were written", len(got), err, len(want))
	}
}

// checkGone fails the test if there is anything under the key.
func checkGone(t *testing.T, s blob.Store, key string) {
	t.Helper()
	if r, err := s.Open(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Open of what is gone: %v", err)
		if err == nil {
			r.Close()
		}
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat of what is gone: %v", err)
	}
	if slices.Contains(list(t, s), key) {
		t.Error("List yields what is gone")
	}
}

// list returns the keys of everything.
func list(t *testing.T, s blob.Store) []string {
	t.Helper()
	return listBetween(t, s, time.Time{}, time.Time{})
}

func listBetween(t *testing.T, s blob.Store, from, to time.Time) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), from, to) {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		keys = append(keys, info.Key)
	}
	slices.Sort(keys)
	return keys
}

func testRoundTrip(t *testing.T, open func() blob.Store) {
	s := open()
	keys := map[string][]byte{}
	for i, size := range sizes {
		want := content(uint64(i), size)
		w := create(t, s)
		// In pieces of several sizes, as a network gives them.
		for rest, piece := want, 1; len(rest) > 0; piece = piece*3 + 1 {
			n := min(piece, len(rest))
			write(t, w, rest[:n])
			rest = rest[n:]
		}
		if w.Size() != int64(size) {
			t.Errorf("Size = %d after %d bytes", w.Size(), size)
		}
		commit(t, w)
		keys[w.Key()] = want
	}
	for key, want := range keys {
		checkObject(t, s, key, want)
		checkObject(t, open(), key, want)
	}
}

func testSeek(t *testing.T, open func() blob.Store) {
	s := open()
	want := content(1, 6<<20)
	r, err := s.Open(t.Context(), put(t, s, want))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	size := int64(len(want))
	buf := make([]byte, 100_000)
	for _, test := range []struct {
		offset int64
		whence int
		at     int64
	}{
		{0, io.SeekEnd, size},
		{0, io.SeekStart, 0},
		{5<<20 + 17, io.SeekStart, 5<<20 + 17},
		{1000, io.SeekCurrent, 5<<20 + 17 + 100_000 + 1000},
		{-100_000, io.SeekEnd, size - 100_000},
		{-10, io.SeekEnd, size - 10},
		{123, io.SeekStart, 123},
		{size + 5, io.SeekStart, size + 5},
		{4 << 20, io.SeekStart, 4 << 20},
	} {
		at, err := r.Seek(test.offset, test.whence)
		if at != test.at || err != nil {
			t.Fatalf("Seek(%d, %d) = %d, %v; want %d", test.offset, test.whence, at, err, test.at)
		}
		tail := want[min(at, size):]
		n, err := io.ReadFull(r, buf)
		if n != min(len(buf), len(tail)) || !bytes.Equal(buf[:n], tail[:n]) {
			t.Errorf("after Seek to %d: read %d bytes, %v; not those that were written", at, n, err)
		}
		if len(tail) < len(buf) && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Errorf("after Seek to %d: %v at the end", at, err)
		}
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek to before the start succeeded")
	}
}

func testNotFound(t *testing.T, open func() blob.Store) {
	s := open()
	gone := put(t, s, []byte("x"))
	if err := s.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{gone, "docker/registry/v2/blobs/sha256/ab/abcd/data", "x", "20200101/05/ABCDEFGH", gone + "/x"} {
		if r, err := s.Open(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open(%q): %v", key, err)
			if err == nil {
				r.Close()
			}
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Stat(%q): %v", key, err)
		}
		if w, err := s.Resume(t.Context(), blob.State{Key: key}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Resume(%q): %v", key, err)
			if err == nil {
				w.Abort()
			}
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q): %v", key, err)
		}
	}
}

// InvalidKeys are no keys of any store: they are empty, not clean, or lead out of it.
var InvalidKeys = []string{"", ".", "..", "/", "/etc/hostname", "../x", "a/../../x", "a/../b", "a//b", "a/", "./a", "a/.", "a/..", "a\x00b", "\xff"}

func testInvalidKeys(t *testing.T, open func() blob.Store) {
	s := open()
	for _, key := range InvalidKeys {
		if r, err := s.Open(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open(%q): %v", key, err)
			if err == nil {
				r.Close()
			}
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Stat(%q): %v", key, err)
		}
		if w, err := s.Resume(t.Context(), blob.State{Key: key}); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Resume(%q): %v", key, err)
			if err == nil {
				w.Close()
			}
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete(%q) succeeded", key)
		}
	}
}

func testKeys(t *testing.T, open func() blob.Store) {
	stores := []blob.Store{open(), open()}
	seen := map[string]bool{}
	for i := range 200 {
		w := create(t, stores[i%2])
		if key := w.Key(); key == "" || seen[key] {
			t.Fatalf("key %q is empty or not new", key)
		}
		seen[w.Key()] = true
		w.Abort()
	}
}

func testWriter(t *testing.T, open func() blob.Store) {
	s := open()
	w := create(t, s)
	write(t, w, []byte("abc"))
	write(t, w, nil)
	commit(t, w)
	// Abort and Close after Commit do nothing.
	w.Abort()
	w.Close()
	checkObject(t, s, w.Key(), []byte("abc"))
	if _, err := w.Write([]byte("d")); err == nil {
		t.Error("Write after Commit succeeded")
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("a second Commit succeeded")
	}
	checkObject(t, s, w.Key(), []byte("abc"))
}

func testAbort(t *testing.T, open func() blob.Store) {
	s := open()
	for _, size := range sizes {
		w := create(t, s)
		write(t, w, content(1, size))
		w.Abort()
		w.Abort()
		w.Close()
		checkGone(t, s, w.Key())
		if err := w.Commit(t.Context()); err == nil {
			t.Error("Commit after Abort succeeded")
		}
		checkGone(t, s, w.Key())
	}
	// An upload that was continued.
	w := create(t, s)
	write(t, w, content(1, 6<<20))
	state, err := w.Suspend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w = resume(t, open(), state)
	write(t, w, content(1, 6<<20))
	w.Abort()
	checkGone(t, s, w.Key())
	drop(t, s, state, w)
	if keys := list(t, s); len(keys) != 0 {
		t.Errorf("List yields %q after all is aborted", keys)
	}
}

func testDelete(t *testing.T, open func() blob.Store) {
	s := open()
	stays := put(t, s, []byte("stays"))
	object := put(t, s, content(1, 100_000))
	w := create(t, s)
	write(t, w, content(2, 6<<20))
	upload, err := w.Suspend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reader, err := s.Open(t.Context(), object)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, key := range []string{object, upload.Key, object} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete: %v", err)
		}
		checkGone(t, s, key)
		checkGone(t, open(), key)
	}
	if _, err := s.Resume(t.Context(), upload); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Resume of a deleted upload: %v", err)
	}
	checkObject(t, s, stays, []byte("stays"))
	if keys := list(t, s); !slices.Equal(keys, []string{stays}) {
		t.Errorf("List yields %q, want only %q", keys, stays)
	}
}

func testCheck(t *testing.T, open func() blob.Store) {
	s := open()
	put(t, s, []byte("x"))
	for range 3 {
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
	}
	if keys := list(t, s); len(keys) != 1 {
		t.Errorf("List yields %q after Check, want one entry", keys)
	}
}
