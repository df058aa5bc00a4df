package oidc

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berthregistry/berth/test/service"
)

// site is a registry with a sign-in, and what came of the last Finish.
type site struct {
	*httptest.Server
	login    *Login
	person   *Person
	returnTo string
	err      error
}

// newSite serves a sign-in at /begin and /back, once the test has set it.
func newSite(t testing.TB) *site {
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/begin":
			if err := s.login.Begin(w, r, r.FormValue("return")); err != nil {
				s.err = err
				http.Error(w, "cannot begin", http.StatusBadGateway)
			}
		case "/back":
			if s.person, s.returnTo, s.err = s.login.Finish(w, r); s.err != nil {
				http.Error(w, "not signed in", http.StatusForbidden)
				return
			}
			http.Redirect(w, r, s.returnTo, http.StatusSeeOther)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) back() string { return s.URL + "/back" }

// browser follows redirects and keeps cookies.
type browser struct {
	*http.Client
	t testing.TB
	// stop ends redirects at the first address that it returns true for.
	stop func(*url.URL) bool
}

func newBrowser(t testing.TB) *browser {
	b := &browser{t: t}
	b.Client = &http.Client{
		Jar:     must(cookiejar.New(nil)),
		Timeout: time.Minute,
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			if b.stop != nil && b.stop(req.URL) {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return b
}

// page is where a browser is.
type page struct {
	url    *url.URL
	status int
	header http.Header
	body   string
}

func (b *browser) got(resp *http.Response, err error) *page {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	return &page{resp.Request.URL, resp.StatusCode, resp.Header, string(must(io.ReadAll(resp.Body)))}
}

func (b *browser) open(address string) *page {
	b.t.Helper()
	return b.got(b.Get(address))
}

var (
	formTag  = regexp.MustCompile(`<form[^>]* action="([^"]*)"`)
	inputTag = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// submit sends the form of a page, with what is typed into it.
func (b *browser) submit(p *page, typed url.Values) *page {
	b.t.Helper()
	form := formTag.FindStringSubmatch(p.body)
	if form == nil {
		b.t.Fatalf("%s (%d) has no form:\n%s", p.url, p.status, p.body)
	}
	values := url.Values{}
	for _, in := range inputTag.FindAllStringSubmatch(p.body, -1) {
		values.Set(in[1], html.UnescapeString(in[2]))
	}
	for k, v := range typed {
		values[k] = v
	}
	return b.got(b.PostForm(must(p.url.Parse(html.UnescapeString(form[1]))).String(), values))
}

// signIn types a name into the provider's form, and agrees to what it asks then.
func (b *browser) signIn(p *page, name string) *page {
	b.t.Helper()
	p = b.submit(p, url.Values{"login": {name}, "password": {"any"}})
	return b.submit(p, nil)
}

const (
	secret = "correct-horse-battery-staple"
	device = "berth-cli"
)

// provide starts a real provider for a registry.
func provide(t testing.TB, s *site, thin bool, keys ...*signer) *service.OIDCProvider {
	t.Helper()
	return service.NewOIDCProvider(t, service.OIDCConfig{
		Thin: thin,
		Keys: privateKeys(keys...),
		Clients: []map[string]any{
			{"client_id": "berth", "client_secret": secret, "redirect_uris": []string{s.back()}, "id_token_signed_response_alg": "ES256"},
			{"client_id": "public", "token_endpoint_auth_method": "none", "redirect_uris": []string{s.back()}, "id_token_signed_response_alg": "ES256"},
			{
				"client_id": device, "token_endpoint_auth_method": "none", "redirect_uris": []string{}, "response_types": []string{}, "id_token_signed_response_alg": "ES256",
				"grant_types": []string{"urn:ietf:params:oauth:grant-type:device_code"},
			},
		},
		Accounts: map[string]map[string]any{
			"u-1": {"preferred_username": "Alice", "name": "Alice Doe", "email": "alice@corp.example", "email_verified": true, "groups": []string{"dev", "ops"}},
			"u-2": {"preferred_username": "bob", "email": "bob@corp.example", "email_verified": false},
			"u-3": {"preferred_username": "carol@corp.example", "name": "Carol"},
		},
	})
}

func privateKeys(keys ...*signer) (set jose.JSONWebKeySet) {
	for _, k := range keys {
		set.Keys = append(set.Keys, k.private())
	}
	return set
}

func (s *site) use(t testing.TB, issuer string, change func(*LoginOptions)) *Login {
	t.Helper()
	i, err := NewIssuer(Options{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	opt := LoginOptions{Issuer: i, ClientID: "berth", ClientSecret: secret, RedirectURL: s.back(), DeviceClientID: device, Key: [32]byte{1}}
	if change != nil {
		change(&opt)
	}
	if s.login, err = NewLogin(opt); err != nil {
		t.Fatal(err)
	}
	return s.login
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	full, thin := provide(t, s, false, newSigner("a")), provide(t, s, true, newSigner("b"))
	alice := Person{Subject: "u-1", Name: "alice", DisplayName: "Alice Doe", Mail: "alice@corp.example"}
	withGroups := alice
	withGroups.Groups = []string{"dev", "ops"}
	groups := func(o *LoginOptions) {
		o.GroupsClaim, o.Scopes = "groups", []string{"profile", "email", "groups"}
	}
	for _, test := range []struct {
		name     string
		provider *service.OIDCProvider
		change   func(*LoginOptions)
		account  string
		want     Person
		reason   string
	}{
		{"claims in the token", full, nil, "u-1", alice, ""},
		{"groups in the token", full, groups, "u-1", withGroups, ""},
		{"claims at the userinfo endpoint", thin, groups, "u-1", withGroups, ""},
		{"no groups", full, groups, "u-2", Person{Subject: "u-2", Name: "bob", Groups: []string{}}, ""},
		{"no groups at the userinfo endpoint", thin, groups, "u-2", Person{Subject: "u-2", Name: "bob", Groups: []string{}}, ""},
		{"public client", full, func(o *LoginOptions) { o.ClientID, o.ClientSecret = "public", "" }, "u-1", alice, ""},
		{"a name that is a mail address", full, nil, "u-3", Person{}, "cannot be a user name"},
		{"of the domain", full, func(o *LoginOptions) { o.NameDomain = "Corp.Example" }, "u-3", Person{Subject: "u-3", Name: "carol", DisplayName: "Carol"}, ""},
		{"of another domain", full, func(o *LoginOptions) { o.NameDomain = "example" }, "u-3", Person{}, "cannot be a user name"},
		{"mail as name", full, func(o *LoginOptions) { o.NameClaim, o.NameDomain = "email", "corp.example" }, "u-1", alice, ""},
		{"mail that is not verified", full, func(o *LoginOptions) { o.NameClaim, o.NameDomain = "email", "corp.example" }, "u-2", Person{}, "verified"},
		{"no such claim", full, func(o *LoginOptions) { o.NameClaim = "nickname" }, "u-1", Person{}, "does not say the claim"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.use(t, test.provider.Issuer, test.change)
			b := newBrowser(t)
			p := b.signIn(b.open(s.URL+"/begin?return="+url.QueryEscape("/repositories?page=2")), test.account)
			if test.reason != "" {
				wantError(t, s.err, ErrToken, test.reason)
				if s.person != nil {
					t.Errorf("got %+v", s.person)
				}
				return
			}
			if s.err != nil {
				t.Fatalf("%v\nat %s", s.err, p.url)
			}
			test.want.Issuer = test.provider.Issuer
			if !reflect.DeepEqual(*s.person, test.want) {
				t.Errorf("got %+v, expected %+v", *s.person, test.want)
			}
			if got := p.url.RequestURI(); got != "/repositories?page=2" {
				t.Errorf("the browser is at %s", got)
			}
		})
	}
}

// What can happen to a browser on its way back, with the real provider.
func TestFinish(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	provider := provide(t, s, false, newSigner("a"))
	login := s.use(t, provider.Issuer, nil)
	// signIn goes as far as the address that the provider sends the browser back to.
	signIn := func(t *testing.T, b *browser) *url.URL {
		t.Helper()
		b.stop = func(u *url.URL) bool { return u.Path == "/back" }
		p := b.signIn(b.open(s.URL+"/begin?return=/x"), "u-1")
		b.stop = nil
		back, err := url.Parse(p.header.Get("Location"))
		if err != nil || back.Query().Get("code") == "" {
			t.Fatalf("the provider answers %d, Location %q", p.status, p.header.Get("Location"))
		}
		return back
	}
	with := func(u *url.URL, name, value string) string {
		c := *u
		q := c.Query()
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
		c.RawQuery = q.Encode()
		return c.String()
	}
	cookies := func(b *browser) []*http.Cookie { return b.Jar.Cookies(must(url.Parse(s.URL))) }

	t.Run("in another browser", func(t *testing.T) {
		back := signIn(t, newBrowser(t))
		newBrowser(t).open(back.String())
		wantError(t, s.err, ErrToken, "has begun no sign-in")
	})
	t.Run("in a browser that began another", func(t *testing.T) {
		back := signIn(t, newBrowser(t))
		b := newBrowser(t)
		b.open(s.URL + "/begin")
		b.open(back.String())
		wantError(t, s.err, ErrToken, "not the sign-in that this browser began last")
	})
	t.Run("twice", func(t *testing.T) {
		b := newBrowser(t)
		back := signIn(t, b)
		kept := cookies(b)
		b.open(back.String())
		if s.err != nil || s.person.Name != "alice" || s.returnTo != "/x" {
			t.Fatalf("%+v, %s, %v", s.person, s.returnTo, s.err)
		}
		b.open(back.String())
		wantError(t, s.err, ErrToken, "has begun no sign-in")
		b.Jar.SetCookies(must(url.Parse(s.URL)), kept)
		b.open(back.String())
		wantError(t, s.err, ErrToken, "finished before")
		if s.err != nil && strings.Contains(s.err.Error(), back.Query().Get("code")) {
			t.Errorf("the error has the code: %v", s.err)
		}
	})
	for name, change := range map[string][3]string{
		"without a state":     {"state", "", "not the sign-in"},
		"with another state":  {"state", "x", "not the sign-in"},
		"of another issuer":   {"iss", "https://evil.example", "of the issuer"},
		"of no issuer":        {"iss", "", "of the issuer"}, // the provider promises to say it
		"with a forged code":  {"code", "x", "begin again"},
		"with an error, too":  {"error", "access_denied", "did not sign in"},
		"with an empty error": {"error_description", "\x1b[31m", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBrowser(t)
			back := signIn(t, b)
			b.open(with(back, change[0], change[1]))
			if change[2] == "" {
				if s.err != nil {
					t.Error(s.err)
				}
				return
			}
			wantError(t, s.err, ErrToken, change[2])
		})
	}
	t.Run("with a code of another browser", func(t *testing.T) { // PKCE
		stolen := signIn(t, newBrowser(t)).Query().Get("code")
		b := newBrowser(t)
		back := signIn(t, b)
		b.open(with(back, "code", stolen))
		wantError(t, s.err, ErrToken, "begin again")
	})
	t.Run("after the person refused", func(t *testing.T) {
		b := newBrowser(t)
		p := b.open(s.URL + "/begin")
		b.open(p.url.String() + "/abort")
		wantError(t, s.err, ErrToken, "access_denied")
	})
	t.Run("with a cookie that was changed", func(t *testing.T) {
		b := newBrowser(t)
		back := signIn(t, b)
		for _, c := range cookies(b) {
			if c.Name == cookieName {
				c.Value = "A" + c.Value[1:]
				if strings.Contains(c.Value, "verifier") {
					t.Error("the cookie can be read")
				}
				b.Jar.SetCookies(must(url.Parse(s.URL)), []*http.Cookie{c})
			}
		}
		b.open(back.String())
		wantError(t, s.err, ErrToken, "has begun no sign-in")
	})
	t.Run("with a cookie for another provider", func(t *testing.T) {
		b := newBrowser(t)
		back := signIn(t, b)
		s.use(t, provider.Issuer, func(o *LoginOptions) { o.ClientID = "public" })
		defer func() { s.login = login }()
		b.open(back.String())
		wantError(t, s.err, ErrToken, "has begun no sign-in")
	})
	t.Run("too late", func(t *testing.T) {
		b := newBrowser(t)
		back := signIn(t, b)
		login.opt.Issuer.now = func() time.Time { return time.Now().Add(loginTime + 2*time.Second) }
		defer func() { login.opt.Issuer.now = time.Now }()
		b.open(back.String())
		wantError(t, s.err, ErrToken, "more than 10m")
	})
	t.Run("with a wrong secret", func(t *testing.T) {
		b := newBrowser(t)
		s.use(t, provider.Issuer, func(o *LoginOptions) { o.ClientSecret = "wrong" })
		defer func() { s.login = login }()
		b.signIn(b.open(s.URL+"/begin"), "u-1")
		wantError(t, s.err, ErrUnavailable, "client_secret")
		if s.err != nil && strings.Contains(s.err.Error(), "wrong") {
			t.Errorf("the error has the secret: %v", s.err)
		}
	})
	t.Run("with new keys", func(t *testing.T) {
		b := newBrowser(t)
		provider.Stop()
		provider.Start(t, privateKeys(newSigner("b")))
		now := time.Now()
		login.opt.Issuer.now = func() time.Time { return now.Add(retryAfter) }
		defer func() { login.opt.Issuer.now = time.Now }()
		b.signIn(b.open(s.URL+"/begin"), "u-1")
		if s.err != nil || s.person.Name != "alice" {
			t.Errorf("%+v, %v", s.person, s.err)
		}
	})
	t.Run("while the provider is down", func(t *testing.T) {
		b := newBrowser(t)
		back := signIn(t, b)
		provider.Stop()
		b.open(back.String())
		wantError(t, s.err, ErrUnavailable, "cannot be asked for a token")
		if s.err != nil && strings.Contains(s.err.Error(), back.Query().Get("code")) {
			t.Errorf("the error has the code: %v", s.err)
		}
		s.use(t, provider.Issuer, nil)
		if p := b.open(s.URL + "/begin"); p.status != http.StatusBadGateway {
			t.Errorf("began with %d", p.status)
		}
		wantError(t, s.err, ErrUnavailable, "discovery")
	})
}

func TestBegin(t *testing.T) {
	w := newWorld(t)
	w.discovery["authorization_endpoint"] = w.Server.URL + "/authorize"
	w.discovery["token_endpoint"] = w.Server.URL + "/token"
	login := must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", RedirectURL: "https://registry.example.com/back"}))
	begin := func() (*http.Cookie, url.Values) {
		t.Helper()
		rec := httptest.NewRecorder()
		if err := login.Begin(rec, httptest.NewRequest(http.MethodGet, "/begin", nil), "/"); err != nil {
			t.Fatal(err)
		}
		res := rec.Result()
		if res.StatusCode != http.StatusSeeOther || len(res.Cookies()) != 1 || res.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %v", res.StatusCode, res.Header)
		}
		return res.Cookies()[0], must(res.Location()).Query()
	}
	c, q := begin()
	if c.Name != "__Host-berth-login" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 600 {
		t.Errorf("cookie %s", c)
	}
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "berth", "redirect_uri": "https://registry.example.com/back", "scope": "openid profile email", "code_challenge_method": "S256",
	} {
		if got := q.Get(name); got != want {
			t.Errorf("%s is %q, expected %q", name, got, want)
		}
	}
	_, other := begin()
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(name)) < 26 || q.Get(name) == other.Get(name) || strings.Contains(c.Value, q.Get(name)) {
			t.Errorf("%s is %q and %q", name, q.Get(name), other.Get(name))
		}
	}
	// A provider for tokens only.
	w.pass(staleAfter + time.Second)
	delete(w.discovery, "authorization_endpoint")
	rec := httptest.NewRecorder()
	wantError(t, login.Begin(rec, httptest.NewRequest(http.MethodGet, "/begin", nil), "/"), ErrUnavailable, "nobody can sign in")
	if len(rec.Header()) != 0 {
		t.Errorf("an error came with %v", rec.Header())
	}
}

// open redirects in the login pages (zot, 2026)
func TestReturnAddressesAreLocalPaths(t *testing.T) {
	for s, want := range map[string]string{
		"/": "/", "/repositories": "/repositories", "/r/team/app?tag=1.0&x=//evil.example": "/r/team/app?tag=1.0&x=//evil.example", "/a/": "/a/", "/a%20b": "/a%20b", "/a#b": "/a#b",
		"": "/", "repositories": "/", "//evil.example": "/", "///evil.example": "/", `/\evil.example`: "/", `\\evil.example`: "/", "/\t/evil.example": "/", "/\n/evil.example": "/",
		"https://evil.example": "/", "javascript:alert(1)": "/", "/../x": "/", "/.//evil.example": "/", "/a//evil.example": "/", "/%2f/evil.example": "/", "/%5cevil.example": "/%5cevil.example",
		"/%zz": "/", "/ü": "/", "/\x00": "/", "?x": "/", "/" + strings.Repeat("a", maxReturn): "/", " /a": "/", "/ a": "/", "@evil.example": "/",
	} {
		if got := localPath(s); got != want {
			t.Errorf("%q: got %q, expected %q", s, got, want)
		}
	}
}

func FuzzReturnAddress(f *testing.F) {
	f.Add("/a/b?c=d#e")
	f.Add("//evil.example")
	f.Add(`/%2e%2e/\x`)
	base := must(url.Parse("https://registry.example.com/back"))
	f.Fuzz(func(t *testing.T, s string) {
		got := localPath(s)
		rec := httptest.NewRecorder()
		http.Redirect(rec, httptest.NewRequest(http.MethodGet, "/back", nil), got, http.StatusSeeOther)
		to := rec.Header().Get("Location")
		u, err := base.Parse(to)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
			t.Errorf("%q leads to %q", s, to)
		}
	})
}

// An issuer whose token endpoint answers as the test wants.
func TestTokenEndpoint(t *testing.T) {
	for _, test := range []struct {
		name   string
		claims map[string]any
		header func(*jose.SignerOptions)
		answer string // in place of an ID token
		kind   error  // nil if the person is signed in
		reason string
	}{
		{name: "as it should be"},
		{name: "two audiences", claims: map[string]any{"aud": []string{"berth", "other"}, "azp": "berth"}},
		{name: "typ in lower case", header: func(o *jose.SignerOptions) { o.WithType("jwt") }},
		{name: "nonce of another sign-in", claims: map[string]any{"nonce": "other"}, kind: ErrToken, reason: "of another sign-in"},
		{name: "no nonce", claims: map[string]any{"nonce": nil}, kind: ErrToken, reason: "of another sign-in"},
		{name: "another audience", claims: map[string]any{"aud": "other"}, kind: ErrToken, reason: "for the audience"},
		{name: "issued to another client", claims: map[string]any{"azp": "other"}, kind: ErrToken, reason: "issued to"},
		{name: "two audiences, nobody named", claims: map[string]any{"aud": []string{"berth", "other"}}, kind: ErrToken, reason: "issued to"},
		{name: "another issuer", claims: map[string]any{"iss": "https://evil.example"}, kind: ErrToken, reason: "of the issuer"},
		{name: "expired", claims: map[string]any{"exp": 1}, kind: ErrToken, reason: "expired"},
		{name: "issued never", claims: map[string]any{"iat": nil}, kind: ErrToken, reason: "when it was issued"},
		{name: "an access token", header: func(o *jose.SignerOptions) { o.WithType("at+jwt") }, kind: ErrToken, reason: "not an ID token"},
		{name: "a logout token", claims: map[string]any{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}, kind: ErrToken, reason: "logout token"},
		{name: "no ID token", answer: `{"access_token":"a","token_type":"Bearer"}`, kind: ErrUnavailable, reason: "no ID token"},
		{name: "an ID token that is none", answer: `{"access_token":"a","token_type":"Bearer","id_token":"x"}`, kind: ErrToken, reason: "not a signed"},
		{name: "an ID token that is a number", answer: `{"access_token":"a","token_type":"Bearer","id_token":1}`, kind: ErrUnavailable, reason: "no ID token"},
		{name: "null", answer: `null`, kind: ErrUnavailable, reason: "cannot be asked"},
		{name: "nonsense", answer: `hello`, kind: ErrUnavailable, reason: "cannot be asked"},
		{name: "endless", answer: strings.Repeat(" ", 2<<20), kind: ErrUnavailable, reason: "cannot be asked"},
		{name: "Entra's overage", claims: map[string]any{"_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://graph.example"}}}, kind: ErrToken, reason: "Groups assigned to the application"},
		{name: "Entra's other overage", claims: map[string]any{"hasgroups": true}, kind: ErrToken, reason: "too many groups"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			s := newSite(t)
			w.discovery["authorization_endpoint"] = w.Server.URL + "/authorize"
			w.discovery["token_endpoint"] = w.Server.URL + "/token"
			s.login = must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", RedirectURL: s.back(), GroupsClaim: "groups"}))
			nonce := ""
			w.on("/authorize", func(rw http.ResponseWriter, r *http.Request) {
				nonce = r.FormValue("nonce")
				http.Redirect(rw, r, s.back()+"?code=c&state="+r.FormValue("state"), http.StatusSeeOther)
			})
			w.on("/token", func(rw http.ResponseWriter, r *http.Request) {
				if test.answer != "" {
					io.WriteString(rw, test.answer)
					return
				}
				c := w.claims(map[string]any{"aud": "berth", "nonce": nonce, "preferred_username": "alice"})
				for k, v := range test.claims {
					if c[k] = v; v == nil {
						delete(c, k)
					}
				}
				header := test.header
				if header == nil {
					header = func(*jose.SignerOptions) {}
				}
				io.WriteString(rw, `{"access_token":"a","token_type":"Bearer","id_token":"`+w.first.sign(t, c, header)+`"}`)
			})
			newBrowser(t).open(s.URL + "/begin")
			if test.kind != nil {
				wantError(t, s.err, test.kind, test.reason)
				if s.person != nil {
					t.Errorf("got %+v", s.person)
				}
			} else if s.err != nil || s.person.Name != "alice" || s.person.Groups == nil || len(s.person.Groups) != 0 {
				t.Errorf("%+v, %v", s.person, s.err)
			}
		})
	}
}

// How the client proves who it is depends on what the issuer takes (openid-connect-core-1_0#ClientAuthentication).
func TestClientAuthentication(t *testing.T) {
	for _, test := range []struct {
		methods       []string
		secret        string
		header, param bool // where the secret is
	}{
		{nil, secret, true, false},
		{[]string{"client_secret_post", "client_secret_basic"}, secret, true, false},
		{[]string{"client_secret_post"}, secret, false, true},
		{[]string{"none"}, "", false, false},
	} {
		w := newWorld(t)
		s := newSite(t)
		w.discovery["authorization_endpoint"] = w.Server.URL + "/authorize"
		w.discovery["token_endpoint"] = w.Server.URL + "/token"
		if test.methods != nil {
			w.discovery["token_endpoint_auth_methods_supported"] = test.methods
		}
		s.login = must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", ClientSecret: test.secret, RedirectURL: s.back()}))
		w.on("/authorize", func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, s.back()+"?code=c&state="+r.FormValue("state"), http.StatusSeeOther)
		})
		w.on("/token", func(rw http.ResponseWriter, r *http.Request) {
			_, password, header := r.BasicAuth()
			if header != test.header || header && password != secret || r.PostFormValue("client_secret") == secret != test.param || r.URL.RawQuery != "" {
				t.Errorf("%v: header %t, form %v", test.methods, header, r.PostForm)
			}
			rw.WriteHeader(http.StatusBadRequest)
			io.WriteString(rw, `{"error":"invalid_grant"}`)
		})
		newBrowser(t).open(s.URL + "/begin")
		wantError(t, s.err, ErrToken, "begin again")
	}
}

// The userinfo endpoint may not speak of anybody else.
func TestUserinfoOfSomebodyElse(t *testing.T) {
	w := newWorld(t)
	s := newSite(t)
	for _, name := range []string{"authorization", "token", "userinfo"} {
		w.discovery[name+"_endpoint"] = w.Server.URL + "/" + name
	}
	s.login = must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", RedirectURL: s.back()}))
	nonce, info := "", ""
	w.on("/authorization", func(rw http.ResponseWriter, r *http.Request) {
		nonce = r.FormValue("nonce")
		http.Redirect(rw, r, s.back()+"?code=c&state="+r.FormValue("state"), http.StatusSeeOther)
	})
	w.on("/token", func(rw http.ResponseWriter, r *http.Request) {
		raw := w.first.sign(t, w.claims(map[string]any{"aud": "berth", "nonce": nonce, "name": "of the token"}))
		io.WriteString(rw, `{"access_token":"a","token_type":"Bearer","id_token":"`+raw+`"}`)
	})
	w.on("/userinfo", func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, info) })
	for _, test := range []struct {
		info   string
		kind   error
		reason string
	}{
		{`{"sub":"root","preferred_username":"root"}`, ErrToken, "somebody else"},
		{`{"preferred_username":"root"}`, ErrToken, "somebody else"},
		{`null`, ErrToken, "somebody else"},
		{`{"sub":"somebody","preferred_username":"a","preferred_username":"b"}`, ErrUnavailable, "nonsense"},
		{`[]`, ErrUnavailable, "userinfo"},
		{`{"sub":"somebody","preferred_username":"alice","name":"of the endpoint"}`, nil, ""},
	} {
		info = test.info
		newBrowser(t).open(s.URL + "/begin")
		if test.kind != nil {
			wantError(t, s.err, test.kind, test.reason)
		} else if s.err != nil || s.person.Name != "alice" || s.person.DisplayName != "of the token" {
			t.Errorf("%+v, %v", s.person, s.err)
		}
	}
}

func TestLoginOptions(t *testing.T) {
	i := must(NewIssuer(Options{Issuer: "https://accounts.example.com"}))
	for redirect, ok := range map[string]bool{
		"https://registry.example.com/back": true, "http://127.0.0.1:5000/back": true, "http://localhost/back": true,
		"http://registry.example.com/back": false, "": false, "/back": false, "ftp://a/b": false, "https://registry.example.com/back#x": false,
	} {
		if _, err := NewLogin(LoginOptions{Issuer: i, ClientID: "berth", RedirectURL: redirect}); (err == nil) != ok {
			t.Errorf("%q: %v", redirect, err)
		}
	}
	if _, err := NewLogin(LoginOptions{Issuer: i, RedirectURL: "https://registry.example.com/back"}); err == nil {
		t.Error("no client id is needed")
	}
}
