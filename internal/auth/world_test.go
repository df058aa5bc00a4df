package auth

import (
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
)

var here = netip.MustParseAddr("192.0.2.7")

// world is a registry's accounts, and a clock that the test sets.
type world struct {
	*testing.T
	db   *meta.DB
	a    *Auth
	late atomic.Int64 // by how much the clock is ahead
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := meta.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{T: t, db: db}
	w.a = w.node()
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.late.Load())) }

// pass moves the clock.
func (w *world) pass(d time.Duration) { w.late.Add(int64(d)) }

// node is one more Auth over the same database.
func (w *world) node() *Auth {
	w.Helper()
	a, err := New(w.db, Options{Log: slog.New(slog.DiscardHandler), Service: "berth", TokenLifetime: 5 * time.Minute, KeyLifetime: 24 * time.Hour, Now: w.now})
	if err != nil {
		w.Fatal(err)
	}
	return a
}

const password = "a good password"

// user makes a user with the password.
func (w *world) user(name string) int64 {
	w.Helper()
	hash, err := w.a.HashPassword(w.Context(), password)
	if err != nil {
		w.Fatal(err)
	}
	a := &meta.Account{Source: meta.LocalAccounts, Password: hash, Created: w.now()}
	a.Name = name
	if err := w.db.CreateAccount(w.Context(), a); err != nil {
		w.Fatal(err)
	}
	return a.ID
}

// organization makes an organization in which an account has a role.
func (w *world) organization(name, account string, role access.Role) {
	w.Helper()
	if err := w.db.CreateOrganization(w.Context(), &meta.Organization{Name: name, Creation: access.CreationPush, Created: w.now()}); err != nil {
		w.Fatal(err)
	}
	if err := w.db.AddGrant(w.Context(), &meta.Grant{Organization: name, Account: account, Grant: access.Grant{Role: role, Actions: role.Actions()}}); err != nil {
		w.Fatal(err)
	}
}

// credential gives an account a credential and returns the secret.
func (w *world) credential(account int64, kind meta.CredentialKind, change func(*meta.Credential)) string {
	w.Helper()
	c := &meta.Credential{Kind: kind, Created: w.now()}
	c.Name, c.Actions = "test", access.All
	if change != nil {
		change(c)
	}
	secret, hash := NewSecret(c.Kind)
	if err := w.db.AddCredential(w.Context(), account, c, hash, 0); err != nil {
		w.Fatal(err)
	}
	return secret
}

func (w *world) signIn(name, secret string) (Identity, error) {
	return w.a.SignIn(w.Context(), name, secret, here)
}

// mustSignIn returns the identity of who signs in.
func (w *world) mustSignIn(name, secret string) *Identity {
	w.Helper()
	id, err := w.signIn(name, secret)
	if err != nil {
		w.Fatal(err)
	}
	return &id
}

// token issues a token for scopes.
func (w *world) token(a *Auth, id *Identity, scopes ...string) string {
	w.Helper()
	t, err := a.Issue(w.Context(), id, ParseScopes(scopes))
	if err != nil {
		w.Fatal(err)
	}
	return t.Text
}

// identify asks a node who makes a request with an Authorization header.
func identify(t testing.TB, a *Auth, header string) (Identity, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	return a.Identify(r, here)
}

func basic(name, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+secret))
}

// may tells what a node answers to whoever a header stands for.
func (w *world) may(a *Auth, header string, action access.Actions, repository string) bool {
	w.Helper()
	id, err := identify(w, a, header)
	if err != nil || id.Expired {
		return false
	}
	d, _, err := a.Decide(w.Context(), &id, action, parseRepository(w, repository), "")
	if err != nil {
		w.Fatal(err)
	}
	return d.Allowed
}
