package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

func parseRepository(t testing.TB, s string) oci.Repository {
	t.Helper()
	r, err := oci.ParseRepository(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.user("alice")
	w.user("bob")
	pat := w.credential(alice, meta.TokenCredential, nil)
	for _, tt := range []struct {
		name, secret string
		ok           bool
	}{
		{"alice", password, true},
		{"alice", pat, true},
		{"token", pat, true},
		{"", pat, true},
		{"alice", "", false},
		{"alice", "wrong", false},
		{"Alice", password, false},
		{"nobody", password, false},
		{"", password, false},
		{"bob", pat, false},
		{"alice", pat[:len(pat)-1] + "0", false},
		{"alice", strings.Repeat("x", 1<<20), false},
		{"a\x00b", password, false},
		{"\xff", password, false},
	} {
		id, err := w.signIn(tt.name, tt.secret)
		if tt.ok != (err == nil) || err != nil && !errors.Is(err, ErrCredentials) || tt.ok && (id.Account != alice || id.Name != "alice" || id.Client != here) {
			t.Errorf("%.20q with %.20q: %+v, %v", tt.name, tt.secret, id, err)
		}
	}
}

// Who cannot sign in is not told whether the account exists.
func TestUnknownAccountCostsAsMuch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice")
	ok, err := w.a.checkPassword(t.Context(), password, "")
	if ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	if !strings.HasPrefix(w.a.dummy, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Error(w.a.dummy)
	}
	_, err1 := w.signIn("alice", "wrong password")
	_, err2 := w.signIn("nobody", "wrong password")
	if err1 == nil || err2 == nil || err1.Error() != err2.Error() {
		t.Errorf("%v, %v", err1, err2)
	}
}

func TestCheckPassword(t *testing.T) {
	for password, ok := range map[string]bool{
		"short": false, "long enough": true, "ünïcödé text": true, strings.Repeat("x", 1025): false, "a line\nbreak here": false,
		"not \xff text at all": false, "berth_pat_ot66avezwecascfzuuy4iogmiqr63l3rczgxl7i": false, "eyJhbGciOiJub25lIn0.e30.": false,
	} {
		if err := CheckPassword(password); ok != (err == nil) {
			t.Errorf("%q: %v", password, err)
		}
	}
}

func TestSecret(t *testing.T) {
	for kind := range secretPrefixes {
		s, hash := NewSecret(kind)
		if got, ok := secretKind(s); !ok || got != kind || len(hash) != 32 {
			t.Errorf("%s: %s, %t", s, got, ok)
		}
		for i := range s { // any letter mistyped
			c := byte('a')
			if s[i] == c {
				c = 'b'
			}
			if _, ok := secretKind(s[:i] + string(c) + s[i+1:]); ok {
				t.Errorf("%s with %c at %d is taken for a secret", s, c, i)
			}
		}
	}
}

// What is taken away is gone with the next request, also on another node, and also for a token that was issued before.
func TestTakenAway(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		take func(w *world, account int64) error
		from []string // who signed in with a password, or a token
	}{
		"account deleted":  {func(w *world, _ int64) error { return w.db.DeleteAccount(w.Context(), "alice") }, []string{"password", "token"}},
		"account disabled": {change(func(a *meta.Account) { a.Disabled = true }), []string{"password", "token"}},
		"account expired":  {change(func(a *meta.Account) { a.Expires = time.Now().Add(-time.Second) }), []string{"password", "token"}},
		"other networks": {change(func(a *meta.Account) {
			a.Networks = access.Networks{netip.MustParsePrefix("198.51.100.0/24")}
		}), []string{"password", "token"}},
		"password changed": {change(func(a *meta.Account) { a.Password = hashPassword("another password") }), []string{"password"}},
		"token revoked": {func(w *world, account int64) error {
			all, err := w.db.Credentials(w.Context(), account)
			if err != nil {
				return err
			}
			return w.db.DeleteCredential(w.Context(), account, all[0].ID)
		}, []string{"token"}},
		"grant removed": {func(w *world, _ int64) error {
			grants, err := w.db.Grants(w.Context(), meta.GrantFilter{Organization: "team"}, 0, 10)
			if err != nil {
				return err
			}
			return w.db.DeleteGrant(w.Context(), "team", grants[0].ID)
		}, []string{"password", "token"}},
		"organization deleted": {func(w *world, _ int64) error { return w.db.DeleteOrganization(w.Context(), "team") }, []string{"password", "token"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			account := w.user("alice")
			w.organization("team", "alice", access.Writer)
			secrets := map[string]string{"password": password, "token": w.credential(account, meta.TokenCredential, nil)}
			nodes := []*Auth{w.a, w.node()}
			var headers, stay []string
			for by, secret := range secrets {
				id := w.mustSignIn("alice", secret)
				both := []string{basic("alice", secret), "Bearer " + w.token(w.a, id, "repository:team/app:pull,push")}
				if slices.Contains(tt.from, by) {
					headers = append(headers, both...)
				} else {
					stay = append(stay, both...)
				}
			}
			for _, node := range nodes {
				for _, h := range append(headers, stay...) {
					if !w.may(node, h, access.Push, "team/app") {
						t.Fatalf("%s may not push before", h)
					}
				}
			}
			if err := tt.take(w, account); err != nil {
				t.Fatal(err)
			}
			for i, node := range nodes {
				for _, h := range headers {
					if w.may(node, h, access.Push, "team/app") || w.may(node, h, access.Pull, "team/app") {
						t.Errorf("node %d: %s may still", i, h)
					}
				}
				for _, h := range stay {
					if !w.may(node, h, access.Push, "team/app") {
						t.Errorf("node %d: %s may not any more", i, h)
					}
				}
			}
		})
	}
}

func change(do func(*meta.Account)) func(*world, int64) error {
	return func(w *world, _ int64) error {
		return w.db.ChangeAccount(w.Context(), "alice", func(a *meta.Account) error {
			do(a)
			return nil
		})
	}
}

// A name that is given to another account brings nothing of what the first one had.
func TestRecreatedAccountHasNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice")
	w.organization("team", "alice", access.Owner)
	header := "Bearer " + w.token(w.a, w.mustSignIn("alice", password), "repository:team/app:*")
	if !w.may(w.a, header, access.Delete, "team/app") {
		t.Fatal("the owner may not delete")
	}
	if err := w.db.DeleteAccount(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	w.user("alice")
	for _, h := range []string{header, basic("alice", password)} {
		if w.may(w.a, h, access.Pull, "team/app") {
			t.Errorf("%s may pull", h)
		}
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	account := w.user("alice")
	refresh, err := w.a.Refresh(t.Context(), w.mustSignIn("alice", password), "docker")
	if err != nil {
		t.Fatal(err)
	}
	if id := w.mustSignIn("", refresh); id.Account != account || id.Name != "alice" {
		t.Errorf("%+v", id)
	}
	// A token stays what it is.
	pat := w.credential(account, meta.TokenCredential, nil)
	if got, err := w.a.Refresh(t.Context(), w.mustSignIn("alice", pat), "docker"); err != nil || got != "" {
		t.Errorf("%s, %v", got, err)
	}
	if err := change(func(a *meta.Account) { a.Password = hashPassword("another password") })(w, account); err != nil {
		t.Fatal(err)
	}
	if _, err := w.signIn("", refresh); !errors.Is(err, ErrCredentials) {
		t.Errorf("the password was changed, and what was got for the old one gives %v", err)
	}
	w.mustSignIn("alice", pat)
	// There are not more and more of them.
	id := w.mustSignIn("alice", "another password")
	for range maxRefresh + 5 {
		if refresh, err = w.a.Refresh(t.Context(), id, "docker"); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := w.db.Credentials(t.Context(), account); err != nil || len(all) != maxRefresh+1 {
		t.Errorf("%d credentials, %v", len(all), err)
	}
	w.mustSignIn("", refresh)
}

// A credential narrows what its account may do.
// Whoever sees a repository is told why something in it is not allowed, and what would have to change; others are told nothing.
func TestDenialSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	account := w.user("alice")
	w.organization("team", "alice", access.Reader)
	secret := w.credential(account, meta.TokenCredential, func(c *meta.Credential) { c.Networks = access.Networks{netip.PrefixFrom(here, 32)} })
	id := w.mustSignIn("alice", secret)
	for _, tt := range []struct {
		repository, reason, change string
	}{
		{"team/app", "no grant allows push here", "grant push in the organization team, to the account or to a team of it"},
		{"other/app", "", ""},
	} {
		d, facts, err := w.a.Decide(t.Context(), id, access.Push, oci.Repository(tt.repository), "")
		if err != nil || d.Allowed {
			t.Fatalf("%v, %v", d, err)
		}
		detail, _ := w.a.Denied(id, access.Push, facts, "", d).Detail.(map[string]string)
		if detail["reason"] != tt.reason || detail["change"] != tt.change {
			t.Errorf("%s: %q", tt.repository, detail)
		}
	}
}

func TestNarrowCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	account := w.user("alice")
	w.organization("team", "alice", access.Owner)
	secret := w.credential(account, meta.TokenCredential, func(c *meta.Credential) {
		c.Actions, c.Repositories = access.Pull, access.Patterns{"team/app"}
		c.Networks = access.Networks{netip.PrefixFrom(here, 32)}
		c.Expires = w.now().Add(time.Hour)
	})
	id := w.mustSignIn("alice", secret)
	for _, h := range []string{basic("alice", secret), "Bearer " + w.token(w.a, id, "repository:team/app:pull,push", "repository:team/other:pull")} {
		for _, tt := range []struct {
			action     access.Actions
			repository string
			may        bool
		}{
			{access.Pull, "team/app", true}, {access.Push, "team/app", false}, {access.Pull, "team/other", false}, {access.Delete, "team/app", false},
		} {
			if w.may(w.a, h, tt.action, tt.repository) != tt.may {
				t.Errorf("%s %s with %.10s", tt.action, tt.repository, h)
			}
		}
	}
	if _, err := w.a.SignIn(t.Context(), "alice", secret, netip.MustParseAddr("198.51.100.1")); !errors.Is(err, ErrCredentials) {
		t.Errorf("from elsewhere: %v", err)
	}
	w.pass(time.Hour)
	if _, err := w.signIn("alice", secret); !errors.Is(err, ErrCredentials) {
		t.Errorf("after it has expired: %v", err)
	}
}

func TestIdentifyRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice")
	if id, err := identify(t, w.a, ""); err != nil || id.SignedIn() || id.Actor() != "anonymous@192.0.2.7" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, header := range []string{
		"Basic", "Basic !", "Basic Og==", "Basic YWxpY2U=", "Digest x", "Bearer", "Bearer x", "Bearer a.b.c", basic("alice", "no"), "Basic " + strings.Repeat("YWxp", 20_000),
		"Bearer " + strings.Repeat("x", 100_000), "Basic " + basic("alice", password), "x",
	} {
		if id, err := identify(t, w.a, header); !errors.Is(err, ErrCredentials) && !errors.Is(err, ErrToken) || id.SignedIn() {
			t.Errorf("%.30q: %+v, %v", header, id, err)
		}
	}
	for _, header := range []string{"basic" + basic("alice", password)[5:], "BASIC" + basic("alice", password)[5:]} {
		if id, err := identify(t, w.a, header); err != nil || id.Name != "alice" {
			t.Errorf("%q: %v", header, err)
		}
	}
}

// Who shows a certificate needs no password, as long as the account stands.
func TestCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.user("alice")
	w.organization("team", "alice", access.Writer)
	shown := ""
	w.a.opts.Certificate = func(*http.Request) *x509.Certificate {
		if shown == "" {
			return nil
		}
		return &x509.Certificate{Subject: pkix.Name{CommonName: shown}}
	}
	for name, want := range map[string]int64{"": 0, "nobody": 0, "alice": alice} {
		shown = name
		if id, err := identify(t, w.a, ""); err != nil || id.Account != want || id.Client != here {
			t.Errorf("%q: %+v, %v", name, id, err)
		}
	}
	shown = "alice"
	if !w.may(w.a, "", access.Push, "team/app") {
		t.Error("alice may not push")
	}
	// What is said with the request counts more.
	if _, err := identify(t, w.a, basic("alice", "wrong password")); !errors.Is(err, ErrCredentials) {
		t.Error(err)
	}
	if err := change(func(a *meta.Account) { a.Disabled = true })(w, alice); err != nil {
		t.Fatal(err)
	}
	if w.may(w.a, "", access.Push, "team/app") {
		t.Error("a disabled account may push")
	}
	id, err := identify(t, w.a, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.a.Stands(t.Context(), &id); !errors.Is(err, ErrCredentials) {
		t.Error(err)
	}
	if got := w.a.CredentialLabel(t.Context(), &id); got != "certificate" {
		t.Errorf("it is called %q", got)
	}
	// It is noted once a day from each address, and when it is refused.
	entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{Action: signInAction, Actor: "alice"}, meta.AuditPlace{}, 10)
	if err != nil || len(entries) != 2 || entries[0].Allowed || !entries[1].Allowed || entries[0].Credential != "certificate" || entries[1].Credential != "certificate" {
		t.Errorf("%+v, %v", entries, err)
	}
}

func FuzzBasic(f *testing.F) {
	f.Add("YWxpY2U6cGFzc3dvcmQ=")
	f.Add("Og==")
	f.Fuzz(func(t *testing.T, value string) {
		name, secret, err := parseBasic(value)
		if err == nil && name == "" && secret == "" || strings.Contains(name, ":") {
			t.Errorf("%q, %q, %v", name, secret, err)
		}
	})
}
