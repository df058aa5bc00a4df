//go:build linux

package scenario

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/peer"
)

// env is what one run of a scenario has to work with.
type env struct {
	peer    *peer.Peer
	servers *servers
	set     *content.Set
	ballast *ballast
	plan    Plan
	profile profiler // nil to measure
}

// profiler watches a server while load runs.
type profiler interface {
	// watch begins; the function that it returns ends the watch.
	watch(ctx context.Context, srv *server) (stop func() error, err error)
}

// result is what one run has found: figures by the key of their metric.
type result struct {
	figures map[string]float64
	ops     int
	cost    cost
}

// cost is what a measured piece of work took.
type cost struct {
	elapsed time.Duration
	server  time.Duration // processor time, as the others
	client  time.Duration
	busy    time.Duration // of the whole machine
}

func (c cost) plus(d cost) cost {
	return cost{c.elapsed + d.elapsed, c.server + d.server, c.client + d.client, c.busy + d.busy}
}

// rate returns the result of n operations, each of them counted as size.
func rate(n int, size float64, c cost) result {
	return result{
		figures: map[string]float64{"rate": float64(n) * size / c.elapsed.Seconds(), "cpu": c.server.Seconds()},
		ops:     n,
		cost:    c,
	}
}

// measure runs do and notes what it took.
func (e *env) measure(ctx context.Context, srv *server, do func() error) (cost, error) {
	if e.profile != nil {
		stop, err := e.profile.watch(ctx, srv)
		if err != nil {
			return cost{}, err
		}
		if err := do(); err != nil {
			stop()
			return cost{}, srv.Failed(err)
		}
		return cost{elapsed: 1}, stop()
	}
	before, err := clocks(srv)
	if err != nil {
		return cost{}, err
	}
	if err := do(); err != nil {
		return cost{}, srv.Failed(err)
	}
	after, err := clocks(srv)
	if err != nil {
		return cost{}, err
	}
	return cost{
		elapsed: after.elapsed - before.elapsed,
		server:  after.server - before.server,
		client:  after.client - before.client,
		busy:    after.busy - before.busy,
	}, nil
}

var began = time.Now()

func clocks(srv *server) (c cost, err error) {
	if c.server, err = srv.CPU(); err != nil {
		return c, err
	}
	if c.client, err = peer.Self(); err != nil {
		return c, err
	}
	if c.busy, err = peer.Busy(); err != nil {
		return c, err
	}
	c.elapsed = time.Since(began)
	return c, nil
}

// repeat has the given number of clients do something again and again, a while to warm up and then
// for e.plan.Duration, and returns how often they did it.
func (e *env) repeat(ctx context.Context, srv *server, clients int, do func(c *load.Client, rng *rand.Rand) error) (int, cost, error) {
	each := func(c *load.Client, _ int, rng *rand.Rand) error { return do(c, rng) }
	if _, err := load.For(ctx, srv.Addr, clients, e.plan.Duration/5, each); err != nil {
		return 0, cost{}, srv.Failed(err)
	}
	n := 0
	cost, err := e.measure(ctx, srv, func() (err error) {
		n, err = load.For(ctx, srv.Addr, clients, e.plan.Duration, each)
		return err
	})
	return n, cost, err
}
