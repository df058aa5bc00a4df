//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/peer"
)

// restart stops the server that has all content and starts it again. The first answer
// is a manifest by tag; what the server does on its own afterwards is its own affair, which costs
// processor time.
func restart(ctx context.Context, e *env) (result, error) {
	const tooLong = time.Minute
	tags := e.set.ManyTags()
	srv, err := e.servers.keep(ctx, "main", tags, e.set.ManyRepositories())
	if err != nil {
		return result{}, err
	}
	if err := e.servers.stop(srv); err != nil {
		return result{}, err
	}
	m := tags.Manifests[len(tags.Manifests)/2]
	head := load.Head("GET", content.ManifestPath(m.Repository, m.Tag), "Accept: "+content.ManifestType)
	started := time.Now()
	proc, err := e.peer.Launch(peer.Options{Data: srv.Data, Conf: filepath.Join(srv.dir, "conf"), Profiles: e.servers.profiles})
	if err != nil {
		return result{}, err
	}
	srv.Process = proc
	var first time.Duration
	for first == 0 {
		err := load.Run(ctx, srv.Addr, 1, []load.Script{func(c *load.Client) error { return get(c, head, int64(len(m.Body))) }})
		switch {
		case err == nil:
			first = time.Since(started)
		case ctx.Err() != nil:
			return result{}, context.Cause(ctx)
		case time.Since(started) > tooLong:
			return result{}, srv.Failed(errors.Join(fmt.Errorf("no answer within %s of its start", tooLong), err))
		default:
			time.Sleep(200 * time.Microsecond)
		}
	}
	select {
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	case <-time.After(time.Until(started.Add(e.plan.Watch))):
	}
	cpu, err := srv.CPU()
	if err != nil {
		return result{}, err
	}
	return result{figures: map[string]float64{"first": first.Seconds() * 1000, "cpu": cpu.Seconds()}}, nil
}
