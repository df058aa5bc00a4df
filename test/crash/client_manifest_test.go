package crash

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

func newReader(b []byte) *bytes.Reader { return bytes.NewReader(b) }

// pushImage pushes one to four blobs and a manifest of them, by tag or by digest.
func (c *client) pushImage(ctx context.Context) error {
	var blobs []content
	for range 1 + c.rng.IntN(3) {
		b, err := c.pushBlob(ctx)
		if err != nil {
			return err
		}
		blobs = append(blobs, b)
	}
	return c.putManifest(ctx, blobs)
}

func (c *client) putManifest(ctx context.Context, blobs []content) error {
	type descriptor struct {
		MediaType string     `json:"mediaType"`
		Digest    oci.Digest `json:"digest"`
		Size      int        `json:"size"`
	}
	m := manifest{mediaType: oci.MediaTypeImage}
	var parts []descriptor
	for _, b := range blobs {
		parts = append(parts, descriptor{"application/octet-stream", b.digest, b.size})
		m.blobs = append(m.blobs, b.digest)
	}
	m.body = harness.JSON(map[string]any{
		"schemaVersion": 2, "mediaType": m.mediaType, "config": parts[0], "layers": parts[1:],
		"annotations": map[string]string{"nonce": fmt.Sprint(c.rng.Uint64())},
	})
	return c.sendManifest(ctx, m)
}

// pushAgain gives a manifest that is there another tag.
func (c *client) pushAgain(ctx context.Context) error {
	d, ok := some(c.rng, c.repo.manifests)
	if !ok {
		return nil
	}
	return c.sendManifest(ctx, c.repo.manifests[d])
}

func (c *client) sendManifest(ctx context.Context, m manifest) error {
	d := oci.DigestBytes(oci.SHA256, m.body)
	var tags []string
	path := "manifests/" + d.String()
	switch c.rng.IntN(4) {
	case 0: // no tag
	case 1:
		tags = []string{c.tag(), c.tag(), c.tag()}
		path += "?tag=" + tags[0] + "&tag=" + tags[1] + "&tag=" + tags[2]
	default:
		tags = []string{c.tag()}
		path = "manifests/" + tags[0]
	}
	op := operation{
		what: "manifest " + d.String(),
		apply: func() {
			c.repo.manifests[d] = m
			for _, tag := range tags {
				c.repo.setTag(tag, d)
			}
		},
		// All tags or none, but some may have pointed there before.
		happened: func() bool {
			for _, ref := range append(slices.Clone(tags), d.String()) {
				if c.digestOf("manifests/"+ref) != d.String() {
					return false
				}
			}
			return true
		},
	}
	_, err := c.change(ctx, op, http.StatusCreated, "PUT", c.repo.path(path), newReader(m.body), harness.Header{"Content-Type": m.mediaType})
	return err
}

// tag returns one of few names, so that tags move.
func (c *client) tag() string { return fmt.Sprintf("t%d", c.rng.IntN(12)) }

func (c *client) deleteTag(ctx context.Context) error {
	tags := slices.Sorted(maps.Keys(c.repo.tags))
	if len(tags) == 0 {
		return nil
	}
	tag := tags[c.rng.IntN(len(tags))]
	_, err := c.change(ctx, operation{
		what:     "delete of tag " + tag,
		apply:    func() { c.repo.setTag(tag, oci.Digest{}) },
		happened: func() bool { return !c.has("manifests/" + tag) },
	}, http.StatusAccepted, "DELETE", c.repo.path("manifests/"+tag), nil)
	return err
}

func (c *client) deleteManifest(ctx context.Context) error {
	// The last manifest stays, so that the repository and its log do.
	d, ok := some(c.rng, c.repo.manifests)
	if !ok || len(c.repo.manifests) == 1 {
		return nil
	}
	_, err := c.change(ctx, operation{
		what:     "delete of manifest " + d.String(),
		apply:    func() { c.repo.deleteManifest(d) },
		happened: func() bool { return !c.has("manifests/" + d.String()) },
	}, http.StatusAccepted, "DELETE", c.repo.path("manifests/"+d.String()), nil)
	return err
}

// deleteBlob deletes a blob, which is refused if a manifest needs it.
func (c *client) deleteBlob(ctx context.Context) error {
	d, ok := some(c.rng, c.repo.blobs)
	if !ok {
		return nil
	}
	path := c.repo.path("blobs/" + d.String())
	if c.repo.needed(d) {
		_, err := c.ask(ctx, http.StatusMethodNotAllowed, "DELETE", path, nil)
		return err
	}
	b := c.repo.blobs[d]
	c.market.withdraw(c.repo.name, b)
	_, err := c.change(ctx, operation{
		what:     "delete of blob " + d.String(),
		apply:    func() { delete(c.repo.blobs, d) },
		happened: func() bool { return !c.has("blobs/" + d.String()) },
	}, http.StatusAccepted, "DELETE", path, nil)
	return err
}
