package blob_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/oci"
)

// TestContextEnds ends the context amid an endless body.
func TestContextEnds(t *testing.T) {
	s := newStore(t)
	u := blob.NewUpload(create(t, s), oci.SHA256)
	ctx, cancel := context.WithCancel(t.Context())
	var saved atomic.Int64
	u.CheckpointEvery(1<<20, checkpointAge, func(ctx context.Context, state blob.State, _ []byte) error {
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
	u.CheckpointEvery(2<<20, checkpointAge, func(_ context.Context, state blob.State, hash []byte) error {
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
	u.CheckpointEvery(2<<20, checkpointAge, func(_ context.Context, state blob.State, _ []byte) error {
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
		u.CheckpointEvery(1<<20, checkpointAge, func(_ context.Context, state blob.State, _ []byte) error {
			sizes = append(sizes, state.Size)
			return nil
		})
		r := readerFunc(func(p []byte) (int, error) {
			time.Sleep(time.Minute)
			if time.Since(begin) > 3*checkpointAge+time.Minute {
				return 0, io.EOF
			}
			return 1, nil
		})
		if _, err := u.ReadFrom(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if len(sizes) != 2 || sizes[0] > int64(checkpointAge/time.Minute)+2 {
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
		u.CheckpointEvery(1<<20, checkpointAge, func(_ context.Context, state blob.State, _ []byte) error {
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
		u.CheckpointEvery(1<<20, checkpointAge, func(context.Context, blob.State, []byte) error { return test.save })
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

// checkpointAge is so long that time makes no checkpoint, but in synthetic time.
const checkpointAge = 10 * time.Minute
