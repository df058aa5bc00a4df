package blob_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/oci"
)

func newStore(t *testing.T) *fs.Store {
	t.Helper()
	s, err := fs.Open(t.TempDir(), fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s blob.Store) blob.Writer {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func read(t *testing.T, s blob.Store, key string) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// content returns n bytes that don't repeat.
func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// TestReaders streams from readers that return their bytes in all the ways that readers do.
func TestReaders(t *testing.T) {
	s := newStore(t)
	for _, size := range []int{0, 1, 4095, 32<<10 - 1, 32 << 10, 32<<10 + 1, 300_000, 3<<20 + 5} {
		want := content(size)
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain":             func(r io.Reader) io.Reader { return r },
			"halves":            iotest.HalfReader,
			"end with the data": iotest.DataErrReader,
			"pieces":            func(r io.Reader) io.Reader { return &pieces{r: r} },
			"slow at times":     func(r io.Reader) io.Reader { return &pieces{r: r, pause: time.Millisecond} },
		} {
			u := blob.NewUpload(create(t, s), oci.SHA256)
			n, err := u.ReadFrom(t.Context(), wrap(bytes.NewReader(want)))
			if n != int64(size) || u.Size() != n || err != nil {
				t.Errorf("%s: ReadFrom of %d bytes: %d, %v", name, size, n, err)
			}
			if u.Digest() != oci.DigestBytes(oci.SHA256, want) {
				t.Errorf("%s: the digest of %d bytes is wrong", name, size)
			}
			if err := u.Commit(t.Context()); err != nil {
				t.Error(err)
			}
			if got := read(t, s, u.Key()); !bytes.Equal(got, want) {
				t.Errorf("%s: the %d bytes that were kept are others", name, size)
			}
		}
	}
}

// pieces returns random numbers of bytes, none at all sometimes, and pauses sometimes.
type pieces struct {
	r     io.Reader
	pause time.Duration
}

func (p *pieces) Read(b []byte) (int, error) {
	if rand.IntN(20) == 0 {
		time.Sleep(p.pause)
	}
	n := rand.IntN(1 << rand.IntN(19))
	return p.r.Read(b[:min(n, len(b))])
}

// TestSeveralBodies appends bodies as chunks do.
func TestSeveralBodies(t *testing.T) {
	s := newStore(t)
	want := content(5 << 20)
	u := blob.NewUpload(create(t, s), oci.SHA512)
	for rest := want; len(rest) > 0; {
		n := min(len(rest), rand.IntN(2<<20))
		if m, err := u.ReadFrom(t.Context(), bytes.NewReader(rest[:n])); m != int64(n) || err != nil {
			t.Fatalf("ReadFrom of %d bytes: %d, %v", n, m, err)
		}
		rest = rest[n:]
	}
	if u.Digest() != oci.DigestBytes(oci.SHA512, want) {
		t.Error("the digest is wrong")
	}
	if err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, u.Key()), want) {
		t.Error("the bytes that were kept are others")
	}
}

// TestReadError breaks bodies off at every kind of place: nothing that was read is lost.
func TestReadError(t *testing.T) {
	s := newStore(t)
	want := content(2 << 20)
	for _, at := range []int{0, 1, 32 << 10, 40_000, 1<<20 + 12345} {
		for _, broken := range []error{io.ErrUnexpectedEOF, errors.New("too large")} {
			u := blob.NewUpload(create(t, s), oci.SHA256)
			n, err := u.ReadFrom(t.Context(), io.MultiReader(bytes.NewReader(want[:at]), iotest.ErrReader(broken)))
			var readErr *blob.ReadError
			if n != int64(at) || !errors.As(err, &readErr) || readErr.Err != broken || !errors.Is(err, broken) {
				t.Fatalf("broken off at %d: %d, %v", at, n, err)
			}
			// It can go on at once, or be suspended.
			if at%2 == 0 {
				state, hashState, err := u.Suspend(t.Context())
				if err != nil || state.Size != int64(at) {
					t.Fatalf("Suspend: %d, %v", state.Size, err)
				}
				w, err := s.Resume(t.Context(), state)
				if err != nil {
					t.Fatal(err)
				}
				if u, err = blob.ResumeUpload(w, oci.SHA256, hashState); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := u.ReadFrom(t.Context(), bytes.NewReader(want[at:])); err != nil {
				t.Fatal(err)
			}
			if u.Digest() != oci.DigestBytes(oci.SHA256, want) {
				t.Errorf("broken off at %d: the digest is wrong", at)
			}
			if err := u.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, s, u.Key()), want) {
				t.Errorf("broken off at %d: the bytes that were kept are others", at)
			}
		}
	}
}

func TestReaderWithoutProgress(t *testing.T) {
	u := blob.NewUpload(create(t, newStore(t)), oci.SHA256)
	defer u.Abort()
	var readErr *blob.ReadError
	if _, err := u.ReadFrom(t.Context(), &pieces{r: emptyReader{}}); !errors.As(err, &readErr) || readErr.Err != io.ErrNoProgress {
		t.Errorf("ReadFrom: %v", err)
	}
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// failing is a Writer of a real store some of whose calls fail.
type failing struct {
	blob.Writer
	after int64 // bytes
	short bool
	block chan struct{} // if not nil, checkpoints wait for it
	err   error         // of checkpoints
}

var errDisk = errors.New("the disk is broken")

func (f *failing) Write(p []byte) (int, error) {
	if f.after > 0 && f.Size()+int64(len(p)) > f.after {
		n, _ := f.Writer.Write(p[:min(int64(len(p)/2), f.after-f.Size())])
		if f.short {
			return n, nil
		}
		return n, errDisk
	}
	return f.Writer.Write(p)
}

// TestStoreError has the store fail after some bytes.
func TestStoreError(t *testing.T) {
	s := newStore(t)
	for _, after := range []int64{1, 10_000, 40_000, 3 << 20} {
		for _, short := range []bool{false, true} {
			w := create(t, s)
			u := blob.NewUpload(&failing{Writer: w, after: after, short: short}, oci.SHA256)
			n, err := u.ReadFrom(t.Context(), io.LimitReader(endless{}, 8<<20))
			want := errDisk
			if short {
				want = io.ErrShortWrite
			}
			var readErr *blob.ReadError
			if !errors.Is(err, want) || errors.As(err, &readErr) || n > after {
				t.Errorf("ReadFrom a store that fails after %d bytes: %d, %v", after, n, err)
			}
			if _, err := u.ReadFrom(t.Context(), strings.NewReader("x")); !errors.Is(err, want) {
				t.Errorf("ReadFrom after an error of the store: %v", err)
			}
			if after%2 == 0 {
				if _, _, err := u.Suspend(t.Context()); !errors.Is(err, want) {
					t.Errorf("Suspend after an error of the store: %v", err)
				}
				continue
			}
			if err := u.Commit(t.Context()); !errors.Is(err, want) {
				t.Errorf("Commit after an error of the store: %v", err)
			}
			if _, err := s.Open(t.Context(), u.Key()); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("Open of what failed: %v", err)
			}
		}
	}
}

// TestReaderPanics leaves no goroutine behind.
func TestReaderPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if one stays
		u := blob.NewUpload(create(t, newStore(t)), oci.SHA256)
		defer u.Abort()
		defer func() {
			if r := recover(); r != "broken" {
				t.Errorf("recovered %v", r)
			}
		}()
		body := iotest.DataErrReader(bytes.NewReader(content(3 << 20)))
		_, _ = u.ReadFrom(t.Context(), io.MultiReader(body, readerFunc(func([]byte) (int, error) { panic("broken") })))
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
