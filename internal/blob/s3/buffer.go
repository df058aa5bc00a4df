package s3

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Bytes that wait to be sent are in chunks, so that memory follows what has come: a small object holds one
// small chunk, and no upload more than heldChunks large ones.
const (
	smallChunk = 32 << 10
	largeChunk = 512 << 10
	heldChunks = 96 // 48 MiB

	// spooledParts is how many parts in temporary files there may be, the one that is being filled included.
	spooledParts = 2
)

// memory gives chunks to one upload, and makes it wait while it holds as many as it may.
type memory struct {
	pool   *chunkPool
	tokens chan struct{} // one for each large chunk that is held
	files  chan struct{} // one for each temporary file
	dir    string        // of temporary files
}

// chunkPool keeps chunks that nobody uses.
type chunkPool struct {
	small, large sync.Pool
	live         atomic.Int64 // bytes in use
}

func (p *chunkPool) get(size int) []byte {
	p.live.Add(int64(size))
	of := &p.large
	if size == smallChunk {
		of = &p.small
	}
	if c, ok := of.Get().(*[]byte); ok {
		return *c
	}
	return make([]byte, size)
}

func (p *chunkPool) put(c []byte) {
	p.live.Add(-int64(len(c)))
	if len(c) == smallChunk {
		p.small.Put(&c)
	} else {
		p.large.Put(&c)
	}
}

func newMemory(pool *chunkPool, dir string) *memory {
	return &memory{pool: pool, tokens: make(chan struct{}, heldChunks), files: make(chan struct{}, spooledParts), dir: dir}
}

// buffer holds the bytes of one part, in chunks or in a temporary file without a name. One goroutine appends; others
// may read what was there when they were told of it. It is freed when its last user releases it.
type buffer struct {
	memory *memory
	size   int64 // known to the goroutine that appends only
	chunks [][]byte
	file   *os.File // nil for chunks
	users  atomic.Int32
}

// newBuffer returns an empty buffer for a part of up to capacity bytes. It waits while the upload holds too much.
func (m *memory) newBuffer(ctx context.Context, capacity int64) (*buffer, error) {
	b := &buffer{memory: m}
	b.users.Store(1)
	if inMemory(capacity) {
		return b, nil
	}
	if err := acquire(ctx, m.files); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(m.dir, "berth-part-*")
	if err == nil {
		// Without a name nothing is left when the process dies.
		if err = os.Remove(f.Name()); err != nil {
			_ = f.Close()
		}
	}
	if err != nil {
		<-m.files
		return nil, fmt.Errorf("make a temporary file for a part: %w", err)
	}
	b.file = f
	return b, nil
}

func acquire(ctx context.Context, from chan struct{}) error {
	select {
	case from <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hold returns b for one more user.
func (b *buffer) hold() *buffer {
	b.users.Add(1)
	return b
}

// release ends the use of b by one user.
func (b *buffer) release() {
	if b.users.Add(-1) > 0 {
		return
	}
	if b.file != nil {
		_ = b.file.Close() // which removes it
		<-b.memory.files
		return
	}
	for _, c := range b.chunks {
		b.memory.pool.put(c)
		if len(c) == largeChunk {
			<-b.memory.tokens
		}
	}
	b.chunks = nil
}

// append adds p and returns how many bytes of it. It waits while the upload holds too much.
func (b *buffer) append(ctx context.Context, p []byte) (n int, err error) {
	if b.file != nil {
		n, err = b.file.WriteAt(p, b.size)
		b.size += int64(n)
		if err != nil {
			err = fmt.Errorf("spool a part to a temporary file: %w", err)
		}
		return n, err
	}
	for len(p) > 0 {
		i, at := place(b.size)
		if i == len(b.chunks) {
			size := smallChunk
			if i > 0 {
				size = largeChunk
				if err := acquire(ctx, b.memory.tokens); err != nil {
					return n, err
				}
			}
			b.chunks = append(b.chunks, b.memory.pool.get(size))
		}
		m := copy(b.chunks[i][at:], p)
		p = p[m:]
		n += m
		b.size += int64(m)
	}
	return n, nil
}

// place returns the chunk that has the byte at an offset, and where in it.
func place(offset int64) (i, at int) {
	if offset < smallChunk {
		return 0, int(offset)
	}
	offset -= smallChunk
	return 1 + int(offset/largeChunk), int(offset % largeChunk)
}

// section is a range of a buffer that stays as it is while its user holds the buffer.
type section struct {
	from, to int64
	chunks   [][]byte
	file     *os.File
}

// section returns the bytes from one offset to another. It is called by the goroutine that appends.
func (b *buffer) section(from, to int64) section {
	// The slice is cut to its length, so that a later append does not show in it.
	return section{from: from, to: to, chunks: b.chunks[:len(b.chunks):len(b.chunks)], file: b.file}
}

func (s section) size() int64 { return s.to - s.from }

// ReadAt implements io.ReaderAt.
func (s section) ReadAt(p []byte, offset int64) (n int, err error) {
	if offset < 0 {
		return 0, errors.New("negative offset")
	}
	if offset >= s.size() {
		return 0, io.EOF
	}
	short := int64(len(p)) > s.size()-offset
	p = p[:min(int64(len(p)), s.size()-offset)]
	if s.file != nil {
		n, err = s.file.ReadAt(p, s.from+offset)
		if n == len(p) {
			err = nil
		}
	} else {
		for n < len(p) {
			i, at := place(s.from + offset + int64(n))
			n += copy(p[n:], s.chunks[i][at:])
		}
	}
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// bytes returns a copy.
func (s section) bytes() ([]byte, error) {
	p := make([]byte, s.size())
	if _, err := s.ReadAt(p, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read back a part: %w", err)
	}
	return p, nil
}

// crc returns the CRC-32C.
func (s section) crc() (uint32, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if err := s.hash(h); err != nil {
		return 0, err
	}
	return h.Sum32(), nil
}

// md5 returns the MD5 sum, which guards against damage on the way and nothing else.
func (s section) md5() ([]byte, error) {
	h := md5.New()
	if err := s.hash(h); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func (s section) hash(h hash.Hash) error {
	if s.file != nil {
		if _, err := io.Copy(h, io.NewSectionReader(s.file, s.from, s.size())); err != nil {
			return fmt.Errorf("read back a part: %w", err)
		}
		return nil
	}
	for at := s.from; at < s.to; {
		i, in := place(at)
		c := s.chunks[i][in:]
		c = c[:min(int64(len(c)), s.to-at)]
		h.Write(c)
		at += int64(len(c))
	}
	return nil
}

// body is what a request sends of a section. Once closed it reads no more: the HTTP client may go on
// reading for a while after a request has ended, when the memory may be in use again.
type body struct {
	mu       sync.Mutex
	r        *io.SectionReader
	left     int64
	closed   bool
	progress func(times int)
}

func newBody(s section, progress func(times int)) *body {
	return &body{r: io.NewSectionReader(s, 0, s.size()), left: s.size(), progress: progress}
}

var errBodyClosed = errors.New("the request has ended")

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left > 0 {
		b.progress(1)
	} else {
		b.progress(sentCalls)
	}
	return n, err
}

// Seek implements io.Seeker.
func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, err := b.r.Seek(offset, whence)
	b.left = b.r.Size() - at
	return at, err
}

func (b *body) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}
