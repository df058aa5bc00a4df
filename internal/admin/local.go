package admin

import (
	"io"
	"net/http"

	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// Local returns a transport whose requests are served here, in this process, for whoever can open the database: they may do everything. Hosts of
// URLs mean nothing.
func (h *Handler) Local() http.RoundTripper {
	server := web.NewServer(web.Options{Log: h.opts.Log, Explain: registry.Explain})
	return &local{server.Handler(func(w *web.Response, r *http.Request) error { return h.serve(w, r, true) })}
}

type local struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper. The answer is read while it is made, so it may be of any length.
func (l *local) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	from, to := io.Pipe()
	w := &recorder{header: make(http.Header), begun: make(chan struct{}), to: to}
	body := &localBody{PipeReader: from, ended: make(chan struct{})}
	go func() {
		defer close(body.ended)
		defer in.Body.Close()
		defer func() {
			if p := recover(); p != nil { // http.ErrAbortHandler: the answer is cut off
				to.CloseWithError(io.ErrUnexpectedEOF)
			}
		}()
		l.handler.ServeHTTP(w, in)
		w.WriteHeader(http.StatusOK)
		to.Close()
	}()
	select {
	case <-w.begun:
	case <-body.ended: // without an answer
	}
	if err := r.Context().Err(); err != nil {
		body.Close()
		return nil, err
	}
	if w.status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: body, ContentLength: -1, Request: r,
	}, nil
}

// localBody is the body of an answer. When it is closed, nothing is at work any more for the request.
type localBody struct {
	*io.PipeReader
	ended chan struct{}
}

// Close implements io.Closer.
func (b *localBody) Close() error {
	err := b.PipeReader.Close()
	<-b.ended
	return err
}

// recorder is the http.ResponseWriter of an answer that stays in this process.
type recorder struct {
	header, sent http.Header
	status       int
	begun        chan struct{} // closed once status and sent are set
	to           *io.PipeWriter
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.sent, w.status = w.header.Clone(), status
		close(w.begun)
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.to.Write(p)
}
