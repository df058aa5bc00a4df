//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/load"
	"github.com/berthregistry/berth/bench/peer"
)

const mib = 1 << 20

// pusher returns how a peer takes blobs.
func (e *env) pusher() content.Pusher {
	if e.peer.Kind == peer.WriteLimit {
		return content.PutBlob
	}
	return content.PushBlob
}

// files says what becomes of the files of a server that was started for one run.
type files int

const (
	// removed is for large files, so that every run finds the disk as the one before did.
	removed files = iota
	// kept is for small files, until the benchmark ends: some file systems do not use the inodes of removed
	// files again for minutes, and skip them one by one at the cost of whoever makes a file next.
	kept
)

// withFresh runs do with a server that is empty, and stops it.
func (e *env) withFresh(ctx context.Context, f files, do func(srv *server) (result, error)) (r result, err error) {
	srv, err := e.servers.fresh(ctx)
	if err != nil {
		return result{}, err
	}
	end := e.servers.stop
	if f == removed {
		end = e.servers.discard
	}
	defer func() { err = errors.Join(err, end(srv)) }()
	if err := e.ballast.hold(); err != nil {
		return result{}, err
	}
	unix.Sync() // what others have written is not to be paid for here
	if err := e.ballast.release(); err != nil {
		return result{}, err
	}
	return do(srv)
}

// pushSmall pushes small images, 16 at a time, for a while: four blobs and a tagged manifest each.
func pushSmall(ctx context.Context, e *env) (result, error) {
	const clients = 16
	images := e.set.Images()
	push := e.pusher()
	return e.withFresh(ctx, kept, func(srv *server) (result, error) {
		done := 0
		cost, err := e.measure(ctx, srv, func() error {
			end := time.Now().Add(e.plan.Duration)
			return load.Each(ctx, srv.Addr, clients, len(images), func(c *load.Client, i int) error {
				if time.Now().After(end) {
					return nil
				}
				repository := fmt.Sprintf("bench/app%d", i%clients)
				for _, b := range images[i].Blobs {
					if err := push(c, repository, b); err != nil {
						return err
					}
				}
				done++
				return content.PushManifest(c, content.PlacedManifest{
					Repository: repository, Tag: fmt.Sprintf("v%d", i), Type: content.ManifestType, Body: images[i].Manifest,
				})
			})
		})
		return rate(done, 1, cost), err
	})
}

// pushBig pushes one big blob.
func pushBig(ctx context.Context, e *env) (result, error) {
	return e.pushBlobs(ctx, e.pusher(), 1, blobsOf(e.set.Big()))
}

// streamBig is pushBig as Docker does it.
func streamBig(ctx context.Context, e *env) (result, error) {
	push := e.set.StreamBlob()
	if e.peer.Kind == peer.WriteLimit {
		push = content.PutBlob
	}
	return e.pushBlobs(ctx, push, 1, blobsOf(e.set.Big()))
}

// pushBatch pushes large blobs, 8 at a time.
func pushBatch(ctx context.Context, e *env) (result, error) {
	return e.pushBlobs(ctx, e.pusher(), 8, e.set.Batch())
}

func (e *env) pushBlobs(ctx context.Context, push content.Pusher, clients int, blobs []content.Blob) (result, error) {
	return e.withFresh(ctx, removed, func(srv *server) (result, error) {
		cost, err := e.measure(ctx, srv, func() error {
			return load.Each(ctx, srv.Addr, clients, len(blobs), func(c *load.Client, i int) error {
				return push(c, "bench/push", blobs[i])
			})
		})
		return rate(len(blobs), float64(blobs[0].Body.Len())/mib, cost), err
	})
}

func blobsOf(p *content.Part) []content.Blob {
	var blobs []content.Blob
	for _, b := range p.Blobs {
		blobs = append(blobs, b.Blob)
	}
	return blobs
}

// mount links blobs of one repository to others, for a while.
func mount(ctx context.Context, e *env) (result, error) {
	const clients, perRepository = 16, 64
	source := e.set.ReadBlobs()
	srv, err := e.servers.keep(ctx, "mounts", source)
	if err != nil {
		return result{}, err
	}
	run, next := e.servers.next(), 0 // no two runs mount to the same repository
	n, cost, err := e.repeat(ctx, srv, clients, func(c *load.Client, _ *rand.Rand) error {
		i := next
		next++
		b := source.Blobs[i%perRepository]
		_, err := c.Expect(201, content.Mount(fmt.Sprintf("bench/mount%d-%d", run, i/perRepository), b.Repository, b.Digest))
		return err
	})
	return rate(n, 1, cost), err
}

// newTags puts manifests under new tags into a repository that has many. They stay, so the
// repository grows from run to run, for every server alike.
func newTags(ctx context.Context, e *env) (result, error) {
	const clients = 16
	srv, err := e.servers.keep(ctx, "main", e.set.ManyTags())
	if err != nil {
		return result{}, err
	}
	manifests := e.set.NewTags(e.servers.next())
	cost, err := e.measure(ctx, srv, func() error {
		return load.Each(ctx, srv.Addr, clients, len(manifests), func(c *load.Client, i int) error {
			return content.PushManifest(c, manifests[i])
		})
	})
	return rate(len(manifests), 1, cost), err
}
