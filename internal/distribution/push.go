package distribution

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// startUpload serves end-4 and end-11 (spec.md#pushing-blobs).
func (h *Handler) startUpload(w *web.Response, req *request) error {
	if err := h.opts.Limits.BeginUpload(w, req.subject, req.repository); err != nil {
		return err
	}
	q := req.query
	if err := h.reg.CheckChange(req.http.Context(), req.repository); err != nil {
		return err
	}
	if q.Has("mount") {
		d, err := oci.ParseDigest(q.Get("mount"))
		if err != nil {
			return err
		}
		// A source that cannot be is one that has nothing: the client uploads instead.
		from, err := oci.ParseRepository(q.Get("from"))
		if err == nil || !q.Has("from") {
			mounted, err := h.mount(req, from, d)
			if err != nil {
				return err
			}
			if mounted {
				return h.blobCreated(w, req, d)
			}
		}
	} else if q.Has("digest") {
		d, err := oci.ParseDigest(q.Get("digest"))
		if err != nil {
			return err
		}
		if req.http.ContentLength != 0 || d == oci.DigestBytes(d.Algorithm(), nil) {
			return h.putBlob(w, req, d)
		}
		// Without a body it is the start of a session whose digest is known.
	}
	alg := oci.SHA256
	if q.Has("digest-algorithm") {
		var err error
		if alg, err = oci.ParseAlgorithm(q.Get("digest-algorithm")); err != nil {
			return err
		}
	}
	return h.uploadAccepted(w, h.reg.StartUpload(req.repository, alg, req.account()), 0, http.StatusAccepted)
}

// mount gives the repository a blob of another one, from which the client must be allowed to pull.
func (h *Handler) mount(req *request, from oci.Repository, d oci.Digest) (bool, error) {
	may, err := h.mayMount(req, from)
	if err != nil || !may {
		return false, err
	}
	return h.reg.MountBlob(req.http.Context(), req.repository, from, d)
}

// putBlob serves end-4b (spec.md#single-post).
func (h *Handler) putBlob(w *web.Response, req *request, d oci.Digest) error {
	release, err := h.admit()
	if err != nil {
		return err
	}
	defer release()
	body, err := uploadBody(w, req)
	if err != nil {
		return err
	}
	err = h.reg.PutBlob(req.http.Context(), req.repository, d, body)
	if e, ok := errors.AsType[*registry.BodyError](err); ok {
		return bodyBroken(e.Err)
	}
	if err != nil {
		return err
	}
	return h.blobCreated(w, req, d)
}

// appendUpload serves end-5 (spec.md#pushing-a-blob-in-chunks), and the stream without
// Content-Range that Docker sends.
func (h *Handler) appendUpload(w *web.Response, req *request) error {
	s, err := h.session(req)
	if err != nil {
		return err
	}
	release, err := h.admit()
	if err != nil {
		return err
	}
	defer release()
	body, err := uploadBody(w, req)
	if err != nil {
		return err
	}
	size, err := h.reg.AppendUpload(req.http.Context(), s, body)
	if err != nil {
		return h.uploadFailed(w, s, err)
	}
	return h.uploadAccepted(w, s, size, http.StatusAccepted)
}

// finishUpload serves end-6 (spec.md#post-then-put, spec.md#pushing-a-blob-in-chunks).
func (h *Handler) finishUpload(w *web.Response, req *request) error {
	s, err := h.session(req)
	if err != nil {
		return err
	}
	d, err := oci.ParseDigest(req.query.Get("digest"))
	if err != nil {
		return err
	}
	release, err := h.admit()
	if err != nil {
		return err
	}
	defer release()
	body, err := uploadBody(w, req)
	if err != nil {
		return err
	}
	if err := h.reg.FinishUpload(req.http.Context(), s, d, body); err != nil {
		return h.uploadFailed(w, s, err)
	}
	return h.blobCreated(w, req, d)
}

// uploadStatus serves end-13.
func (h *Handler) uploadStatus(w *web.Response, req *request) error {
	s, err := h.session(req)
	if err != nil {
		return err
	}
	size, err := h.reg.UploadSize(req.http.Context(), s)
	if err != nil {
		return err
	}
	return h.uploadAccepted(w, s, size, http.StatusNoContent)
}

// cancelUpload serves end-14 (spec.md#cancel-a-blob-upload).
func (h *Handler) cancelUpload(w *web.Response, req *request) error {
	s, err := h.session(req)
	if err != nil {
		return err
	}
	if err := h.reg.CancelUpload(req.http.Context(), s); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// session reads the session that the path and its _state parameter name. It is for who began it, and for nobody else; for them, also
// with a token that has expired meanwhile.
func (h *Handler) session(req *request) (registry.Session, error) {
	return h.reg.Session(req.repository, req.uploadID, req.query.Get("_state"), req.account())
}

// admit takes a place among the requests that send blobs, so that their buffers are bounded.
func (h *Handler) admit() (release func(), err error) {
	select {
	case h.uploads <- struct{}{}:
		return func() { <-h.uploads }, nil
	default:
		return nil, oci.Errorf(oci.CodeTooManyRequests, "%d blobs are being uploaded, more are not accepted at a time: try again", cap(h.uploads))
	}
}

// uploadBody describes what the client sends.
func uploadBody(w *web.Response, req *request) (registry.Body, error) {
	r, err := parseContentRange(req.http.Header.Get("Content-Range"))
	if err != nil {
		return registry.Body{}, err
	}
	body := registry.Body{Reader: req.http.Body, First: -1, Length: max(req.http.ContentLength, 0), Interrupt: w.InterruptBody}
	if r != nil {
		if n := req.http.ContentLength; n >= 0 && n != r.length() {
			return registry.Body{}, oci.Errorf(oci.CodeSizeInvalid, "Content-Range names %d bytes, Content-Length %d", r.length(), n)
		}
		body.First, body.Length = r.first, r.length()
		body.Reader = &exactly{r: body.Reader, left: r.length()}
	}
	return body, nil
}

// exactly is a body of a known length, even if it comes without a Content-Length.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if int64(len(p)) > e.left {
		p = p[:e.left+1] // one more, which shows whether there is more
	}
	n, err := e.r.Read(p)
	if int64(n) > e.left {
		n, e.left = int(e.left), 0
		return n, errTooLong
	}
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

var errTooLong = errors.New("the body has more bytes than its Content-Range")

// uploadFailed tells what the client did wrong. An offset that does not fit is 416, with
// what the client needs to go on.
func (h *Handler) uploadFailed(w *web.Response, s registry.Session, err error) error {
	if e, ok := errors.AsType[*registry.BodyError](err); ok {
		return bodyBroken(e.Err)
	}
	e, ok := errors.AsType[*registry.OffsetError](err)
	if !ok {
		return err
	}
	h.uploadHeader(w, s, e.Size)
	return oci.Errorf(oci.CodeBlobUploadInvalid, "the chunk does not follow: the upload has %d bytes, so the next one begins at %d", e.Size, e.Size).
		WithStatus(http.StatusRequestedRangeNotSatisfiable)
}

func (h *Handler) uploadHeader(w *web.Response, s registry.Session, size int64) {
	hd := w.Header()
	hd["Location"] = []string{h.location("/v2/" + string(s.Repository) + "/blobs/uploads/" + s.ID + "?_state=" + h.reg.Token(s))}
	hd["Range"] = []string{"0-" + strconv.FormatInt(max(size-1, 0), 10)} // 0-0 for nothing, too
	hd["Docker-Upload-Uuid"] = []string{s.ID}
}

func (h *Handler) uploadAccepted(w *web.Response, s registry.Session, size int64, status int) error {
	h.uploadHeader(w, s, size)
	if status != http.StatusNoContent {
		w.Header()["Content-Length"] = []string{"0"}
	}
	w.WriteHeader(status)
	return nil
}

func (h *Handler) blobCreated(w *web.Response, req *request, d oci.Digest) error {
	h.created(w, "/v2/"+string(req.repository)+"/blobs/", d)
	return nil
}

func (h *Handler) created(w *web.Response, path string, d oci.Digest) {
	hd := w.Header()
	hd["Location"] = []string{h.location(path + d.String())}
	hd["Docker-Content-Digest"] = []string{d.String()}
	hd["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusCreated)
}

// deleteBlob serves end-10 (spec.md#deleting-blobs).
func (h *Handler) deleteBlob(w *web.Response, req *request) error {
	if err := h.reg.DeleteBlob(req.http.Context(), req.repository, req.digest, h.actor(req)); err != nil {
		return err
	}
	return accepted(w)
}

// deleteManifest serves end-9 (spec.md#deleting-tags, spec.md#deleting-manifests).
func (h *Handler) deleteManifest(w *web.Response, req *request) error {
	if err := h.reg.DeleteManifest(req.http.Context(), req.repository, req.reference, h.actor(req), h.mayDelete(req)); err != nil {
		return err
	}
	return accepted(w)
}

func accepted(w *web.Response) error {
	w.Header()["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// bodyBroken is what a client is told, if it is still there, whose body did not arrive whole.
func bodyBroken(err error) error {
	if errors.Is(err, web.ErrIdle) {
		return oci.Errorf(oci.CodeSizeInvalid, "%v", err).WithStatus(http.StatusRequestTimeout)
	}
	return oci.Errorf(oci.CodeSizeInvalid, "the request's body ended before its length: %v", err)
}
