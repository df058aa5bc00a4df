package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/oci"
)

// testSuspend continues an upload many times, each time in a store opened anew.
func testSuspend(t *testing.T, open func() blob.Store) {
	want := content(3, 21<<20)
	w := create(t, open())
	rest := want
	for _, n := range []int{0, 1, 4095, 5 << 20, 0, 1<<20 + 1, 6 << 20, 3} {
		write(t, w, rest[:n])
		rest = rest[n:]
		state, err := w.Suspend(t.Context())
		if err != nil {
			t.Fatalf("Suspend: %v", err)
		}
		if state.Key != w.Key() || state.Size != int64(len(want)-len(rest)) {
			t.Fatalf("Suspend after %d bytes gives %s at %d", len(want)-len(rest), state.Key, state.Size)
		}
		w.Close()
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("Write after Suspend succeeded")
		}
		w = resume(t, open(), state)
	}
	write(t, w, rest)
	commit(t, w)
	checkObject(t, open(), w.Key(), want)
}

// testSuspendCommit ends uploads in another store than the one that has all their bytes, as when a client sends
// a body and then asks for its end. Suspended once more in between, nothing is lost.
func testSuspendCommit(t *testing.T, open func() blob.Store) {
	s, other := open(), open()
	for i, size := range sizes {
		want := content(uint64(i), size)
		w := create(t, s)
		write(t, w, want)
		for range 2 {
			state, err := w.Suspend(t.Context())
			if err != nil {
				t.Fatalf("Suspend after %d bytes: %v", size, err)
			}
			w = resume(t, other, state)
		}
		if n, err := s.Stat(t.Context(), w.Key()); n < int64(size) || err != nil {
			t.Errorf("Stat of an upload of %d bytes: %d, %v", size, n, err)
		}
		commit(t, w)
		checkObject(t, s, w.Key(), want)
	}
	if keys := list(t, s); len(keys) != len(sizes) {
		t.Errorf("List yields %d keys, want %d", len(keys), len(sizes))
	}
}

// testCheckpoint goes on from checkpoints as after a crash: bytes after them are dropped.
func testCheckpoint(t *testing.T, open func() blob.Store) {
	want := content(4, 20<<20)
	s := open()
	w := create(t, s)
	at := 0
	for _, n := range []int{100, 0, 3 << 20, 7<<20 + 5} {
		write(t, w, want[at:at+n])
		at += n
		state, err := w.Checkpoint()(t.Context())
		if err != nil {
			t.Fatalf("Checkpoint: %v", err)
		}
		if state.Key != w.Key() || state.Size != int64(at) {
			t.Fatalf("Checkpoint after %d bytes gives %s at %d", at, state.Key, state.Size)
		}
		// Goes on, then is lost.
		write(t, w, content(99, 2<<20))
		w.Close()
		s = open()
		w = resume(t, s, state)
	}
	write(t, w, want[at:])
	commit(t, w)
	checkObject(t, s, w.Key(), want)

	// The same State serves twice.
	w = create(t, s)
	write(t, w, want[:100])
	state, err := w.Checkpoint()(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, want[:6<<20])
	w.Close()
	w = resume(t, s, state)
	write(t, w, want[:5])
	w.Close()
	w = resume(t, open(), state)
	write(t, w, want[100:200])
	commit(t, w)
	checkObject(t, s, w.Key(), want[:200])
}

// testCheckpointBesideWrite has the bytes made durable in one goroutine while
// another one writes more.
func testCheckpointBesideWrite(t *testing.T, open func() blob.Store) {
	s := open()
	want := content(5, 24<<20)
	w := create(t, s)
	var state blob.State
	const piece = 1 << 20
	for at := 0; at < len(want); at += piece {
		persist := w.Checkpoint()
		done := make(chan error)
		go func() {
			var err error
			state, err = persist(t.Context())
			done <- err
		}()
		write(t, w, want[at:at+piece])
		if err := <-done; err != nil {
			t.Fatalf("Checkpoint: %v", err)
		}
		if state.Size != int64(at) {
			t.Fatalf("a checkpoint at %d gives %d", at, state.Size)
		}
	}
	w.Close()
	w = resume(t, open(), state)
	write(t, w, want[len(want)-piece:])
	commit(t, w)
	checkObject(t, s, w.Key(), want)
}

func testResumeShort(t *testing.T, open func() blob.Store) {
	s := open()
	w := create(t, s)
	write(t, w, content(1, 1000))
	state, err := w.Suspend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	long := state
	long.Size += 1 << 20
	if _, err := s.Resume(t.Context(), long); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Resume at more bytes than there are: %v", err)
	}
	if err := s.Delete(t.Context(), state.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(t.Context(), state); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Resume of a deleted upload: %v", err)
	}
}

// testUpload streams bodies through blob.Upload.
func testUpload(t *testing.T, open func() blob.Store) {
	s := open()
	for _, alg := range []oci.Algorithm{oci.SHA256, oci.SHA512} {
		for i, size := range sizes {
			want := content(uint64(i), size)
			u := blob.NewUpload(create(t, s), alg)
			if n, err := u.ReadFrom(t.Context(), bytes.NewReader(want)); n != int64(size) || err != nil {
				t.Fatalf("ReadFrom of %d bytes: %d, %v", size, n, err)
			}
			if u.Size() != int64(size) || u.Digest() != oci.DigestBytes(alg, want) {
				t.Errorf("an upload of %d bytes has %d and %s", size, u.Size(), u.Digest())
			}
			if err := u.Commit(t.Context()); err != nil {
				t.Fatalf("Commit: %v", err)
			}
			checkObject(t, s, u.Key(), want)
		}
	}
}

// testUploadResume breaks a stream off, goes on from what was saved last in a
// store opened anew, and so on to the end.
func testUploadResume(t *testing.T, open func() blob.Store) {
	want := content(6, 40<<20)
	w := create(t, open())
	state, err := w.Suspend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var hashState []byte
	u := blob.NewUpload(resume(t, open(), state), oci.SHA256)
	saves := 0
	broken := errors.New("connection reset")
	for limit := 1 << 20; ; limit += 13<<20 + 77 {
		u.CheckpointEvery(4<<20, 10*time.Minute, func(_ context.Context, s blob.State, h []byte) error {
			state, hashState = s, h
			saves++
			return nil
		})
		rest := want[u.Size():]
		if len(rest) <= limit {
			if _, err := u.ReadFrom(t.Context(), bytes.NewReader(rest)); err != nil {
				t.Fatal(err)
			}
			break
		}
		n, err := u.ReadFrom(t.Context(), io.MultiReader(bytes.NewReader(rest[:limit]), iotest.ErrReader(broken)))
		var readErr *blob.ReadError
		if n != int64(limit) || !errors.As(err, &readErr) || !errors.Is(err, broken) {
			t.Fatalf("ReadFrom a broken connection: %d, %v; want %d and its error", n, err, limit)
		}
		if limit > 20<<20 {
			u.Close() // as if the process died: go on at the last checkpoint
		} else if state, hashState, err = u.Suspend(t.Context()); err != nil {
			t.Fatalf("Suspend: %v", err)
		}
		if u, err = blob.ResumeUpload(resume(t, open(), state), oci.SHA256, hashState); err != nil {
			t.Fatalf("ResumeUpload: %v", err)
		}
	}
	if saves == 0 {
		t.Error("no checkpoint was saved")
	}
	if got := u.Digest(); got != oci.DigestBytes(oci.SHA256, want) {
		t.Errorf("digest %s is not that of the bytes", got)
	}
	if err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkObject(t, open(), u.Key(), want)
}

func testHashObject(t *testing.T, open func() blob.Store) {
	s := open()
	for i, size := range sizes {
		want := content(uint64(i), size)
		key := put(t, s, want)
		for _, alg := range []oci.Algorithm{oci.SHA256, oci.SHA512} {
			digest, n, err := blob.HashObject(t.Context(), s, key, alg)
			if err != nil || n != int64(size) || digest != oci.DigestBytes(alg, want) {
				t.Errorf("HashObject of %d bytes: %s, %d, %v", size, digest, n, err)
			}
		}
	}
	if _, _, err := blob.HashObject(t.Context(), s, "20200101/05/ABC", oci.SHA256); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("HashObject of nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := blob.HashObject(ctx, s, put(t, s, content(1, 1000)), oci.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("HashObject with an ended context: %v", err)
	}
}
