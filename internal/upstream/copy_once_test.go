package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/berthregistry/berth/internal/oci"
)

// When the one that copies something for several is cancelled, another goes on with it.
func TestOnceIsTakenOver(t *testing.T) { synctest.Test(t, testOnceIsTakenOver) }

func testOnceIsTakenOver(t *testing.T) {
	c := NewCopier(nil, nil, CopyOptions{})
	key := flightKey{"blob", oci.DigestBytes(oci.SHA256, nil)}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		first <- c.once(ctx, key, func() error {
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	synctest.Wait()
	runs := 0
	go func() {
		second <- c.once(t.Context(), key, func() error { runs++; return nil })
	}()
	synctest.Wait()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled one: %v", err)
	}
	if err := <-second; err != nil || runs != 1 {
		t.Errorf("the other: %d runs, %v", runs, err)
	}
	failed := errors.New("failed")
	other := flightKey{"blob", oci.DigestBytes(oci.SHA256, []byte("x"))}
	for range 2 {
		if err := c.once(t.Context(), other, func() error { runs++; return failed }); err != failed {
			t.Errorf("got %v", err)
		}
	}
	if runs != 2 {
		t.Errorf("a failure was tried again")
	}
}
