package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// content is bytes that are made anew from a seed whenever they are needed.
type content struct {
	seed   uint64
	size   int
	digest oci.Digest
}

// sizes are small ones, and the edges of a part of a bucket's uploads.
var sizes = []int{0, 1, 100, 4096, 70_000, 300_000, 1 << 20, 5<<20 - 1, 5 << 20, 5<<20 + 1, 9 << 20}

// newContent returns content that nobody has seen before, seldom large.
func newContent(rng *rand.Rand) content {
	n := len(sizes)
	if rng.IntN(8) > 0 {
		n = 6
	}
	return makeContent(rng.Uint64(), sizes[rng.IntN(n)])
}

func makeContent(seed uint64, size int) content {
	c := content{seed: seed, size: size}
	c.digest = oci.DigestBytes(oci.SHA256, c.bytes())
	return c
}

func (c content) bytes() []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], c.seed)
	b := make([]byte, c.size)
	rand.NewChaCha8(key).Read(b)
	return b
}

func (c content) reader() *bytes.Reader { return bytes.NewReader(c.bytes()) }

// image is a manifest that was acknowledged, with its blobs.
type image struct {
	repo, tag string
	digest    oci.Digest
	manifest  []byte
	blobs     []content
}

func newImage(rng *rand.Rand, repo, tag string, blobs ...content) image {
	type descriptor struct {
		MediaType string     `json:"mediaType"`
		Digest    oci.Digest `json:"digest"`
		Size      int        `json:"size"`
	}
	var parts []descriptor
	for _, b := range blobs {
		parts = append(parts, descriptor{"application/octet-stream", b.digest, b.size})
	}
	i := image{repo: repo, tag: tag, blobs: blobs, manifest: harness.JSON(map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": parts[0], "layers": parts[1:],
		"annotations": map[string]string{"nonce": fmt.Sprint(rng.Uint64())},
	})}
	i.digest = oci.DigestBytes(oci.SHA256, i.manifest)
	return i
}
