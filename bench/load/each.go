//go:build linux

package load

import (
	"context"
	"net/netip"
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
