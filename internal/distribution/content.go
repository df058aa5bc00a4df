package distribution

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

// immutable lets clients and proxies keep what a digest names.
var immutable = []string{"private, max-age=31536000, immutable"}

// serveContent answers with content that a digest names: ETag, conditional
// requests and ranges as RFC 9110 asks (sections 13 and 14). open is not
// called when nothing of the content is needed.
func serveContent(w *web.Response, r *http.Request, d oci.Digest, mediaType string, size int64, open func() (io.ReadSeeker, io.Closer, error)) error {
	digest := d.String()
	h := w.Header()
	h["Content-Type"] = []string{mediaType}
	h["Docker-Content-Digest"] = []string{digest}
	h["Etag"] = []string{`"` + digest + `"`}
	conditional := false
	for _, k := range []string{"Range", "If-None-Match", "If-Match", "If-Range"} {
		if r.Header[k] != nil {
			conditional = true
		}
	}
	if !conditional {
		h["Accept-Ranges"] = []string{"bytes"}
		h["Content-Length"] = []string{strconv.FormatInt(size, 10)}
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusOK)
			return nil
		}
		content, closer, err := open()
		if err != nil {
			return err
		}
		defer closer.Close()
		w.WriteHeader(http.StatusOK)
		n, err := w.ReadFrom(&io.LimitedReader{R: content, N: size})
		if err == nil && n < size {
			err = fmt.Errorf("content of %s ends after %d of %d bytes", digest, n, size)
		}
		return err
	}
	if r.Method == http.MethodHead {
		// Nothing of the content is read for a HEAD but its size.
		return serveConditional(w, r, &sized{size: size})
	}
	content, closer, err := open()
	if err != nil {
		return err
	}
	defer closer.Close()
	return serveConditional(w, r, content)
}

// serveConditional is http.ServeContent with errors that are returned instead of written. What that
// promised with Content-Length and could not send makes the server cut the connection.
func serveConditional(w *web.Response, r *http.Request, content io.ReadSeeker) error {
	asked := r.Header.Get("Range")
	if hasEmptySuffix(asked) {
		// ServeContent would answer with a range that ends before it begins. A Range
		// may always be ignored.
		r.Header.Del("Range")
	}
	rw := refusable{Response: w}
	http.ServeContent(&rw, r, "", time.Time{}, content)
	switch rw.refused {
	case 0:
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		return oci.Errorf(oci.CodeSizeInvalid, "the content has no range %.100q", asked).WithStatus(rw.refused)
	case http.StatusPreconditionFailed:
		return oci.Errorf(oci.CodeDenied, "the content is not what the request's condition says").WithStatus(rw.refused)
	default:
		return fmt.Errorf("serve content: status %d", rw.refused)
	}
}

// refusable keeps back an answer that is an error.
type refusable struct {
	*web.Response
	refused int // its status, or 0
}

func (w *refusable) WriteHeader(status int) {
	if status >= 400 {
		w.refused = status
		w.Header().Del("X-Content-Type-Options")
		return
	}
	w.Response.WriteHeader(status)
}

func (w *refusable) Write(p []byte) (int, error) {
	if w.refused != 0 {
		return len(p), nil
	}
	return w.Response.Write(p)
}

// firstRange returns what a Range header asks for first of content of this size: the offset and the count of bytes. It is all of
// the content if that cannot be told, or is not the usual case. Nothing but what is fetched beforehand rests on it.
func firstRange(header string, size int64) (offset, n int64) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	from, to, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return 0, size
	}
	first, err := strconv.ParseInt(from, 10, 64)
	last := size - 1
	if to != "" && err == nil {
		last, err = strconv.ParseInt(to, 10, 64)
	}
	if err != nil || first < 0 || first >= size || last < first {
		return 0, size
	}
	return first, min(last, size-1) - first + 1
}

// hasEmptySuffix tells whether a Range header asks for the last 0 bytes.
func hasEmptySuffix(s string) bool {
	s = strings.TrimPrefix(s, "bytes=")
	for spec := range strings.SplitSeq(s, ",") {
		if n, ok := strings.CutPrefix(strings.TrimSpace(spec), "-"); ok && strings.Trim(n, "0") == "" {
			return true
		}
	}
	return false
}

// sized is content of which only the size is known.
type sized struct{ at, size int64 }

func (s *sized) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (s *sized) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	s.at = offset
	return offset, nil
}

// getBlob serves end-2 (spec.md#pulling-blobs).
func (h *Handler) getBlob(w *web.Response, req *request) error {
	ctx := req.http.Context()
	lookup := h.reg.Blob
	if req.http.Method == http.MethodHead {
		lookup = h.reg.CheckBlob
	}
	b, err := lookup(ctx, req.repository, req.digest)
	if err != nil {
		return err
	}
	if redirected, err := h.redirect(w, req, b); redirected || err != nil {
		return err
	}
	w.Header()["Cache-Control"] = immutable
	return serveContent(w, req.http, b.Digest, "application/octet-stream", b.Size, func() (io.ReadSeeker, io.Closer, error) {
		offset, n := firstRange(req.http.Header.Get("Range"), b.Size)
		rd, err := h.reg.OpenBlobRange(ctx, req.repository, b, offset, n)
		if err != nil {
			return nil, nil, err
		}
		return rd, rd, nil
	})
}

// redirect sends a client to the blob store, if that is what it should do. A request with a condition is
// answered here: it asks about the registry's ETag.
func (h *Handler) redirect(w *web.Response, req *request, b *meta.Blob) (bool, error) {
	r := req.http
	if h.opts.Redirect == nil || r.Method != http.MethodGet || !h.opts.Redirect(h.opts.Client(r)) {
		return false, nil
	}
	for _, k := range []string{"If-None-Match", "If-Match", "If-Range"} {
		if r.Header[k] != nil {
			return false, nil
		}
	}
	url, err := h.reg.BlobURL(r.Context(), b, h.opts.RedirectExpire)
	if err != nil || url == "" {
		return false, err
	}
	header := w.Header()
	header.Set("Location", url)
	header.Set("Docker-Content-Digest", b.Digest.String())
	header.Set("Cache-Control", "no-store") // the address expires
	header.Set("Content-Length", "0")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true, nil
}

// largeBodies is how many bytes of large manifests are held for those who pull them.
const largeBodies = 16 << 20

// inspectHeader is sent by who looks at a manifest and does not use it, such as "berth tag ls": that is not counted as a pull.
const inspectHeader = "Berth-Inspect"

// getManifest serves end-3 (spec.md#pulling-manifests). Whatever Accept says, the stored
// bytes are the answer: a digest names them and no others.
func (h *Handler) getManifest(w *web.Response, req *request) error {
	ctx := req.http.Context()
	m := req.manifest
	if m == nil {
		var err error
		if m, err = h.reg.Manifest(ctx, req.repository, req.reference, false); err != nil {
			return err
		}
	}
	if req.http.Method == http.MethodHead {
		h.opts.Limits.ShowPulls(w, req.subject)
	} else if err := h.opts.Limits.Pull(w, req.subject); err != nil {
		return err
	}
	if h.opts.Pulled != nil && req.http.Header[inspectHeader] == nil {
		h.opts.Pulled(req.repository, req.reference.Tag, m.Digest)
	}
	// Without a body it is a large one, which is held while there is room. Else it comes in
	// parts: many who read slowly are served slowly, and cost no memory.
	if m.Body == nil && req.http.Method != http.MethodHead && h.bodies.TryAcquire(m.Size) {
		defer h.bodies.Release(m.Size)
		var err error
		if m, err = h.reg.Manifest(ctx, req.repository, oci.Reference{Digest: m.Digest}, true); err != nil {
			return err
		}
	}
	return serveContent(w, req.http, m.Digest, m.MediaType, m.Size, func() (io.ReadSeeker, io.Closer, error) {
		return h.reg.OpenManifest(ctx, req.repository, m), io.NopCloser(nil), nil
	})
}
