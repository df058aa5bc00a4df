package main

import (
	"context"
	"iter"
)

// inOrder yields f of each value of in, in the order of in, with at most n calls of f at a
// time and as many results waiting. An error of in ends the sequence. When the
// consumer stops, the context of the calls under way is cancelled.
func inOrder[T, R any](ctx context.Context, in iter.Seq2[T, error], n int, f func(context.Context, T) R) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		type result struct {
			value R
			err   error
		}
		pending := make(chan chan result, n-1)
		go func() {
			defer close(pending)
			for v, err := range in {
				done := make(chan result, 1)
				select {
				case pending <- done:
				case <-ctx.Done():
					return
				}
				if err != nil {
					done <- result{err: err}
					return
				}
				go func() { done <- result{value: f(ctx, v)} }()
			}
		}()
		for done := range pending {
			r := <-done
			if !yield(r.value, r.err) || r.err != nil {
				return
			}
		}
	}
}
