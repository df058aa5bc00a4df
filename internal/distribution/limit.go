package distribution

import (
	"net/http"

	"github.com/berthregistry/berth/internal/web"
)

// limit counts a request with whoever makes it, or refuses it. What does not begin anything is let through for longer: the
// blobs of an image whose manifest was pulled, and what follows the first request of an upload. What is answered without
// looking anything up is not counted, because a refusal would cost as much.
func (h *Handler) limit(w *web.Response, req *request) error {
	r := req.http
	if req.identity == nil {
		req.subject = h.opts.Limits.Network(r)
	} else {
		req.subject = h.opts.Limits.Account(req.identity.Account, req.identity.Name, r)
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case (req.kind == kindBase || req.kind == kindSearchPing) && req.account() == 0:
		return nil // which clients begin with before they sign in
	case req.kind == kindBlob && read && r.Header["Range"] != nil:
		return nil // clients that load only what they need of a layer send thousands
	case req.kind == kindUpload, req.kind == kindBlob && r.Method == http.MethodGet, req.kind == kindManifest && r.Method == http.MethodPut:
		return h.opts.Limits.Continue(w, req.subject)
	}
	return h.opts.Limits.Request(w, req.subject, req.repository)
}
