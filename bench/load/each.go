//go:build linux

package load

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

// Each calls do for the numbers from 0 to n-1, shared among the given number of clients.
// All of them are on one loop, so calls never run in parallel, they only wait in
// parallel.
func Each(ctx context.Context, addr netip.AddrPort, clients, n int, do func(c *Client, i int) error) error {
	next := 0
	scripts := make([]Script, min(clients, n))
	for s := range scripts {
		scripts[s] = func(c *Client) error {
			for next < n {
				i := next
				next++
				if err := do(c, i); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return Run(ctx, addr, 1, scripts)
}

// For has the given number of clients call do again and again for a while, and returns how often they did. All are on one
// loop. Each is told its number and has a source of random numbers, which makes the same choices in every run.
func For(ctx context.Context, addr netip.AddrPort, clients int, d time.Duration, do func(c *Client, client int, rng *rand.Rand) error) (int, error) {
	var over atomic.Bool
	timer := time.AfterFunc(d, func() { over.Store(true) })
	defer timer.Stop()
	n := 0
	scripts := make([]Script, clients)
	for i := range scripts {
		rng := rand.New(rand.NewPCG(uint64(i), 0))
		scripts[i] = func(c *Client) error {
			for !over.Load() {
				if err := do(c, i, rng); err != nil {
					return err
				}
				n++
			}
			return nil
		}
	}
	err := Run(ctx, addr, 1, scripts)
	return n, err
}
