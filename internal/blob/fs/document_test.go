package fs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// TestDocumentFaults makes each call fail that stores a document, in each way, and then the power: the document is whole or not there, and
// what was acknowledged is there.
func TestDocumentFaults(t *testing.T) {
	const name = "journal/1-a"
	data := bytes.Repeat([]byte("document"), 100)
	left := func(sim *sim, s *Store, rnd *rand.Rand) ([]byte, error) {
		t.Helper()
		dir := t.TempDir()
		sim.powerFailure(t, rnd, s.dir, dir)
		after, err := open(dir, Options{}, osCalls{}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return after.Document(t.Context(), name)
	}
	calls := 0
	for n := 0; ; n++ {
		for _, f := range []fault{refused, partial, done} {
			s, sim, _ := newSimStore(t, Options{})
			rnd := rand.New(rand.NewPCG(uint64(n), uint64(f)))
			sim.next = func(op, _ string) fault {
				if len(sim.calls) != n+1 {
					return works
				}
				if f == partial && op != "write" {
					return refused
				}
				return f
			}
			err := s.PutDocument(t.Context(), name, data)
			calls = max(calls, len(sim.calls))
			sim.next = nil
			if err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("call %d, %v: %v", n, f, err)
			}
			got, missing := left(sim, s, rnd)
			if missing == nil && !bytes.Equal(got, data) {
				t.Errorf("call %d, %v: half of a document is there", n, f)
			}
			if missing != nil && (err == nil || !errors.Is(missing, blob.ErrNotFound)) {
				t.Errorf("call %d, %v: after %v, %v", n, f, err, missing)
			}
			if err := s.PutDocument(t.Context(), name, data); err != nil {
				t.Errorf("call %d, %v: again: %v", n, f, err)
			}
			if got, err := left(sim, s, rnd); err != nil || !bytes.Equal(got, data) {
				t.Errorf("call %d, %v: after the second attempt, %d bytes, %v", n, f, len(got), err)
			}
		}
		if n > calls {
			break
		}
	}
	if calls < 8 {
		t.Errorf("only %d calls were made to fail", calls)
	}
}
