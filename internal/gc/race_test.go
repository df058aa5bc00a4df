package gc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// TestRaces lets pushes race with collections, thousands of times. A client that got hold of a
// blob, in whichever way, can name it in a manifest for the grace period; and whatever
// the grace period, a manifest that was acknowledged never loses a blob.
func TestRaces(t *testing.T) {
	for _, run := range []struct {
		grace    time.Duration
		attempts int64
	}{{0, 700}, {2 * time.Millisecond, 700}, {20 * time.Millisecond, 700}, {time.Second, 300}} {
		t.Run(run.grace.String(), func(t *testing.T) { race(t, newWorld(t, run.grace, time.Hour), run.grace, run.attempts) })
	}
}

// TestRacesOnPostgres is the same where many transactions run at a time.
func TestRacesOnPostgres(t *testing.T) {
	for _, grace := range []time.Duration{0, 20 * time.Millisecond, 3 * time.Second} {
		t.Run(grace.String(), func(t *testing.T) {
			race(t, newWorldOn(t, service.Postgres(t).URL, grace, time.Hour), grace, 300)
		})
	}
}

// racers is how many clients push at a time.
const racers = 6

// contest is one run of the race.
type contest struct {
	*world
	grace time.Duration
	left  atomic.Int64 // attempts

	inTime, late, refused atomic.Int64 // pushes of manifests
}

func race(t *testing.T, w *world, grace time.Duration, attempts int64) {
	c := &contest{world: w, grace: grace}
	defer c.close()
	c.left.Store(attempts)

	ctx, stop := context.WithCancel(t.Context())
	var collecting, pushing sync.WaitGroup
	var links, blobs atomic.Int64
	for range 2 {
		collecting.Go(func() {
			for ctx.Err() == nil {
				res, err := c.collector.Collect(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				links.Add(res.Links)
				blobs.Add(res.Blobs)
			}
		})
	}
	for i := range racers {
		pushing.Go(func() { c.client(i) })
	}
	pushing.Wait()
	stop()
	collecting.Wait()
	t.Logf("manifests in time: %d, late: %d, refused: %d; collected: %d links, %d blobs",
		c.inTime.Load(), c.late.Load(), c.refused.Load(), links.Load(), blobs.Load())
	if grace <= 20*time.Millisecond && blobs.Load() == 0 {
		t.Error("nothing was collected, so nothing was raced")
	}
	if grace >= time.Second && c.inTime.Load() == 0 {
		t.Error("no manifest came within the grace period")
	}
	c.vanish()
}

// client gets blobs and pushes manifests of them until no attempt is left. It deletes them
// later, so that blobs come and go.
func (c *contest) client(n int) {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(c.grace)))
	type pushed struct {
		repo   oci.Repository
		digest oci.Digest
		blobs  [][]byte
	}
	var live []pushed
	check := func(p pushed) {
		for _, b := range p.blobs {
			if got, err := c.read(p.repo, digestOf(b)); err != nil || !bytes.Equal(got, b) {
				c.Errorf("the acknowledged manifest %s@%s lost a blob: got %q, %v", p.repo, p.digest, got, err)
			}
		}
	}
	for i := 0; c.left.Add(-1) >= 0 && !c.Failed(); i++ {
		r := oci.Repository(fmt.Sprintf("race/%d", rng.IntN(3)))
		begun := time.Now()
		var blobs [][]byte
		for range 1 + rng.IntN(2) {
			// Few contents, so that clients meet.
			b := text("content %d", rng.IntN(12))
			if err := c.get(rng, r, b); err != nil {
				c.Errorf("get hold of a blob: %v", err)
				return
			}
			blobs = append(blobs, b)
		}
		if c.grace < time.Second {
			time.Sleep(time.Duration(rng.Int64N(int64(3*c.grace/2) + 1)))
		}
		digests := make([]oci.Digest, len(blobs))
		for i, b := range blobs {
			digests[i] = digestOf(b)
		}
		d, err := c.tryTag(r, "", image(fmt.Sprint(n, i), digests...))
		inTime := time.Since(begun) < c.grace
		e, _ := errors.AsType[*oci.Error](err)
		switch {
		case err == nil && inTime:
			c.inTime.Add(1)
		case err == nil:
			c.late.Add(1)
		case e == nil || e.Code != oci.CodeManifestBlobUnknown:
			c.Errorf("push a manifest: %v", err)
		case inTime:
			c.Errorf("a blob was collected within the grace period of %s: %v", c.grace, err)
		default:
			c.refused.Add(1)
		}
		if err == nil {
			live = append(live, pushed{r, d, blobs})
			check(live[len(live)-1])
		}
		if len(live) > 4 {
			k := rng.IntN(len(live))
			check(live[k])
			c.deleteManifest(live[k].repo, live[k].digest)
			live = append(live[:k], live[k+1:]...)
		}
	}
	for _, p := range live {
		check(p)
		c.deleteManifest(p.repo, p.digest)
	}
}

// get makes sure, in one of the ways there are, that the repository has the blob.
func (c *contest) get(rng *rand.Rand, r oci.Repository, b []byte) error {
	ctx, d := c.Context(), digestOf(b)
	switch rng.IntN(4) {
	case 0:
		if _, err := c.reg.CheckBlob(ctx, r, d); err == nil || !unknown(err) {
			return err
		}
	case 1:
		from := oci.Repository(fmt.Sprintf("race/%d", rng.IntN(3)))
		if ok, err := c.reg.MountBlob(ctx, r, from, d); ok || err != nil {
			return err
		}
	case 2:
		s := c.reg.StartUpload(r, oci.SHA256, 0)
		if _, err := c.reg.AppendUpload(ctx, s, body(b[:4])); err != nil {
			return err
		}
		return c.reg.FinishUpload(ctx, s, d, body(b[4:]))
	}
	return c.reg.PutBlob(ctx, r, d, body(b))
}

// vanish waits until everything has been collected, for no manifest is left.
func (c *contest) vanish() {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(c.grace/4 + time.Millisecond) {
		c.collect()
		blobs, size, err := c.db.Totals(c.Context())
		if err != nil {
			c.Fatal(err)
		}
		if blobs == 0 && size == 0 && c.files() == 0 {
			for i := range 3 {
				if there, err := c.db.RepositoryExists(c.Context(), oci.Repository(fmt.Sprintf("race/%d", i))); there || err != nil {
					c.Errorf("repository %d is empty and still there, %v", i, err)
				}
			}
			return
		}
	}
	c.Errorf("a minute after the last manifest went, %d objects are left", c.files())
}
