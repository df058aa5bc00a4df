package clients

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthregistry/berth/test/harness"
)

// newJobs starts an issuer of tokens. job makes the token of a job for a repository.
func newJobs(t *testing.T) (url string, job func(repository string) string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "1", Algorithm: "EdDSA", Use: "sig"}}}
		if r.URL.Path == "/.well-known/openid-configuration" {
			answer = map[string]any{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/keys", "authorization_endpoint": issuer.URL + "/a", "token_endpoint": issuer.URL + "/t",
				"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"EdDSA"}}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(issuer.Close)
	return issuer.URL, func(repository string) string {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: "1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		token, err := jwt.Signed(signer).Claims(map[string]any{"iss": issuer.URL, "aud": "registry", "sub": "job", "repository": repository,
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(), "jti": rand.Text()}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}

// A CI job pushes with Docker and no stored secret: its own token is the password, which a credential helper hands over.
func TestDockerPushesWithTheTokenOfAJob(t *testing.T) {
	t.Parallel()
	issuer, job := newJobs(t)
	g := newGuarded(t)
	g.manage("", "trust", "add", "team+ci", "--issuer", issuer, "--audience", "registry", "--claim", "repository=acme/app")
	d := newDockerFor(t, g.Addr)
	ref := g.Addr + "/team/job:1"
	d.build(ref, "from a job")
	d.forget(ref)
	// The helper is a link to berth; docker finds it in the PATH.
	bin := t.TempDir()
	if err := os.Symlink(harness.Binary(t), filepath.Join(bin, "docker-credential-berth")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(d.Home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Home, ".docker", "config.json"), []byte(`{"credHelpers":{"`+g.Addr+`":"berth"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + bin + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	env := d.Env
	d.Env = append(env, path)
	harness.Contains(t, d.Fail("push", ref), "unauthorized")
	d.Env = append(env, path, "BERTH_TOKEN="+job("evil/app"))
	harness.Contains(t, d.Fail("push", ref), "unauthorized")
	d.Env = append(env, path, "BERTH_TOKEN="+job("acme/app"))
	d.Run("push", ref)
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
	rules := g.manage("", "trust", "list", "team+ci", "--json")
	if !strings.Contains(rules, issuer) {
		t.Errorf("%s", rules)
	}
}
