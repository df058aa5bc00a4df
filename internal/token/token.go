// Package token is the token service that clients of the registry are sent to: GET as in auth-token.md, POST as in
// auth-oauth.md (RFC 6749), and the public keys of the tokens (RFC 7517).
//
// What holds true: a token is given to everybody, but it is for what its holder may do at this moment, and no more; wrong
// credentials are an answer in the words of both protocols, because clients try one after the other.
package token

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/web"
)

// Options configure a Handler.
type Options struct {
	Auth *auth.Auth
	// Service is what challenges call this registry.
	Service string
	// Client tells the address that a request comes from.
	Client func(*http.Request) netip.Addr
	// Limits, if not nil, says how often a client may ask.
	Limits *ratelimit.Limiter
}

// Handler serves tokens. Its methods are web.HandlerFuncs, which may be used concurrently.
type Handler struct{ opts Options }

// New returns the token service.
func New(opts Options) *Handler { return &Handler{opts} }

const maxForm = 64 << 10 // bytes

// Serve answers a request for a token.
func (h *Handler) Serve(w *web.Response, r *http.Request) error {
	w.Route = "token"
	if err := h.opts.Limits.SignIn(w, r, false); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.get(w, r)
	case http.MethodPost:
		return h.post(w, r)
	}
	w.Header().Set("Allow", "GET, HEAD, POST")
	return oci.Errorf(oci.CodeUnsupported, "%s is not supported here; supported: GET, HEAD, POST", r.Method)
}

// ServeKeys answers with the public keys.
func (h *Handler) ServeKeys(w *web.Response, r *http.Request) error {
	w.Route = "keys"
	if err := h.opts.Limits.Request(w, h.opts.Limits.Network(r), ""); err != nil {
		return err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return oci.Errorf(oci.CodeUnsupported, "%s is not supported here; supported: GET, HEAD", r.Method)
	}
	keys, err := h.opts.Auth.KeySet(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "public, max-age=60")
	return reply(w, http.StatusOK, keys)
}

// answer is what both protocols answer with.
type answer struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	ExpiresIn    int    `json:"expires_in"`
	IssuedAt     string `json:"issued_at"`
	Scope        string `json:"scope,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

// get serves GET: who asks is told by the Authorization header, nobody by none.
func (h *Handler) get(w *web.Response, r *http.Request) error {
	query := r.URL.Query()
	id, err := h.opts.Auth.Identify(r, h.opts.Client(r))
	if err == nil && id.Scope != nil {
		err = auth.ErrCredentials // a token does not get its holder another one
	}
	if err == nil {
		err = h.opts.Auth.Stands(r.Context(), &id)
	}
	if errors.Is(err, auth.ErrCredentials) || errors.Is(err, auth.ErrToken) {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+h.opts.Service+`"`)
		return oci.Errorf(oci.CodeUnauthorized, "%s", auth.Refusal(err))
	}
	if err != nil {
		return auth.Answer(w.Header(), err)
	}
	a, err := h.issue(r, &id, query["scope"])
	if err != nil {
		return err
	}
	if id.SignedIn() && query.Get("offline_token") == "true" {
		if a.RefreshToken, err = h.opts.Auth.Refresh(r.Context(), &id, query.Get("client_id")); err != nil {
			return err
		}
	}
	return reply(w, http.StatusOK, a)
}

func (h *Handler) issue(r *http.Request, id *auth.Identity, scopes []string) (*answer, error) {
	t, err := h.opts.Auth.Issue(r.Context(), id, auth.ParseScopes(scopes))
	if err != nil {
		return nil, err
	}
	return &answer{
		Token: t.Text, AccessToken: t.Text, ExpiresIn: int(t.Expires.Sub(t.Issued) / time.Second), IssuedAt: t.Issued.UTC().Format(time.RFC3339),
	}, nil
}

// post serves POST.
func (h *Handler) post(w *web.Response, r *http.Request) error {
	form, err := readForm(r)
	if err != nil {
		return refuse(w, http.StatusBadRequest, "invalid_request", err.Error())
	}
	if form.Get("service") == "" || form.Get("client_id") == "" {
		return refuse(w, http.StatusBadRequest, "invalid_request", "service and client_id are needed")
	}
	var id auth.Identity
	client := h.opts.Client(r)
	switch grant := form.Get("grant_type"); grant {
	case "password":
		id, err = h.opts.Auth.SignIn(r.Context(), form.Get("username"), form.Get("password"), client)
	case "refresh_token":
		id, err = h.opts.Auth.SignIn(r.Context(), "", form.Get("refresh_token"), client)
	case "":
		return refuse(w, http.StatusBadRequest, "invalid_request", "grant_type is needed: password or refresh_token")
	default:
		return refuse(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type must be password or refresh_token")
	}
	if errors.Is(err, auth.ErrCredentials) {
		return refuse(w, http.StatusUnauthorized, "invalid_grant", auth.Refusal(err))
	}
	if err != nil {
		return auth.Answer(w.Header(), err)
	}
	a, err := h.issue(r, &id, form["scope"])
	if err != nil {
		return err
	}
	a.Scope = form.Get("scope")
	switch {
	case form.Get("grant_type") == "refresh_token":
		a.RefreshToken = form.Get("refresh_token")
	case form.Get("access_type") == "offline":
		if a.RefreshToken, err = h.opts.Auth.Refresh(r.Context(), &id, form.Get("client_id")); err != nil {
			return err
		}
	}
	return reply(w, http.StatusOK, a)
}

func readForm(r *http.Request) (url.Values, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, errors.New("the body must be application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return nil, errors.New("the body is no form, or a too large one")
	}
	return r.PostForm, nil
}

// refuse answers in the words of RFC 6749, section 5.2, and in those of the registry.
func refuse(w *web.Response, status int, code, text string) error {
	type entry struct {
		Code    oci.Code `json:"code"`
		Message string   `json:"message"`
	}
	registry := oci.CodeUnsupported
	if status == http.StatusUnauthorized {
		registry = oci.CodeUnauthorized
	}
	return reply(w, status, map[string]any{"error": code, "error_description": text, "errors": []entry{{registry, text}}})
}

// reply writes JSON, which nobody may keep.
func reply(w *web.Response, status int, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "application/json")
	hd.Set("Content-Length", strconv.Itoa(len(b)))
	if !strings.HasPrefix(hd.Get("Cache-Control"), "public") {
		hd.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}
