package admin

import (
	"bytes"
	"io"
	"net/http"

	"github.com/berthregistry/berth/internal/web"
)

// Local returns a transport whose requests are served here, in this process, for whoever can open the database: they may do everything. Hosts of
// URLs mean nothing.
func (h *Handler) Local() http.RoundTripper {
	server := web.NewServer(web.Options{Log: h.opts.Log})
	return &local{server.Handler(func(w *web.Response, r *http.Request) error { return h.serve(w, r, true) })}
}

type local struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (l *local) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer in.Body.Close()
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	l.handler.ServeHTTP(w, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// recorder is the http.ResponseWriter of an answer that stays in this process.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(p []byte) (int, error) { return w.body.Write(p) }
