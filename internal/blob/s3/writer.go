package s3

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/blob"
)

// errLost is what a Writer answers after an error.
var errLost = errors.New("an earlier write of this upload failed")

// writer is a blob.Writer. It is one object until it has a full part, and a multipart upload from then on.
type writer struct {
	store     *Store
	key, name string // name is that of the object; they change until the upload has a part, see fresh
	used      bool   // something may have been written under key, by this Writer or another one
	size      int64

	// ctx is that of the requests that Write causes. It goes on when a client leaves, and ends with the first error.
	ctx    context.Context
	cancel context.CancelCauseFunc
	memory *memory

	// current holds the bytes after the last part, unless pending. nil is as good as empty.
	current *buffer
	// pending: the upload was resumed, and the bytes after the last part are in the bucket only: they
	// are taken back when more come.
	pending bool
	tail    tail // of what is after the last part: the segments that hold it, and if pending the rest

	// As long as it is one object.
	stored int64 // how many of the bytes the object has, or -1; never more than are written
	etag   string

	// From the first part on.
	multipart bool
	begin     func() (multipart, error) // begins the multipart upload, once
	strays    atomic.Bool               // there may be uploads of this key that nobody knows
	parts     []*part
	offset    int64 // where the part after them begins
	sending   sync.WaitGroup
	completed bool // the object is there already: an earlier Commit was not heard of

	stale    []string // segments that the state before needs and the one after does not
	obsolete []string // segments that no state needs that anybody can have kept
	resumed  bool     // others may have written under key
	ended    bool
}

// part is one that is being sent, or has been.
type part struct {
	done chan struct{} // closed when sent and err are set
	sent sent
	err  error
}

func donePart(p sent) *part {
	done := make(chan struct{})
	close(done)
	return &part{done: done, sent: p}
}

func (s *Store) newWriter(ctx context.Context, key, name string) *writer {
	w := &writer{store: s, key: key, name: name, stored: -1, memory: newMemory(&s.chunks, s.opts.TempDir)}
	w.ctx, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	w.begin = sync.OnceValues(func() (multipart, error) {
		m, strays, err := s.begin(w.ctx, w.name)
		if strays {
			w.strays.Store(true)
		}
		return m, err
	})
	return w
}

// Create implements blob.Store. It makes no request.
func (s *Store) Create(ctx context.Context) (blob.Writer, error) {
	key := s.newKey()
	return s.newWriter(ctx, key, s.opts.Prefix+key), nil
}

func (s *Store) newKey() string { return blob.NewKey(s.now().UTC().Format(blob.HourLayout)) }

// Resume implements blob.Store. It makes one request, to see that the upload is still there.
func (s *Store) Resume(ctx context.Context, state blob.State) (blob.Writer, error) {
	w, err := s.resume(ctx, state)
	if err != nil {
		return nil, fmt.Errorf("resume upload %s: %w", state.Key, err)
	}
	return w, nil
}

func (s *Store) resume(ctx context.Context, from blob.State) (*writer, error) {
	name, err := s.object(from.Key)
	if err != nil {
		return nil, err
	}
	state, err := decodeState(from.Data)
	if err != nil {
		return nil, err
	}
	w := s.newWriter(ctx, from.Key, name)
	w.size, w.resumed, w.used = from.Size, true, true
	if !state.multipart {
		info, err := s.stat(ctx, name)
		if errors.Is(err, blob.ErrNotFound) {
			if err := s.confirm(ctx, name); err != nil {
				return nil, err
			}
		}
		if err != nil {
			return nil, err
		}
		if info.Size != from.Size || state.etag != "" && info.ETag != state.etag {
			return nil, fmt.Errorf("%w: its bytes are others now", blob.ErrNotFound)
		}
		w.stored, w.etag = from.Size, info.ETag
		w.pending = from.Size > 0
		return w, nil
	}
	if state.size() != from.Size {
		return nil, fmt.Errorf("%w: there are %d bytes, not %d", blob.ErrNotFound, state.size(), from.Size)
	}
	m := multipart{id: state.id, crc: state.crc}
	w.multipart = true
	w.begin = func() (multipart, error) { return m, nil }
	w.tail, w.obsolete = state.tail, state.stale
	w.pending = w.tail.size() > 0
	for _, p := range state.parts {
		w.parts = append(w.parts, donePart(p))
		w.offset += p.size
	}
	err = s.do(ctx, "look up upload", name, func(ctx context.Context, _ func(int)) error {
		_, err := s.client.ListObjectParts(ctx, s.bucket, name, m.id, 0, 1)
		return err
	})
	if errors.Is(err, blob.ErrNotFound) && s.isWhole(ctx, name, w.all()) {
		w.completed, err = true, nil
	}
	return w, err
}

// all returns the parts of an upload that was resumed, if it is whole with them.
func (w *writer) all() []sent {
	var parts []sent
	for _, p := range w.parts {
		parts = append(parts, p.sent)
	}
	if w.pending {
		if w.tail.part == nil {
			return nil
		}
		parts = append(parts, *w.tail.part)
	}
	return parts
}

// isWhole tells whether the object that the parts make is there.
func (s *Store) isWhole(ctx context.Context, name string, parts []sent) bool {
	return parts != nil && attempt(ctx, s.opts.Stall, func(ctx context.Context, _ func(int)) error {
		return s.verify(ctx, name, wholeOf(parts))
	}) == nil
}

func (w *writer) Key() string { return w.key }

func (w *writer) Size() int64 { return w.size }

func (w *writer) Write(p []byte) (n int, err error) {
	if err := w.usable(); err != nil {
		return 0, fmt.Errorf("write object %s: %w", w.key, err)
	}
	n, err = w.write(p)
	w.size += int64(n)
	if err != nil {
		w.cancel(err)
		return n, fmt.Errorf("write object %s: %w", w.key, err)
	}
	return n, nil
}

func (w *writer) write(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if w.completed {
		return 0, errors.New("the upload was completed before")
	}
	if err := w.load(w.ctx); err != nil {
		return 0, err
	}
	for n < len(p) {
		size := w.partSize()
		// A full part waits for one byte more: it may be the last, and an object of its own.
		if w.current != nil && w.current.size >= size {
			w.sendCurrent()
			continue
		}
		if w.current == nil {
			if w.current, err = w.memory.newBuffer(w.ctx, size); err != nil {
				return n, err
			}
		}
		m, err := w.current.append(w.ctx, p[n:min(int64(len(p)), int64(n)+size-w.current.size)])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// fresh gives the upload a key that nobody has written under, before something is written that makes an object. So
// each object is written once: who resumed the same state, and comes late, cannot change what has become a blob meanwhile.
func (w *writer) fresh() {
	if w.used {
		w.key = w.store.newKey()
		w.name, w.resumed = w.store.opts.Prefix+w.key, false
	}
	w.used = true
}

// partSize returns the size of the part that is being filled.
func (w *writer) partSize() int64 { return w.store.layout.size(len(w.parts), w.offset) }

// sendCurrent sends what is after the last part as one, beside whatever comes next.
func (w *writer) sendCurrent() {
	if !w.multipart {
		w.fresh()
	}
	b := w.current
	p := &part{done: make(chan struct{})}
	w.parts = append(w.parts, p)
	w.offset += b.size
	number := len(w.parts)
	w.current, w.multipart = nil, true
	for _, g := range w.tail.segments {
		w.stale = append(w.stale, g.name)
	}
	w.tail = tail{}
	whole := b.section(0, b.size)
	w.sending.Go(func() {
		defer b.release()
		defer close(p.done)
		m, err := w.begin()
		if err == nil {
			p.sent, err = w.store.putPart(w.ctx, w.name, m, number, whole)
		}
		if err != nil {
			p.err = err
			w.cancel(err)
		}
	})
}

// load takes back the bytes after the last part of an upload that was resumed.
func (w *writer) load(ctx context.Context) error {
	if !w.pending {
		return nil
	}
	b, err := w.memory.newBuffer(ctx, w.partSize())
	if err != nil {
		return err
	}
	if !w.multipart {
		err = w.store.readInto(ctx, b, w.name, w.stored)
	}
	for _, g := range w.tail.segments {
		if err == nil {
			err = w.store.readInto(ctx, b, segmentName(w.name, g.name), g.size)
		}
	}
	if err == nil {
		_, err = b.append(ctx, w.tail.inline)
	}
	if err != nil {
		b.release()
		return err
	}
	w.current, w.pending = b, false
	w.tail.inline, w.tail.part = nil, nil
	return nil
}

// waiting returns how many bytes are in current.
func (w *writer) waiting() int64 {
	if w.current == nil {
		return 0
	}
	return w.current.size
}

// Checkpoint implements blob.Writer.
func (w *writer) Checkpoint() func(context.Context) (blob.State, error) {
	return w.mark("checkpoint", false)
}

// Suspend implements blob.Writer.
func (w *writer) Suspend(ctx context.Context) (blob.State, error) {
	defer w.Close()
	return w.mark("suspend", true)(ctx)
}

// mark returns a function that makes what is written so far durable. last tells that nothing follows in
// this Writer, so that the tail may turn out to be the last part.
func (w *writer) mark(op string, last bool) func(context.Context) (blob.State, error) {
	err := w.usable()
	var persist func(context.Context) (*state, error)
	switch {
	case err != nil:
		persist = func(context.Context) (*state, error) { return nil, err }
	case w.multipart:
		persist = w.markParts(last)
	default:
		persist = w.markObject()
	}
	result := blob.State{Key: w.key, Size: w.size}
	return func(ctx context.Context) (blob.State, error) {
		state, err := persist(ctx)
		if err != nil {
			w.cancel(err)
			return blob.State{}, fmt.Errorf("%s upload %s: %w", op, w.key, err)
		}
		result.Data = state.encode()
		return result, nil
	}
}

// markObject keeps an upload without parts as an object.
func (w *writer) markObject() func(context.Context) (*state, error) {
	size := w.size
	if w.stored == size {
		etag := w.etag
		return func(context.Context) (*state, error) { return &state{etag: etag}, nil }
	}
	var content section
	release := func() {}
	if w.current != nil {
		content, release = w.current.section(0, size), w.current.hold().release
	}
	w.fresh()
	name := w.name
	return func(ctx context.Context) (*state, error) {
		defer release()
		p, err := w.store.put(ctx, name, content)
		if err != nil {
			return nil, err
		}
		w.stored, w.etag = size, p.etag
		return &state{etag: p.etag}, nil
	}
}

// markParts keeps an upload that has parts: a part ends here if it is large enough for one, else what is in
// no part goes into the state, or into an object of its own.
func (w *writer) markParts(last bool) func(context.Context) (*state, error) {
	if n := w.waiting(); n > 0 && (n >= w.partSize() || w.store.layout.mayCut(len(w.parts), n)) {
		w.sendCurrent()
	}
	parts := slices.Clone(w.parts)
	next := &state{multipart: true, tail: w.tail, stale: w.stale}
	remove := w.obsolete
	w.obsolete, w.stale = w.stale, nil

	var all, rest section // what is after the last part, and what of it is in no segment
	var segmentOf string
	release := func() {}
	if n := w.waiting(); n > 0 {
		kept := w.tail.kept()
		all, rest = w.current.section(0, n), w.current.section(kept, n)
		release = w.current.hold().release
		if rest.size() > maxInline {
			g := segment{name: newSegment(), size: rest.size()}
			w.tail.segments = append(slices.Clip(w.tail.segments), g)
			next.tail.segments, segmentOf = w.tail.segments, g.name
		}
	}
	return func(ctx context.Context) (*state, error) {
		defer release()
		group, sending := errgroup.WithContext(ctx)
		if segmentOf != "" {
			group.Go(func() error {
				_, err := w.store.put(sending, segmentName(w.name, segmentOf), rest)
				return err
			})
		} else if rest.size() > 0 {
			var err error
			if next.tail.inline, err = rest.bytes(); err != nil {
				return nil, err
			}
		}
		if last && all.size() > 0 {
			group.Go(func() error {
				m, err := w.begin()
				if err != nil {
					return err
				}
				p, err := w.store.putPart(sending, w.name, m, len(parts)+1, all)
				next.tail.part = &p
				return err
			})
		}
		group.Go(func() (err error) {
			next.parts, err = wait(sending, parts)
			return err
		})
		if err := group.Wait(); err != nil {
			return nil, err
		}
		m, err := w.begin() // which has been called
		if err != nil {
			return nil, err
		}
		next.id, next.crc = m.id, m.crc
		w.store.removeSegments(ctx, w.name, remove)
		return next, nil
	}
}

// wait returns the parts when all are sent.
func wait(ctx context.Context, parts []*part) ([]sent, error) {
	all := make([]sent, len(parts))
	for i, p := range parts {
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if p.err != nil {
			return nil, p.err
		}
		all[i] = p.sent
	}
	return all, nil
}

// Commit implements blob.Writer. One request makes the object; all before it has been answered.
func (w *writer) Commit(ctx context.Context) error {
	err := w.usable()
	if err == nil {
		if w.multipart {
			err = w.commitParts(ctx)
		} else {
			err = w.commitObject(ctx)
		}
	}
	w.end(err)
	if err != nil {
		return fmt.Errorf("commit object %s: %w", w.key, err)
	}
	return nil
}

func (w *writer) commitObject(ctx context.Context) error {
	if w.stored == w.size {
		return nil
	}
	if err := w.load(ctx); err != nil {
		return err
	}
	var content section
	if w.current != nil {
		content = w.current.section(0, w.current.size)
	}
	w.fresh()
	_, err := w.store.put(ctx, w.name, content)
	return err
}

func (w *writer) commitParts(ctx context.Context) error {
	var clean sync.WaitGroup
	defer clean.Wait()
	if w.completed {
		w.clean(ctx, &clean, "")
		return nil
	}
	ready := w.pending && w.tail.part != nil
	if ready {
		w.parts = append(w.parts, donePart(*w.tail.part))
	} else if err := w.sendLast(ctx); err != nil {
		return err
	}
	parts, err := wait(ctx, w.parts)
	if err != nil {
		return err
	}
	m, err := w.begin()
	if err != nil {
		return err
	}
	err = w.store.complete(ctx, w.name, m, parts)
	if ready && isCode(err, "InvalidPart") {
		// The last part is not as this state knows it: somebody went on from the same state and is gone. Its
		// bytes are still there.
		w.parts = w.parts[:len(w.parts)-1]
		if err := w.sendLast(ctx); err != nil {
			return err
		}
		if parts, err = wait(ctx, w.parts); err != nil {
			return err
		}
		err = w.store.complete(ctx, w.name, m, parts)
	}
	if err == nil {
		w.clean(ctx, &clean, m.id)
	}
	return err
}

// sendLast sends what is after the last part.
func (w *writer) sendLast(ctx context.Context) error {
	if err := w.load(ctx); err != nil {
		return err
	}
	// The segments are removed by clean, whether the part has them or not.
	if w.waiting() > 0 {
		w.sendCurrent()
	}
	return nil
}

// clean removes what is left of an upload beside its object, as far as it can: Delete is sure to.
func (w *writer) clean(ctx context.Context, in *sync.WaitGroup, id string) {
	if w.resumed || w.strays.Load() {
		// Whoever went on from the same state before, and died, may have left more than is known here.
		in.Go(func() { _ = w.store.removeUploads(ctx, w.name, id) })
		in.Go(func() { _ = w.store.removeTails(ctx, w.name) })
		return
	}
	names := slices.Concat(w.stale, w.obsolete)
	for _, g := range w.tail.segments {
		names = append(names, g.name)
	}
	if len(names) > 0 {
		in.Go(func() { w.store.removeSegments(ctx, w.name, names) })
	}
}

// Abort implements blob.Writer.
func (w *writer) Abort() {
	if w.ended {
		return
	}
	w.Close()
	if !w.used {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.store.opts.Stall)
	defer cancel()
	_ = w.store.Delete(ctx, w.key)
}

// Close implements blob.Writer. It returns when no request is under way any more.
func (w *writer) Close() { w.end(os.ErrClosed) }

func (w *writer) end(cause error) {
	if w.ended {
		return
	}
	w.ended = true
	w.cancel(cause)
	w.sending.Wait()
	if w.current != nil {
		w.current.release()
		w.current = nil
	}
}

// usable returns nil if the Writer has neither ended nor failed.
func (w *writer) usable() error {
	if w.ended {
		return os.ErrClosed
	}
	if w.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errLost, context.Cause(w.ctx))
	}
	return nil
}
