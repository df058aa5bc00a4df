package web

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// Response is the http.ResponseWriter of a HandlerFunc. It counts, extends the
// deadline while there is progress, and leaves the way open for sendfile.
type Response struct {
	http.ResponseWriter
	// Route names the kind of request for metrics; a handler sets it.
	Route string

	id      string
	control *http.ResponseController
	idle    time.Duration
	status  int
	written int64

	interrupted atomic.Bool
}

func newResponse(w http.ResponseWriter, r *http.Request, idle time.Duration) *Response {
	return &Response{ResponseWriter: w, control: http.NewResponseController(w), idle: idle}
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

// stride is how much has to get through within the idle timeout.
const stride = 1 << 20

// ReadFrom implements io.ReaderFrom. A file is handed to the kernel in
// strides, each with a deadline of its own.
func (w *Response) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	rest, ok := src.(*io.LimitedReader)
	if !ok {
		rest = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	var total int64
	for rest.N > 0 {
		w.progress()
		part := &io.LimitedReader{R: rest.R, N: min(rest.N, stride)}
		want := part.N
		n, err := io.Copy(w.ResponseWriter, part)
		total += n
		w.written += n
		rest.N -= n
		if err != nil || n < want {
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
// from now on. It may be called from any goroutine while the handler runs.
func (w *Response) InterruptBody() {
	w.interrupted.Store(true)
	w.control.SetReadDeadline(time.Unix(1, 0))
}

// ErrIdle: the client sent nothing for the idle timeout, or its body was interrupted.
var ErrIdle = errors.New("the client sent nothing for too long")

// body asks for progress and counts.
type body struct {
	io.ReadCloser
	w    *Response
	idle time.Duration
	read int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.idle > 0 {
		b.w.control.SetReadDeadline(time.Now().Add(b.idle))
	}
	// Asked after the deadline is set, so that neither order of the two loses an interruption.
	if b.w.interrupted.Load() {
		return 0, ErrIdle
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err != nil {
		if b.idle > 0 {
			// The server goes on watching the connection for the client's leaving.
			b.w.control.SetReadDeadline(time.Time{})
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrIdle
		}
	}
	return n, err
}
