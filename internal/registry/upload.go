package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

const (
	// checkpointBytes says how much of a body is sent again at most after a crash.
	checkpointBytes = 64 << 20
	// checkpointAge is the time after which bytes are in a checkpoint, however few they are.
	checkpointAge = 10 * time.Minute
	// maxRowless is how long an upload may go without a row. Since checkpoints are made by time,
	// too, only a machine that was suspended meanwhile gets there; the collector may have
	// swept the object then.
	maxRowless = 3 * checkpointAge
)

// Body is what a client sends of a blob.
type Body struct {
	io.Reader
	// First is the offset that the client says the bytes begin at, or -1.
	First int64
	// Length is how many bytes the client has announced; 0 if it has not.
	Length int64
	// Interrupt makes a Read that waits fail. It is called from any goroutine, never after the request has
	// ended, and must not wait for anything.
	Interrupt func()
}

// OffsetError says that a client's bytes do not follow those that are here.
type OffsetError struct{ Size int64 } // how many bytes are here

// Error implements error.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("the upload has %d bytes", e.Size)
}

// BodyError says that a client's body did not arrive whole. What did is kept.
type BodyError struct{ Err error }

// Error implements error.
func (e *BodyError) Error() string { return "read the body: " + e.Err.Error() }

// Unwrap returns the failure of the reader.
func (e *BodyError) Unwrap() error { return e.Err }

// receiving is a request that is sending the bytes of a session.
type receiving struct {
	interrupt func()
	done      chan struct{}
}

// acquire makes the caller the only one who sends to a session. One that is at
// it is interrupted: its client has lost the connection and the server has not noticed.
func (g *Registry) acquire(ctx context.Context, id string, interrupt func()) (release func(), err error) {
	mine := &receiving{interrupt: interrupt, done: make(chan struct{})}
	for {
		g.mu.Lock()
		other := g.active[id]
		if other == nil {
			g.active[id] = mine
			g.mu.Unlock()
			return func() {
				g.mu.Lock()
				delete(g.active, id)
				g.mu.Unlock()
				close(mine.done)
			}, nil
		}
		// Under the lock, because it must not come after the other one's request has ended: its
		// connection may be serving the next one by then.
		other.interrupt()
		g.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// find returns a session's row, nil if it holds no bytes yet.
func (g *Registry) find(ctx context.Context, s Session) (*meta.Upload, error) {
	u, err := g.db.Upload(ctx, s.Repository, s.ID)
	switch {
	case errors.Is(err, meta.ErrNotFound):
		if time.Since(s.Started) > g.opts.UploadExpiry || g.ended.Contains(s.ID) {
			return nil, uploadUnknown(s)
		}
		return nil, nil
	case errors.Is(err, meta.ErrCancelled):
		return nil, uploadUnknown(s)
	case err != nil:
		return nil, fmt.Errorf("upload %s: %w", s.ID, err)
	}
	return u, nil
}

// UploadSize returns how many bytes of a session are here (spec.md#pushing-a-blob-in-chunks, end-13).
func (g *Registry) UploadSize(ctx context.Context, s Session) (int64, error) {
	row, err := g.find(ctx, s)
	if err != nil || row == nil {
		return 0, err
	}
	return row.Size, nil
}

// CancelUpload ends a session (spec.md#cancel-a-blob-upload).
func (g *Registry) CancelUpload(ctx context.Context, s Session) error {
	release, err := g.acquire(ctx, s.ID, func() {})
	if err != nil {
		return err
	}
	defer release()
	if _, err := g.find(ctx, s); err != nil {
		return err
	}
	err = g.db.CancelUpload(ctx, s.Repository, s.ID, s.Algorithm, s.Account, time.Now())
	if errors.Is(err, meta.ErrCancelled) {
		return uploadUnknown(s)
	}
	if err != nil {
		return fmt.Errorf("cancel upload %s: %w", s.ID, err)
	}
	return nil
}

// AppendUpload adds bytes to a session and returns how many it has now, all durable.
// It fails with an *OffsetError if the bytes do not follow, and leaves the session as it is.
// What came before a failure of the body is kept: the client can go on.
func (g *Registry) AppendUpload(ctx context.Context, s Session, body Body) (int64, error) {
	release, err := g.acquire(ctx, s.ID, body.Interrupt)
	if err != nil {
		return 0, err
	}
	defer release()
	row, err := g.find(ctx, s)
	if err != nil {
		return 0, err
	}
	in, err := g.open(ctx, s, row, oci.Digest{}, body)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if err := in.receive(ctx, body); err != nil {
		return 0, err
	}
	if err := in.suspend(ctx); err != nil {
		return 0, err
	}
	return in.Size(), nil
}

// FinishUpload adds the last bytes to a session, if there are any, and makes it
// a blob of the repository.
func (g *Registry) FinishUpload(ctx context.Context, s Session, d oci.Digest, body Body) error {
	release, err := g.acquire(ctx, s.ID, body.Interrupt)
	if err != nil {
		return err
	}
	defer release()
	if g.ended.Contains(s.ID) && g.stored(ctx, s.Repository, d) {
		// The client did not get the answer and asks again. What it sends again is not needed.
		if _, err := io.Copy(io.Discard, body); err != nil {
			return &BodyError{err}
		}
		return nil
	}
	row, err := g.find(ctx, s)
	if err != nil {
		return err
	}
	if row == nil {
		s.Algorithm = d.Algorithm() // nothing has been hashed yet
	}
	in, err := g.open(ctx, s, row, d, body)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := in.receive(ctx, body); err != nil {
		return err
	}
	if row == nil && in.Size() == 0 && d != in.Digest() && g.stored(ctx, s.Repository, d) {
		in.Abort() // asked again, too
		return nil
	}
	if err := in.finish(ctx, d); err != nil {
		return err
	}
	g.ended.Add(s.ID, struct{}{})
	return nil
}

// stored tells whether the repository has a blob for sure: the touch waits until what may
// just have been written is durable.
func (g *Registry) stored(ctx context.Context, r oci.Repository, d oci.Digest) bool {
	b, err := g.Blob(ctx, r, d)
	return err == nil && g.intact(ctx, b.Key, b.Size) && g.db.TouchBlob(ctx, r, d, time.Now()) == nil
}

// PutBlob stores a blob that is sent in one request (spec.md#single-post).
func (g *Registry) PutBlob(ctx context.Context, r oci.Repository, d oci.Digest, body Body) error {
	in, err := g.open(ctx, g.StartUpload(r, d.Algorithm(), 0), nil, d, body)
	if err != nil {
		return err
	}
	defer in.Close()
	in.secret = true
	if err := in.receive(ctx, body); err != nil {
		return err
	}
	return in.finish(ctx, d)
}

// incoming is a blob whose bytes are arriving.
type incoming struct {
	*blob.Upload
	g       *Registry
	session Session
	row     *meta.Upload // nil while there is none
	since   time.Time    // when it was opened or got its last row; by the wall clock, which goes on while the machine is suspended
	secret  bool         // no client knows the session, so none can go on
}

// open begins or continues the bytes of a session, whose digest is zero if it is not known yet.
func (g *Registry) open(ctx context.Context, s Session, row *meta.Upload, d oci.Digest, body Body) (*incoming, error) {
	in := &incoming{g: g, session: s, row: row, since: time.Now().Round(0)}
	var size int64
	if row != nil {
		size = row.Size
	}
	if body.First >= 0 && body.First != size {
		return nil, &OffsetError{size}
	}
	if body.Length > 0 {
		if err := g.checkRoom(ctx, s.Repository, d, size+body.Length); err != nil {
			return nil, err
		}
	}
	if row == nil {
		w, err := g.store.Create(ctx)
		if err != nil {
			return nil, fmt.Errorf("begin a blob of %s: %w", s.Repository, err)
		}
		in.Upload = blob.NewUpload(w, s.Algorithm)
		return in, nil
	}
	in.session.Algorithm = row.Algorithm
	if time.Since(row.Updated) > g.opts.UploadExpiry/2 {
		// So that it does not expire before the next checkpoint.
		row.Updated = time.Now()
		if err := g.db.SaveUpload(ctx, row, false); errors.Is(err, meta.ErrCancelled) {
			return nil, uploadUnknown(s)
		} else if err != nil {
			return nil, fmt.Errorf("touch upload %s: %w", s.ID, err)
		}
	}
	w, err := g.store.Resume(ctx, blob.State{Key: row.Key, Size: row.Size, Data: row.StoreState})
	if errors.Is(err, blob.ErrNotFound) {
		return nil, uploadUnknown(s)
	}
	if err != nil {
		return nil, fmt.Errorf("resume upload %s: %w", s.ID, err)
	}
	in.Upload, err = blob.ResumeUpload(w, row.Algorithm, row.HashState)
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("resume upload %s: %w", s.ID, err)
	}
	return in, nil
}

// swept tells that the collector may have taken an object, because no row has told of it for so long.
func (in *incoming) swept(key string) bool {
	return (in.row == nil || in.row.Key != key) && time.Now().Round(0).Sub(in.since) > maxRowless
}

// save stores where a session stands.
func (in *incoming) save(ctx context.Context, state blob.State, hash []byte) error {
	if in.swept(state.Key) {
		return uploadUnknown(in.session)
	}
	row := &meta.Upload{
		ID:         in.session.ID,
		Repository: in.session.Repository,
		Key:        state.Key,
		Size:       state.Size,
		Algorithm:  in.session.Algorithm,
		HashState:  hash,
		StoreState: state.Data,
		Account:    in.session.Account,
		Updated:    time.Now(),
	}
	if in.row != nil {
		row.Saved, row.SavedKey = in.row.Size, in.row.Key
	}
	err := in.g.db.SaveUpload(context.WithoutCancel(ctx), row, in.row == nil)
	if errors.Is(err, meta.ErrCancelled) {
		if in.row == nil || in.row.Key != state.Key {
			in.g.store.Delete(ctx, state.Key) // else whoever ended the session has doomed it
		}
		return uploadUnknown(in.session)
	}
	if err == nil || errors.Is(err, meta.ErrUnavailable) {
		in.row = row // which may be there in the second case, too, and somebody may go on from it
	}
	if err != nil {
		return fmt.Errorf("save upload %s: %w", in.session.ID, err)
	}
	in.since = row.Updated.Round(0)
	return nil
}

// receive takes the body in. What came before a failure of the body is kept, if the
// client can go on from it.
func (in *incoming) receive(ctx context.Context, body Body) error {
	// In time for the session not to expire under a slow client.
	in.CheckpointEvery(checkpointBytes, min(checkpointAge, in.g.opts.UploadExpiry/4), in.save)
	_, err := in.ReadFrom(ctx, body)
	if err == nil {
		return nil
	}
	broken, ok := errors.AsType[*blob.ReadError](err)
	if in.secret || in.row == nil && (!ok || in.Size() == 0) {
		in.discard(context.WithoutCancel(ctx))
	} else if ok {
		if err := in.suspend(ctx); err != nil {
			return err
		}
	}
	if !ok {
		return fmt.Errorf("receive upload %s: %w", in.session.ID, err)
	}
	return &BodyError{broken.Err}
}

// suspend makes what has arrived durable and the session ready to go on.
func (in *incoming) suspend(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // a client that left may come back
	state, hash, err := in.Suspend(ctx)
	if err != nil {
		return fmt.Errorf("suspend upload %s: %w", in.session.ID, err)
	}
	return in.save(ctx, state, hash)
}

// finish verifies the digest and commits. The steps, and what a crash after each of
// them leaves: the bytes durable (an object without a row, which the collector
// sweeps, or a session that can go on), then the row (the blob).
func (in *incoming) finish(ctx context.Context, d oci.Digest) error {
	g, s := in.g, in.session
	// From here on the outcome must not depend on whether the client waits for it.
	ctx = context.WithoutCancel(ctx)
	got := in.Digest()
	if d.Algorithm() == in.session.Algorithm && got != d {
		in.discard(ctx)
		return digestMismatch(d, got)
	}
	if err := in.Commit(ctx); err != nil {
		if in.row == nil || !errors.Is(err, blob.ErrUnavailable) {
			in.discard(ctx)
		} // else the client can ask again: what was saved is still there, or the object is
		return fmt.Errorf("commit blob %s@%s: %w", s.Repository, d, err)
	}
	key, size := in.Key(), in.Size()
	if d.Algorithm() != in.session.Algorithm {
		// The session was begun for another algorithm than its end names.
		var err error
		if got, _, err = blob.HashObject(ctx, g.store, key, d.Algorithm()); err != nil {
			if in.row == nil || !errors.Is(err, blob.ErrUnavailable) {
				in.discard(ctx)
			}
			return fmt.Errorf("hash blob %s@%s: %w", s.Repository, d, err)
		}
		if got != d {
			in.discard(ctx)
			return digestMismatch(d, got)
		}
	}
	if in.swept(key) {
		in.discard(ctx)
		return uploadUnknown(s)
	}
	var standing meta.Standing
	n := meta.NewBlob{Repository: s.Repository, Digest: d, Size: size, Key: key, Standing: &standing, Now: time.Now()}
	if in.row != nil {
		n.Upload, n.UploadKey = s.ID, in.row.Key
	}
	err := g.db.CommitBlob(ctx, n)
	for exists, ok := errors.AsType[*meta.ExistsError](err); ok; exists, ok = errors.AsType[*meta.ExistsError](err) {
		// Bytes that were lost, cut short or found to be wrong are mended by a push of the same digest.
		if n.Whole, n.Broken = exists.Key, ""; exists.Damaged || !g.intact(ctx, exists.Key, exists.Size) {
			n.Whole, n.Broken = "", exists.Key
		}
		err = g.db.CommitBlob(ctx, n)
	}
	if errors.Is(err, meta.ErrNotFound) {
		if g.stored(ctx, s.Repository, d) {
			return nil // the client has asked again, and another node was faster
		}
		return uploadUnknown(s)
	}
	if quota, ok := errors.AsType[*meta.QuotaError](err); ok {
		in.discard(ctx)
		return fmt.Errorf("commit blob %s@%s: %w", s.Repository, d, g.refused(quota))
	}
	if err != nil {
		// Whether the row is there is not known after a failed commit, so the bytes stay;
		// if it is not, the collector sweeps them.
		return fmt.Errorf("commit blob %s@%s: %w", s.Repository, d, err)
	}
	g.stands(standing)
	return nil
}

// discard ends a session whose bytes are worth nothing.
func (in *incoming) discard(ctx context.Context) {
	if in.row != nil {
		in.g.db.CancelUpload(ctx, in.session.Repository, in.session.ID, in.session.Algorithm, in.session.Account, time.Now())
		if in.row.Key == in.Key() {
			// Not this request's to delete: another node may have made a blob of it, and then the session had ended. Else
			// it is doomed now.
			in.Close()
			return
		}
	}
	in.Abort()
	in.g.store.Delete(ctx, in.Key()) // if this fails, the collector sweeps it
}

func digestMismatch(want, got oci.Digest) error {
	return oci.Errorf(oci.CodeDigestInvalid, "the blob was pushed as %s, but its bytes are %s: send it again", want, got)
}

func uploadUnknown(s Session) error {
	return oci.Errorf(oci.CodeBlobUploadUnknown, "there is no upload %s in %s: it has ended, was cancelled or has expired; begin a new one", s.ID, s.Repository)
}
