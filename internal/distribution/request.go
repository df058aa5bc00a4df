package distribution

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
)

// kind is what a path names. Its text is the route's name in metrics.
type kind string

const (
	kindUnknown    kind = "unknown"
	kindBase       kind = "base"
	kindCatalog    kind = "catalog"
	kindTags       kind = "tags"
	kindManifest   kind = "manifest"
	kindBlob       kind = "blob"
	kindUploads    kind = "uploads"
	kindUpload     kind = "upload"
	kindReferrers  kind = "referrers"
	kindSearchPing kind = "search_ping"
	kindSearch     kind = "search"
)

// request is a request to the protocol, parsed once. Which fields are set
// follows from kind.
type request struct {
	http       *http.Request
	kind       kind
	repository oci.Repository
	reference  oci.Reference // kindManifest
	digest     oci.Digest    // kindBlob, kindReferrers
	uploadID   string        // kindUpload
	namespace  string        // the ns parameter
	query      url.Values    // nil if there is none

	// Who makes the request, and what their rights to the repository rest on; nil without access control.
	identity *auth.Identity
	facts    *access.Facts
	// subject is who the request is counted with.
	subject ratelimit.Subject
	// manifest is what is pulled, if it was found when the rights were.
	manifest *meta.Manifest
}

// parse reads the path and the query. With an error, kind may still tell what was meant.
func parse(r *http.Request) (*request, error) {
	req := &request{http: r, kind: kindUnknown}
	if r.URL.RawQuery != "" {
		req.query = r.URL.Query()
		if ns := req.query.Get("ns"); ns != "" && validHost(ns) {
			req.namespace = ns
		}
	}
	return req, req.parsePath(r.URL.Path)
}

// account is who makes the request, 0 for who did not sign in.
func (req *request) account() int64 {
	if req.identity == nil {
		return 0
	}
	return req.identity.Account
}

func (req *request) parsePath(path string) error {
	notFound := oci.Errorf(oci.CodeUnsupported, "nothing is served at this path").WithStatus(http.StatusNotFound)
	switch path {
	case "/v2/", "/v2":
		req.kind = kindBase
		return nil
	case "/v2/_catalog":
		req.kind = kindCatalog
		return nil
	case "/v1/_ping":
		req.kind = kindSearchPing
		return nil
	case "/v1/search":
		req.kind = kindSearch
		return nil
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return notFound
	}
	// A name may contain "blobs" or "tags" as a part, so the path is read from its end.
	rest, last, ok := cutLast(rest)
	if !ok {
		return notFound
	}
	name, noun, _ := cutLast(rest)
	var err error
	switch {
	case noun == "tags" && last == "list":
		req.kind = kindTags
	case noun == "manifests":
		req.kind = kindManifest
		req.reference, err = oci.ParseReference(last)
	case noun == "blobs" && last == "uploads":
		req.kind = kindUploads
	case noun == "blobs":
		req.kind = kindBlob
		req.digest, err = oci.ParseDigest(last)
	case noun == "uploads" && strings.HasSuffix(name, "/blobs"):
		name = strings.TrimSuffix(name, "/blobs")
		req.kind = kindUpload
		req.uploadID = last
		if last == "" {
			req.kind = kindUploads
		} else if len(last) > 64 {
			err = oci.Errorf(oci.CodeBlobUploadUnknown, "there is no such upload")
		}
	case noun == "referrers":
		req.kind = kindReferrers
		req.digest, err = oci.ParseDigest(last)
	default:
		return notFound
	}
	var nameErr error
	if req.repository, nameErr = oci.ParseRepository(name); nameErr != nil {
		return nameErr
	}
	return err
}

// cutLast splits at the last slash.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// validHost keeps what is echoed in a header to the letters of hosts.
func validHost(s string) bool {
	if len(s) > 300 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(".-:_[]", c) >= 0) {
			return false
		}
	}
	return true
}

// pageSize reads the parameter n: def if there is none, at most most
// (an n beyond is answered with fewer and a Link, not refused).
func (req *request) pageSize(def, most int) (int, error) {
	s := req.query.Get("n")
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil && !isAllDigits(s) || n < 0 {
		return 0, oci.Errorf(oci.CodeUnsupported, "the parameter n is %q, it must be a whole number from 0 on", s).
			WithStatus(http.StatusBadRequest)
	}
	if err != nil {
		return most, nil // too large to be an int
	}
	return min(n, most), nil
}

func isAllDigits(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

// byteRange is the inclusive range of a Content-Range header.
type byteRange struct{ first, last int64 }

// parseContentRange reads the form of spec.md#pushing-a-blob-in-chunks,
// start-end without the word bytes. An empty header is nil.
func parseContentRange(s string) (*byteRange, error) {
	if s == "" {
		return nil, nil
	}
	invalid := oci.Errorf(oci.CodeBlobUploadInvalid, "Content-Range %.100q must be two numbers with a '-' between, such as 0-1023", s)
	first, last, ok := strings.Cut(s, "-")
	if !ok || !isAllDigits(first) || !isAllDigits(last) {
		return nil, invalid
	}
	a, err1 := strconv.ParseInt(first, 10, 64)
	b, err2 := strconv.ParseInt(last, 10, 64)
	if err1 != nil || err2 != nil || b < a || b == 1<<63-1 {
		return nil, invalid
	}
	return &byteRange{a, b}, nil
}

func (r *byteRange) length() int64 { return r.last - r.first + 1 }
