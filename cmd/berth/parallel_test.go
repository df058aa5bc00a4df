package main

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func count(n int, end error) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
		if end != nil {
			yield(0, end)
		}
	}
}

func TestInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		slow := func(ctx context.Context, i int) int {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer running.Add(-1)
			time.Sleep(time.Duration(100-i) * time.Second) // later ones end first
			return i * i
		}
		end := errors.New("end")
		var got []int
		var last error
		for v, err := range inOrder(t.Context(), count(20, end), 4, slow) {
			if last = err; err == nil {
				got = append(got, v)
			}
		}
		want := make([]int, 20)
		for i := range want {
			want[i] = i * i
		}
		if !slices.Equal(got, want) || last != end {
			t.Errorf("got %v, %v", got, last)
		}
		if most.Load() < 3 || most.Load() > 5 {
			t.Errorf("%d calls at a time, expected about 4", most.Load())
		}
	})
}

// A consumer that stops leaves nothing running.
func TestInOrderStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(ctx context.Context, i int) int {
			if i > 0 {
				<-ctx.Done()
			}
			return i
		}
		for range inOrder(t.Context(), count(1000, nil), 4, wait) {
			break
		}
		synctest.Wait() // and the bubble fails if goroutines are left
	})
}
