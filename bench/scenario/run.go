//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
)

// Options say what to run.
type Options struct {
	Plan
	Peers    []*peer.Peer
	Only     []string // names of scenarios; empty for all
	Dir      string   // folder for all data; what is made in it is removed
	Profiles string   // folder for profiles of Berth; "" for none
	Log      func(format string, args ...any)
}

// runLimit ends a run that hangs, filling the server with content included.
const runLimit = 10 * time.Minute

// Run measures. The report is filled in as scenarios end, so that it holds what was found even if there is an error.
// A server that fails a scenario is no error but an entry of the report.
func Run(ctx context.Context, o Options, r *report.Report) (err error) {
	set, err := content.NewSet(o.Sizes)
	if err != nil {
		return err
	}
	defer set.Close()
	// Half as much again as the largest push, because the journal and the server take some, too.
	ballast, err := newBallast(max(o.Big, int64(o.Batch)*o.BatchSize) * 3 / 2)
	if err != nil {
		return err
	}
	defer ballast.close()
	b := &bench{Options: o, set: set, ballast: ballast, report: r}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, p := range o.Peers {
		b.servers = append(b.servers, &servers{
			peer: p, dir: filepath.Join(o.Dir, p.Name), profiles: o.Profiles != "", kept: make(map[string]*server),
		})
	}
	for _, s := range scenarios(o.Plan) {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.name) {
			continue
		}
		if err := b.scenario(ctx, s); err != nil {
			return err
		}
	}
	if len(o.Only) == 0 {
		b.memory()
	}
	return nil
}

type bench struct {
	Options
	set     *content.Set
	ballast *ballast
	servers []*servers
	report  *report.Report
}

func (b *bench) close() error {
	var errs []error
	for _, s := range b.servers {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// candidates returns the servers that take part in s.
func (b *bench) candidates(s scenario) []*servers {
	return slices.DeleteFunc(slices.Clone(b.servers), func(v *servers) bool {
		return v.peer.Kind != peer.Registry && v.peer.Name != s.limit
	})
}

// scenario runs s in rounds, one server after the other in each.
func (b *bench) scenario(ctx context.Context, s scenario) error {
	rows := make([]*report.Row, len(s.metrics))
	for i, m := range s.metrics {
		rows[i] = &report.Row{Scenario: s.name, Title: m.title, Unit: m.unit, Limit: s.limit, Goals: m.goals}
	}
	b.report.Rows = append(b.report.Rows, rows...)
	costs := make(map[string][]result)
	first := 0 // the round that warms up
	if b.Quick {
		first = 1
	}
	candidates := b.candidates(s)
	for round := first; round <= b.Rounds; round++ {
		for i, c := range candidates {
			if c == nil {
				continue
			}
			r, err := b.once(ctx, s, c, nil)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				b.Log("%s: %s failed: %v", s.name, c.peer.Name, err)
				for _, row := range rows {
					row.Fail(c.peer.Name, err)
				}
				candidates[i] = nil
				continue
			}
			main := s.metrics[0]
			b.Log("%s: round %d of %d: %s: %.4g %s", s.name, round, b.Rounds, c.peer.Name, r.figures[main.key], main.unit)
			if round == 0 {
				continue
			}
			for i, m := range s.metrics {
				if v, ok := r.figures[m.key]; ok {
					rows[i].Add(c.peer.Name, v)
				}
			}
			costs[c.peer.Name] = append(costs[c.peer.Name], r)
		}
	}
	rows[0].Cost = average(costs)
	return b.look(ctx, s, candidates)
}

// once runs s on one server while the others rest.
func (b *bench) once(ctx context.Context, s scenario, c *servers, p profiler) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runLimit, fmt.Errorf("not done within %s", runLimit))
	defer cancel()
	defer c.pause()
	return s.run(ctx, &env{peer: c.peer, servers: c, set: b.set, ballast: b.ballast, plan: b.Plan, profile: p})
}

// average returns what a scenario cost, for each server.
func average(all map[string][]result) map[string]report.Cost {
	out := make(map[string]report.Cost)
	for name, results := range all {
		var sum cost
		ops := 0
		for _, r := range results {
			sum = sum.plus(r.cost)
			ops += r.ops
		}
		if sum.elapsed == 0 || ops == 0 {
			continue
		}
		t := sum.elapsed.Seconds()
		out[name] = report.Cost{
			Server: sum.server.Seconds() / t,
			Client: sum.client.Seconds() / t,
			Other:  (sum.busy - sum.server - sum.client).Seconds() / t,

			ServerPerOp: sum.server.Seconds() * 1e6 / float64(ops),
			ClientPerOp: sum.client.Seconds() * 1e6 / float64(ops),
		}
	}
	return out
}

// memory adds the row of what each server used at most, whatever it did.
func (b *bench) memory() {
	row := &report.Row{
		Scenario: "memory", Title: "peak of memory over all of it", Unit: "MiB",
		Limit: peer.Nginx, Goals: []report.Goal{report.AtMost(64, "")},
	}
	for _, s := range b.servers {
		if s.peer.Kind != peer.WriteLimit && s.peak > 0 {
			row.Add(s.peer.Name, float64(s.peak)/mib)
		}
	}
	b.report.Rows = append(b.report.Rows, row)
}
