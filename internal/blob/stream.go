package blob

import (
	"context"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A stream takes one body into an Upload. It has two gaits, and chooses anew for each buffer.
//
// A slow client's bytes are gathered in a small buffer, then hashed and written
// by the goroutine that reads: many slow clients cost little memory.
//
// A fast client's bytes go through large buffers, each hashed by a second
// goroutine while the first one writes it and reads the next: hashing costs about
// as much as reading and writing together. At most queued+2 buffers are in use.
// That goroutine stays when the client becomes slow.
const (
	smallBuffer = 32 << 10
	largeBuffer = 256 << 10
	queued      = 2 // buffers that wait for the hashing goroutine

	// fastRate is the bytes a second from which a client is a fast one.
	fastRate = 16 << 20

	// minRead is the room up to which a buffer counts as full. A smaller read of an
	// HTTP body would be copied through the buffer of its connection.
	minRead = 4 << 10
)

type stream struct {
	upload *Upload
	hasher *hasher    // nil until the client is fast
	saving chan error // gives the result of the checkpoint that is under way, else nil
}

// run returns the first error of the reader, if any, and that of the store or of saving a checkpoint.
func (s *stream) run(ctx context.Context, r io.Reader) (readErr, err error) {
	defer s.stopHasher() // even if r panics
	for size := smallBuffer; err == nil; {
		if readErr = ctx.Err(); readErr != nil {
			break
		}
		b := newBuffer(size)
		start := time.Now()
		b.n, readErr = fill(r, b.bytes, s.upload.due())
		if time.Since(start)*fastRate < time.Duration(b.n)*time.Second {
			size = largeBuffer
		} else {
			size = smallBuffer
		}
		err = s.put(b, size == largeBuffer)
		if readErr != nil {
			break
		}
		if err == nil {
			err = s.checkpoint(ctx)
		}
	}
	s.stopHasher()
	if s.saving != nil {
		err = errors.Join(err, <-s.saving)
	}
	if errors.Is(readErr, io.EOF) {
		readErr = nil
	}
	return readErr, err
}

// put hashes and writes what b holds.
func (s *stream) put(b *buffer, fast bool) error {
	defer b.release()
	if b.n == 0 {
		return nil
	}
	if fast && s.hasher == nil {
		s.hasher = startHasher(s.upload.hash)
	}
	if s.hasher != nil {
		s.hasher.add(b)
	} else {
		s.upload.hash.Write(b.bytes[:b.n])
	}
	n, err := s.upload.w.Write(b.bytes[:b.n])
	if err == nil && n < b.n {
		err = io.ErrShortWrite
	}
	return err
}

// checkpoint looks after the checkpoint that is under way, or begins one if it is time.
func (s *stream) checkpoint(ctx context.Context) error {
	u := s.upload
	if s.saving != nil {
		select {
		case err := <-s.saving:
			s.saving = nil
			return err
		default:
			return nil
		}
	}
	size := u.w.Size()
	if u.every <= 0 || size == u.saved || size-u.saved < u.every && time.Now().Before(u.due()) {
		return nil
	}
	s.stopHasher() // so that the hash is of all that is written
	hashState, err := u.HashState()
	if err != nil {
		return err
	}
	persist := u.w.Checkpoint()
	u.saved, u.savedAt = size, time.Now()
	s.saving = make(chan error, 1)
	// A client that leaves is the reason to have a checkpoint, not to give it up.
	ctx = context.WithoutCancel(ctx)
	go func() {
		state, err := persist(ctx)
		if err == nil {
			err = u.save(ctx, state, hashState)
		}
		s.saving <- err
	}()
	return nil
}

func (s *stream) stopHasher() {
	if s.hasher != nil {
		s.hasher.stop()
		s.hasher = nil
	}
}

// fill reads until less than minRead is free in p, or r fails. A slow client's
// bytes are handed on when the time until has come.
func fill(r io.Reader, p []byte, until time.Time) (n int, err error) {
	for empty := 0; len(p)-n >= minRead; {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
		if m > 0 {
			empty = 0
			if !until.IsZero() && time.Now().After(until) {
				return n, nil
			}
		} else if empty++; empty == 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// hasher feeds a hash in a goroutine of its own.
type hasher struct {
	work chan *buffer
	done chan struct{}
}

func startHasher(h hash.Hash) *hasher {
	w := &hasher{work: make(chan *buffer, queued), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for b := range w.work {
			h.Write(b.bytes[:b.n])
			b.release()
		}
	}()
	return w
}

// add has b hashed. It waits while enough buffers are queued.
func (w *hasher) add(b *buffer) {
	b.users.Add(1)
	w.work <- b
}

// stop returns when all is hashed.
func (w *hasher) stop() {
	close(w.work)
	<-w.done
}

// buffer is a piece of a stream. It goes back to its pool when its last user releases it.
type buffer struct {
	bytes []byte
	n     int // how many of bytes are filled
	users atomic.Int32
}

// Buffers that nobody uses. Which ones they hold makes no difference to anybody.
var smallBuffers, largeBuffers = newPool(smallBuffer), newPool(largeBuffer)

func newPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &buffer{bytes: make([]byte, size)} }}
}

func poolOf(size int) *sync.Pool {
	if size == largeBuffer {
		return largeBuffers
	}
	return smallBuffers
}

func newBuffer(size int) *buffer {
	b := poolOf(size).Get().(*buffer)
	b.n = 0
	b.users.Store(1)
	return b
}

func (b *buffer) release() {
	if b.users.Add(-1) == 0 {
		poolOf(len(b.bytes)).Put(b)
	}
}
