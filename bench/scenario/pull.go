//go:build linux

package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/report"
)

// get sends a request whose answer must have the given length.
func get(c *load.Client, head []byte, length int64) error {
	resp, err := c.Expect(200, load.Request{Head: head})
	if err == nil && resp.Length != length {
		err = fmt.Errorf("%.80s…: %d bytes instead of %d", head, resp.Length, length)
	}
	return err
}

// bulkLoops is how many loops receive when much is sent: for a server that sends by sendfile it is the
// client, which copies, that has most to do.
const bulkLoops = 2

// pullBig pulls the big blob with some clients at a time, each of them a few times.
func pullBig(clients int) runner {
	return func(ctx context.Context, e *env) (result, error) {
		part := e.set.Big()
		srv, err := e.servers.keep(ctx, "main", part)
		if err != nil {
			return result{}, err
		}
		blob := part.Blobs[0]
		head := load.Head("GET", content.BlobPath(blob.Repository, blob.Digest))
		scripts := make([]load.Script, clients)
		for i := range scripts {
			scripts[i] = func(c *load.Client) error {
				for range e.plan.Pulls {
					if err := get(c, head, blob.Body.Len()); err != nil {
						return err
					}
				}
				return nil
			}
		}
		cost, err := e.measure(ctx, srv, func() error { return load.Run(ctx, srv.Addr, bulkLoops, scripts) })
		return rate(clients*e.plan.Pulls, float64(blob.Body.Len())/mib, cost), err
	}
}

// readBlobs reads blobs of 64 KiB at random, by GET or HEAD.
func readBlobs(method string) runner {
	return func(ctx context.Context, e *env) (result, error) {
		part := e.set.ReadBlobs()
		srv, err := e.servers.keep(ctx, "main", part)
		if err != nil {
			return result{}, err
		}
		heads := make([][]byte, len(part.Blobs))
		for i, b := range part.Blobs {
			heads[i] = load.Head(method, content.BlobPath(b.Repository, b.Digest))
		}
		return e.reads(ctx, srv, heads, bodyLength(method, part.Blobs[0].Body.Len()))
	}
}

// readManifests reads manifests by tags chosen at random, by GET or HEAD.
func readManifests(method string, part func(*content.Set) *content.Part) runner {
	return func(ctx context.Context, e *env) (result, error) {
		part := part(e.set)
		srv, err := e.servers.keep(ctx, "main", part)
		if err != nil {
			return result{}, err
		}
		heads := make([][]byte, len(part.Manifests))
		for i, m := range part.Manifests {
			heads[i] = load.Head(method, content.ManifestPath(m.Repository, m.Tag), "Accept: "+content.ManifestType)
		}
		return e.reads(ctx, srv, heads, bodyLength(method, int64(len(part.Manifests[0].Body))))
	}
}

func bodyLength(method string, n int64) int64 {
	if method == "HEAD" {
		return 0
	}
	return n
}

// reads sends requests chosen at random from 64 clients, for a while.
func (e *env) reads(ctx context.Context, srv *server, heads [][]byte, length int64) (result, error) {
	const clients = 64
	n, cost, err := e.repeat(ctx, srv, clients, func(c *load.Client, rng *rand.Rand) error {
		return get(c, heads[rng.IntN(len(heads))], length)
	})
	return rate(n, 1, cost), err
}

// storm has 200 new clients pull the same image at once, a few times over.
func storm(ctx context.Context, e *env) (result, error) {
	const clients = 200
	part := e.set.Storm()
	srv, err := e.servers.keep(ctx, "main", part)
	if err != nil {
		return result{}, err
	}
	if err := srv.ResetPeak(); err != nil {
		return result{}, err
	}
	took := make([]float64, clients*e.plan.Storms) // ms
	var total cost
	for n := range e.plan.Storms {
		cost, err := e.measure(ctx, srv, func() error {
			scripts := make([]load.Script, clients)
			start := time.Now()
			for i := range scripts {
				scripts[i] = func(c *load.Client) error {
					err := pull(c, part)
					took[n*clients+i] = time.Since(start).Seconds() * 1000
					return err
				}
			}
			return load.Run(ctx, srv.Addr, bulkLoops, scripts)
		})
		if err != nil {
			return result{}, err
		}
		total = total.plus(cost)
	}
	peak, err := srv.PeakMemory()
	if err != nil {
		return result{}, err
	}
	r := rate(len(took), 1, total)
	r.figures["p50"] = report.Quantile(took, 0.5)
	r.figures["p99"] = report.Quantile(took, 0.99)
	r.figures["memory"] = float64(peak) / mib
	return r, nil
}

// pull takes an image as a client does that has nothing of it: manifest, config, layers.
func pull(c *load.Client, image *content.Part) error {
	m := image.Manifests[0]
	if err := get(c, load.Head("GET", content.ManifestPath(m.Repository, m.Tag), "Accept: "+content.ManifestType), int64(len(m.Body))); err != nil {
		return err
	}
	for _, b := range image.Blobs {
		if err := get(c, load.Head("GET", content.BlobPath(b.Repository, b.Digest)), b.Body.Len()); err != nil {
			return err
		}
	}
	return nil
}
