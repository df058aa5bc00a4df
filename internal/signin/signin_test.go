package signin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/web"
	"github.com/berthregistry/berth/test/service"
)

const password = "a good password"

// world is a registry's sign-in on a real database, and a real provider.
type world struct {
	testing.TB
	*httptest.Server
	db       *meta.DB
	accounts *auth.Auth
	h        *Handler
	provider *service.OIDCProvider
	log      *logBuffer
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func key(t testing.TB) jose.JSONWebKeySet {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "a", Key: k, Algorithm: "ES256", Use: "sig"}}}
}

// newWorld has a provider called corp, and after it one for each of others, which is down.
func newWorld(t testing.TB, others ...string) *world {
	t.Helper()
	w := &world{TB: t, log: new(logBuffer)}
	var err error
	if w.db, err = meta.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), meta.Options{}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if w.accounts, err = auth.New(w.db, auth.Options{Log: log, Service: "berth", TokenLifetime: 5 * time.Minute, KeyLifetime: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	server := web.NewServer(web.Options{Log: log, AccessLog: true, Idle: time.Minute})
	w.Server = httptest.NewServer(server.Handler(func(rw *web.Response, r *http.Request) error { return w.h.Serve(rw, r) }))
	t.Cleanup(func() {
		w.Server.Close()
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(w.log)
		}
	})
	w.provider = service.NewOIDCProvider(t, service.OIDCConfig{
		Keys: key(t),
		Clients: []map[string]any{
			{"client_id": "berth", "client_secret": "correct-horse-battery-staple", "redirect_uris": []string{w.URL + CallbackPath("corp")}, "id_token_signed_response_alg": "ES256"},
			{
				"client_id": "berth-cli", "token_endpoint_auth_method": "none", "redirect_uris": []string{}, "response_types": []string{}, "id_token_signed_response_alg": "ES256",
				"grant_types": []string{"urn:ietf:params:oauth:grant-type:device_code"},
			},
		},
		Accounts: map[string]map[string]any{
			"u-1": {"preferred_username": "Alice", "name": "Alice <b>Doe", "email": "alice@corp.example", "email_verified": true, "groups": []string{"dev", "ops"}},
			"u-2": {"preferred_username": "bob", "groups": []string{}},
			"u-3": {"preferred_username": "token"},
			"u-4": {"preferred_username": "carol@corp.example"},
		},
	})
	opts := Options{Auth: w.accounts, Log: log, ExternalURL: w.URL, Client: server.Client}
	opts.Providers = append(opts.Providers, Provider{"corp", "Corp & Co", w.login(w.provider.Issuer, "corp", "berth-cli")})
	for _, name := range others {
		opts.Providers = append(opts.Providers, Provider{name, strings.ToUpper(name), w.login("http://127.0.0.1:1", name, "")})
	}
	w.h = New(opts)
	return w
}

func (w *world) login(issuer, name, device string) *oidc.Login {
	w.Helper()
	i, err := oidc.NewIssuer(oidc.Options{Issuer: issuer})
	if err != nil {
		w.Fatal(err)
	}
	l, err := oidc.NewLogin(oidc.LoginOptions{
		Issuer: i, ClientID: "berth", ClientSecret: "correct-horse-battery-staple", RedirectURL: w.URL + CallbackPath(name), DeviceClientID: device,
		Scopes: []string{"profile", "email", "groups"}, GroupsClaim: "groups", Key: [32]byte{1},
	})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// signIn signs in as a person does.
func (w *world) signIn(account string) *service.BrowserPage {
	w.Helper()
	b := service.NewBrowser(w)
	return b.SignIn(b.Open(w.URL+Path+"/corp"), account)
}

func shown(p *service.BrowserPage, id string) string {
	if m := regexp.MustCompile(`(?s) id="` + id + `">(.*?)</`).FindStringSubmatch(p.Body); m != nil {
		return html.UnescapeString(m[1])
	}
	return ""
}

// expect fails the test unless a page has a status and gives a reason.
func (w *world) expect(p *service.BrowserPage, status int, reason string) {
	w.Helper()
	if p.Status != status || !strings.Contains(shown(p, "reason"), reason) || !strings.Contains(p.Body, "Try again") || shown(p, "token") != "" {
		w.Errorf("%s: %d, want %d with %q:\n%s", p.URL, p.Status, status, reason, p.Body)
	}
}

var here = netip.MustParseAddr("127.0.0.1")

// Who signs in gets an account and a token, which works until somebody takes it away.
func TestBrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.signIn("u-1")
	token := shown(p, "token")
	if p.Status != http.StatusOK || token == "" || shown(p, "login") != "docker login -u alice --password-stdin "+strings.TrimPrefix(w.URL, "http://") {
		t.Fatalf("%s: %d\n%s", p.URL, p.Status, p.Body)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Content-Type": "text/html; charset=utf-8"} {
		if got := p.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if csp := p.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; ") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, styleHash(p.Body)) {
		t.Errorf("the policy is %q", csp)
	}
	if strings.Contains(p.Body, "<script") || strings.Contains(p.Body, "src=") || strings.Contains(p.Body, "http") {
		t.Errorf("the page loads something:\n%s", p.Body)
	}
	a, err := w.db.AccountOf(t.Context(), "oidc:corp", "u-1")
	if err != nil || a.Name != "alice" || a.DisplayName != "Alice <b>Doe" || a.Mail != "alice@corp.example" || a.Admin {
		t.Fatalf("%+v, %v", a, err)
	}
	id, err := w.accounts.SignIn(t.Context(), "alice", token, here)
	if err != nil || id.Account != a.ID {
		t.Fatalf("%+v, %v", id, err)
	}
	// There is no password to guess.
	for _, wrong := range []string{"", "any", password} {
		if _, err := w.accounts.SignIn(t.Context(), "alice", wrong, here); err == nil {
			t.Errorf("%q is a password", wrong)
		}
	}
	all, err := w.db.Credentials(t.Context(), a.ID)
	if err != nil || len(all) != 1 || all[0].Name != "signed in with Corp & Co" || all[0].Expires.Before(time.Now().Add(29*24*time.Hour)) {
		t.Errorf("%+v, %v", all, err)
	}
	entries, _, err := w.db.AuditAfter(t.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 10)
	if err != nil || len(entries) < 2 || entries[0].Action != "user.create" || entries[0].Object != "users/alice" {
		t.Fatalf("%+v, %v", entries, err)
	}
	entries = entries[1:]
	if entries[0].Actor != "alice" || entries[0].AccountID != a.ID || entries[0].Action != "sign-in" || entries[0].Credential != "oidc:corp" || !entries[0].Allowed || entries[0].Client != "127.0.0.1" {
		t.Errorf("%+v, %v", entries, err)
	}
	if strings.Contains(w.log.String(), token) {
		t.Error("the token is in the log")
	}
	// What an address that was used once brings, and one that nobody has begun.
	w.expect(service.NewBrowser(t).Open(p.URL.String()), http.StatusForbidden, "begun no sign-in")
	// The oldest tokens go, those of another name stay.
	other := &meta.Credential{Kind: meta.TokenCredential, Created: time.Now()}
	other.Name, other.Actions = "mine", access.All
	_, hash := auth.NewSecret(other.Kind)
	if err := w.db.AddCredential(t.Context(), a.ID, other, hash, 0); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, _, err := w.accounts.PersonToken(t.Context(), &id, "corp", "signed in with Corp & Co"); err != nil {
			t.Fatal(err)
		}
	}
	left, err := w.db.Credentials(t.Context(), a.ID)
	if err != nil || len(left) != 6 || left[0].ID != other.ID {
		t.Errorf("%d credentials are left, %v", len(left), err)
	}
	if _, err := w.accounts.SignIn(t.Context(), "alice", token, here); err == nil {
		t.Error("the oldest token still works")
	}
}

// Groups of the issuer bring the rights of teams, and take them away.
func TestGroups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for _, err := range []error{
		w.db.CreateOrganization(ctx, &meta.Organization{Name: "acme", Creation: access.CreationPush, Created: time.Now()}),
		w.db.CreateTeam(ctx, &meta.Team{Organization: "acme", Name: "dev"}),
		w.db.SetTeamGroups(ctx, "acme", "dev", auth.PeopleSource("corp"), []string{"dev"}),
		w.db.AddGrant(ctx, &meta.Grant{Organization: "acme", Grant: access.Grant{Team: "dev", Role: access.Writer, Actions: access.Writer.Actions()}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	token := shown(w.signIn("u-1"), "token")
	may := func() bool {
		t.Helper()
		id, err := w.accounts.SignIn(ctx, "alice", token, here)
		if err != nil {
			t.Fatal(err)
		}
		d, _, err := w.accounts.Decide(ctx, &id, access.Push, oci.Repository("acme/app"), "")
		if err != nil {
			t.Fatal(err)
		}
		return d.Allowed
	}
	if !may() {
		t.Error("the group brings no right")
	}
	person := &oidc.Person{Subject: "u-1", Name: "renamed"}
	for _, test := range []struct {
		groups []string
		want   bool
	}{{nil, true}, {[]string{}, false}, {[]string{"dev"}, true}, {[]string{"other"}, false}} {
		person.Groups = test.groups
		if id, err := w.accounts.SignInPerson(ctx, "corp", person, here); err != nil || id.Name != "alice" {
			t.Fatalf("%+v, %v", id, err)
		}
		if got := may(); got != test.want {
			t.Errorf("with the groups %v: %v", test.groups, got)
		}
	}
	// The same subject at another issuer is somebody else.
	if _, err := w.accounts.SignInPerson(ctx, "other", &oidc.Person{Subject: "u-1", Name: "alice"}, here); err == nil {
		t.Error("another issuer's person takes over the account")
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for _, name := range []string{"bob"} {
		a := &meta.Account{Source: meta.LocalAccounts, Created: time.Now()}
		a.Name = name
		if err := w.db.CreateAccount(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(w.signIn("u-2"), http.StatusForbidden, "berth user delete bob")
	w.expect(w.signIn("u-3"), http.StatusForbidden, "meaning of its own")
	w.expect(w.signIn("u-4"), http.StatusForbidden, "name_domain")
	token := shown(w.signIn("u-1"), "token")
	change := func(do func(*meta.Account)) {
		t.Helper()
		if err := w.db.ChangeAccount(ctx, "alice", func(a *meta.Account) error { do(a); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	change(func(a *meta.Account) { a.Disabled = true })
	w.expect(w.signIn("u-1"), http.StatusForbidden, "the account is disabled")
	if _, err := w.accounts.SignIn(ctx, "alice", token, here); err == nil {
		t.Error("the token of a disabled account works")
	}
	change(func(a *meta.Account) {
		a.Disabled, a.Networks = false, access.Networks{netip.MustParsePrefix("10.0.0.0/8")}
	})
	w.expect(w.signIn("u-1"), http.StatusForbidden, "cannot be used from 127.0.0.1")
	change(func(a *meta.Account) { a.Networks, a.Expires = nil, time.Now().Add(-time.Second) })
	w.expect(w.signIn("u-1"), http.StatusForbidden, "has expired")
	change(func(a *meta.Account) { a.Expires = time.Time{} })
	if p := w.signIn("u-1"); p.Status != http.StatusOK {
		t.Errorf("%d\n%s", p.Status, p.Body)
	}
	no := false
	entries, _, err := w.db.Audit(ctx, meta.AuditFilter{Allowed: &no}, meta.AuditPlace{}, 10) // one is of the token, while the account was disabled
	if err != nil || len(entries) != 6 || entries[0].Object != "alice" || !strings.Contains(entries[0].Detail, "has expired") || entries[0].AccountID != 0 {
		t.Errorf("%+v, %v", entries, err)
	}
	// The person changes their mind.
	b := service.NewBrowser(t)
	p := b.Open(w.URL + Path + "/corp")
	abort := regexp.MustCompile(`href="([^"]*/abort)"`).FindStringSubmatch(p.Body)
	if abort == nil {
		t.Fatalf("nothing to abort:\n%s", p.Body)
	}
	to, err := p.URL.Parse(abort[1])
	if err != nil {
		t.Fatal(err)
	}
	w.expect(b.Open(to.String()), http.StatusForbidden, "access_denied")
}

// While the provider is down a page says so, and what people have goes on working.
func TestProviderDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := shown(w.signIn("u-1"), "token")
	b := service.NewBrowser(t)
	p := b.Open(w.URL + Path + "/corp")
	w.provider.Stop()
	b2 := service.NewBrowser(t)
	b2.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp := b2.Open(w.URL + Path + "/corp") // what it publishes is known still
	if resp.Status != http.StatusSeeOther || p.Status != http.StatusOK {
		t.Errorf("%d", resp.Status)
	}
	state := regexp.MustCompile(`state=([^&]+)`).FindStringSubmatch(resp.Header.Get("Location"))
	if state == nil {
		t.Fatalf("no state in %s", resp.Header.Get("Location"))
	}
	w.expect(b2.Open(w.URL+CallbackPath("corp")+"?code=x&iss="+w.provider.Issuer+"&state="+state[1]), http.StatusServiceUnavailable, "Corp & Co cannot be used at this moment")
	if _, err := w.accounts.SignIn(t.Context(), "alice", token, here); err != nil {
		t.Errorf("the token is refused: %v", err)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "down")
	b := service.NewBrowser(t)
	p := b.Open(w.URL + Path)
	if p.Status != http.StatusOK || !strings.Contains(p.Body, `<a class="button" href="/auth/oidc/corp">Sign in with Corp &amp; Co</a>`) || !strings.Contains(p.Body, `href="/auth/oidc/down">Sign in with DOWN<`) {
		t.Errorf("%d\n%s", p.Status, p.Body)
	}
	p = b.Open(w.URL + Path + "/down")
	w.expect(p, http.StatusServiceUnavailable, "DOWN cannot be used at this moment")
	if p.Header.Get("Retry-After") == "" || p.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", p.Header)
	}
	w.expect(b.Open(w.URL+CallbackPath("corp")), http.StatusForbidden, "begun no sign-in")
	var l Listing
	if status := w.json("GET", Path, nil, &l); status != http.StatusOK || !slices.Equal(l.Providers, []Named{{"corp", "Corp & Co"}, {"down", "DOWN"}}) {
		t.Errorf("%d, %+v", status, l)
	}
	for path, want := range map[string]int{
		Path + "/none": http.StatusNotFound, Path + "/": http.StatusNotFound, Path + "/corp/": http.StatusNotFound, Path + "/corp/other": http.StatusNotFound,
		DevicePath("none"): http.StatusNotFound, DevicePath("down"): http.StatusNotFound, DevicePath("corp") + "/x": http.StatusNotFound,
	} {
		if status := w.json("GET", path, nil, nil); status != want {
			t.Errorf("GET %s: %d", path, status)
		}
	}
	for _, path := range []string{Path, Path + "/corp", CallbackPath("corp")} {
		if status := w.json("POST", path, nil, nil); status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, status)
		}
	}
}

// No other site begins a sign-in: a person does.
func TestBeganElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{Path, Path + "/corp"} {
		for from, asked := range map[string]bool{"cross-site": true, "same-site": true, "same-origin": false, "none": false, "": false} {
			req, err := http.NewRequest(http.MethodGet, w.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if from != "" {
				req.Header.Set("Sec-Fetch-Site", from)
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if asked != (resp.StatusCode == http.StatusOK && len(resp.Cookies()) == 0 && strings.Contains(string(body), `href="/auth/oidc/corp"`)) || !asked && resp.StatusCode != http.StatusSeeOther {
				t.Errorf("%s from %q: %s\n%s", path, from, resp.Status, body)
			}
		}
	}
}

// Who tries too often reads a page, a program gets JSON; a sign-in that was begun ends.
func TestTooManySignIns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "other")
	w.h.opts.Limits = ratelimit.New(ratelimit.Options{Client: w.h.opts.Client, SignIns: ratelimit.Rate{Count: 2, Period: 24 * time.Hour}, IPv4Bits: 32, IPv6Bits: 64})
	b := service.NewBrowser(w)
	form := b.Open(w.URL + Path + "/corp")
	if status := w.json("GET", Path, nil, nil); status != http.StatusOK {
		t.Errorf("the list of providers: %d", status)
	}
	p := service.NewBrowser(w).Open(w.URL + Path + "/corp")
	w.expect(p, http.StatusTooManyRequests, "too many attempts to sign in from your network: try again in ")
	if p.Header.Get("Retry-After") == "" || p.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the header is %v", p.Header)
	}
	var f failure
	if status := w.json("GET", Path, nil, &f); status != http.StatusTooManyRequests || f.Errors[0].Code != "TOOMANYREQUESTS" {
		t.Errorf("the list of providers: %d, %+v", status, f)
	}
	if p := b.SignIn(form, "u-1"); p.Status != http.StatusOK || shown(p, "token") == "" {
		t.Errorf("the sign-in that was begun: %d\n%s", p.Status, p.Body)
	}
}

// json sends and receives JSON.
func (w *world) json(method, path string, in, out any) (status int) {
	w.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		w.Fatal(err)
	}
	req, err := http.NewRequest(method, w.URL+path, bytes.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			w.Fatal(err)
		}
	}
	return resp.StatusCode
}

type failure struct {
	Errors []struct{ Code, Message string }
}

// An ID token of the device flow is worth one token of ours.
func TestDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var at DeviceClient
	if status := w.json("GET", DevicePath("corp"), nil, &at); status != http.StatusOK || at.Issuer != w.provider.Issuer || at.ClientID != "berth-cli" || !slices.Contains(at.Scopes, "openid") {
		t.Fatalf("%d, %+v", status, at)
	}
	issuer, err := oidc.NewIssuer(oidc.Options{Issuer: at.Issuer})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := oidc.DeviceLogin(t.Context(), issuer, at.ClientID, at.Scopes, func(code, address, _ string) {
		if p := service.NewBrowser(t).EnterCode(address, code, "u-1"); !strings.Contains(p.Body, "Success") {
			t.Errorf("at %s:\n%s", p.URL, p.Body)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var in SignedIn
	if status := w.json("POST", DevicePath("corp"), DeviceToken{raw}, &in); status != http.StatusOK || in.Name != "alice" {
		t.Fatalf("%d, %+v", status, in)
	}
	if _, err := w.accounts.SignIn(t.Context(), "alice", in.Token, here); err != nil {
		t.Error(err)
	}
	// Another node, or the same one after a restart.
	w.h = New(w.h.opts)
	for token, want := range map[string]string{raw: "used before", "": "not a signed", "a.b.c": "not a signed"} {
		var f failure
		if status := w.json("POST", DevicePath("corp"), DeviceToken{token}, &f); status != http.StatusForbidden || !strings.Contains(f.Errors[0].Message, want) {
			t.Errorf("%d, %+v, want %q", status, f, want)
		}
	}
	if strings.Contains(w.log.String(), raw) {
		t.Error("the ID token is in the log")
	}
	no := false
	entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{Allowed: &no}, meta.AuditPlace{}, 10)
	if err != nil || len(entries) != 1 || entries[0].Action != "sign-in" || entries[0].Object != "alice" || entries[0].Credential != "oidc:corp" || !strings.Contains(entries[0].Detail, "used before") {
		t.Errorf("%+v, %v", entries, err)
	}
}

// Nothing is written to a registry that is read-only.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.h.opts.ReadOnly = true
	b := service.NewBrowser(t)
	w.expect(b.Open(w.URL+Path+"/corp"), http.StatusServiceUnavailable, "read-only")
	w.expect(b.Open(w.URL+CallbackPath("corp")), http.StatusServiceUnavailable, "read-only")
	var f failure
	if status := w.json("POST", DevicePath("corp"), DeviceToken{"x"}, &f); status != http.StatusServiceUnavailable || !strings.Contains(f.Errors[0].Message, "read-only") {
		t.Errorf("%d, %+v", status, f)
	}
	if there, err := w.db.HasAccounts(t.Context()); there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
}
