package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
)

// ci is an issuer of tokens for jobs.
type ci struct {
	t    *testing.T
	url  string
	key  ed25519.PrivateKey
	down atomic.Bool
}

func newCI(t *testing.T) *ci {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &ci{t: t, key: private}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any
		switch {
		case c.down.Load():
			w.WriteHeader(http.StatusBadGateway)
			return
		case r.URL.Path == "/.well-known/openid-configuration":
			answer = map[string]any{"issuer": c.url, "jwks_uri": c.url + "/keys", "authorization_endpoint": c.url + "/a", "token_endpoint": c.url + "/t",
				"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"EdDSA"}}
		default:
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "1", Algorithm: "EdDSA", Use: "sig"}}}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

// job returns the token of a job in a repository on a branch.
func (c *ci) job(repository, ref, audience string, expiry time.Time) string {
	c.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: c.key, KeyID: "1"}}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(map[string]any{
		"iss": c.url, "aud": audience, "sub": "repo:" + repository + ":ref:" + ref, "repository": repository, "ref": ref,
		"iat": time.Now().Add(-time.Second).Unix(), "nbf": time.Now().Add(-time.Second).Unix(), "exp": expiry.Unix(), "jti": rand.Text(),
	}).Serialize()
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// A CI job pushes with no stored secret: its own token is the password.
func TestJobPushesWithoutASecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := newCI(t)
	robot := &meta.Account{Source: meta.LocalAccounts, Created: w.now()}
	robot.Name, robot.Robot = "team+ci", true
	if err := w.db.CreateAccount(t.Context(), robot); err != nil {
		t.Fatal(err)
	}
	w.organization("team", robot.Name, access.Writer)
	trust := func(audience, repository string) *meta.TrustRule {
		rule, err := json.Marshal(oidc.Rule{Issuer: c.url, Audience: audience, Claims: map[string]oidc.Pattern{"repository": oidc.Pattern(repository), "ref": "refs/heads/main"}})
		if err != nil {
			t.Fatal(err)
		}
		r := &meta.TrustRule{Account: robot.Name, Issuer: c.url, Rule: string(rule), Created: w.now()}
		if err := w.db.AddTrustRule(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	trust("elsewhere", "acme/app")
	rule := trust("registry", "acme/app")
	later := time.Now().Add(10 * time.Minute)
	good := c.job("acme/app", "refs/heads/main", "registry", later)
	for _, name := range []string{"team+ci", "token", ""} {
		if id := w.mustSignIn(name, good); id.Account != robot.ID || id.Name != robot.Name || id.Credential == 0 {
			t.Errorf("as %q: %+v", name, id)
		}
	}
	for name, bad := range map[string]string{
		"another repository": c.job("evil/app", "refs/heads/main", "registry", later),
		"another branch":     c.job("acme/app", "refs/heads/feature", "registry", later),
		"another audience":   c.job("acme/app", "refs/heads/main", "other", later),
		"expired":            c.job("acme/app", "refs/heads/main", "registry", time.Now().Add(-time.Hour)),
		"forged":             good[:len(good)-4] + "AAAA",
		"unknown issuer":     newCI(t).job("acme/app", "refs/heads/main", "registry", later),
	} {
		if id, err := w.signIn("token", bad); !errors.Is(err, ErrCredentials) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	if _, err := w.signIn("somebody", good); !errors.Is(err, ErrCredentials) {
		t.Errorf("as somebody else: %v", err)
	}
	header := "Bearer " + w.token(w.a, w.mustSignIn("token", good), "repository:team/app:pull,push")
	if !w.may(w.a, header, access.Push, "team/app") {
		t.Error("the job may not push")
	}
	if refresh, err := w.a.Refresh(t.Context(), w.mustSignIn("token", good), "docker"); err != nil || refresh != "" {
		t.Errorf("something that outlives the token: %s, %v", refresh, err)
	}
	// With the rule goes what was got by it.
	if err := w.db.DeleteTrustRule(t.Context(), robot.Name, rule.ID); err != nil {
		t.Fatal(err)
	}
	if w.may(w.a, header, access.Push, "team/app") || w.may(w.a, basic("token", good), access.Push, "team/app") {
		t.Error("the job may push, although nobody trusts it any more")
	}
	// An issuer that is down is not the same as a wrong token.
	slow := newCI(t)
	slow.down.Store(true)
	if err := w.db.AddTrustRule(t.Context(), &meta.TrustRule{Account: robot.Name, Issuer: slow.url,
		Rule: `{"issuer":"` + slow.url + `","audience":"registry","claims":{"repository":"a/b"}}`, Created: w.now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.signIn("token", slow.job("a/b", "x", "registry", later)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the issuer is down: %v", err)
	}
}
