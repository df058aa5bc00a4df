// Package web is the plumbing of HTTP: handlers that return errors, the form of an
// error's answer, request ids, the access log, and deadlines that ask for
// progress instead of limiting the whole.
//
// What holds true: every answer to a failure is written in one place; an answer that
// breaks off is cut, so that it never looks whole; a client that stalls is let go after the
// idle timeout, however large the transfer; files, and what comes from
// another socket, reach the client's by the kernel (sendfile, splice).
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// HandlerFunc serves a request. An error that it returns before it has written anything
// becomes the answer: an *oci.Error as it is, any other as a failure of the
// server whose text goes to the log only. After a part has been written, an error cuts the connection.
type HandlerFunc func(w *Response, r *http.Request) error

// Observer is told of every request that has ended. It must be fast and safe for
// concurrent use.
type Observer interface {
	// Observe gets a route's name, the bytes of the bodies in and out, and the time from
	// the request's header to the answer's end.
	Observe(route, method string, status int, in, out int64, took time.Duration)
}

// Options configure a Server. All fields but Log may be zero.
type Options struct {
	Log       *slog.Logger
	AccessLog bool
	Observer  Observer
	// Idle is how long a body or an answer may go without progress; 0 for ever.
	Idle time.Duration
	// TrustedProxies may name the client in X-Forwarded-For or Forwarded.
	TrustedProxies []netip.Prefix
	// Explain, if not nil, makes an answer of a failure that is not the client's, such as a full disk; nil for
	// one of which the client is told nothing. The log gets the failure itself.
	Explain func(error) *oci.Error
}

// Server wraps handlers. It may be used concurrently.
type Server struct {
	opts Options
}

// NewServer returns a Server.
func NewServer(opts Options) *Server { return &Server{opts} }

// Handler makes an http.Handler of h.
func (s *Server) Handler(h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(hw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w := newResponse(hw, r, s.opts.Idle)
		w.id = s.requestID(r)
		w.Header()["X-Request-Id"] = []string{w.id}
		if r.ContentLength != 0 {
			w.body = &body{ReadCloser: r.Body, w: w, idle: s.opts.Idle}
			w.body.extend() // also for a body that no handler reads
			defer w.body.leave()
			r = r.WithContext(r.Context()) // a copy: the server looks at what it made of the body itself
			r.Body = w.body
		}
		defer s.finish(w, r, start)
		if err := call(h, w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// errPanic marks an error that was a panic.
var errPanic = errors.New("panic")

func call(h HandlerFunc, w *Response, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("%w: %v\n%s", errPanic, p, debug.Stack())
		}
	}()
	return h(w, r)
}

// finish writes the access log and tells the observer, also when the connection is being cut.
func (s *Server) finish(w *Response, r *http.Request, start time.Time) {
	took := time.Since(start)
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	var in int64
	if w.body != nil {
		in = w.body.read
	}
	if s.opts.Observer != nil {
		s.opts.Observer.Observe(w.Route, r.Method, status, in, w.written, took)
	}
	if s.opts.AccessLog {
		var certificate, limited slog.Attr // which are left out if they stay empty
		if c := s.ClientCertificate(r); c != nil {
			certificate = slog.String("certificate", c.Subject.String())
		}
		if w.Limited != "" {
			limited = slog.String("limited", w.Limited)
		}
		s.opts.Log.LogAttrs(context.Background(), slog.LevelInfo, "request",
			slog.String("id", w.id),
			slog.String("client", s.Client(r).String()),
			slog.String("method", r.Method),
			slog.String("path", r.URL.Path),
			slog.Int("status", status),
			slog.Int64("in", in),
			slog.Int64("out", w.written),
			slog.Int64("us", took.Microseconds()),
			slog.String("agent", r.UserAgent()),
			certificate, limited)
	}
}

// fail answers with an error, or cuts the connection if an answer has begun.
func (s *Server) fail(w *Response, r *http.Request, err error) {
	e, ok := errors.AsType[*oci.Error](err)
	if !ok {
		e = s.explain(w, r, err)
	}
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	if w.body != nil && r.ContentLength < 0 {
		w.body.abandon()
	}
	WriteError(w, e)
}

// explain makes an answer of a failure that is not an *oci.Error, and logs it.
func (s *Server) explain(w *Response, r *http.Request, err error) *oci.Error {
	e := oci.Errorf(oci.CodeUnknown, "the registry failed to serve this request; its log tells why under the request id %s", w.id)
	// Nobody reads the answer of a client that has gone, and nothing is wrong here.
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return e.WithStatus(499)
	}
	if s.opts.Explain != nil {
		if known := s.opts.Explain(err); known != nil {
			s.opts.Log.Warn("request refused", "id", w.id, "method", r.Method, "path", r.URL.Path, "error", err)
			return known
		}
	}
	// What is left of these comes from the client's connection.
	for _, gone := range []error{syscall.EPIPE, syscall.ECONNRESET, net.ErrClosed, os.ErrDeadlineExceeded} {
		if errors.Is(err, gone) {
			return e.WithStatus(499)
		}
	}
	s.opts.Log.Error("request failed", "id", w.id, "method", r.Method, "path", r.URL.Path, "error", err)
	return e
}

// WriteError answers with e in the form of spec.md#error-codes.
func WriteError(w http.ResponseWriter, e *oci.Error) {
	type entry struct {
		Code    oci.Code `json:"code"`
		Message string   `json:"message"`
		Detail  any      `json:"detail,omitempty"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{e.Code, e.Message, e.Detail}}})
	if err != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN","message":"the error cannot be shown"}]}`)
	}
	h := w.Header()
	status := e.HTTPStatus()
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		if h.Get("Retry-After") == "" {
			h.Set("Retry-After", "1")
		}
	}
	// What was meant for the answer that did not come about must not describe this one.
	for _, k := range []string{"Etag", "Docker-Content-Digest", "Cache-Control"} {
		h.Del(k)
	}
	if status != http.StatusRequestedRangeNotSatisfiable {
		h.Del("Content-Range")
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// requestID takes the id that a trusted proxy gave, or makes one.
func (s *Server) requestID(r *http.Request) string {
	if len(s.opts.TrustedProxies) > 0 {
		if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && s.trusted(peer(r)) && printable(id) {
			return id
		}
	}
	const digits = "0123456789abcdef"
	var b [16]byte
	for n, i := rand.Uint64(), 0; i < len(b); i, n = i+1, n>>4 {
		b[i] = digits[n&15]
	}
	return string(b[:])
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
