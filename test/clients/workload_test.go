package clients

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// newJobs starts an issuer of tokens, and returns its URL and what makes the token of a job of a repository.
func newJobs(t *testing.T) (issuer string, job func(repository string) string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "1", Algorithm: "EdDSA", Use: "sig"}}}
		if r.URL.Path == "/.well-known/openid-configuration" {
			answer = map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys", "authorization_endpoint": s.URL + "/a", "token_endpoint": s.URL + "/t",
				"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"EdDSA"}}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func(repository string) string {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: "1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		token, err := jwt.Signed(signer).Claims(map[string]any{"iss": s.URL, "aud": "registry", "sub": "job", "repository": repository,
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(), "jti": rand.Text()}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}

// trustJobs lets jobs of acme/app be the robot team+ci.
func (g *guarded) trustJobs(issuer string) {
	g.t.Helper()
	g.manage("", "trust", "add", "team+ci", "--issuer", issuer, "--audience", "registry", "--claim", "repository=acme/app")
}

// A CI job pushes with Docker and no stored secret: its own token is the password, which a credential helper hands over.
func TestDockerPushesWithTheTokenOfAJob(t *testing.T) {
	t.Parallel()
	issuer, job := newJobs(t)
	g := newGuarded(t)
	g.trustJobs(issuer)
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

// With podman and skopeo the token of a job is a password like any other.
func TestPodmanAndSkopeoPushWithTheTokenOfAJob(t *testing.T) {
	t.Parallel()
	issuer, job := newJobs(t)
	g := newGuarded(t)
	g.trustJobs(issuer)
	image := hello(t, "from a job").Layout(t, "1")
	s := newSkopeo(t)
	copyAs := func(name, token string) []string {
		return []string{"copy", "--dest-tls-verify=false", "--dest-creds", name + ":" + token, "oci:" + image + ":1", "docker://" + g.Addr + "/team/skopeo:1"}
	}
	for _, name := range []string{"team+ci", "token"} {
		harness.Contains(t, s.Fail(copyAs(name, job("evil/app"))...), "unauthorized")
		s.Run(copyAs(name, job("acme/app"))...)
	}
	harness.Contains(t, s.Fail(copyAs("alice", job("acme/app"))...), "unauthorized")

	p := newPodman(t)
	ref := g.Addr + "/team/podman:1"
	p.Run("build", "--quiet", "--tag", ref, buildContext(t, "from a job", nil))
	login := []string{"login", "--tls-verify=false", "--username", "token"}
	harness.Contains(t, p.Fail(append(login, "--password", job("evil/app"), g.Addr)...), "invalid username/password")
	harness.Contains(t, p.RunInput(job("acme/app"), append(login, "--password-stdin", g.Addr)...), "Login Succeeded")
	p.Run("push", "--tls-verify=false", ref)
	p.Run("rmi", "--all", "--force")
	p.Run("pull", "--quiet", "--tls-verify=false", ref)
	harness.Contains(t, p.Fail("push", "--tls-verify=false", ref, "docker://"+g.Addr+"/open/app:1"), "denied: team+ci may not push to open/app")
}

// Whoever has signed in at a provider pushes with what the page shows, and with a token that they made with that.
func TestPodmanAndSkopeoPushAsSomebodyOfAProvider(t *testing.T) {
	t.Parallel()
	// The server's address is in its own settings, so that of a proxy comes first.
	var target atomic.Pointer[url.URL]
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target.Load()) }})
	t.Cleanup(front.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	provider := service.NewOIDCProvider(t, service.OIDCConfig{
		Keys:     jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "a", Key: key, Algorithm: "ES256", Use: "sig"}}},
		Clients:  []map[string]any{{"client_id": "berth", "client_secret": "correct-horse-battery-staple", "redirect_uris": []string{front.URL + "/auth/oidc/corp/callback"}, "id_token_signed_response_alg": "ES256"}},
		Accounts: map[string]map[string]any{"u-1": {"preferred_username": "dora"}},
	})
	g := newGuarded(t, "BERTH_EXTERNAL_URL="+front.URL, "BERTH_AUTH_OIDC=[{name: corp, issuer: '"+provider.Issuer+"', client_id: berth, client_secret: correct-horse-battery-staple}]")
	to, err := url.Parse(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	target.Store(to)
	host := strings.TrimPrefix(front.URL, "http://")
	b := service.NewBrowser(t)
	page := b.SignIn(b.Open(front.URL+"/auth/oidc/corp"), "u-1")
	signedIn := regexp.MustCompile(`berth_sso_[a-z2-7]+`).FindString(page.Body)
	if signedIn == "" {
		t.Fatalf("%d\n%s", page.Status, page.Body)
	}
	g.manage("", "grant", "add", "team", "--user", "dora", "--role", "writer")

	p := newPodman(t)
	ref := host + "/team/podman:1"
	harness.Contains(t, p.RunInput(signedIn, "login", "--tls-verify=false", "--username", "dora", "--password-stdin", host), "Login Succeeded")
	p.Run("build", "--quiet", "--tag", ref, buildContext(t, "from dora", nil))
	p.Run("push", "--tls-verify=false", ref)

	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "token", "add", "skopeo", "--repository", "team/**", "--quiet", "--server", front.URL)
	cmd.Env = append(os.Environ(), "BERTH_USER=dora", "BERTH_PASSWORD="+signedIn)
	made, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	s := newSkopeo(t)
	creds := "dora:" + strings.TrimSpace(string(made))
	s.Run("copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds", creds, "--dest-creds", creds, "docker://"+ref, "docker://"+host+"/team/skopeo:1")
	g.manage("", "user", "set", "dora", "--disabled")
	harness.Contains(t, s.Fail("inspect", "--tls-verify=false", "--creds", creds, "docker://"+ref), "unauthorized")
	harness.Contains(t, p.Fail("push", "--tls-verify=false", ref), "unauthorized")
}
