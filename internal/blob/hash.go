package blob

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// HashObject reads an object and returns its digest and its size in bytes. It
// fails with ErrNotFound if there is none, and when ctx ends.
func HashObject(ctx context.Context, store Store, key string, alg oci.Algorithm) (oci.Digest, int64, error) {
	r, err := store.Open(ctx, key)
	if err != nil {
		return oci.Digest{}, 0, err
	}
	defer r.Close()
	h := alg.New()
	b := newBuffer(largeBuffer)
	defer b.release()
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return oci.Digest{}, 0, fmt.Errorf("hash object %s: %w", key, err)
		}
		n, err := fill(r, b.bytes, time.Time{})
		h.Write(b.bytes[:n])
		size += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return oci.Digest{}, 0, fmt.Errorf("hash object %s: %w", key, err)
		}
	}
	if size != r.Size() {
		return oci.Digest{}, 0, fmt.Errorf("hash object %s: read %d bytes of %d: %w", key, size, r.Size(), io.ErrUnexpectedEOF)
	}
	return oci.DigestOf(alg, h), size, nil
}
