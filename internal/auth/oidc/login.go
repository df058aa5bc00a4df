package oidc

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	// loginTime is how long somebody may take at the issuer.
	loginTime = 10 * time.Minute

	// deviceTime is how old a token of a command line may be: it is handed over at once.
	deviceTime = 5 * time.Minute

	maxReturn  = 1024 // bytes of a return address
	cookieName = "berth-login"
)

// LoginOptions say how people sign in at an issuer.
type LoginOptions struct {
	Issuer *Issuer // one without a JWKSFile, because it has to be asked

	// What the issuer calls this registry. Without a secret it is a public client; PKCE is used in any case.
	ClientID, ClientSecret string

	// Where the issuer sends browsers back to, as it is registered there: the URL that Finish is served at.
	RedirectURL string

	// What the issuer calls the command line: a public client with the device flow. "" if there is none.
	DeviceClientID string

	Scopes []string // nil for openid, profile and email

	NameClaim   string // what user names are made of; "" for preferred_username
	NameDomain  string // if set, @NameDomain is taken from the end of names
	GroupsClaim string // names the groups of somebody; "" to not ask for groups

	// Seals the cookie between Begin and Finish. The same on all nodes.
	Key [32]byte
}

// Login signs people in: the authorization code flow with PKCE (openid-connect-core-1_0#CodeFlowAuth, RFC 7636), and for the
// command line, the tokens of the device flow.
type Login struct {
	opt    LoginOptions
	secure bool // whether browsers come by https
	seal   cipher.AEAD
}

// NewLogin checks opt. It asks nobody.
func NewLogin(opt LoginOptions) (*Login, error) {
	if opt.NameClaim == "" {
		opt.NameClaim = "preferred_username"
	}
	if opt.Scopes == nil {
		opt.Scopes = []string{"profile", "email"}
	}
	if !slices.Contains(opt.Scopes, goidc.ScopeOpenID) {
		opt.Scopes = append([]string{goidc.ScopeOpenID}, opt.Scopes...)
	}
	back, err := url.Parse(opt.RedirectURL)
	switch {
	case opt.Issuer.jwksFile != "":
		return nil, fmt.Errorf("issuer %s: people sign in at the issuer itself, so that a file with its keys is not enough", opt.Issuer.url)
	case opt.ClientID == "":
		return nil, fmt.Errorf("issuer %s: client_id is missing; the issuer gives it when the registry is registered there", opt.Issuer.url)
	case err != nil || back.Hostname() == "" || back.Scheme != "https" && back.Scheme != "http" || back.Fragment != "":
		return nil, fmt.Errorf("issuer %s: %s is not a URL that browsers can be sent back to", opt.Issuer.url, shown(opt.RedirectURL))
	case back.Scheme == "http" && !isLoopback(back.Hostname()) && !strings.HasSuffix(strings.ToLower(back.Hostname()), ".localhost"):
		return nil, fmt.Errorf("issuer %s: browsers must be sent back to an address with https://, not to %s", opt.Issuer.url, shown(opt.RedirectURL))
	}
	block, err := aes.NewCipher(opt.Key[:])
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Login{opt: opt, secure: back.Scheme == "https", seal: seal}, nil
}

// attempt is what the browser keeps between Begin and Finish. It cannot read or change it.
type attempt struct {
	State    string `json:"state"`    // RFC 6749 section 10.12
	Nonce    string `json:"nonce"`    // openid-connect-core-1_0#NonceNotes
	Verifier string `json:"verifier"` // RFC 7636 section 4.1
	Return   string `json:"return"`
	Expires  int64  `json:"expires"` // seconds since 1970
}

// Begin sends the browser to the issuer. After Finish it is to come to returnTo, a path of this registry; anything else becomes "/".
// Of several sign-ins that one browser begins, the last one counts. On an error, which is an *Error, nothing has been written.
func (l *Login) Begin(w http.ResponseWriter, r *http.Request, returnTo string) error {
	p, err := l.opt.Issuer.current(r.Context())
	if err != nil {
		return err
	}
	config, err := l.config(p)
	if err != nil {
		return err
	}
	a := attempt{
		State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Return: localPath(returnTo),
		Expires: l.opt.Issuer.now().Add(loginTime).Unix(),
	}
	plain, err := json.Marshal(a)
	if err != nil {
		return err
	}
	sealed := l.seal.Seal(nil, nil, plain, l.about())
	http.SetCookie(w, l.cookie(base64.RawURLEncoding.EncodeToString(sealed), int(loginTime.Seconds())))
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, config.AuthCodeURL(a.State, oauth2.S256ChallengeOption(a.Verifier), goidc.Nonce(a.Nonce)), http.StatusSeeOther)
	return nil
}

// Finish takes the browser back from the issuer, and returns who it is and the path to send it to. It writes nothing but a header
// that removes the cookie of Begin, so that the caller answers. The error is an *Error.
func (l *Login) Finish(w http.ResponseWriter, r *http.Request) (person *Person, returnTo string, err error) {
	http.SetCookie(w, l.cookie("", -1))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // the address has the code
	a, err := l.attempt(r)
	if err != nil {
		return nil, "", err
	}
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(a.State)) != 1 {
		return nil, "", refused("this is not the sign-in that this browser began last: begin again")
	}
	ctx := r.Context()
	p, err := l.opt.Issuer.current(ctx)
	if err != nil {
		return nil, "", err
	}
	// RFC 9207 section 2.4: the answer may come from another issuer than the one that was asked.
	if iss := q.Get("iss"); iss != l.opt.Issuer.url && (p.returns || q.Has("iss")) {
		return nil, "", refused("the answer is of the issuer %s, not of %s", shown(iss), shown(l.opt.Issuer.url))
	}
	if q.Has("error") { // RFC 6749 section 4.1.2.1
		return nil, "", refused("the issuer did not sign in: %s %s", clip(q.Get("error"), 50), shown(q.Get("error_description")))
	}
	person, err = l.redeem(ctx, p, a, q.Get("code"))
	return person, a.Return, err
}

// redeem exchanges the code for tokens (RFC 6749 section 4.1.3), which say who it is.
func (l *Login) redeem(ctx context.Context, p *published, a *attempt, code string) (*Person, error) {
	config, err := l.config(p)
	if err != nil {
		return nil, err
	}
	ctx = goidc.ClientContext(ctx, l.opt.Issuer.client)
	tokens, err := config.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return nil, answered(err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return nil, unavailable(nil, "its answer has no ID token")
	}
	t, err := l.verify(ctx, raw, l.opt.ClientID)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(t.nonce), []byte(a.Nonce)) != 1 {
		return nil, refused("the ID token is of another sign-in")
	}
	claims := t.Claims
	if l.lacks(claims) && p.provider.UserInfoEndpoint() != "" {
		if claims, err = l.more(ctx, p, t, tokens); err != nil {
			return nil, err
		}
	}
	return l.person(t, claims)
}

// FromDevice says who got an ID token with DeviceLogin, and which token it was. Whoever has the token can use it until it is 5 minutes
// old, so that the caller may want to accept its ID once only. What is needed about the person must be in the token itself. The error is an *Error.
func (l *Login) FromDevice(ctx context.Context, raw string) (*Person, *Token, error) {
	if l.opt.DeviceClientID == "" {
		return nil, nil, refused("the command line cannot sign in here: no device_client_id is set")
	}
	t, err := l.verify(ctx, raw, l.opt.DeviceClientID)
	if err != nil {
		return nil, nil, err
	}
	if t.nonce != "" { // which the device flow knows nothing of
		return nil, nil, refused("the ID token is that of a sign-in with a browser")
	}
	if l.opt.Issuer.now().Sub(t.Issued) > deviceTime+skew {
		return nil, nil, refused("the ID token is more than %s old: sign in again", deviceTime)
	}
	person, err := l.person(t, t.Claims)
	if err != nil {
		return nil, nil, err
	}
	return person, t, nil
}

// Device returns what DeviceLogin needs for FromDevice: the issuer's URL, the client and the scopes. ok is false if there is no device flow.
func (l *Login) Device() (issuer, clientID string, scopes []string, ok bool) {
	return l.opt.Issuer.url, l.opt.DeviceClientID, slices.Clone(l.opt.Scopes), l.opt.DeviceClientID != ""
}

// verify checks that a token is an ID token for the given client, where Issuer.Verify takes any token.
func (l *Login) verify(ctx context.Context, raw, clientID string) (*Token, error) {
	t, err := l.opt.Issuer.Verify(ctx, raw, clientID)
	switch {
	case err != nil:
		return nil, err
	case t.typ != "" && !strings.EqualFold(t.typ, "JWT"):
		return nil, refused("it is a token of the type %s, not an ID token", shown(t.typ))
	case t.Claims["events"] != nil: // openid-connect-backchannel-1_0#LogoutToken
		return nil, refused("it is a logout token, not an ID token")
	case t.Issued.IsZero():
		return nil, refused("the ID token does not say when it was issued")
	case t.party != "" && t.party != clientID, t.party == "" && len(t.Audience) > 1:
		return nil, refused("the ID token was issued to %s, not to %s", shown(t.party), shown(clientID))
	}
	return t, nil
}

// lacks tells whether claims that are wanted are not there. Some issuers tell them at the userinfo endpoint only.
func (l *Login) lacks(c Claims) bool {
	_, names := c.lookup(l.opt.NameClaim)
	_, groups := c.lookup(l.opt.GroupsClaim)
	return names == 0 || l.opt.GroupsClaim != "" && groups == 0 && !overage(c, l.opt.GroupsClaim)
}

// more adds what the userinfo endpoint says (openid-connect-core-1_0#UserInfo). What the token says counts first.
func (l *Login) more(ctx context.Context, p *published, t *Token, tokens *oauth2.Token) (Claims, error) {
	info, err := p.provider.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
	if err != nil {
		return nil, unavailable(err, "its userinfo endpoint cannot be asked")
	}
	if info.Subject != t.Subject { // openid-connect-core-1_0#UserInfoResponse
		return nil, refused("the userinfo endpoint speaks of somebody else")
	}
	var raw json.RawMessage
	if err := info.Claims(&raw); err != nil {
		return nil, unavailable(err, "its userinfo endpoint answers nonsense")
	}
	claims, err := decodeClaims(raw)
	if err != nil {
		return nil, unavailable(err, "its userinfo endpoint answers nonsense")
	}
	if t.Claims.one("email") != claims.one("email") && t.Claims["email"] != nil {
		delete(claims, "email_verified") // it is about the other address
	}
	for name, v := range t.Claims {
		claims[name] = v
	}
	return claims, nil
}

// config is for the OAuth 2.0 library.
func (l *Login) config(p *published) (*oauth2.Config, error) {
	endpoint := p.provider.Endpoint()
	if endpoint.AuthURL == "" || endpoint.TokenURL == "" {
		return nil, unavailable(nil, "nobody can sign in there: its discovery document names no authorization_endpoint and token_endpoint")
	}
	if !l.opt.Issuer.isSafe(endpoint.AuthURL) {
		return nil, unavailable(nil, "nobody can sign in there: its authorization_endpoint is no address with https://, so that passwords could be read on the way")
	}
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	if l.opt.ClientSecret != "" && p.basic {
		endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	return &oauth2.Config{
		ClientID: l.opt.ClientID, ClientSecret: l.opt.ClientSecret, Endpoint: endpoint,
		RedirectURL: l.opt.RedirectURL, Scopes: l.opt.Scopes,
	}, nil
}

// answered is what an answer of the token endpoint means (RFC 6749 section 5.2).
func answered(err error) error {
	var answer *oauth2.RetrieveError
	var sent *url.Error
	switch {
	case errors.As(err, &answer):
		// Not the whole answer, which may hold anything.
		cause := fmt.Errorf("%s: %s %s", clip(answer.Response.Status, 100), clip(answer.ErrorCode, 50), clip(answer.ErrorDescription, 200))
		switch answer.ErrorCode {
		case "invalid_grant", "expired_token":
			return &Error{Reason: "the sign-in took too long, or was finished before: begin again", kind: ErrToken, cause: cause}
		case "access_denied":
			return &Error{Reason: "the sign-in was refused at the issuer", kind: ErrToken, cause: cause}
		case "invalid_client", "unauthorized_client":
			return unavailable(cause, "it does not accept this client: check client_id and client_secret, and which flows it allows the client")
		}
		return unavailable(cause, "it refuses the sign-in")
	case errors.As(err, &sent):
		err = sent.Err // its text repeats the URL
	}
	return unavailable(err, "it cannot be asked for a token")
}

// attempt opens the cookie of Begin.
func (l *Login) attempt(r *http.Request) (*attempt, error) {
	again := refused("this browser has begun no sign-in, or more than %s ago: begin again, and allow cookies", loginTime)
	c, err := r.Cookie(l.cookie("", 0).Name)
	if err != nil {
		return nil, again
	}
	sealed, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return nil, again
	}
	plain, err := l.seal.Open(nil, nil, sealed, l.about())
	if err != nil {
		return nil, again
	}
	var a attempt
	if json.Unmarshal(plain, &a) != nil || l.opt.Issuer.now().Unix() > a.Expires {
		return nil, again
	}
	return &a, nil
}

// about is what the cookie is for: one of another provider does not count.
func (l *Login) about() []byte {
	return []byte("login\x00" + l.opt.Issuer.url + "\x00" + l.opt.ClientID + "\x00" + l.opt.RedirectURL)
}

// cookie returns the cookie of Begin. Lax, because the browser comes back from another site. With the prefix no other host of the
// domain can set it (rfc6265bis section 4.1.3.2).
func (l *Login) cookie(value string, seconds int) *http.Cookie {
	c := &http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: seconds, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: l.secure}
	if l.secure {
		c.Name = "__Host-" + cookieName
	}
	return c
}

// localPath returns s if it is a path of this registry, with or without a query, as every browser understands it, and "/" otherwise.
func localPath(s string) string {
	const root = "/"
	if len(s) > maxReturn || !strings.HasPrefix(s, "/") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }) {
		return root
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.TrimSuffix(u.Path, "/") != strings.TrimSuffix(path.Clean(u.Path), "/") {
		return root
	}
	return s
}
