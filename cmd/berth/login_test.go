package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
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

	"github.com/go-jose/go-jose/v4"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// newSSO returns the host of a real server behind a proxy, where people sign in at a real provider.
func newSSO(t *testing.T) string {
	// The addresses of all three are in the settings of another one, so the proxy's comes first.
	var target atomic.Pointer[url.URL]
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target.Load()) }})
	t.Cleanup(front.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	provider := service.NewOIDCProvider(t, service.OIDCConfig{
		Keys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "a", Key: key, Algorithm: "ES256", Use: "sig"}}},
		Clients: []map[string]any{
			{"client_id": "berth", "client_secret": "correct-horse-battery-staple", "redirect_uris": []string{front.URL + "/auth/oidc/corp/callback"}, "id_token_signed_response_alg": "ES256"},
			{
				"client_id": "berth-cli", "token_endpoint_auth_method": "none", "redirect_uris": []string{}, "response_types": []string{}, "id_token_signed_response_alg": "ES256",
				"grant_types": []string{"urn:ietf:params:oauth:grant-type:device_code"},
			},
		},
		Accounts: map[string]map[string]any{"u-1": {"preferred_username": "alice"}, "u-2": {"preferred_username": "bob"}},
	})
	s := harness.Start(t, harness.Settings{Env: []string{
		"BERTH_EXTERNAL_URL=" + front.URL, "BERTH_AUTH_ENABLED=true",
		"BERTH_AUTH_OIDC=[{name: corp, issuer: '" + provider.Issuer + "', client_id: berth, client_secret: correct-horse-battery-staple, device_client_id: berth-cli}," +
			"{name: web, issuer: '" + provider.Issuer + "', client_id: berth}]",
	}})
	to, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	target.Store(to)
	return strings.TrimPrefix(front.URL, "http://")
}

// as returns a command of the binary whose credentials are in a folder.
func as(t *testing.T, home string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	cmd.Env = append(environ(), "HOME="+home, "DOCKER_CONFIG="+home, "REGISTRY_AUTH_FILE="+filepath.Join(home, "none"))
	return cmd
}

func TestSingleSignOn(t *testing.T) {
	t.Parallel()
	host := newSSO(t)
	b := service.NewBrowser(t)
	p := b.SignIn(b.Open("http://"+host+"/auth/oidc/corp"), "u-1")
	token := regexp.MustCompile(`berth_sso_[a-z2-7]+`).FindString(p.Body)
	if token == "" || !strings.Contains(p.Body, "docker login -u alice --password-stdin "+host) {
		t.Fatalf("%s: %d\n%s", p.URL, p.Status, p.Body)
	}
	for secret, want := range map[string]int{token: http.StatusOK, token[:len(token)-1] + "!": http.StatusUnauthorized} {
		req, err := http.NewRequest(http.MethodGet, "http://"+host+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("alice", secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET /v2/: %s, want %d", resp.Status, want)
		}
	}

	// On a machine without a browser.
	home := t.TempDir()
	if out, err := as(t, home, "login", host, "--sso").CombinedOutput(); err == nil || !strings.Contains(string(out), "name one of corp, web after --sso") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := as(t, home, "login", host, "--sso", "web").CombinedOutput(); err == nil || !strings.Contains(string(out), "device_client_id") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := as(t, home, "login", host).CombinedOutput(); err == nil || !strings.Contains(string(out), "give --sso") {
		t.Errorf("%v\n%s", err, out)
	}
	cmd := as(t, home, "login", host, "--sso", "corp")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said += lines.Text() + "\n"
		var address, code string
		if n, _ := fmt.Sscanf(lines.Text(), "To sign in, open %s in a browser and enter the code %s", &address, &code); n == 2 {
			if p := service.NewBrowser(t).EnterCode(address, code, "u-2"); !strings.Contains(p.Body, "Success") {
				t.Errorf("at %s:\n%s", p.URL, p.Body)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(stdout.String(), "Signed in at "+host+" as bob until ") {
		t.Fatalf("%v\n%s%s", err, said, stdout.String())
	}
	if !strings.Contains(said, host+" will see a token that says who you are at http://") || !strings.Contains(said, "made for the client berth-cli.") {
		t.Errorf("said: %s", said)
	}
	file := filepath.Join(home, "config.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if out, err := as(t, home, "user", "show", "--server", host).CombinedOutput(); err != nil || !strings.Contains(string(out), "bob") || !strings.Contains(string(out), "oidc:corp") {
		t.Errorf("%v\n%s", err, out)
	}
	// What came of the sign-in makes tokens, which make others only if they are not limited.
	out, err := as(t, home, "token", "add", "laptop", "--server", host, "--quiet", "--expires", "90d").Output()
	laptop := strings.TrimSpace(string(out))
	if err != nil || !strings.HasPrefix(laptop, "berth_pat_") {
		t.Fatalf("%v\n%s", err, out)
	}
	there := t.TempDir()
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("bob:"+laptop)))
	if err := os.WriteFile(filepath.Join(there, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := as(t, there, "user", "show", "--server", host).CombinedOutput(); err != nil || !strings.Contains(string(out), "bob") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := as(t, there, "token", "add", "other", "--server", host).CombinedOutput(); err == nil || !strings.Contains(string(out), "the token is limited") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := as(t, home, "token", "list", "--server", host).CombinedOutput(); err != nil || !strings.Contains(string(out), "laptop") || !strings.Contains(string(out), "sign-in") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := as(t, t.TempDir(), "user", "show", "--server", host).CombinedOutput(); err == nil {
		t.Errorf("nobody has signed in there\n%s", out)
	}
	other := harness.Start(t, harness.Settings{})
	if out, err := as(t, home, "login", other.Addr, "--sso").CombinedOutput(); err == nil || !strings.Contains(string(out), "nobody signs in there with a provider") {
		t.Errorf("%v\n%s", err, out)
	}
}
