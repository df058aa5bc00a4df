package ldap

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// pace remembers how long the directory lately took to compare a password, so that an answer about a name that it does not
// know can take as long.
type pace struct {
	mu    sync.Mutex
	taken [32]time.Duration
	n     int // that were ever added
}

func (p *pace) add(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[p.n%len(p.taken)] = d
	p.n++
}

// wait waits until as much time has passed since start as one of those comparisons took, or until ctx is done.
func (p *pace) wait(ctx context.Context, start time.Time) error {
	timer := time.NewTimer(time.Until(start.Add(p.sample())))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sample returns one of the times, any of them, so that what is imitated varies as the original does.
func (p *pace) sample() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == 0 {
		return 0
	}
	return p.taken[rand.IntN(min(p.n, len(p.taken)))]
}
