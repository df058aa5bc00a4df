package web

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Response is the http.ResponseWriter of a HandlerFunc. It counts, extends the
// deadline while there is progress, and leaves the way open for sendfile.
type Response struct {
	http.ResponseWriter
	// Route names the kind of request for metrics; a handler sets it.
	Route string
	// Limited says what limit the request was refused by, for the access log; empty if by none.
	Limited string

	id      string
	control http.ResponseController
	idle    time.Duration
	http2   bool
	kernel  bool // can copy files to the connection: HTTP/1.1 without TLS
	status  int
	written int64
	body    *body // nil if the request has none
}

func newResponse(w http.ResponseWriter, r *http.Request, idle time.Duration) *Response {
	return &Response{ResponseWriter: w, control: *http.NewResponseController(w), idle: idle,
		http2: r.ProtoMajor == 2, kernel: r.ProtoMajor == 1 && r.TLS == nil}
}

// ID returns the request's id.
func (w *Response) ID() string { return w.id }

// Unwrap serves http.ResponseController.
func (w *Response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *Response) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
		w.progress()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *Response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.progress()
	n, err := w.ResponseWriter.Write(p)
	w.written += int64(n)
	return n, err
}

// Of these a copy is made. The client has the idle timeout to take one, or, where the kernel copies
// one, some of it. What comes from a socket is held by the kernel until the client has taken it.
const (
	stride       = 64 << 10
	fileStride   = 1 << 20
	socketStride = 256 << 10
)

// File is content that lies in a file of this machine.
type File interface {
	io.ReadSeeker
	// Shared returns the open file and the offset in it of what is read next. Others read it as well.
	Shared() (f *os.File, offset int64)
	// Own opens the file once more, at that offset.
	Own() (*os.File, error)
}

// Socket is content that comes over connections.
type Socket interface {
	io.Reader
	// Arrived waits for bytes that can be taken from a connection, and returns how many there are; or no connection if
	// Read is to be called instead.
	Arrived() (conn *net.TCPConn, n int64, err error)
	// Took tells that n bytes were taken from there and sent. If more were taken, they are lost.
	Took(n int64, more bool)
}

// fileSender is a ResponseWriter through which the kernel copies part of a file that others read, too.
type fileSender interface {
	SendFile(f *os.File, offset, n int64) (int64, error)
}

// ReadFrom implements io.ReaderFrom. An *os.File, a File or a Socket is handed to the kernel, where the protocol allows it.
func (w *Response) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	rest, ok := src.(*io.LimitedReader)
	if !ok {
		rest = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	if f, ok := rest.R.(File); ok {
		if s, ok := w.ResponseWriter.(fileSender); ok {
			return w.sendFile(s, f, rest)
		}
		if w.kernel {
			if own, err := f.Own(); err == nil {
				defer own.Close()
				rest.R = own
			}
		}
	}
	socket, _ := rest.R.(Socket)
	_, isFile := rest.R.(*os.File)
	var total int64
	for rest.N > 0 {
		part := &io.LimitedReader{R: rest.R, N: min(rest.N, stride)}
		byKernel := isFile && w.kernel
		if byKernel {
			part.N = min(rest.N, fileStride)
		}
		var conn *net.TCPConn
		if socket != nil && w.kernel {
			var arrived int64
			var err error
			if conn, arrived, err = socket.Arrived(); err != nil {
				return total, err
			}
			if conn != nil {
				part = &io.LimitedReader{R: conn, N: min(rest.N, arrived, socketStride)}
				byKernel = true
			}
		}
		want := part.N
		w.progress()
		n, err := w.copy(part, byKernel)
		total += n
		w.written += n
		rest.N -= n
		if conn != nil {
			socket.Took(n, n < want)
		}
		if byKernel && n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue // it is slow, but it is there
		}
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}

// copies are buffers of copy. net/http would make one of its own for each stride.
var copies = sync.Pool{New: func() any { return new([stride]byte) }}

// copy writes src, of a stride at most.
func (w *Response) copy(src *io.LimitedReader, byKernel bool) (int64, error) {
	if byKernel {
		return io.Copy(w.ResponseWriter, src)
	}
	buf := copies.Get().(*[stride]byte)
	defer copies.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w.ResponseWriter}, src, buf[:])
}

// sendFile sends what is left of f.
func (w *Response) sendFile(s fileSender, f File, rest *io.LimitedReader) (total int64, err error) {
	for rest.N > 0 {
		w.progress()
		file, offset := f.Shared()
		n, err := s.SendFile(file, offset, min(rest.N, fileStride))
		total += n
		w.written += n
		rest.N -= n
		if _, seek := f.Seek(n, io.SeekCurrent); seek != nil {
			return total, seek
		}
		if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue // it is slow, but it is there
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// progress gives the client the idle timeout to take what comes next.
func (w *Response) progress() {
	if w.idle > 0 {
		w.control.SetWriteDeadline(time.Now().Add(w.idle))
	}
}

// InterruptBody makes a read of the request's body that is waiting fail, now and
// from now on. It does nothing if the whole body has been read. It may be called from any goroutine while
// the handler runs, and does not wait.
func (w *Response) InterruptBody() {
	if w.body != nil {
		w.body.interrupt()
	}
}

// past is a deadline that ends what waits.
var past = time.Unix(1, 0)

// ErrIdle: the client sent nothing for the idle timeout, or its body was interrupted.
var ErrIdle = errors.New("the client sent nothing for too long")

// body asks for progress and counts.
type body struct {
	io.ReadCloser
	w    *Response
	idle time.Duration
	read int64

	mu          sync.Mutex // held while a deadline is chosen and set
	interrupted bool
	end         bool // was reached
}

// extend gives the client the idle timeout to send what comes next.
func (b *body) extend() {
	if b.idle > 0 {
		b.w.control.SetReadDeadline(time.Now().Add(b.idle))
	}
}

// Read leaves a deadline that has passed as it is: after the handler, the server reads on
// for a while, to use the connection again, and must not wait there either.
func (b *body) Read(p []byte) (int, error) {
	if err := b.begin(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		b.ended()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrIdle
	}
	return n, err
}

func (b *body) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.end:
		return io.EOF
	case b.interrupted:
		return ErrIdle
	}
	b.extend()
	return nil
}

// ended lifts the deadline: from now on the server watches the connection for the client's
// leaving, for which it would take a deadline that passes.
func (b *body) ended() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = true
	if b.interrupted && !b.w.http2 {
		b.w.Header().Set("Connection", "close") // it may have done so already
	}
	if b.interrupted || b.idle > 0 {
		b.w.control.SetReadDeadline(time.Time{})
	}
}

func (b *body) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.interrupted = true
	if !b.end {
		b.w.control.SetReadDeadline(past)
	}
}

// abandon has an error sent at once, although the body is of unknown length and has not been read: net/http would wait
// for up to 256 KiB of it before, and who streams may take long to send them.
func (b *body) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.end && !b.w.http2 {
		b.w.Header().Set("Connection", "close")
	}
}

// leave is called when the handler is done. The server may wait for the rest of the
// body before it sends the answer, for which there must be time afterwards.
func (b *body) leave() {
	if b.idle > 0 && !b.end {
		b.w.control.SetWriteDeadline(time.Now().Add(2 * b.idle))
	}
}
