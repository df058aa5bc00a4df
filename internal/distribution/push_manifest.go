package distribution

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// maxTags is how many tag parameters a push by digest may have; the specification asks for 10.
const maxTags = 100

// putManifest serves end-7 (spec.md#pushing-manifests).
func (h *Handler) putManifest(w *web.Response, req *request) error {
	tags, err := req.tagParameters()
	if err != nil {
		return err
	}
	if err := h.opts.Limits.PushManifest(w, req.subject, req.repository); err != nil {
		return err
	}
	body, release, err := h.readManifest(req.http)
	if err != nil {
		return err
	}
	defer release()
	pushed, err := h.reg.PutManifest(req.http.Context(), registry.Push{
		Repository:  req.repository,
		Reference:   req.reference,
		Tags:        tags,
		ContentType: req.http.Header.Get("Content-Type"),
		Body:        body,
		Actor:       h.actor(req),
		Condition:   condition(req.http.Header),
		Allow:       h.maySet(req),
	})
	if err != nil {
		return err
	}
	if !req.reference.IsDigest() || len(tags) > 0 {
		h.opts.Limits.EndPush(req.subject, req.repository)
	}
	hd := w.Header()
	if !pushed.Subject.IsZero() {
		hd.Set("OCI-Subject", pushed.Subject.String())
	}
	for _, t := range tags {
		hd.Add("OCI-Tag", string(t))
	}
	// spec.md#warnings
	if pushed.Absent > 0 {
		hd.Add("Warning", fmt.Sprintf(`299 - "%d of what this manifest names is not in %s"`, pushed.Absent, req.repository))
	}
	for _, warning := range pushed.Warnings {
		hd.Add("Warning", fmt.Sprintf(`299 - "%s"`, warning))
	}
	h.created(w, "/v2/"+string(req.repository)+"/manifests/", pushed.Digest)
	return nil
}

// tagParameters reads ?tag= of end-7b.
func (req *request) tagParameters() ([]oci.Tag, error) {
	given := req.query["tag"]
	if len(given) == 0 {
		return nil, nil
	}
	if !req.reference.IsDigest() {
		return nil, oci.Errorf(oci.CodeUnsupported, "tag parameters belong to a manifest that is pushed by digest").WithStatus(http.StatusBadRequest)
	}
	if len(given) > maxTags {
		return nil, oci.Errorf(oci.CodeUnsupported, "%d tags are too many for one request: at most %d", len(given), maxTags).
			WithStatus(http.StatusRequestURITooLong)
	}
	tags := make([]oci.Tag, len(given))
	for i, s := range given {
		var err error
		if tags[i], err = oci.ParseTag(s); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

const (
	// smallManifest is up to how many bytes a manifest is read without asking whether there is room.
	smallManifest = 16 << 10
	// largeManifests is how many manifests of the largest size are held at a time; more of those
	// that are smaller.
	largeManifests = 2
	// manifestWait is how long a large manifest waits for room.
	manifestWait = 5 * time.Second
)

// readManifest reads a body of at most MaxManifest bytes. The caller releases it when it is done with
// it: however many clients send large manifests, and however slowly, those that are held are bounded.
func (h *Handler) readManifest(r *http.Request) (body []byte, release func(), err error) {
	limit := h.opts.MaxManifest
	tooLarge := oci.Errorf(oci.CodeSizeInvalid, "the manifest is larger than %d bytes, which is the limit of this registry", limit).
		WithStatus(http.StatusRequestEntityTooLarge)
	size := r.ContentLength
	switch {
	case size > limit:
		return nil, nil, tooLarge
	case size < 0:
		size = limit // as large as it may become
	}
	if release, err = h.roomForManifest(r.Context(), size); err != nil {
		return nil, nil, err
	}
	if r.ContentLength >= 0 {
		body = make([]byte, size)
		_, err = io.ReadFull(r.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
	}
	switch {
	case err != nil:
		err = bodyBroken(err)
	case int64(len(body)) > limit:
		err = tooLarge
	default:
		return body, release, nil
	}
	release()
	return nil, nil, err
}

// roomForManifest waits until size bytes of a manifest may be held.
func (h *Handler) roomForManifest(ctx context.Context, size int64) (release func(), err error) {
	if size <= smallManifest {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, manifestWait)
	defer cancel()
	if err := h.manifests.Acquire(ctx, size); err != nil {
		return nil, oci.Errorf(oci.CodeTooManyRequests, "other large manifests are being pushed: try again")
	}
	return func() { h.manifests.Release(size) }, nil
}

// condition reads If-Match and If-None-Match of a push by tag (RFC 9110, section 13.1), with which a client
// avoids overwriting what it has not seen.
func condition(hd http.Header) func(oci.Digest) bool {
	match, noneMatch := hd.Get("If-Match"), hd.Get("If-None-Match")
	if match == "" && noneMatch == "" {
		return nil
	}
	return func(current oci.Digest) bool {
		if match != "" && !etagListed(match, current) {
			return false
		}
		return noneMatch == "" || !etagListed(noneMatch, current)
	}
}

func etagListed(list string, current oci.Digest) bool {
	if current.IsZero() {
		return false
	}
	for tag := range strings.SplitSeq(list, ",") {
		switch strings.TrimSpace(tag) {
		case "*", `"` + current.String() + `"`:
			return true
		}
	}
	return false
}
