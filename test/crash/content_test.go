package crash

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"

	"github.com/berthregistry/berth/internal/oci"
)

// content is bytes that are made anew from a seed whenever they are needed.
type content struct {
	seed   uint64
	size   int
	digest oci.Digest
}

// sizes are the edges of buffers, and what lies between them.
var sizes = []int{0, 1, 2, 100, 4095, 4096, 4097, 28<<10 + 1, 32 << 10, 100_000, 256 << 10, 256<<10 + 1, 700_000, 2 << 20}

// newContent returns content that nobody has seen before.
func newContent(rng *rand.Rand) content {
	size := sizes[rng.IntN(len(sizes))]
	if size > 100 && rng.IntN(2) == 0 {
		size += rng.IntN(size)
	}
	return makeContent(rng.Uint64(), size, rng)
}

func makeContent(seed uint64, size int, rng *rand.Rand) content {
	c := content{seed: seed, size: size}
	alg := oci.SHA256
	if rng.IntN(8) == 0 {
		alg = oci.SHA512
	}
	c.digest = oci.DigestBytes(alg, c.bytes())
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
