package blob_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
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

// TestContextEnds ends the context amid an endless body.
func TestContextEnds(t *testing.T) {
	s := newStore(t)
	u := blob.NewUpload(create(t, s), oci.SHA256)
	ctx, cancel := context.WithCancel(t.Context())
	var saved atomic.Int64
	u.CheckpointEvery(1<<20, func(ctx context.Context, state blob.State, _ []byte) error {
		saved.Store(state.Size)
		cancel()
		return ctx.Err() // a checkpoint goes on without the client
	})
	n, err := u.ReadFrom(ctx, endless{})
	var readErr *blob.ReadError
	if !errors.As(err, &readErr) || !errors.Is(err, context.Canceled) {
		t.Errorf("ReadFrom: %v", err)
	}
	if n != u.Size() || n < saved.Load() || saved.Load() < 1<<20 {
		t.Errorf("%d bytes are read, %d are there, %d were saved", n, u.Size(), saved.Load())
	}
	if _, _, err := u.Suspend(t.Context()); err != nil {
		t.Errorf("Suspend: %v", err)
	}
}

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

func (f *failing) Checkpoint() func(context.Context) (blob.State, error) {
	persist := f.Writer.Checkpoint()
	return func(ctx context.Context) (blob.State, error) {
		if f.block != nil {
			<-f.block
		}
		if f.err != nil {
			return blob.State{}, f.err
		}
		return persist(ctx)
	}
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

// TestHashTornObject hashes an object of which fewer bytes come than it has.
func TestHashTornObject(t *testing.T) {
	s := newStore(t)
	u := blob.NewUpload(create(t, s), oci.SHA256)
	if _, err := u.ReadFrom(t.Context(), strings.NewReader("torn")); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := blob.HashObject(t.Context(), tornStore{s}, u.Key(), oci.SHA256); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("HashObject: %v", err)
	}
}

// tornStore cuts the last byte off while an object is read.
type tornStore struct{ *fs.Store }

func (s tornStore) Open(ctx context.Context, key string) (blob.Reader, error) {
	r, err := s.Store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	return tornReader{r, io.LimitReader(r, r.Size()-1)}, nil
}

type tornReader struct {
	blob.Reader
	part io.Reader
}

func (r tornReader) Read(p []byte) (int, error) { return r.part.Read(p) }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestCheckpoints resumes from each checkpoint of a long body.
func TestCheckpoints(t *testing.T) {
	s := newStore(t)
	want := content(30 << 20)
	u := blob.NewUpload(create(t, s), oci.SHA256)
	type saved struct {
		state blob.State
		hash  []byte
	}
	var all []saved
	var running atomic.Int32
	u.CheckpointEvery(2<<20, func(_ context.Context, state blob.State, hash []byte) error {
		if running.Add(1) != 1 {
			t.Error("two checkpoints overlap")
		}
		all = append(all, saved{state, hash})
		time.Sleep(time.Millisecond)
		running.Add(-1)
		return nil
	})
	if _, err := u.ReadFrom(t.Context(), &pieces{r: bytes.NewReader(want), pause: 5 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if running.Load() != 0 {
		t.Error("a checkpoint goes on after ReadFrom")
	}
	u.Close()
	if len(all) < 2 {
		t.Errorf("%d checkpoints in %d bytes", len(all), len(want))
	}
	last := int64(0)
	for _, c := range all {
		if c.state.Size < last+2<<20 {
			t.Errorf("a checkpoint at %d follows one at %d", c.state.Size, last)
		}
		last = c.state.Size
	}
	for i := len(all) - 1; i >= 0; i-- { // backwards: each one drops what is after it
		w, err := s.Resume(t.Context(), all[i].state)
		if err != nil {
			t.Fatal(err)
		}
		u, err := blob.ResumeUpload(w, oci.SHA256, all[i].hash)
		if err != nil {
			t.Fatal(err)
		}
		if got := oci.DigestBytes(oci.SHA256, want[:u.Size()]); u.Digest() != got {
			t.Errorf("checkpoint %d has the hash of other bytes", i)
		}
		if i > 0 {
			u.Close()
			continue
		}
		if _, err := u.ReadFrom(t.Context(), bytes.NewReader(want[u.Size():])); err != nil {
			t.Fatal(err)
		}
		if err := u.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, s, u.Key()), want) {
		t.Error("the bytes that were kept are others")
	}
}

// TestCheckpointAfterResume counts the bytes since the resume only.
func TestCheckpointAfterResume(t *testing.T) {
	s := newStore(t)
	u := blob.NewUpload(create(t, s), oci.SHA256)
	if _, err := u.ReadFrom(t.Context(), io.LimitReader(endless{}, 3<<20)); err != nil {
		t.Fatal(err)
	}
	state, hashState, err := u.Suspend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Resume(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	if u, err = blob.ResumeUpload(w, oci.SHA256, hashState); err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	u.CheckpointEvery(2<<20, func(_ context.Context, state blob.State, _ []byte) error {
		t.Errorf("a checkpoint at %d", state.Size)
		return nil
	})
	if _, err := u.ReadFrom(t.Context(), io.LimitReader(endless{}, 1<<20)); err != nil {
		t.Fatal(err)
	}
}

// TestCheckpointAge has bytes trickle in, which get into a checkpoint all the same.
func TestCheckpointAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := blob.NewUpload(create(t, newStore(t)), oci.SHA256)
		defer u.Abort()
		begin := time.Now()
		var sizes []int64
		u.CheckpointEvery(1<<20, func(_ context.Context, state blob.State, _ []byte) error {
			sizes = append(sizes, state.Size)
			return nil
		})
		r := readerFunc(func(p []byte) (int, error) {
			time.Sleep(time.Minute)
			if time.Since(begin) > 3*blob.CheckpointAge+time.Minute {
				return 0, io.EOF
			}
			return 1, nil
		})
		if _, err := u.ReadFrom(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if len(sizes) != 2 || sizes[0] > int64(blob.CheckpointAge/time.Minute)+2 {
			t.Errorf("checkpoints at %d bytes of one a minute", sizes)
		}
	})
}

// TestCheckpointBeside has a checkpoint take until the whole body has come.
func TestCheckpointBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{Writer: create(t, newStore(t)), block: make(chan struct{})}
		u := blob.NewUpload(f, oci.SHA256)
		var saved []int64
		u.CheckpointEvery(1<<20, func(_ context.Context, state blob.State, _ []byte) error {
			saved = append(saved, state.Size)
			return nil
		})
		end := readerFunc(func([]byte) (int, error) {
			close(f.block)
			return 0, io.EOF
		})
		if n, err := u.ReadFrom(t.Context(), io.MultiReader(bytes.NewReader(content(9<<20)), end)); n != 9<<20 || err != nil {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		if len(saved) != 1 || saved[0] < 1<<20 || saved[0] > 2<<20 {
			t.Errorf("checkpoints at %d", saved)
		}
		u.Abort()
	})
}

func TestCheckpointErrors(t *testing.T) {
	s := newStore(t)
	errSave := errors.New("the session is gone")
	for _, test := range []struct {
		name       string
		disk, save error
	}{
		{"disk", errDisk, nil},
		{"save", nil, errSave},
	} {
		w := create(t, s)
		u := blob.NewUpload(&failing{Writer: w, err: test.disk}, oci.SHA256)
		u.CheckpointEvery(1<<20, func(context.Context, blob.State, []byte) error { return test.save })
		_, err := u.ReadFrom(t.Context(), endless{})
		var readErr *blob.ReadError
		if want := cmp.Or(test.disk, test.save); !errors.Is(err, want) || errors.As(err, &readErr) {
			t.Errorf("%s: ReadFrom: %v", test.name, err)
		}
		if err := u.Commit(t.Context()); err == nil {
			t.Errorf("%s: Commit succeeded", test.name)
		}
	}
}

// hashed are the bytes of which hashStates are the states that programs in the
// field have saved.
var hashed = strings.Repeat("hash", 50)

// Each later version has to go on from these.
var hashStates = map[oci.Algorithm]string{
	oci.SHA256: "7368610396f93987d759aae1cc2ed7960328bf7926bf82ea832239b0387f00e98cac1ec86861736868617368000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000c8",
	oci.SHA512: "73686107cc1ef088ce4b38cbde919ddc9d24d1704ca1ce0d5d3b487a46059b15398ae9e78dcb974820cb842267599e5863ed980b6e6610b7e8d17407c7770c27c82e9c9a686173686861736868617368686173686861736868617368686173686861736868617368686173686861736868617368686173686861736868617368686173686861736868617368000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000c8",
}

func TestHashState(t *testing.T) {
	s := newStore(t)
	for alg, saved := range hashStates {
		u := blob.NewUpload(create(t, s), alg)
		if _, err := u.ReadFrom(t.Context(), strings.NewReader(hashed)); err != nil {
			t.Fatal(err)
		}
		state, hashState, err := u.Suspend(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(hashState); got != saved {
			t.Logf("%s: this version saves\n%s", alg, got)
		}
		old, err := hex.DecodeString(saved)
		if err != nil {
			t.Fatal(err)
		}
		for _, hashState := range [][]byte{hashState, old} {
			w, err := s.Resume(t.Context(), state)
			if err != nil {
				t.Fatal(err)
			}
			u, err := blob.ResumeUpload(w, alg, hashState)
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			if _, err := u.ReadFrom(t.Context(), strings.NewReader(" state")); err != nil {
				t.Fatal(err)
			}
			if u.Digest() != oci.DigestBytes(alg, []byte(hashed+" state")) {
				t.Errorf("%s: the digest is wrong", alg)
			}
			u.Close()
		}
		w, err := s.Resume(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		other := oci.SHA256
		if alg == other {
			other = oci.SHA512
		}
		for name, broken := range map[string][]byte{"none": nil, "cut": hashState[:len(hashState)-1], "unknown": append([]byte("xyz"), hashState[3:]...)} {
			if _, err := blob.ResumeUpload(w, alg, broken); err == nil {
				t.Errorf("%s: a hash state that is %s is accepted", alg, name)
			}
		}
		if _, err := blob.ResumeUpload(w, other, hashState); err == nil {
			t.Errorf("the state of %s is accepted for %s", alg, other)
		}
		w.Abort()
	}
}

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
