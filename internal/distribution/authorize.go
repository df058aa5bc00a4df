package distribution

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// TokenPath is where the token service is, as challenges name it.
const TokenPath = "/token"

// actions tells what a route needs a right to. A push needs to be allowed to push or to overwrite, and what it does to each
// tag is decided when the tag is set.
func (a routeAccess) actions() access.Actions {
	switch a {
	case accessPull:
		return access.Pull
	case accessPush:
		return access.Push
	case accessDelete:
		return access.Delete
	}
	return access.None
}

// authorize finds out who makes a request and whether they may. What somebody may not pull does not exist for them; who has not
// signed in is asked to.
func (h *Handler) authorize(w *web.Response, req *request, row *route) error {
	id, err := h.opts.Auth.Identify(req.http, h.opts.Client(req.http))
	switch {
	case errors.Is(err, auth.ErrCredentials), errors.Is(err, auth.ErrToken):
		if limited := h.opts.Limits.Request(w, h.opts.Limits.Network(req.http), ""); limited != nil {
			return limited
		}
		return h.challenge(w, req, row, "invalid_token", oci.Errorf(oci.CodeUnauthorized, "%v: sign in again", err))
	case err != nil:
		return auth.Answer(w.Header(), err)
	}
	req.identity = &id
	if err := h.limit(w, req); err != nil {
		return err
	}
	if id.Expired && req.kind != kindUpload {
		return h.challenge(w, req, row, "invalid_token", oci.Errorf(oci.CodeUnauthorized, "the token has expired: get another one"))
	}
	switch row.access {
	case accessNone, accessList:
		return h.authorizeList(w, req, row)
	}
	return h.authorizeRepository(w, req, row)
}

// authorizeList lets everybody in who has asked the token service, if only for nothing: docker decides by the answer at
// /v2/ whether it sends credentials at all. Lists show what one may see.
func (h *Handler) authorizeList(w *web.Response, req *request, row *route) error {
	search := req.kind == kindSearch || req.kind == kindSearchPing
	if search && !req.identity.SignedIn() {
		return nil // podman asks without credentials
	}
	if !search && req.http.Header.Get("Authorization") == "" && !req.identity.SignedIn() {
		return h.challenge(w, req, row, "", errSignIn)
	}
	if !search && row.access == accessList && !req.identity.Scope.AllowsCatalog() {
		return h.challenge(w, req, row, "insufficient_scope", oci.Errorf(oci.CodeUnauthorized, "the token was not issued for the list of repositories"))
	}
	return h.mustStand(w, req, row)
}

// mustStand asks who does not stand any more to sign in again.
func (h *Handler) mustStand(w *web.Response, req *request, row *route) error {
	err := h.opts.Auth.Stands(req.http.Context(), req.identity)
	if errors.Is(err, auth.ErrCredentials) {
		return h.challenge(w, req, row, "invalid_token", errGone)
	}
	return err
}

var (
	errSignIn = oci.Errorf(oci.CodeUnauthorized, "sign in first")
	errGone   = oci.Errorf(oci.CodeUnauthorized, "the account or what it signed in with is not valid any more: sign in again")
)

func (h *Handler) authorizeRepository(w *web.Response, req *request, row *route) error {
	ctx, id := req.http.Context(), req.identity
	action := row.access.actions()
	var decision access.Decision
	var facts *access.Facts
	var err error
	if req.kind == kindManifest && action == access.Pull {
		decision, facts, req.manifest, err = h.opts.Auth.DecidePull(ctx, id, req.repository, req.reference)
	} else {
		decision, facts, err = h.opts.Auth.Decide(ctx, id, action, req.repository, "")
	}
	if err != nil {
		return err
	}
	if action == access.Push && !decision.Allowed {
		if overwrite := h.opts.Auth.Judge(id, facts, access.Overwrite, ""); overwrite.Allowed {
			decision = overwrite
		}
	}
	req.facts = facts
	switch {
	case decision.Allowed:
		return nil
	case decision.Unknown:
		if err := h.mustStand(w, req, row); err != nil {
			return err
		}
		return h.challenge(w, req, row, "invalid_token", errGone) // who was taken away and given back just now
	case !id.SignedIn():
		return h.challenge(w, req, row, "", oci.Errorf(oci.CodeUnauthorized, "sign in to %s %s, if it exists", action, req.repository))
	}
	unscoped := *id
	unscoped.Scope = nil
	if h.opts.Auth.Judge(&unscoped, facts, action, "").Allowed {
		return h.challenge(w, req, row, "insufficient_scope", oci.Errorf(oci.CodeUnauthorized, "the token was not issued to %s %s", action, req.repository))
	}
	if action == access.Pull {
		h.opts.Auth.NoteRefusedPull(context.WithoutCancel(ctx), id, req.repository)
		return registry.NameUnknown(req.repository)
	}
	return h.opts.Auth.Denied(id, action, facts, "", decision)
}

// challenge asks for a token (auth-token.md, RFC 6750).
func (h *Handler) challenge(w *web.Response, req *request, row *route, problem string, e *oci.Error) error {
	var b strings.Builder
	b.WriteString(`Bearer realm="` + h.realm(req.http) + `",service="` + h.opts.Service + `"`)
	switch {
	case req.kind == kindCatalog:
		b.WriteString(`,scope="` + auth.CatalogScope + `"`)
	case row.access.actions() != access.None:
		b.WriteString(`,scope="` + auth.ScopeText(req.repository, row.access.actions()) + `"`)
	}
	if problem != "" {
		b.WriteString(`,error="` + problem + `"`)
	}
	w.Header().Set("WWW-Authenticate", b.String())
	return e
}

// realm is the address of the token service, as the client reaches this registry.
func (h *Handler) realm(r *http.Request) string {
	if h.opts.ExternalURL != "" {
		return h.opts.ExternalURL + TokenPath
	}
	return h.opts.Origin(r) + TokenPath
}

// mayMount tells whether a repository may be a source of blobs for whoever asks.
func (h *Handler) mayMount(req *request, from oci.Repository) (bool, error) {
	if h.opts.Auth == nil {
		return true, nil
	}
	if from == "" {
		return false, nil // any repository, which may be one that cannot be pulled
	}
	decision, _, err := h.opts.Auth.Decide(req.http.Context(), req.identity, access.Pull, from, "")
	return decision.Allowed, err
}

// maySet is what decides about each tag of a push, or nil.
func (h *Handler) maySet(req *request) func(oci.Tag, oci.Digest, oci.Digest) error {
	if h.opts.Auth == nil {
		return nil
	}
	return h.opts.Auth.MaySet(req.identity, req.facts)
}

// mayDelete is what decides about each tag that a delete takes away, or nil.
func (h *Handler) mayDelete(req *request) func(oci.Tag) error {
	if h.opts.Auth == nil {
		return nil
	}
	return h.opts.Auth.MayDelete(req.identity, req.facts)
}
