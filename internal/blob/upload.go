package blob

import (
	"context"
	"encoding"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Upload takes bodies into a Writer and computes the digest as the bytes pass.
// It is used by one goroutine at a time and ends, like its Writer, with exactly one of
// Commit, Suspend, Abort and Close.
type Upload struct {
	w    Writer
	alg  oci.Algorithm
	hash hash.Hash
	err  error // the store's first error; hash and bytes may differ since

	every   int64 // bytes between checkpoints; 0 for none
	age     time.Duration
	save    SaveFunc
	saved   int64     // size at the last checkpoint
	savedAt time.Time // its time
}

// due returns when bytes must get into a checkpoint; zero for never.
func (u *Upload) due() time.Time {
	if u.every <= 0 {
		return time.Time{}
	}
	return u.savedAt.Add(u.age)
}

// SaveFunc keeps what ResumeUpload needs: a durable state and the hash state at its Size.
type SaveFunc func(ctx context.Context, state State, hashState []byte) error

// ReadError is a failure of the reader that ReadFrom was given, not of the store:
// the client left, or broke a limit. What was read before it is in the Upload.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return "read upload: " + e.Err.Error() }

// Unwrap returns the reader's error.
func (e *ReadError) Unwrap() error { return e.Err }

// NewUpload returns an Upload into w, which has no bytes yet.
func NewUpload(w Writer, alg oci.Algorithm) *Upload {
	return &Upload{w: w, alg: alg, hash: alg.New()}
}

// ResumeUpload returns an Upload that goes on in w, whose bytes have led to hashState.
// An error says that the hash state is of another algorithm, or of a program that
// this one can't follow: the upload can't be continued. It leaves w as it is.
func ResumeUpload(w Writer, alg oci.Algorithm, hashState []byte) (*Upload, error) {
	u := &Upload{w: w, alg: alg, hash: alg.New(), saved: w.Size()}
	if err := u.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(hashState); err != nil {
		return nil, fmt.Errorf("resume %s of upload %s: %w", alg, w.Key(), err)
	}
	return u, nil
}

// CheckpointEvery makes ReadFrom checkpoint the Writer each time about n more bytes have
// come, or some have and the time age has passed, beside the stream, and call save with the result. Calls of save do not
// overlap, and none is made after ReadFrom has returned. An error of
// save ends ReadFrom.
func (u *Upload) CheckpointEvery(n int64, age time.Duration, save SaveFunc) {
	u.every, u.age, u.save, u.savedAt = n, age, save, time.Now()
}

// ReadFrom appends what r yields up to its end and returns how many bytes that were.
// A failure of r, or the end of ctx, is a *ReadError, after which the Upload can
// be suspended or take more. After any other error it can only be aborted or closed.
func (u *Upload) ReadFrom(ctx context.Context, r io.Reader) (n int64, err error) {
	if u.err != nil {
		return 0, u.err
	}
	before := u.w.Size()
	s := stream{upload: u}
	readErr, err := s.run(ctx, r)
	if err != nil {
		u.err = err
	} else if readErr != nil {
		err = &ReadError{readErr}
	}
	return u.w.Size() - before, err
}

// Key returns the object's key.
func (u *Upload) Key() string { return u.w.Key() }

// Size returns the count of bytes so far, in bytes.
func (u *Upload) Size() int64 { return u.w.Size() }

// Digest returns the digest of the bytes so far.
func (u *Upload) Digest() oci.Digest { return oci.DigestOf(u.alg, u.hash) }

// HashState returns the state of the running hash, for ResumeUpload by this version of the
// program or a later one.
func (u *Upload) HashState() ([]byte, error) {
	b, err := u.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("save %s of upload %s: %w", u.alg, u.w.Key(), err)
	}
	return b, nil
}

// Suspend makes the bytes so far durable and ends the Upload. It returns what
// ResumeUpload and Store.Resume need.
func (u *Upload) Suspend(ctx context.Context) (state State, hashState []byte, err error) {
	defer u.w.Close()
	if u.err != nil {
		return State{}, nil, u.err
	}
	if hashState, err = u.HashState(); err != nil {
		return State{}, nil, err
	}
	if state, err = u.w.Suspend(ctx); err != nil {
		return State{}, nil, err
	}
	return state, hashState, nil
}

// Commit makes the object durable, as Writer.Commit does. The caller has compared
// the Digest before.
func (u *Upload) Commit(ctx context.Context) error {
	if u.err != nil {
		u.w.Abort()
		return u.err
	}
	return u.w.Commit(ctx)
}

// Abort ends the Upload and removes its bytes, as far as it can.
func (u *Upload) Abort() { u.w.Abort() }

// Close ends the Upload and leaves its bytes as they are; it resumes at the last
// checkpoint. After Commit, Suspend or Abort it does nothing.
func (u *Upload) Close() { u.w.Close() }
