package clients

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// guarded is a server with access control, and an administrator of it.
type guarded struct {
	*harness.Server
	t *testing.T
}

const password = "a good password"

// newGuarded starts a server whose first account is made before it runs. In it there are the organization team, in which alice is a
// writer and the robot team+ci may push, but not over releases, and the public organization open, whose owner is alice. env are more settings.
func newGuarded(t *testing.T, env ...string) *guarded {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "user", "add", "root", "--admin", "--password-stdin", "--data", filepath.Join(dir, "data"))
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s, err := harness.StartServer(harness.Binary(t), dir, harness.Settings{Env: append(env, "BERTH_AUTH_ENABLED=true")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if strings.Contains(s.Log(), password) || strings.Contains(s.Log(), "berth_bot_") || strings.Contains(s.Log(), "berth_sso_") {
			t.Error("there is a secret in the log")
		}
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", s.LogTail())
		}
	})
	g := &guarded{s, t}
	g.manage(password, "user", "add", "alice", "--password-stdin")
	for _, args := range [][]string{
		{"org", "add", "team"},
		{"org", "add", "open", "--public"},
		{"grant", "add", "team", "--user", "alice", "--role", "writer"},
		{"grant", "add", "open", "--user", "alice", "--role", "owner"},
		{"robot", "add", "team+ci"},
		{"grant", "add", "team", "--robot", "team+ci", "--action", "pull,push"},
		{"grant", "add", "team", "--robot", "team+ci", "--action", "overwrite", "--tag", "!v*"},
	} {
		g.manage("", args...)
	}
	return g
}

// manage runs a command of the binary as the administrator and returns what it prints.
func (g *guarded) manage(stdin string, args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), harness.Binary(g.t), append(args, "--server", g.URL)...)
	cmd.Env = append(os.Environ(), "BERTH_USER=root", "BERTH_PASSWORD="+password)
	cmd.Stdin = strings.NewReader(stdin + "\n")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("berth %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return strings.TrimSpace(out.String())
}

func TestClients01_DockerLogin(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := newDockerFor(t, g.Addr)
	private, open := g.Addr+"/team/app:1", g.Addr+"/open/app:1"
	for _, ref := range []string{private, open} {
		d.build(ref, "of "+ref)
		d.forget(ref)
	}
	harness.Contains(t, d.Fail("push", private), "unauthorized")
	harness.Contains(t, d.Fail("login", "--username", "alice", "--password", "wrong password", g.Addr), "unauthorized")
	login := func(name, secret string) {
		t.Helper()
		harness.Contains(t, d.RunInput(secret, "login", "--username", name, "--password-stdin", g.Addr), "Login Succeeded")
	}
	login("alice", password)
	for _, ref := range []string{private, open} {
		d.Run("push", ref)
		d.Run("image", "rm", ref)
		d.Run("pull", ref)
	}
	harness.Contains(t, d.Run("search", g.Addr+"/app"), "team/app")
	// Docker keeps something in the place of the password.
	config, err := os.ReadFile(filepath.Join(d.Home, ".docker", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(config), "identitytoken") || bytes.Contains(config, []byte(password)) {
		t.Errorf("%s", config)
	}
	harness.Contains(t, d.Fail("push", g.tag(d, private, "other/app:1")), "denied: alice may not push to other/app")
	d.Run("logout", g.Addr)
	d.Run("image", "rm", private, open)
	d.Run("pull", open) // by nobody
	harness.Contains(t, d.Fail("pull", private), "unauthorized")
	if out := d.Run("search", g.Addr+"/app"); strings.Contains(out, "team/app") {
		t.Errorf("nobody finds %s", out)
	}
	// A robot, and what it may not do.
	login("team+ci", g.manage("", "robot", "secret", "add", "team+ci", "--quiet"))
	d.Run("pull", private)
	release := g.tag(d, private, "team/app:v1")
	d.Run("push", release)
	d.build(release, "something else")
	harness.Contains(t, d.Fail("push", release), "denied: team+ci may not overwrite team/app:v1")
	d.Run("push", g.tag(d, release, "team/app:dev"))
	d.Run("push", g.tag(d, private, "team/app:dev"))
	// What is taken away is gone at once.
	g.manage("", "robot", "set", "team+ci", "--disabled")
	harness.Contains(t, d.Fail("push", g.tag(d, private, "team/app:dev2")), "unauthorized")
	d.Run("logout", g.Addr)
}

// tag gives an image of Docker's another name on the server.
func (g *guarded) tag(d docker, ref, as string) string {
	g.t.Helper()
	as = g.Addr + "/" + as
	d.Run("tag", ref, as)
	d.forget(as)
	return as
}

func TestClients02_OthersSignIn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	api := harness.NewAPI(t, g.Server)
	secret := g.manage("", "robot", "secret", "add", "team+ci", "--quiet")
	src := hello(t, "access")
	dir := src.Layout(t, "1")
	for name, push := range map[string]func(t *testing.T, ref string){
		"skopeo": func(t *testing.T, ref string) {
			c := newContainersClient(t, "skopeo")
			c.RunInput(secret, "login", "--tls-verify=false", "--username", "team+ci", "--password-stdin", g.Addr)
			c.Run("copy", "--dest-tls-verify=false", "oci:"+dir+":1", "docker://"+ref)
			c.Run("inspect", "--tls-verify=false", "docker://"+ref)
			harness.Contains(t, c.Fail("copy", "--dest-tls-verify=false", "oci:"+dir+":1", "docker://"+g.Addr+"/other/app:1"), "denied")
		},
		"podman": func(t *testing.T, ref string) {
			c := newPodman(t)
			c.RunInput(secret, "login", "--tls-verify=false", "--username", "team+ci", "--password-stdin", g.Addr)
			file := filepath.Join(t.TempDir(), "image.tar")
			archive(t, src.Layout(t, ref), file)
			c.Run("load", "--quiet", "--input", file)
			c.Run("push", "--quiet", "--tls-verify=false", ref)
			c.Run("pull", "--quiet", "--tls-verify=false", ref)
			harness.Contains(t, c.Fail("login", "--tls-verify=false", "--username", "team+ci", "--password", "wrong", g.Addr), "invalid username/password")
		},
		"crane": func(t *testing.T, ref string) {
			c := harness.NewClient(t, "crane")
			c.Run("auth", "login", "--username", "team+ci", "--password", secret, g.Addr)
			c.Run("push", dir, ref)
			harness.Contains(t, c.Run("catalog", g.Addr), "team/crane")
			harness.Contains(t, c.Fail("ls", g.Addr+"/other/app"), "NAME_UNKNOWN")
		},
		"helm": func(t *testing.T, ref string) {
			c := harness.NewClient(t, "helm")
			c.RunInput(secret, "registry", "login", "--plain-http", "--username", "team+ci", "--password-stdin", g.Addr)
			c.RunAll("push", chart(t, c, "helm", "1.0.0"), "oci://"+g.Addr+"/team", "--plain-http")
			harness.Contains(t, c.Run("show", "chart", "oci://"+g.Addr+"/team/helm", "--plain-http"), "version: 1.0.0")
		},
		"containerd": func(t *testing.T, ref string) {
			c := newCtrFor(t, g.Addr)
			file := filepath.Join(t.TempDir(), "image.tar")
			archive(t, src.Layout(t, ref), file)
			c.Run("images", "import", "--no-unpack", file)
			c.push(ref, "--user", "team+ci:"+secret)
			c.pull(ref, "--user", "team+ci:"+secret)
			harness.Contains(t, c.Fail("images", "pull", "--plain-http", ref), "authoriz")
		},
		"buildah": func(t *testing.T, ref string) {
			c := newBuildah(t)
			c.RunInput(secret, "login", "--tls-verify=false", "--username", "team+ci", "--password-stdin", g.Addr)
			work := strings.TrimSpace(c.Run("from", "scratch"))
			c.Run("commit", "--quiet", "--tls-verify=false", work, "docker://"+ref)
			c.Run("pull", "--quiet", "--tls-verify=false", ref)
			c.Run("logout", g.Addr)
			c.Run("rmi", "--all", "--force")
			harness.Contains(t, c.Fail("pull", "--quiet", "--tls-verify=false", ref), "unauthorized")
		},
		"regctl": func(t *testing.T, ref string) {
			c := harness.NewClient(t, "regctl")
			c.Run("registry", "set", "--tls", "disabled", g.Addr)
			c.RunInput(secret, "registry", "login", "--user", "team+ci", "--pass-stdin", g.Addr)
			c.Run("image", "copy", "ocidir://"+dir+":1", ref)
			harness.Contains(t, c.Run("tag", "ls", g.Addr+"/team/regctl"), "1")
			c.Run("registry", "logout", g.Addr)
			c.Fail("tag", "ls", g.Addr+"/team/regctl")
		},
		"oras": func(t *testing.T, ref string) {
			layout, err := oci.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			// The library sends Basic credentials to the token service, or a refresh token by POST.
			for i, credential := range []auth.Credential{{Username: "team+ci", Password: secret}, {RefreshToken: refreshToken(t, g, "alice", password)}} {
				repository, err := remote.NewRepository(g.Addr + "/team/oras")
				if err != nil {
					t.Fatal(err)
				}
				repository.PlainHTTP = true
				repository.Client = &auth.Client{Client: http.DefaultClient, Cache: auth.NewCache(), Credential: auth.StaticCredential(g.Addr, credential), ForceAttemptOAuth2: i > 0}
				if _, err := oras.Copy(t.Context(), layout, "1", repository, fmt.Sprint(i), oras.DefaultCopyOptions); err != nil {
					t.Errorf("credential %d: %v", i, err)
				}
				other, err := remote.NewRepository(g.Addr + "/other/oras")
				if err != nil {
					t.Fatal(err)
				}
				other.PlainHTTP, other.Client = true, repository.Client
				var refused *errcode.ErrorResponse
				if _, err := oras.Copy(t.Context(), layout, "1", other, "1", oras.DefaultCopyOptions); !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
					t.Errorf("credential %d: %v", i, err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) { push(t, g.Addr+"/team/"+name+":1") })
	}
	if resp := api.Do("GET", "/v2/_catalog", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the catalog for nobody: %d", resp.StatusCode)
	}
	var explained struct{ Allowed bool }
	if err := json.Unmarshal([]byte(g.manage("", "auth", "explain", "team+ci", "team/crane", "push", "--json")), &explained); err != nil || !explained.Allowed {
		t.Errorf("%+v, %v", explained, err)
	}
}

// refreshToken is what a client gets in the place of a password, as docker login does.
func refreshToken(t *testing.T, g *guarded, name, secret string) string {
	t.Helper()
	form := url.Values{"grant_type": {"password"}, "service": {"berth"}, "client_id": {"test"}, "access_type": {"offline"}, "username": {name}, "password": {secret}}
	resp := harness.NewAPI(t, g.Server).Expect(http.StatusOK, "POST", "/token", []byte(form.Encode()), harness.Header{"Content-Type": "application/x-www-form-urlencoded"})
	var answer struct {
		Token string `json:"refresh_token"`
	}
	if err := json.Unmarshal(resp.Bytes, &answer); err != nil || answer.Token == "" {
		t.Fatalf("%v in %s", err, resp.Bytes)
	}
	return answer.Token
}

// docker login takes everything that somebody can prove themselves with, in one registry.
func TestDockerLoginWithEachKindOfCredential(t *testing.T) {
	t.Parallel()
	harness.Need(t, "htpasswd")
	file := filepath.Join(t.TempDir(), "htpasswd")
	if out, err := exec.CommandContext(t.Context(), "htpasswd", "-B", "-C", "5", "-b", "-c", file, "fay", password).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	directory := service.NewLDAP(t)
	directory.Add(t, "uid=lea,ou=people,"+service.LDAPSuffix, map[string][]string{"objectClass": {"inetOrgPerson"}, "cn": {"Lea"}, "sn": {"Lea"}, "userPassword": {password}})
	issuer, job := newJobs(t)
	g := newGuarded(t, "BERTH_AUTH_HTPASSWD="+file, "BERTH_AUTH_LDAP_URL="+directory.URL, "BERTH_AUTH_LDAP_BIND_DN="+service.LDAPAdminDN,
		"BERTH_AUTH_LDAP_BIND_PASSWORD="+service.LDAPPassword, "BERTH_AUTH_LDAP_USER_BASE=ou=people,"+service.LDAPSuffix)
	g.manage("", "trust", "add", "team+ci", "--issuer", issuer, "--audience", "registry", "--claim", "repository=acme/app")
	token := g.manage("", "token", "add", "laptop", "--user", "alice", "--quiet")
	narrow := g.manage("", "token", "add", "narrow", "--user", "alice", "--action", "pull", "--quiet")
	secret := g.manage("", "robot", "secret", "add", "team+ci", "--quiet")
	second := g.manage("", "robot", "secret", "rotate", "team+ci", "--overlap", "1h", "--quiet")
	d := newDockerFor(t, g.Addr)
	for _, tt := range []struct{ kind, name, secret, denied string }{
		{"password", "alice", password, ""},
		{"personal-token", "alice", token, ""},
		{"personal-token-alone", "token", token, ""},
		{"narrow-token", "alice", narrow, "alice may not push"},
		{"robot", "team+ci", secret, ""},
		{"robot-second-secret", "team+ci", second, ""},
		{"job", "token", job("acme/app"), ""},
		{"directory", "lea", password, "lea may not push"},
		{"file", "fay", password, "fay may not push"},
	} {
		harness.Contains(t, d.RunInput(tt.secret, "login", "--username", tt.name, "--password-stdin", g.Addr), "Login Succeeded")
		// Others look for a name and a password where Docker keeps what it has.
		if kept, err := os.ReadFile(filepath.Join(d.Home, ".docker", "config.json")); err != nil || (tt.kind != "password") == bytes.Contains(kept, []byte("identitytoken")) {
			t.Errorf("%s is kept as %s, %v", tt.kind, kept, err)
		}
		ref := g.Addr + "/team/" + tt.kind + ":1"
		d.build(ref, tt.kind)
		d.forget(ref)
		if tt.denied != "" {
			harness.Contains(t, d.Fail("push", ref), tt.denied)
		} else {
			d.Run("push", ref)
			d.Run("pull", ref)
		}
		d.Run("logout", g.Addr)
	}
	// From now on those of the directory and the file have rights, too: nothing had to be installed or made for them.
	for _, name := range []string{"lea", "fay"} {
		g.manage("", "grant", "add", "team", "--user", name, "--role", "reader")
		d.RunInput(password, "login", "--username", name, "--password-stdin", g.Addr)
		d.Run("pull", g.Addr+"/team/password:1")
		d.Run("logout", g.Addr)
	}
}
