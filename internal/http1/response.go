package http1

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Sizes in bytes.
const (
	bodySize = 2 << 10  // of a body whose length is found by waiting for its end
	copySize = 32 << 10 // of the steps in which a body that is no file is copied
	stride   = 1 << 20  // of those in which the kernel copies a file
)

// response is the http.ResponseWriter of plain requests, of a connection's one after another. Like any, it is for
// use by one goroutine at a time, until the handler returns.
type response struct {
	c      *conn
	header http.Header
	names  []string // of it; kept for its memory

	toHead   bool  // the request is a HEAD, so that the body is not sent
	status   int   // 0 until WriteHeader
	length   int64 // of the body, as the header says; or -1
	written  int64 // bytes of the body that the handler has given
	typed    bool  // nobody has to guess a Content-Type
	complete bool  // the header is: out has its end, or it was sent
	chunked  bool
	close    bool   // the connection ends with this answer
	body     []byte // what the handler wrote before the header was complete
	out      []byte // what is to be sent next
	err      error  // of sending; after it nothing is sent any more
	deadline bool   // for writing was chosen by the handler
}

// begin makes w the response to the next request.
func (w *response) begin(toHead bool) {
	*w = response{
		c: w.c, header: w.header, names: w.names, toHead: toHead, length: -1,
		out: w.c.buf.out[:0], body: w.c.buf.body[:0],
	}
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. It writes down at once what the handler has chosen, so that later changes
// have no effect; what follows from the body is added when the body has begun.
func (w *response) WriteHeader(status int) {
	if w.status != 0 {
		w.c.server.logf("http: superfluous response.WriteHeader call")
		return
	}
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.appendHeader(status)
		w.out = append(w.out, "\r\n"...)
		w.flush(nil)
		return
	}
	w.status = status
	if v := w.header["Content-Length"]; len(v) > 0 && v[0] != "" {
		n, err := strconv.ParseInt(v[0], 10, 64)
		if err == nil && n >= 0 {
			w.length = n
		} else {
			w.c.server.logf("http: invalid Content-Length of %q", v[0])
			delete(w.header, "Content-Length")
		}
	}
	if v := w.header["Connection"]; len(v) > 0 && v[0] == "close" {
		w.close = true
	}
	_, w.typed = w.header["Content-Type"]
	w.typed = w.typed || w.header.Get("Content-Encoding") != ""
	w.appendHeader(status)
}

// appendHeader appends what the handler has chosen.
func (w *response) appendHeader(status int) {
	w.out = append(w.out, "HTTP/1.1 "...)
	w.out = strconv.AppendInt(w.out, int64(status), 10)
	w.out = append(w.out, ' ')
	if text := http.StatusText(status); text != "" {
		w.out = append(w.out, text...)
	} else {
		w.out = fmt.Appendf(w.out, "status code %d", status)
	}
	w.out = append(w.out, "\r\n"...)

	w.names = w.names[:0]
	for name := range w.header {
		switch {
		case name == "Transfer-Encoding", name == "Trailer", name == "" || strings.ContainsFunc(name, notToken):
		case name == "Connection" && w.close: // it is added with what ends the header
		case name == "Content-Length" && !hasBody(status), name == "Content-Type" && status == http.StatusNotModified:
		default:
			w.names = append(w.names, name)
		}
	}
	slices.Sort(w.names)
	for _, name := range w.names {
		for _, v := range w.header[name] {
			w.out = append(w.out, name...)
			w.out = append(w.out, ": "...)
			from := len(w.out)
			w.out = append(w.out, textproto.TrimString(v)...)
			for i, c := range w.out[from:] {
				if c == '\r' || c == '\n' {
					w.out[from+i] = ' '
				}
			}
			w.out = append(w.out, "\r\n"...)
		}
	}
}

func notToken(r rune) bool { return r > 0x7f || !isToken(byte(r)) }

// hasBody tells whether an answer with status may have a body, but for a HEAD.
func hasBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// completeHeader adds what follows from the body, and then what there is of it. At its end, all is there.
func (w *response) completeHeader(atEnd bool) {
	w.complete = true
	if w.header["Date"] == nil {
		w.out = append(w.out, w.c.server.dateLine()...)
	}
	if hasBody(w.status) {
		if atEnd && w.length < 0 && (!w.toHead || len(w.body) > 0) {
			w.length = int64(len(w.body))
			w.out = append(w.out, "Content-Length: "...)
			w.out = strconv.AppendInt(w.out, w.length, 10)
			w.out = append(w.out, "\r\n"...)
		}
		if !w.typed && len(w.body) > 0 {
			w.out = append(w.out, "Content-Type: "...)
			w.out = append(w.out, http.DetectContentType(w.body)...)
			w.out = append(w.out, "\r\n"...)
		}
	}
	if w.close = w.close || w.c.server.stopping.Load(); w.close {
		w.out = append(w.out, "Connection: close\r\n"...)
	}
	if w.chunked = w.sendsBody() && w.length < 0; w.chunked {
		w.out = append(w.out, "Transfer-Encoding: chunked\r\n"...)
	}
	w.out = append(w.out, "\r\n"...)
	w.send(w.body)
}

// sendsBody tells whether what the handler writes reaches the client.
func (w *response) sendsBody() bool { return !w.toHead && hasBody(w.status) }

// Write implements io.Writer.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !hasBody(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	w.written += int64(len(p))
	if w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	rest := p
	if !w.complete {
		n := min(len(p), bodySize-len(w.body))
		w.body = append(w.body, p[:n]...)
		if rest = p[n:]; len(rest) == 0 {
			return len(p), nil
		}
		w.completeHeader(false)
	}
	if w.send(rest); w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// send sends a part of the body, or keeps it in out.
func (w *response) send(p []byte) {
	if len(p) == 0 || !w.sendsBody() {
		return
	}
	if w.chunked {
		w.out = strconv.AppendInt(w.out, int64(len(p)), 16)
		w.out = append(w.out, "\r\n"...)
	}
	if len(w.out)+len(p) <= cap(w.out) {
		w.out = append(w.out, p...)
	} else {
		w.flush(p)
	}
	if w.chunked {
		w.out = append(w.out, "\r\n"...)
	}
}

// flush sends out and p.
func (w *response) flush(p []byte) {
	if w.err == nil && len(w.out)+len(p) > 0 {
		w.liftDeadline()
		if len(p) == 0 {
			_, w.err = w.c.peer.Write(w.out)
		} else {
			both := net.Buffers{w.out, p}
			_, w.err = both.WriteTo(w.c.peer.TCPConn)
		}
	}
	w.out = w.out[:0]
}

// ReadFrom implements io.ReaderFrom. The kernel copies files, and what comes over another connection.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	if limited, ok := src.(*io.LimitedReader); ok {
		_, isFile := limited.R.(*os.File)
		_, isConn := limited.R.(*net.TCPConn)
		if (isFile || isConn) && w.takesFile(limited.N) {
			if w.err = w.c.sendMore(w.out); w.err != nil {
				return 0, w.err
			}
			w.out = w.out[:0]
			n, err := w.c.peer.ReadFrom(src)
			w.written += n
			return n, err
		}
	}
	return w.copy(src)
}

// SendFile writes n bytes of f from offset on, without regard to where f is being read, and returns
// how many it has sent. Several may send one file at once. The
// error is io.ErrUnexpectedEOF if the file is shorter, os.ErrDeadlineExceeded if the client takes nothing.
func (w *response) SendFile(f *os.File, offset, n int64) (int64, error) {
	if !w.takesFile(n) {
		sent, err := w.copy(io.NewSectionReader(f, offset, n))
		if err == nil && sent < n {
			err = io.ErrUnexpectedEOF
		}
		return sent, err
	}
	sent, err := w.c.sendFile(w.out, f, offset, n)
	w.out = w.out[:0]
	w.written += sent
	return sent, err
}

// takesFile tells whether the kernel may copy n bytes of a file behind out: the header is complete, and has room for
// them in the body.
func (w *response) takesFile(n int64) bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.err != nil || n <= 0 || w.written+n > w.length || !w.sendsBody() || !w.complete && !w.typed {
		return false
	}
	if !w.complete {
		w.completeHeader(false)
	}
	w.liftDeadline()
	return true
}

// copy copies through memory.
func (w *response) copy(src io.Reader) (int64, error) {
	buf := w.c.server.copies.Get().(*[copySize]byte)
	defer w.c.server.copies.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, src, buf[:])
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.complete {
		w.completeHeader(false)
	}
	w.flush(nil)
	return w.err
}

// SetReadDeadline is for http.ResponseController. Nothing is read while a plain request is answered.
func (w *response) SetReadDeadline(t time.Time) error {
	w.c.readUntil = t
	return w.c.peer.SetReadDeadline(t)
}

// SetWriteDeadline is for http.ResponseController. A deadline in the future is set up to a quarter later than asked,
// so that the next ones, as they move on, need not be set.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.deadline = true
	slack := max(time.Until(t)/4, 0)
	if later := w.c.writeUntil.Sub(t); !t.IsZero() && 0 <= later && later <= slack {
		return nil
	}
	if !t.IsZero() {
		t = t.Add(slack)
	}
	w.c.writeUntil = t
	return w.c.peer.SetWriteDeadline(t)
}

// liftDeadline takes away the deadline that an earlier handler has chosen.
func (w *response) liftDeadline() {
	if !w.deadline && !w.c.writeUntil.IsZero() {
		_ = w.SetWriteDeadline(time.Time{})
	}
}

// finish sends what is left when the handler has returned. It is true if the connection can be used again.
func (w *response) finish() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.complete {
		w.completeHeader(true)
	}
	if w.chunked {
		w.out = append(w.out, "0\r\n\r\n"...)
	}
	w.flush(nil)
	w.out, w.body = nil, nil
	clear(w.header)
	short := w.sendsBody() && w.length >= 0 && w.length != w.written
	return w.err == nil && !w.close && !short
}
