package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berthregistry/berth/internal/oci"
)

const (
	// stallLimit is how long a download may send nothing before it counts as broken off.
	stallLimit = time.Minute
	// maxFailures is how often in a row a transfer may fail without moving on.
	maxFailures = 4
)

// BlobSize returns a blob's size in bytes, with a HEAD request. The error wraps ErrNotFound if
// there is none.
func (r *Repository) BlobSize(ctx context.Context, d oci.Digest) (int64, error) {
	size, err := r.blobSize(ctx, d)
	return size, r.fail("check blob "+d.String(), err)
}

func (r *Repository) blobSize(ctx context.Context, d oci.Digest) (int64, error) {
	desc, err := r.remote.Blobs().Resolve(ctx, d.String())
	return desc.Size, err
}

// Blob reads a blob from offset on. When the connection breaks off, or nothing comes for a
// minute, the Reader goes on where it stopped with a range request; it ends with
// an error if that fails again and again, and if the blob is not d.Size bytes long.
// The digest is not checked, since the bytes may begin in the middle. The Reader is
// used by one goroutine at a time.
func (r *Repository) Blob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset < 0 || offset > d.Size {
		return nil, fmt.Errorf("offset %d lies outside of a blob of %d bytes", offset, d.Size)
	}
	b := &blobReader{repo: r, ctx: ctx, desc: d, pos: offset}
	if err := b.open(); err != nil {
		return nil, b.fail(err)
	}
	return b, nil
}

// BlobBytes returns a whole blob of at most limit bytes, checked against its digest.
func (r *Repository) BlobBytes(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, r.fail("get blob "+d.Digest.String(), fmt.Errorf("it has %d bytes, at most %d are read", d.Size, limit))
	}
	b, err := r.Blob(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	body, err := io.ReadAll(b)
	if err != nil {
		return nil, err
	}
	if got := oci.DigestBytes(d.Digest.Algorithm(), body); got != d.Digest {
		return nil, r.fail("get blob "+d.Digest.String(), &wrongContent{got})
	}
	return body, nil
}

// wrongContent is the error for bytes that are not what their digest says.
type wrongContent struct{ got oci.Digest }

func (e *wrongContent) Error() string {
	return "the registry sent wrong content, its digest is " + e.got.String()
}

// blobReader is the Reader of Blob.
type blobReader struct {
	repo *Repository
	ctx  context.Context
	desc oci.Descriptor
	pos  int64 // of the next byte

	body     io.ReadCloser // nil when there is no connection
	cancel   context.CancelFunc
	stall    *time.Timer
	failures int   // since the last byte
	err      error // what ended the Reader
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.body == nil {
			if err := b.open(); err != nil {
				b.broken(err)
			}
			continue
		}
		// Reading beyond the end shows whether the blob ends where it should.
		b.stall.Reset(stallLimit)
		n, err := b.body.Read(p)
		b.stall.Stop()
		b.pos += int64(n)
		switch {
		case b.pos > b.desc.Size:
			b.close()
			b.err = b.fail(fmt.Errorf("the registry sent more than the %d bytes that the manifest says", b.desc.Size))
			return 0, b.err
		case err == io.EOF && b.pos == b.desc.Size:
			b.err = io.EOF
		case err == io.EOF:
			b.broken(io.ErrUnexpectedEOF)
		case err != nil:
			b.broken(err)
		}
		if n > 0 {
			b.failures = min(b.failures, 1)
			return n, nil
		}
	}
	return 0, b.err
}

// broken drops the connection and waits before the next, or ends the Reader.
func (b *blobReader) broken(err error) {
	b.close()
	b.failures++
	var answer *Error
	lasting := errors.As(err, &answer) && !transient(answer.Status)
	if b.ctx.Err() != nil || lasting || b.failures > maxFailures {
		b.err = b.fail(err)
		return
	}
	if err := pause(b.ctx, b.failures); err != nil {
		b.err = b.fail(err)
	}
}

// open connects at the current position.
func (b *blobReader) open() error {
	ctx, cancel := context.WithCancel(b.repo.scope(b.ctx, auth.ActionPull))
	body, err := b.repo.openBlob(ctx, b.desc, b.pos)
	if err != nil {
		cancel()
		return err
	}
	b.body, b.cancel = body, cancel
	b.stall = time.AfterFunc(stallLimit, cancel)
	b.stall.Stop()
	return nil
}

func (b *blobReader) close() {
	if b.body == nil {
		return
	}
	b.stall.Stop()
	b.cancel()
	b.body.Close()
	b.body = nil
}

// Close implements io.Closer.
func (b *blobReader) Close() error {
	b.close()
	if b.err == nil {
		b.err = errors.New("read after close")
	}
	return nil
}

func (b *blobReader) fail(err error) error {
	return b.repo.fail("get blob "+b.desc.Digest.String(), err)
}

// openBlob sends one request for the bytes from offset on.
func (r *Repository) openBlob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset == d.Size && offset > 0 {
		return http.NoBody, nil // no range is left to ask for
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url("blobs", d.Digest.String()), nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.client.http.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != d.Size {
			resp.Body.Close()
			return nil, fmt.Errorf("the registry has %d bytes, not the %d that the manifest says", resp.ContentLength, d.Size)
		}
		// The registry takes no ranges: what is known already is read once more.
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, err
		}
		return resp.Body, nil
	case http.StatusPartialContent:
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", offset)) {
			resp.Body.Close()
			return nil, fmt.Errorf("the registry answered the range from %d with %q", offset, Printable(got))
		}
		return resp.Body, nil
	}
	defer resp.Body.Close()
	return nil, responseError(resp)
}

// transient tells whether a request that was answered so may succeed later.
func transient(status int) bool {
	switch status {
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false
	case http.StatusUnauthorized, // a token ran out; the next request brings a new one
		http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusRequestedRangeNotSatisfiable:
		return true
	}
	return status >= 500
}

// pause waits longer after each failure in a row.
func pause(ctx context.Context, failures int) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(250 * time.Millisecond << min(failures-1, 5)):
		return nil
	}
}
