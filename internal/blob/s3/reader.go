package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/berthregistry/berth/internal/blob"
)

// maxBreaks is how often in a row a body may break off, with less than breakStride read in between.
const (
	maxBreaks   = 5
	breakStride = 1 << 20
)

// reader is a blob.Reader on an object. What it reads comes from one request, as long as it reads on; after a Seek, or
// when a body breaks off, the next Read asks for the rest.
type reader struct {
	store     *Store
	ctx       context.Context
	key, name string
	size      int64
	etag      string

	at     int64 // of the byte that is read next
	until  int64 // where the first request ends, or 0 for the object's end
	stream *stream
	breaks int
	broken int64 // where the last break was counted
	closed bool
}

// stream is the body of an answer.
type stream struct {
	body   io.ReadCloser
	at     int64 // of its next byte in the object
	end    int64 // of the byte after its last one
	cancel context.CancelCauseFunc
}

func (s *stream) close() {
	s.cancel(nil)
	_ = s.body.Close()
}

// Open implements blob.Store. It makes one request, for size and bytes. The Reader fails when ctx has ended.
func (s *Store) Open(ctx context.Context, key string) (blob.Reader, error) {
	return s.openFrom(ctx, key, 0, 0)
}

// OpenRange implements blob.RangeOpener. It makes one request, for size and the range. The Reader fails when ctx has ended.
func (s *Store) OpenRange(ctx context.Context, key string, offset, n int64) (blob.Reader, error) {
	return s.openFrom(ctx, key, offset, offset+n)
}

func (s *Store) openFrom(ctx context.Context, key string, from, until int64) (blob.Reader, error) {
	name, err := s.object(key)
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", key, err)
	}
	r, err := s.get(ctx, key, name, from, until)
	if err != nil {
		return nil, fmt.Errorf("open object %s: %w", key, err)
	}
	return r, nil
}

// get returns a Reader from a byte on, whose first request is for those until another one, or for all if that is 0.
func (s *Store) get(ctx context.Context, key, name string, from, until int64) (*reader, error) {
	r := &reader{store: s, ctx: ctx, key: key, name: name, size: -1, at: from, until: until}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// open asks for the bytes from r.at on. The first time it learns the object's size.
func (r *reader) open() error {
	var opts minio.GetObjectOptions
	first, until := r.size < 0, r.until
	ranged := r.at > 0 || until > 0
	if ranged {
		asked := "bytes=" + strconv.FormatInt(r.at, 10) + "-"
		if until > 0 {
			asked += strconv.FormatInt(until-1, 10)
		}
		opts.Set("Range", asked)
	}
	if r.etag != "" {
		if err := opts.SetMatchETag(r.etag); err != nil {
			return err
		}
	}
	return r.store.do(r.ctx, "get object", r.name, func(ctx context.Context, _ func(int)) error {
		// The body outlives this call, and so must its context.
		own, cancel := context.WithCancelCause(r.ctx)
		stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
		body, info, header, err := r.store.fetcher.GetObject(own, r.store.bucket, r.name, opts)
		stopped := !stop()
		if err == nil && stopped {
			_ = body.Close()
			err = context.Cause(own)
		}
		if err != nil {
			cancel(nil)
			return err
		}
		s := &stream{body: body, at: r.at, cancel: cancel}
		size := info.Size
		if ranged {
			if size, err = rangeSize(header.Get("Content-Range"), r.at, until, info.Size); err != nil {
				s.close()
				return err
			}
		}
		if size < 0 || !first && size != r.size {
			s.close()
			return fmt.Errorf("the store says that the object has %d bytes, not %d", size, r.size)
		}
		s.end = r.at + info.Size
		r.size, r.etag, r.stream, r.until = size, info.ETag, s, 0
		return nil
	})
}

// rangeSize returns the size of an object of which n bytes are given, from one place to another, or to the end if that is 0.
func rangeSize(header string, from, until, n int64) (int64, error) {
	of, total, ok := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	size, err := strconv.ParseInt(total, 10, 64)
	end := size
	if until > 0 {
		end = min(until, size)
	}
	if !ok || err != nil || of != fmt.Sprintf("%d-%d", from, end-1) || n != end-from {
		return 0, fmt.Errorf("the store answered the range %q of %d bytes to a request for those from %d to %d (0 for all)", header, n, from, until)
	}
	return size, nil
}

// Size implements blob.Reader.
func (r *reader) Size() int64 { return r.size }

// Read implements io.Reader.
func (r *reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 && !r.closed && r.at < r.size {
		return 0, nil
	}
	err = r.next(func(s *stream) (bool, error) {
		err := s.within(r.store.opts.Stall, func() (err error) {
			n, err = s.body.Read(p[:min(int64(len(p)), s.end-r.at)])
			return err
		})
		r.took(int64(n))
		return n > 0, err
	})
	return n, err
}

// tapped is a body that tells where its bytes are.
type tapped interface {
	arrived() (*net.TCPConn, int64, error)
	took(n int64)
}

// Arrived waits for bytes that can be taken from a connection to the store, and returns how many there are; or no connection if Read is
// to be called instead. What is taken is told with Took before anything else is called.
func (r *reader) Arrived() (conn *net.TCPConn, n int64, err error) {
	if r.at >= r.size {
		return nil, 0, nil
	}
	err = r.next(func(s *stream) (bool, error) {
		body, ok := s.body.(tapped)
		if !ok {
			return true, nil
		}
		err := s.within(r.store.opts.Stall, func() (err error) {
			conn, n, err = body.arrived()
			return err
		})
		return err == nil, err
	})
	return conn, n, err
}

// Took tells that n bytes were taken from the connection that Arrived returned and are where they should be. If more were taken, the
// connection is of no use any more; what follows the n bytes is asked for again.
func (r *reader) Took(n int64, more bool) {
	r.took(n)
	if more {
		r.drop()
	} else {
		r.stream.body.(tapped).took(n)
	}
}

// took moves on by n bytes, which the body has given.
func (r *reader) took(n int64) {
	r.at += n
	r.stream.at += n
}

// next calls get until it is true, each time with a body whose next byte is the one that is read next. When a body breaks
// off, it asks for the rest.
func (r *reader) next(get func(*stream) (bool, error)) error {
	if r.closed {
		return os.ErrClosed
	}
	if r.at >= r.size {
		return io.EOF
	}
	for {
		if r.stream != nil && (r.stream.at != r.at || r.stream.at == r.stream.end) {
			r.drop()
		}
		if r.stream == nil {
			if err := r.open(); err != nil {
				return fmt.Errorf("read object %s: %w", r.key, err)
			}
		}
		start := time.Now()
		got, err := get(r.stream)
		if err != nil {
			r.drop()
		}
		if got {
			return nil
		}
		if err == nil {
			continue
		}
		if err := r.broke(time.Since(start), err); err != nil {
			return fmt.Errorf("read object %s: %w", r.key, err)
		}
	}
}

// broke counts a body that broke off, and returns an error if that are enough.
func (r *reader) broke(took time.Duration, err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if r.at-r.broken >= breakStride {
		r.breaks = 0
	}
	r.broken = r.at
	r.breaks++
	again := r.breaks <= maxBreaks
	r.store.observe("read object", took, err, again)
	if !again {
		return r.store.wrap(r.ctx, "read object", r.name, err)
	}
	pause(r.ctx, r.breaks)
	return nil
}

// within calls f, and breaks the body off if that takes longer than stall.
func (s *stream) within(stall time.Duration, f func() error) error {
	stalled := false
	done := make(chan struct{})
	timer := time.AfterFunc(stall, func() {
		stalled = true
		close(done)
		s.cancel(errStalled)
	})
	err := f()
	if !timer.Stop() {
		<-done
	}
	if err != nil && stalled {
		err = errStalled
	}
	return err
}

func (r *reader) drop() {
	if r.stream != nil {
		r.stream.close()
		r.stream = nil
	}
}

// Seek implements io.Seeker. It makes no request.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if r.closed {
		return 0, os.ErrClosed
	}
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek in object %s: to %d, before its start", r.key, offset)
	}
	r.at = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.closed {
		return os.ErrClosed
	}
	r.closed = true
	r.drop()
	return nil
}

// stat returns what a HEAD tells of an object. ErrNotFound may also stand for a missing bucket, or user: the answer to
// a HEAD does not say which it is.
func (s *Store) stat(ctx context.Context, name string) (info minio.ObjectInfo, err error) {
	err = s.do(ctx, "stat object", name, func(ctx context.Context, _ func(int)) error {
		info, err = s.client.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
		return err
	})
	return info, err
}

// confirm fails unless the store can be asked about a name, so that what is missing is the object.
func (s *Store) confirm(ctx context.Context, name string) error {
	_, _, err := s.statUpload(ctx, name)
	return err
}

// Stat implements blob.Store. Where there is no object it looks for an unfinished upload.
func (s *Store) Stat(ctx context.Context, key string) (int64, error) {
	name, err := s.object(key)
	if err != nil {
		return 0, fmt.Errorf("stat object %s: %w", key, err)
	}
	info, err := s.stat(ctx, name)
	if err == nil {
		return info.Size, nil
	}
	if errors.Is(err, blob.ErrNotFound) {
		size, found, uploadErr := s.statUpload(ctx, name)
		if found {
			return size, nil
		}
		if uploadErr != nil {
			err = uploadErr
		}
	}
	return 0, fmt.Errorf("stat object %s: %w", key, err)
}

// readInto appends the first n bytes of an object to b.
func (s *Store) readInto(ctx context.Context, b *buffer, name string, n int64) error {
	r, err := s.get(ctx, name, name, 0, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	p := make([]byte, min(n, 256<<10))
	for n > 0 {
		m, err := io.ReadFull(r, p[:min(n, int64(len(p)))])
		if _, err := b.append(ctx, p[:m]); err != nil {
			return err
		}
		n -= int64(m)
		switch {
		case err == nil:
		case n > 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && r.at == r.size:
			return fmt.Errorf("%w: %s has %d bytes too few", blob.ErrNotFound, name, n)
		default:
			return err
		}
	}
	return nil
}
