package s3

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// fewTries are made in any case; more of them only while patience lasts.
	fewTries  = 3
	manyTries = 12

	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second

	// slowCalls may be without a sign of life this many times longer than others: a store may
	// have to put the parts of a large object together before it answers.
	slowCalls = 10
	// sentCalls have handed over all their bytes, of which some megabytes may still be on the way.
	sentCalls = 3
)

// Observation tells of one request to the store.
type Observation struct {
	// Operation is what was asked for, such as "put object". There are about a dozen of them. "read object" is a body
	// that broke off.
	Operation string
	// Duration is the time to the answer. That of a get ends where the bytes begin.
	Duration time.Duration
	// Err is nil if the store did it, or answered that there is no such object.
	Err error
	// Retried tells that the request failed and is made again.
	Retried bool
}

// call makes a request once. It calls progress whenever bytes have moved; when that does not happen for
// too long, or for the given multiple of it, ctx ends.
type call func(ctx context.Context, progress func(times int)) error

// do makes a request until it succeeds, or fails for good, or patience ends.
func (s *Store) do(ctx context.Context, op, object string, f call) error {
	return s.doFor(ctx, s.opts.Stall, op, object, f)
}

// once makes a request once.
func (s *Store) once(ctx context.Context, op, object string, f call) error {
	start := time.Now()
	err := attempt(ctx, s.opts.Stall, f)
	if answered(err) {
		s.down.Store(false)
	}
	s.observe(op, time.Since(start), err, false)
	return s.wrap(ctx, op, object, err)
}

func (s *Store) doFor(ctx context.Context, stall time.Duration, op, object string, f call) error {
	var failing time.Time
	refused := false
	for try := 1; ; try++ {
		start := time.Now()
		err := attempt(ctx, stall, f)
		end := time.Now()
		if err != nil && failing.IsZero() {
			failing = end
		}
		again := err != nil && ctx.Err() == nil && try < manyTries
		switch {
		case !again:
		case credentialsRefused(err) && !refused:
			// They may have been replaced: read them again, once.
			refused = true
			s.credentials.Expire()
		case classify(err) != passing || s.down.Load():
			again = false
		case try >= fewTries && end.Sub(failing) > s.opts.Patience:
			s.down.Store(true)
			again = false
		}
		if answered(err) {
			s.down.Store(false)
		}
		s.observe(op, end.Sub(start), err, again)
		if !again {
			return s.wrap(ctx, op, object, err)
		}
		pause(ctx, try)
	}
}

// answered tells that the store is at work.
func answered(err error) bool { return err == nil || classify(err) == missing }

func (s *Store) observe(op string, took time.Duration, err error, again bool) {
	if s.opts.Observe == nil {
		return
	}
	if err != nil && classify(err) == missing {
		err = nil
	}
	s.opts.Observe(Observation{Operation: op, Duration: took, Err: err, Retried: again})
}

// attempt calls f once.
func attempt(ctx context.Context, stall time.Duration, f call) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	err := f(ctx, func(times int) { timer.Reset(stall * time.Duration(times)) })
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// pause waits a random time, longer on average with each try.
func pause(ctx context.Context, try int) {
	most := min(firstPause<<min(try, 10), longPause)
	select {
	case <-time.After(rand.N(most)):
	case <-ctx.Done():
	}
}
