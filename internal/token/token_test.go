package token

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/web"
)

const password = "a good password"

// world is a token service on a real database behind a real socket, and an account alice who may push to team/*.
type world struct {
	*testing.T
	url  string
	db   *meta.DB
	auth *auth.Auth
	id   int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := meta.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	a, err := auth.New(db, auth.Options{Log: slog.New(slog.DiscardHandler), Service: "hub", TokenLifetime: 5 * time.Minute, KeyLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := a.HashPassword(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	alice := &meta.Account{Source: meta.LocalAccounts, Password: hash, Created: time.Now()}
	alice.Name = "alice"
	for _, err := range []error{
		db.CreateAccount(t.Context(), alice),
		db.CreateOrganization(t.Context(), &meta.Organization{Name: "team", Creation: access.CreationPush, Created: time.Now()}),
		db.AddGrant(t.Context(), &meta.Grant{Organization: "team", Account: "alice", Grant: access.Grant{Role: access.Writer, Actions: access.Writer.Actions()}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	server := web.NewServer(web.Options{Log: slog.New(slog.DiscardHandler), Idle: time.Minute})
	h := New(Options{Auth: a, Service: "hub", Client: server.Client})
	s := httptest.NewServer(server.Handler(func(w *web.Response, r *http.Request) error {
		if r.URL.Path == "/keys" {
			return h.ServeKeys(w, r)
		}
		return h.Serve(w, r)
	}))
	t.Cleanup(s.Close)
	return &world{t, s.URL, db, a, alice.ID}
}

// answered is all that an answer may have.
type answered struct {
	answer
	Error  string
	Errors []struct{ Code, Message string }
}

// ask sends a request and returns the answer, which must have the status.
func (w *world) ask(status int, method, path string, form url.Values, headers ...string) (answered, http.Header) {
	w.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+path, body)
	if err != nil {
		w.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	var got answered
	if err := json.Unmarshal(b, &got); err != nil || resp.StatusCode != status {
		w.Fatalf("%s %s: %d %s, expected %d; %v", method, path, resp.StatusCode, b, status, err)
	}
	if resp.Header.Get("Content-Type") != "application/json" {
		w.Errorf("%s", resp.Header.Get("Content-Type"))
	}
	if status == http.StatusOK && (got.Token == "" || got.Token != got.AccessToken || got.ExpiresIn < 60 || resp.Header.Get("Cache-Control") != "no-store") {
		w.Errorf("%s %v", b, resp.Header)
	}
	return got, resp.Header
}

// granted verifies a token with the public keys and returns what it is for, as TYPE:NAME:ACTIONS.
func (w *world) granted(token string) (subject string, scopes []string) {
	w.Helper()
	resp, err := http.Get(w.url + "/keys")
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	var keys jose.JSONWebKeySet
	if err := json.NewDecoder(resp.Body).Decode(&keys); err != nil {
		w.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		w.Fatal(err)
	}
	var c struct {
		jwt.Claims
		Access []auth.ResourceActions `json:"access"`
	}
	if err := parsed.Claims(keys, &c); err != nil {
		w.Fatal(err)
	}
	if err := c.Validate(jwt.Expected{Issuer: "hub", AnyAudience: jwt.Audience{"hub"}, Time: time.Now()}); err != nil || c.ID == "" {
		w.Errorf("%+v: %v", c, err)
	}
	for _, a := range c.Access {
		scopes = append(scopes, a.Type+":"+a.Name+":"+strings.Join(a.Actions, ","))
	}
	return c.Subject, scopes
}

// auth-token.md, as docker asks.
func TestGet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	basic := []string{"Authorization", "Basic YWxpY2U6YSBnb29kIHBhc3N3b3Jk"}
	for _, tt := range []struct {
		query   string
		headers []string
		subject string
		want    string
	}{
		{"", nil, "", ""},
		{"?service=hub", basic, "alice", ""},
		{"?service=hub&scope=repository:team/app:pull,push", basic, "alice", "repository:team/app:pull,push"},
		{"?scope=repository:team/app:pull&scope=repository:team/b:push", basic, "alice", "repository:team/app:pull repository:team/b:push"},
		{"?scope=repository:team/app:pull%20repository:team/b:push", basic, "alice", "repository:team/app:pull repository:team/b:push"},
		{"?scope=repository:team/app:*", basic, "alice", "repository:team/app:pull,push"},
		{"?scope=repository:team/app:delete", basic, "alice", ""},
		{"?scope=repository:other/app:pull,push", basic, "alice", ""},
		{"?scope=repository:team/app:pull", nil, "", ""},
		{"?scope=registry:catalog:*", nil, "", "registry:catalog:*"},
		{"?scope=nonsense", basic, "alice", ""},
	} {
		got, _ := w.ask(http.StatusOK, "GET", "/token"+tt.query, nil, tt.headers...)
		subject, scopes := w.granted(got.Token)
		if subject != tt.subject || strings.Join(scopes, " ") != tt.want || got.RefreshToken != "" {
			t.Errorf("%s: %q for %q, %+v", tt.query, scopes, subject, got)
		}
	}
	got, header := w.ask(http.StatusUnauthorized, "GET", "/token", nil, "Authorization", "Basic YWxpY2U6d3Jvbmc=")
	if got.Errors[0].Code != "UNAUTHORIZED" || header.Get("WWW-Authenticate") != `Basic realm="hub"` {
		t.Errorf("%+v %v", got, header)
	}
	// A token does not get its holder another one.
	some, _ := w.ask(http.StatusOK, "GET", "/token", nil, basic...)
	w.ask(http.StatusUnauthorized, "GET", "/token", nil, "Authorization", "Bearer "+some.Token)
	w.ask(http.StatusMethodNotAllowed, "PUT", "/token", nil)
	w.ask(http.StatusMethodNotAllowed, "POST", "/keys", nil)
}

// auth-oauth.md, as containerd asks.
func TestPost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	form := func(pairs ...string) url.Values {
		v := url.Values{"service": {"hub"}, "client_id": {"test"}}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
			if pairs[i+1] == "" {
				v.Del(pairs[i])
			}
		}
		return v
	}
	signIn := []string{"grant_type", "password", "username", "alice", "password", password, "scope", "repository:team/app:pull,push repository:team/b:pull"}
	got, _ := w.ask(http.StatusOK, "POST", "/token", form(signIn...))
	if _, scopes := w.granted(got.Token); strings.Join(scopes, " ") != signIn[7] || got.RefreshToken != "" || got.Scope != signIn[7] {
		t.Errorf("%q, %+v", scopes, got)
	}
	got, _ = w.ask(http.StatusOK, "POST", "/token", form(append(signIn, "access_type", "offline")...))
	refresh := got.RefreshToken
	if refresh == "" || strings.Contains(refresh, password) {
		t.Fatalf("%+v", got)
	}
	got, _ = w.ask(http.StatusOK, "POST", "/token", form("grant_type", "refresh_token", "refresh_token", refresh, "scope", "repository:team/app:pull"))
	if subject, scopes := w.granted(got.Token); subject != "alice" || len(scopes) != 1 || got.RefreshToken != refresh {
		t.Errorf("%q for %q, %+v", scopes, subject, got)
	}
	for name, tt := range map[string]struct {
		form   url.Values
		status int
		code   string
	}{
		"wrong password":   {form("grant_type", "password", "username", "alice", "password", "wrong"), 401, "invalid_grant"},
		"wrong refresh":    {form("grant_type", "refresh_token", "refresh_token", refresh[:len(refresh)-1]+"0"), 401, "invalid_grant"},
		"no refresh":       {form("grant_type", "refresh_token"), 401, "invalid_grant"},
		"no grant":         {form(), 400, "invalid_request"},
		"another grant":    {form("grant_type", "client_credentials"), 400, "unsupported_grant_type"},
		"no service":       {form(append(signIn, "service", "")...), 400, "invalid_request"},
		"no client":        {form(append(signIn, "client_id", "")...), 400, "invalid_request"},
		"too much":         {form("x", strings.Repeat("x", maxForm)), 400, "invalid_request"},
		"a password twice": {url.Values{"service": {"hub"}, "client_id": {"c"}, "grant_type": {"password"}, "username": {"alice"}, "password": {"wrong", password}}, 401, "invalid_grant"},
	} {
		if got, _ := w.ask(tt.status, "POST", "/token", tt.form); got.Error != tt.code || len(got.Errors) != 1 || strings.Contains(got.Errors[0].Message, password) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	w.ask(http.StatusBadRequest, "POST", "/token", form(signIn...), "Content-Type", "application/json")
	// A changed password takes along what was got for it.
	if err := w.db.ChangeAccount(t.Context(), "alice", func(a *meta.Account) error {
		var err error
		a.Password, err = w.auth.HashPassword(t.Context(), "another password")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.ask(http.StatusUnauthorized, "POST", "/token", form("grant_type", "refresh_token", "refresh_token", refresh))
}

// Who guesses is told when to come back.
func TestLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", w.url+"/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("alice", "a wrong guess "+time.Now().String())
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			if resp.Header.Get("Retry-After") == "" {
				t.Error("there is no Retry-After")
			}
			return
		}
	}
	t.Error("nobody is slowed down")
}
