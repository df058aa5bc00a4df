package s3

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/test/service"
)

// content returns n bytes that depend on the seed.
func content(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func create(t testing.TB, s *Store) blob.Writer {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t testing.TB, w blob.Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
	}
}

func suspend(t testing.TB, w blob.Writer) blob.State {
	t.Helper()
	state, err := w.Suspend(t.Context())
	if err != nil {
		t.Fatalf("Suspend: %v", err)
	}
	return state
}

func resume(t testing.TB, s *Store, state blob.State) blob.Writer {
	t.Helper()
	w, err := s.Resume(t.Context(), state)
	if err != nil {
		t.Fatalf("Resume: %v", err)
	}
	return w
}

func commit(t testing.TB, w blob.Writer) {
	t.Helper()
	if err := w.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func put(t testing.TB, s *Store, p []byte) string {
	t.Helper()
	w := create(t, s)
	write(t, w, p)
	commit(t, w)
	return w.Key()
}

func checkObject(t testing.TB, s *Store, key string, want []byte) {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Errorf("Open: %v", err)
		return
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want the %d that were written", len(got), err, len(want))
	}
}

// checkNothingElse fails the test unless the bucket has these objects and nothing else, not even parts.
func checkNothingElse(t testing.TB, b *service.Bucket, keys ...string) {
	t.Helper()
	s := openStore(t, optionsOf(b))
	left := map[string]bool{}
	for o, err := range s.objects(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		left[o.name] = true
	}
	for _, key := range keys {
		if !left[key] {
			t.Errorf("object %s is missing", key)
		}
		delete(left, key)
	}
	for u, err := range s.uploads(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		left["upload of "+u.name] = true
	}
	for name := range left {
		t.Errorf("%s is left", name)
	}
}
