// Package blob is the contract of a store of immutable bytes, and the streaming
// of an upload into one.
//
// What holds true: an object is named by an opaque key that the store chose and
// never uses again, so a late Delete cannot hit newer content; a committed object never
// changes; the store knows nothing of digests, repositories or rights. Which objects should exist is
// known to SQL alone: a store never decides that an object may go, and it does not
// tell an unfinished upload from an object.
package blob

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that a Store returns, possibly wrapped.
var (
	// ErrNotFound: no object or upload has this key, or an upload's bytes are
	// fewer than its State says.
	ErrNotFound = errors.New("no such object")
	// ErrNoSpace: the store has no room, or less than the reserve that is kept
	// free. Reads go on.
	ErrNoSpace = errors.New("no space left in the blob store")
	// ErrUnavailable: the store cannot be reached, or does not serve, at this moment. What was asked
	// may have been done or not; asking again later may succeed.
	ErrUnavailable = errors.New("the blob store is not available")
)

// Store keeps objects. All methods may be called concurrently.
type Store interface {
	// Create starts an object under a new key.
	// It fails with ErrNoSpace when the reserve of free space is used up.
	Create(ctx context.Context) (Writer, error)

	// Resume continues an upload that Checkpoint or Suspend described, maybe in
	// another process. Bytes after state.Size, which a crash may have left, are dropped.
	// It fails with ErrNotFound when state.Size bytes are not there any more.
	// At most one Writer of a key may be in use at a time; the caller sees to that.
	Resume(ctx context.Context, state State) (Writer, error)

	// Open returns a committed object's bytes, or ErrNotFound.
	Open(ctx context.Context, key string) (Reader, error)

	// Delete removes an object or an unfinished upload. A missing key is no error:
	// a delete is repeated after a crash. When Delete returns nil, the object
	// does not come back after a crash.
	Delete(ctx context.Context, key string) error

	// Stat returns the size in bytes of an object, or of what is there of an unfinished upload, or ErrNotFound.
	Stat(ctx context.Context, key string) (int64, error)

	// List yields every object and unfinished upload that was created in
	// [from, to), both rounded down to the hour in UTC, in any order. Keys carry the hour of their
	// creation, so the cost follows what is listed, not what is stored. Zero
	// times stand for the ends of time. What the store did not name itself is never
	// listed, even where Open accepts its key.
	// An error ends the sequence.
	List(ctx context.Context, from, to time.Time) iter.Seq2[Info, error]

	// Room fails with ErrNoSpace if n bytes more, of whatever is kept beside the objects, would use up the
	// reserve of free space. It is cheap.
	Room(ctx context.Context, n int64) error

	// Check tells whether the store can be used: nil, or what is wrong with it.
	// ErrNoSpace says that only writes are refused.
	Check(ctx context.Context) error

	Documents
}

// Redirector is a Store whose objects clients can fetch themselves.
type Redirector interface {
	// URL returns an address from which anyone can GET the object, ranges included, for the time
	// given. It does not look whether there is such an object.
	URL(ctx context.Context, key string, expire time.Duration) (string, error)
}

// RangeOpener is a Store that had better know what will be read of an object.
type RangeOpener interface {
	// OpenRange is Open for who begins with the n bytes from offset on, n > 0. The Reader is at the offset, and all of the object
	// can be read. It fails if the object has no byte there.
	OpenRange(ctx context.Context, key string, offset, n int64) (Reader, error)
}

// Info is one entry of a listing.
type Info struct {
	Key  string
	Size int64 // bytes; of an unfinished upload maybe fewer than are there
}

// Writer takes the bytes of one object. It is used by one goroutine at a time;
// only the function that Checkpoint returned may run beside it.
// It ends with exactly one of Commit, Suspend, Abort and Close.
type Writer interface {
	// Write appends p. After an error the Writer can only be aborted, or
	// dropped with Close to resume at the last checkpoint; Commit and Suspend fail.
	io.Writer

	// Key returns the object's key. It may change as long as the Writer is in use; the one after Commit, Suspend or Abort is
	// the object's. The caller deletes the key of a State when one with another key, or the blob, has taken its place.
	Key() string

	// Size returns the count of bytes written so far, those before a Resume included.
	Size() int64

	// Checkpoint marks the bytes written so far. The function that it returns makes
	// them durable and returns the state from which Resume would continue, whose Size
	// is that of the mark. The function may run in another goroutine while writing goes on,
	// once, and must have returned before the next Checkpoint, Commit, Suspend, Abort or Close.
	// After an error from it the Writer is as after an error from Write.
	Checkpoint() func(ctx context.Context) (State, error)

	// Suspend makes every byte durable, ends the Writer and returns the state from
	// which Resume continues. After an error only an earlier checkpoint's state is of use.
	Suspend(ctx context.Context) (State, error)

	// Commit makes the object and its name durable. After nil, Open finds it,
	// even when the machine loses power now. After an error the Writer has ended and
	// the object may or may not be there; the caller must not rely on either and deletes the key. After ErrUnavailable
	// it may Resume the last State that was kept instead.
	Commit(ctx context.Context) error

	// Abort ends the upload and removes its bytes, as far as it can: after a
	// crash they may be there again. Delete is the one that is sure.
	Abort()

	// Close releases the Writer's resources and leaves the bytes as they are.
	// Calling it after Commit, Suspend or Abort does nothing.
	Close()
}

// State describes an unfinished upload. It is kept in SQL between requests.
type State struct {
	Key  string
	Size int64  // bytes that are durable
	Data []byte // what else the store needs to go on; opaque, may be nil
}

// Reader reads a committed object. A store of files returns a web.File, so that the kernel can copy
// it to a socket; one of another machine may return a web.Socket.
type Reader interface {
	io.ReadSeekCloser
	// Size returns the object's size in bytes.
	Size() int64
}
