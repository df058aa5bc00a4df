// Package distribution is the protocol under /v2/: the OCI distribution
// specification and Docker Registry HTTP API V2, and Docker's search under /v1/.
//
// What holds true: a request is parsed once, into a request value, before anything
// else looks at it; each route is a row of one table, with the kind of access
// that it needs; an answer is never a redirect that would change the method;
// limits on what a client may send are kept before memory is spent on it.
package distribution

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// Options configure a Handler.
type Options struct {
	// ExternalURL is put before every Location, without a slash at its end; empty
	// for relative ones.
	ExternalURL string
	// MaxManifest is the largest manifest accepted, in bytes.
	MaxManifest int64
	// MaxUploads is how many requests may send blobs at a time.
	MaxUploads int
	// Client tells the address that a request comes from.
	Client func(*http.Request) netip.Addr
	// Redirect, if not nil, tells whether a client of an address is sent to the blob store for the bytes of a blob.
	Redirect func(netip.Addr) bool
	// RedirectExpire is how long such an address can be used. A download that has begun goes on.
	RedirectExpire time.Duration
	// ReadOnly refuses pushes and deletes.
	ReadOnly bool

	// Pulled, if not nil, is told of every manifest that is pulled, also by HEAD: who has the content asks for no more. The tag is empty if it was
	// asked for by digest.
	Pulled func(oci.Repository, oci.Tag, oci.Digest)

	// Limits, if not nil, says how often a client may ask.
	Limits *ratelimit.Limiter

	// Auth, if not nil, says who may do what. Else everybody may do everything.
	Auth *auth.Auth
	// Service is what challenges call this registry.
	Service string
	// Origin tells the scheme and host by which a client reaches this registry, such as https://registry.example.com.
	Origin func(*http.Request) string
}

// Handler serves the protocol. Use Serve as a web.HandlerFunc; it may be used concurrently.
type Handler struct {
	reg       *registry.Registry
	opts      Options
	uploads   chan struct{}       // holds a value for each request that sends a blob
	manifests *semaphore.Weighted // bytes of large manifests that may be held while they are pushed
	bodies    *semaphore.Weighted // likewise, while they are pulled
}

// New returns the protocol over a registry.
func New(reg *registry.Registry, opts Options) *Handler {
	return &Handler{
		reg:       reg,
		opts:      opts,
		uploads:   make(chan struct{}, opts.MaxUploads),
		manifests: semaphore.NewWeighted(largeManifests * opts.MaxManifest),
		bodies:    semaphore.NewWeighted(largeBodies),
	}
}

// routeAccess is what a route does to a repository.
type routeAccess string

const (
	accessNone   routeAccess = "none" // reveals nothing
	accessList   routeAccess = "list" // of all repositories
	accessPull   routeAccess = "pull"
	accessPush   routeAccess = "push"
	accessDelete routeAccess = "delete"
)

// route is a row of the table: who calls method on kind needs access and is served by serve.
type route struct {
	kind   kind
	method string
	access routeAccess
	serve  func(*Handler, *web.Response, *request) error
}

// routes lists every request that is served, with its number in spec.md#endpoints. A HEAD is
// served as its GET.
var routes = []route{
	{kindBase, "GET", accessNone, (*Handler).base},                    // end-1
	{kindBlob, "GET", accessPull, (*Handler).getBlob},                 // end-2
	{kindManifest, "GET", accessPull, (*Handler).getManifest},         // end-3
	{kindUploads, "POST", accessPush, (*Handler).startUpload},         // end-4, end-11
	{kindUpload, "PATCH", accessPush, (*Handler).appendUpload},        // end-5
	{kindUpload, "PUT", accessPush, (*Handler).finishUpload},          // end-6
	{kindManifest, "PUT", accessPush, (*Handler).putManifest},         // end-7
	{kindTags, "GET", accessPull, (*Handler).listTags},                // end-8
	{kindManifest, "DELETE", accessDelete, (*Handler).deleteManifest}, // end-9
	{kindBlob, "DELETE", accessDelete, (*Handler).deleteBlob},         // end-10
	{kindReferrers, "GET", accessPull, (*Handler).listReferrers},      // end-12
	{kindUpload, "GET", accessPush, (*Handler).uploadStatus},          // end-13
	{kindUpload, "DELETE", accessPush, (*Handler).cancelUpload},       // end-14
	{kindCatalog, "GET", accessList, (*Handler).listRepositories},     // api-v2.md#listing-repositories
	{kindSearchPing, "GET", accessNone, (*Handler).searchPing},        // docker search
	{kindSearch, "GET", accessList, (*Handler).search},                // docker search
}

// find returns the row for a request, and the methods that its kind has.
func find(k kind, method string) (*route, string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	allow := ""
	for i := range routes {
		if r := &routes[i]; r.kind == k {
			if r.method == method {
				return r, ""
			}
			if allow != "" {
				allow += ", "
			}
			allow += r.method
			if r.method == http.MethodGet {
				allow += ", HEAD"
			}
		}
	}
	return nil, allow
}

// Serve answers a request whose path begins with /v2/ or /v1/; it is a web.HandlerFunc.
func (h *Handler) Serve(w *web.Response, r *http.Request) error {
	w.Header()["Docker-Distribution-Api-Version"] = []string{"registry/2.0"}
	req, err := parse(r)
	w.Route = string(req.kind)
	if err != nil {
		return err
	}
	if req.namespace != "" {
		// spec.md#registry-proxying: the mirror of what host was asked.
		w.Header().Set("OCI-Namespace", req.namespace)
	}
	row, allow := find(req.kind, r.Method)
	if row == nil {
		w.Header().Set("Allow", allow)
		return oci.Errorf(oci.CodeUnsupported, "%s is not supported here; supported: %s", r.Method, allow)
	}
	if h.opts.ReadOnly && (row.access == accessPush || row.access == accessDelete) {
		return errReadOnly
	}
	if h.opts.Auth == nil {
		if err := h.limit(w, req); err != nil {
			return err
		}
		return row.serve(h, w, req)
	}
	err = h.authorize(w, req, row)
	if err == nil {
		err = row.serve(h, w, req)
	}
	if e, ok := errors.AsType[*oci.Error](err); ok && e.Code == oci.CodeDenied && e.HTTPStatus() == http.StatusForbidden {
		h.opts.Auth.NoteDenied(context.WithoutCancel(r.Context()), req.identity, string(req.repository), e.Message)
	}
	return err
}

// errReadOnly is temporary: a registry is read-only while it is moved.
var errReadOnly = oci.Errorf(oci.CodeUnknown, "the registry is read-only at this moment: pulls go on, try to push later").
	WithStatus(http.StatusServiceUnavailable)

// base tells that the registry implements the specification (spec.md#determining-support).
func (h *Handler) base(w *web.Response, _ *request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	_, err := w.Write([]byte("{}"))
	return err
}

// location makes the value of a Location header.
func (h *Handler) location(path string) string { return h.opts.ExternalURL + path }

// actor is who makes a request, for the logs of what was changed.
func (h *Handler) actor(req *request) registry.Actor {
	client := h.opts.Client(req.http).String()
	if req.identity == nil {
		return registry.Actor{Name: "anonymous@" + client}
	}
	return registry.Actor{Name: req.identity.Actor(), Account: req.identity.Account, Credential: req.identity.CredentialLabel(req.facts), Client: client, Audit: true}
}
