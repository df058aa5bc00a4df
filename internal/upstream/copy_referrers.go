package upstream

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/oci"
)

// cosignSuffixes end the tags under which cosign keeps what belongs to the manifest
// whose digest the tag begins with.
func cosignSuffixes() []string { return []string{".sig", ".att", ".sbom"} }

// Referrers copies what refers to the manifests that Copy has copied since the last call, if
// CopyOptions.Referrers is set: the manifests that name them as their subject and
// cosign's tags, and in turn what refers to those.
func (c *Copier) Referrers(ctx context.Context) error {
	at := newWalk()
	asked := map[oci.Digest]bool{}
	for {
		c.mu.Lock()
		round := c.manifests
		c.manifests = nil
		c.mu.Unlock()
		if len(round) == 0 {
			return nil
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(max(c.opt.Parallel, 2))
		for _, d := range round {
			if asked[d] {
				continue
			}
			asked[d] = true
			group.Go(func() error { return c.referrersOf(ctx, d, at) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
}

func (c *Copier) referrersOf(ctx context.Context, d oci.Digest, at *walk) error {
	list, err := c.listReferrers(ctx, d)
	if err != nil {
		return err
	}
	for _, desc := range list {
		next, err := at.down()
		if err != nil {
			return c.from.fail("read referrers of "+d.String(), err)
		}
		if err := c.child(ctx, desc, next); err != nil {
			return err
		}
	}
	for _, suffix := range cosignSuffixes() {
		tag, err := oci.ParseTag(string(d.Algorithm()) + "-" + d.Encoded() + suffix)
		if err != nil {
			continue // too long with SHA-512, so cosign does not use it
		}
		if err := c.cosignTag(ctx, tag, at); err != nil {
			return err
		}
	}
	return nil
}

func (c *Copier) listReferrers(ctx context.Context, d oci.Digest) ([]oci.Descriptor, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	defer c.release()
	return c.from.Referrers(ctx, d, "")
}

// cosignTag copies what is tagged so, if anything is.
func (c *Copier) cosignTag(ctx context.Context, tag oci.Tag, at *walk) error {
	m, err := c.fetch(ctx, oci.Reference{Tag: tag})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	next, err := at.down()
	if err != nil {
		return c.from.fail("read referrers", err)
	}
	if err := c.below(ctx, m, next); err != nil {
		return err
	}
	outcome, err := c.put(ctx, m, oci.Reference{Tag: tag})
	if err != nil {
		return err
	}
	c.observe.Done(oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Body))}, outcome)
	return nil
}
