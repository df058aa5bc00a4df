// Package signin is where people sign in at an OpenID Connect provider: with a browser, by pages without scripts, or with a command line, by the
// device flow. What they get is a personal access token, because docker and its kin know nothing but a name and a password.
//
// What holds true: who it is, is what the provider says and nothing else, whatever the request says; a token is shown once, to the browser that began the sign-in,
// and kept by no cache; a page loads nothing and runs nothing; the ID token of a command line is accepted until it is 5 minutes old, and once,
// whichever node it comes to. While a provider is down, other ways to sign in go on.
package signin

import (
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/web"
)

// Path is where people begin: Path/NAME is a provider.
const Path = "/auth/oidc"

const (
	callback = "/callback"
	device   = "/device"
)

// CallbackPath is where a provider sends browsers back to.
func CallbackPath(provider string) string { return Path + "/" + provider + callback }

// DevicePath is where a command line asks about a provider, and hands in its ID token.
func DevicePath(provider string) string { return Path + "/" + provider + device }

// Serves tells whether a path is one of this package.
func Serves(path string) bool { return path == Path || strings.HasPrefix(path, Path+"/") }

// Provider is where people sign in.
type Provider struct {
	Name  string // a part of paths and of the source of accounts
	Label string // what people read, at most 40 bytes
	Login *oidc.Login
}

// Options configure a Handler.
type Options struct {
	Auth      *auth.Auth
	Log       *slog.Logger
	Providers []Provider // at least one
	// ExternalURL is the root of the registry as clients see it.
	ExternalURL string
	// Client tells the address that a request comes from.
	Client func(*http.Request) netip.Addr
	// Limits, if not nil, says how often a client may ask.
	Limits *ratelimit.Limiter
	// ReadOnly: nothing may be written, so that nobody can sign in.
	ReadOnly bool
}

// Handler signs people in. It may be used concurrently.
type Handler struct {
	opts Options
	host string // as docker login wants it
	page *template.Template
}

// New returns a Handler.
func New(opts Options) *Handler {
	h := &Handler{opts: opts, host: opts.ExternalURL, page: newPage()}
	if u, err := url.Parse(opts.ExternalURL); err == nil && u.Host != "" {
		h.host = u.Host
	}
	return h
}

// Listing is the answer at Path to a program.
type Listing struct {
	Providers []Named `json:"providers"`
}

// Named is a provider by its name.
type Named struct {
	Name  string `json:"name"`
	Label string `json:"label"`
}

// DeviceClient tells a command line where and as whom to sign in.
type DeviceClient struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"clientID"`
	Scopes   []string `json:"scopes"`
}

// DeviceToken is what a command line has got from the issuer.
type DeviceToken struct {
	IDToken string `json:"idToken"`
}

// SignedIn is what it gets for it.
type SignedIn struct {
	Name    string    `json:"name"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Serve answers a request whose path is one that Serves tells of.
func (h *Handler) Serve(w *web.Response, r *http.Request) error {
	w.Route = "signin"
	w.Header().Set("Cache-Control", "no-store")
	name, rest := "", ""
	if r.URL.Path != Path {
		name = strings.TrimPrefix(r.URL.Path, Path+"/")
		if i := strings.IndexByte(name, '/'); i >= 0 {
			name, rest = name[:i], name[i:]
		}
	}
	if err := h.opts.Limits.SignIn(w, r, rest == callback || rest == device); err != nil {
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || rest == device || wantsJSON(r) {
			return err
		}
		return h.show(w, e.HTTPStatus(), page{Title: "Not signed in", Reason: e.Message, Again: Path})
	}
	allowed := []string{http.MethodGet}
	if rest == device {
		allowed = append(allowed, http.MethodPost)
	}
	if !slices.Contains(allowed, r.Method) {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return oci.Errorf(oci.CodeUnsupported, "%s is not supported here; supported: %s", r.Method, strings.Join(allowed, ", "))
	}
	if r.URL.Path == Path {
		return h.choose(w, r)
	}
	i := slices.IndexFunc(h.opts.Providers, func(p Provider) bool { return p.Name == name })
	if i < 0 {
		return errNotFound("there is no provider of that name to sign in at: %s lists them", Path)
	}
	p := &h.opts.Providers[i]
	switch {
	case rest == "":
		return h.begin(w, r, p)
	case rest == callback:
		return h.finish(w, r, p)
	case rest == device && r.Method == http.MethodGet:
		return h.deviceClient(w, p)
	case rest == device:
		return h.deviceToken(w, r, p)
	}
	return errNotFound("there is no such page; to sign in, go to %s", Path)
}

func errNotFound(format string, args ...any) error {
	return oci.Errorf("NOT_FOUND", format, args...).WithStatus(http.StatusNotFound)
}

// choose lists the providers, for a program or for a person; with one there is nothing to choose.
func (h *Handler) choose(w *web.Response, r *http.Request) error {
	if wantsJSON(r) {
		var l Listing
		for _, p := range h.opts.Providers {
			l.Providers = append(l.Providers, Named{p.Name, p.Label})
		}
		return reply(w, l)
	}
	if len(h.opts.Providers) == 1 {
		return h.begin(w, r, &h.opts.Providers[0])
	}
	return h.show(w, http.StatusOK, page{Title: "Sign in to " + h.host, Providers: h.opts.Providers})
}

func wantsJSON(r *http.Request) bool {
	t, _, _ := mime.ParseMediaType(r.Header.Get("Accept"))
	return t == "application/json"
}

// begin sends a browser to a provider.
func (h *Handler) begin(w *web.Response, r *http.Request, p *Provider) error {
	if h.opts.ReadOnly {
		return h.failed(w, p, nil, errReadOnly)
	}
	// Other sites can send people here, who get a token at the end, for which the oldest goes: they are asked.
	if from := r.Header.Get("Sec-Fetch-Site"); from == "cross-site" || from == "same-site" {
		return h.show(w, http.StatusOK, page{Title: "Sign in to " + h.host, Providers: []Provider{*p}})
	}
	if err := p.Login.Begin(w, r, ""); err != nil {
		return h.failed(w, p, nil, err)
	}
	return nil
}

// finish takes a browser back from a provider, and shows a token.
func (h *Handler) finish(w *web.Response, r *http.Request, p *Provider) error {
	if h.opts.ReadOnly {
		return h.failed(w, p, nil, errReadOnly)
	}
	person, _, err := p.Login.Finish(w, r)
	if err != nil {
		return h.failed(w, p, nil, err)
	}
	in, err := h.signIn(r, p, person)
	if err != nil {
		return h.failed(w, p, person, err)
	}
	return h.show(w, http.StatusOK, page{Title: "Signed in as " + in.Name, In: in, Host: h.host})
}

// signIn gives somebody whom a provider knows a token.
func (h *Handler) signIn(r *http.Request, p *Provider, person *oidc.Person) (*SignedIn, error) {
	id, err := h.opts.Auth.SignInPerson(r.Context(), p.Name, person, h.opts.Client(r))
	if err != nil {
		return nil, err
	}
	secret, expires, err := h.opts.Auth.PersonToken(r.Context(), &id, p.Name, "signed in with "+p.Label)
	if err != nil {
		return nil, err
	}
	return &SignedIn{Name: id.Name, Token: secret, Expires: expires.UTC().Truncate(time.Second)}, nil
}

// deviceClient tells a command line where to sign in.
func (h *Handler) deviceClient(w *web.Response, p *Provider) error {
	issuer, client, scopes, ok := p.Login.Device()
	if !ok {
		return errNotFound("the command line cannot sign in with %s: use a browser at %s%s/%s, or have the operator set device_client_id", p.Label, h.opts.ExternalURL, Path, p.Name)
	}
	return reply(w, DeviceClient{issuer, client, scopes})
}

const maxBody = 64 << 10 // bytes

// deviceToken takes the ID token of a command line, and answers with a token of ours.
func (h *Handler) deviceToken(w *web.Response, r *http.Request, p *Provider) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return oci.Errorf(oci.CodeUnsupported, "the body must be application/json").WithStatus(http.StatusUnsupportedMediaType)
	}
	var in DeviceToken
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&in); err != nil {
		return oci.Errorf(oci.CodeUnsupported, "the body is not JSON, or too large").WithStatus(http.StatusBadRequest)
	}
	if h.opts.ReadOnly {
		return h.refusal(p, nil, errReadOnly)
	}
	person, token, err := p.Login.FromDevice(r.Context(), in.IDToken)
	if err != nil {
		return h.refusal(p, nil, err)
	}
	first, err := h.opts.Auth.FirstUse(r.Context(), token.ID, p.Name, person, h.opts.Client(r))
	if err != nil {
		return err
	}
	if !first {
		return oci.Errorf(oci.CodeDenied, "the ID token was used before: sign in again")
	}
	signedIn, err := h.signIn(r, p, person)
	if err != nil {
		return h.refusal(p, person, err)
	}
	return reply(w, signedIn)
}

var errReadOnly = errors.New("the registry is read-only at this moment, so that nobody can sign in with a provider: what you have got before goes on working")

// explain tells what a person hears of a failure, and with which status. It is 0 for a failure of the registry itself.
func (h *Handler) explain(p *Provider, person *oidc.Person, err error) (status int, reason string) {
	oidcErr, fromIssuer := errors.AsType[*oidc.Error](err)
	switch {
	case err == errReadOnly:
		return http.StatusServiceUnavailable, err.Error()
	case fromIssuer && errors.Is(err, oidc.ErrUnavailable):
		h.opts.Log.Error("a provider failed", "provider", p.Name, "error", err)
		return http.StatusServiceUnavailable, p.Label + " cannot be used at this moment: " + oidcErr.Reason
	case fromIssuer:
		h.opts.Log.Info("a sign-in failed", "provider", p.Name, "error", err)
		return http.StatusForbidden, oidcErr.Reason
	case errors.Is(err, auth.ErrCredentials):
		h.opts.Log.Info("a sign-in failed", "provider", p.Name, "name", person.Name, "error", err)
		return http.StatusForbidden, err.Error()
	}
	return 0, ""
}

// failed shows why somebody is not signed in.
func (h *Handler) failed(w *web.Response, p *Provider, person *oidc.Person, err error) error {
	status, reason := h.explain(p, person, err)
	if status == 0 {
		return err
	}
	return h.show(w, status, page{Title: "Not signed in", Reason: reason, Again: Path + "/" + p.Name})
}

// refusal tells a command line why nobody is signed in.
func (h *Handler) refusal(p *Provider, person *oidc.Person, err error) error {
	status, reason := h.explain(p, person, err)
	if status == 0 {
		return err
	}
	code := oci.CodeDenied
	if status == http.StatusServiceUnavailable {
		code = oci.CodeUnknown
	}
	return oci.Errorf(code, "%s", reason).WithStatus(status)
}

func reply(w *web.Response, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err = w.Write(b)
	return err
}
