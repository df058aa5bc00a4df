package harness

import (
	"sync"
	"testing"
)

// Shared is something that is costly to start, so the tests of a package share it:
// the first that calls Get starts it. Close is given to Main.
type Shared[T any] struct {
	// Start returns the thing and what ends it. It may skip or fail the test, which
	// then holds for every test.
	Start func(t testing.TB) (T, func() error)

	mu      sync.Mutex
	asked   bool
	skipped bool
	value   T
	stop    func() error // nil unless it was started
}

// Get returns the thing, started if need be.
func (s *Shared[T]) Get(t testing.TB) T {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		s.asked = true
		defer func() { s.skipped = t.Skipped() }() // also when Start ends the test
		s.value, s.stop = s.Start(t)
	}
	switch {
	case s.skipped:
		t.Skip("skipped for the same reason as the test before")
	case s.stop == nil:
		t.Fatal("failed for the same reason as the test before")
	}
	return s.value
}

// Close ends the thing if it was started.
func (s *Shared[T]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop == nil {
		return nil
	}
	return s.stop()
}
