package deploy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// What is in nodes.env is a setting of every node; without the file there is none.
func TestComposeSettingsOfNodes(t *testing.T) {
	t.Parallel()
	dir, p := compose(t)
	for name, s := range p.Services {
		for key := range s.Environment {
			if strings.HasPrefix(key, "BERTH_") {
				t.Errorf("%s has %s by itself", name, key)
			}
		}
	}
	path := filepath.Join(dir, "nodes.env")
	write(t, path, "BERTH_AUTH_ENABLED=true\n")
	p = loadCompose(t, dir)
	for name, s := range p.Services {
		fromFile := len(s.EnvFile) == 1 && s.EnvFile[0].Path == path && !s.EnvFile[0].Required
		v := s.Environment["BERTH_AUTH_ENABLED"]
		if got := fromFile || v != nil && *v == "true"; got != strings.HasPrefix(name, "berth-") {
			t.Errorf("%s has the settings of nodes: %t", name, got)
		}
	}
}

// With a certificate beside it, the example's nginx speaks TLS, and clients are sent to sign in there. The configuration of the example, with access
// control, guards what is behind it.
func TestComposeTLSWithAccessControl(t *testing.T) {
	t.Parallel()
	nginx := harness.Need(t, "nginx")
	const password = "a good password"
	data := t.TempDir()
	add := exec.CommandContext(t.Context(), harness.Binary(t), "user", "add", "root", "--admin", "--password-stdin", "--data", filepath.Join(data, "data"))
	add.Stdin = strings.NewReader(password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	node, err := harness.StartServer(harness.Binary(t), data, harness.Settings{Env: []string{"BERTH_AUTH_ENABLED=true", "BERTH_TRUSTED_PROXIES=127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Stop(); err != nil {
			t.Error(err)
		}
	})

	dir, cert := filepath.Join(t.TempDir(), "nginx"), harness.NewCert(t)
	if err := os.CopyFS(dir, os.DirFS(deployed("compose", "nginx"))); err != nil {
		t.Fatal(err)
	}
	plain, secure := refusing(t), refusing(t)
	change := func(file, as string, changes ...string) {
		t.Helper()
		text := read(t, filepath.Join(dir, file))
		for i := 0; i < len(changes); i += 2 {
			if !strings.Contains(text, changes[i]) {
				t.Fatalf("%s has no %q", file, changes[i])
			}
			text = strings.ReplaceAll(text, changes[i], changes[i+1])
		}
		write(t, filepath.Join(dir, as), text)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // nginx's own user has no access to the folder
	}
	change("nginx.conf", "nginx.conf", "listen 8080;", "listen "+plain+";", "/tmp/", dir+"/", "worker_processes auto;", user+"worker_processes 1;")
	write(t, filepath.Join(dir, "nodes.conf"), "server "+node.Addr+";\n")
	change("tls/listen.example", "tls/listen.conf", "listen 8443 ssl;", "listen "+secure+" ssl;")
	write(t, filepath.Join(dir, "tls", "tls.crt"), read(t, cert.CertFile))
	write(t, filepath.Join(dir, "tls", "tls.key"), read(t, cert.KeyFile))

	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}, Timeout: time.Minute}
	ready := func() bool {
		resp, err := client.Get("https://" + secure + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	log := filepath.Join(t.TempDir(), "log") // of StartDaemon, which removes it
	if err := os.Mkdir(log, 0o700); err != nil {
		t.Fatal(err)
	}
	defer harness.StartDaemon(t, log, ready, nginx, "-g", "daemon off;", "-c", filepath.Join(dir, "nginx.conf"), "-p", dir)()

	api := &harness.API{T: t, Base: "https://" + secure, Client: client}
	resp := api.Expect(http.StatusUnauthorized, "GET", "/v2/", nil)
	if got, want := resp.Header.Get("WWW-Authenticate"), `realm="https://`+secure+`/token"`; !strings.Contains(got, want) {
		t.Errorf("clients are sent to %s, expected %s", got, want)
	}
	// Berth's own client signs in there, with what docker login would keep.
	run := func(env []string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
		cmd.Env = append(os.Environ(), env...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	args := []string{"user", "show", "--json", "--server", "https://" + secure, "--ca", cert.CertFile}
	if out, err := run([]string{"BERTH_USER=root", "BERTH_PASSWORD=" + password}, args...); err != nil || !strings.Contains(out, `"name":"root"`) {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run(nil, "repo", "ls", "--insecure", "--registry", secure); err != nil { // as the chart's test does, as nobody
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run([]string{"BERTH_USER=root", "BERTH_PASSWORD=wrong"}, args...); err == nil {
		t.Errorf("a wrong password: %s", out)
	}
}
