package move

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// copyBlob copies a blob's bytes to a new object and notes it. It returns the blob's size in bytes, or -1 if there
// is nothing to copy: the blob was collected meanwhile, or it is damaged, which is reported.
func (m *mover) copyBlob(ctx context.Context, b meta.MovingBlob) (int64, error) {
	for {
		what, err := m.transfer(ctx, b)
		if err == nil && what == "" {
			return b.Size, nil
		}
		if err != nil {
			return 0, err
		}
		// In a registry that is served, a blob can be collected, or get a new object in place of a broken one.
		now, err := m.From.DB.MovingBlobs(ctx, b.ID-1, 1)
		if err != nil {
			return 0, err
		}
		if len(now) == 0 || now[0].ID != b.ID {
			return -1, nil
		}
		if now[0] == b {
			return -1, m.damage(ctx, b, what)
		}
		b = now[0]
	}
}

// transfer does what copyBlob does with a blob that stays as it is. It returns what is wrong with the source's bytes, if that
// is why nothing was copied.
func (m *mover) transfer(ctx context.Context, b meta.MovingBlob) (damage string, err error) {
	want, err := oci.ParseDigest(b.Digest)
	if err != nil {
		return "", err
	}
	from, err := m.From.Blobs.Open(ctx, b.Key)
	if err != nil {
		return broken(ctx, fmt.Sprintf("its bytes (object %s) cannot be opened", b.Key), err)
	}
	defer from.Close()
	if from.Size() != b.Size {
		return fmt.Sprintf("object %s has %d bytes, the database says %d", b.Key, from.Size(), b.Size), nil
	}
	w, err := m.To.Blobs.Create(ctx)
	if err != nil {
		return "", fmt.Errorf("create an object: %w", err)
	}
	up := blob.NewUpload(w, want.Algorithm())
	defer up.Close()
	counted := &counter{r: from, add: m.Progress.Add}
	if _, err := up.ReadFrom(ctx, counted); err != nil {
		m.Progress.Add(-counted.n)
		up.Abort()
		if read, ok := errors.AsType[*blob.ReadError](err); ok {
			return broken(ctx, fmt.Sprintf("its bytes (object %s) cannot be read", b.Key), read.Err)
		}
		return "", fmt.Errorf("write object %s: %w", up.Key(), err)
	}
	if up.Digest() != want || up.Size() != b.Size {
		m.Progress.Add(-counted.n)
		up.Abort()
		return fmt.Sprintf("the %d bytes of object %s are %s", up.Size(), b.Key, up.Digest()), nil
	}
	if err := up.Commit(ctx); err != nil {
		return "", fmt.Errorf("commit object %s: %w", up.Key(), err)
	}
	moved := meta.MovingBlob{ID: b.ID, Digest: b.Digest, Size: b.Size, Key: up.Key()}
	if m.verify {
		if whole, err := m.whole(ctx, moved); err != nil || !whole {
			return "", errors.Join(fmt.Errorf("object %s is not as it was written", up.Key()), err)
		}
	}
	if err := m.To.DB.NoteMoved(ctx, moved); err != nil {
		return "", fmt.Errorf("note object %s: %w", up.Key(), err)
	}
	return "", nil
}

// broken sorts an error of reading the source: bytes that are not there or cannot be read stop their blob, a
// store that does not serve stops the move.
func broken(ctx context.Context, what string, err error) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if errors.Is(err, blob.ErrUnavailable) {
		return "", err
	}
	return fmt.Sprintf("%s: %v", what, err), nil
}

// counter tells how many bytes are read.
type counter struct {
	r   io.Reader
	n   int64
	add func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.add(int64(n))
	return n, err
}

// maxDamaged bounds how many damaged blobs are remembered, in order not to name them twice. A store with more is lost.
const maxDamaged = 10_000

// damage reports a blob that cannot be copied.
func (m *mover) damage(ctx context.Context, b meta.MovingBlob, what string) error {
	repositories, err := m.From.DB.Needed(ctx, b.ID, 3)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report.Damaged++
	if m.known[b.ID] {
		return nil
	}
	if len(m.known) < maxDamaged {
		m.known[b.ID] = true
	}
	m.Options.Damaged(Damage{Digest: b.Digest, What: what, NeededBy: repositories})
	return nil
}

// check looks at every noted object. What is missing or wrong is forgotten, so that the next pass copies it again.
func (m *mover) check(ctx context.Context) error {
	total, _, err := m.To.DB.MovedTotals(ctx)
	if err != nil {
		return err
	}
	m.Progress.Begin(Check, 0, total)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4 * m.Parallel) // each is one small request
	err = func() error {
		for after := int64(0); ; {
			page, err := m.To.DB.MovedObjects(ctx, after, 1<<63-1, blobPage)
			if err != nil || len(page) == 0 || ctx.Err() != nil {
				return err
			}
			for _, o := range page {
				after = o.ID
				group.Go(func() error {
					defer m.Progress.Add(1)
					return m.checkObject(ctx, o)
				})
			}
		}
	}()
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	return err
}

func (m *mover) checkObject(ctx context.Context, o meta.MovingBlob) error {
	whole, err := m.whole(ctx, o)
	if err != nil {
		return fmt.Errorf("check object %s: %w", o.Key, err)
	}
	if whole {
		return nil
	}
	if err := m.To.DB.ForgetMoved(ctx, o.Key); err != nil {
		return fmt.Errorf("forget object %s: %w", o.Key, err)
	}
	if err := m.To.Blobs.Delete(ctx, o.Key); err != nil {
		return fmt.Errorf("delete object %s: %w", o.Key, err)
	}
	return nil
}

// whole tells whether an object of the target is what it should be.
func (m *mover) whole(ctx context.Context, o meta.MovingBlob) (bool, error) {
	if !m.Deep {
		size, err := m.To.Blobs.Stat(ctx, o.Key)
		if errors.Is(err, blob.ErrNotFound) {
			return false, nil
		}
		return size == o.Size, err
	}
	want, err := oci.ParseDigest(o.Digest)
	if err != nil {
		return false, err
	}
	got, size, err := blob.HashObject(ctx, m.To.Blobs, o.Key, want.Algorithm())
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	}
	return got == want && size == o.Size, err
}
