package certificates

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// outside is an address that clients do not take for this machine's: Docker does not verify certificates of registries in
// 127.0.0.0/8. It is one for documentation (RFC 5737), given to the loopback interface for the time of a test.
func outside(t *testing.T) string {
	t.Helper()
	const addr = "192.0.2.17"
	harness.NeedRoot(t)
	ip := harness.Need(t, "ip")
	if out, err := exec.Command(ip, "address", "add", addr+"/32", "dev", "lo").CombinedOutput(); err != nil && !strings.Contains(string(out), "File exists") {
		harness.Missing(t, "an address cannot be added to the loopback interface: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command(ip, "address", "delete", addr+"/32", "dev", "lo").Run() })
	return addr
}

// trust runs the command that "berth cert self-signed" prints below a comment, and returns the folder where it installs the
// authority, which goes with the test.
func trust(t *testing.T, printed, comment, host string) string {
	t.Helper()
	_, after, ok := strings.Cut(printed, "# "+comment+", for "+host)
	if !ok {
		t.Fatalf("there is no command for %s and %s in\n%s", comment, host, printed)
	}
	_, after, _ = strings.Cut(after, "\n")
	commands, _, _ := strings.Cut(after, "\n\n")
	first, _, _ := strings.Cut(commands, "\n")
	dir := filepath.Dir(strings.Trim(first[strings.LastIndexByte(first, ' ')+1:], "'"))
	if _, err := os.Stat(dir); err == nil {
		t.Fatalf("%s is there already", dir)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := exec.Command("sh", "-ec", strings.ReplaceAll(commands, "sudo ", "")).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	return dir
}

// The whole way: certificates are made, the printed command is run, the engine pushes and pulls. Then the server wants
// certificates of clients.
func TestDocker(t *testing.T) {
	addr := outside(t)
	docker := harness.NewDocker(t, dockerEngine)
	_, port := freeAddr(t)
	host := fmt.Sprintf("%s:%d", addr, port)
	a := authority{filepath.Join(t.TempDir(), "tls")}
	printed := berth(t, "cert", "self-signed", "--out", a.dir, "--port", fmt.Sprint(port), addr)
	run := func(env ...string) (*harness.Server, func()) {
		t.Helper()
		s, err := harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{TLS: true, Env: a.env(env...), Args: []string{"--listen", host}})
		if err != nil {
			t.Fatal(err)
		}
		return s, func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	_, end := run("BERTH_INSECURE_OPEN=true")
	ref := host + "/tls/docker:1"
	build(t, docker, ref)
	push := func() (string, error) {
		cmd := exec.Command(docker.Path, "push", ref)
		cmd.Env = docker.Environ()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := push(); err == nil || !strings.Contains(out, "certificate signed by unknown authority") {
		t.Errorf("without the authority: %v: %s", err, out)
	}
	dir := trust(t, printed, "Docker", host)
	if out, err := push(); err != nil {
		t.Fatalf("docker push: %v: %s", err, out)
	}
	docker.Run("image", "rm", ref)
	docker.Run("pull", ref)
	end()

	// Who has no certificate is not let in; who has one is named in the log.
	s, stop := run("BERTH_TLS_CLIENT_CA="+a.file("ca.crt"), "BERTH_TLS_CLIENT_CERTIFICATE=required")
	defer stop()
	if out, err := push(); err == nil {
		t.Errorf("without a certificate, docker pushes: %s", out)
	}
	berth(t, "cert", "client", "--out", a.dir, "docker-host-7")
	for from, to := range map[string]string{"docker-host-7.crt": "client.cert", "docker-host-7.key": "client.key"} {
		content, err := os.ReadFile(a.file(from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := push(); err != nil {
		t.Fatalf("docker push with a certificate: %v: %s\n%s", err, out, s.LogTail())
	}
	if log := s.Log(); !strings.Contains(log, "certificate=CN=docker-host-7") && !strings.Contains(log, `certificate="CN=docker-host-7"`) {
		t.Errorf("the log does not name the client:\n%s", log)
	}
	docker.Run("image", "rm", ref)
	docker.Run("pull", ref)
}

// build gives the engine an image under a name, which it forgets when the test ends.
func build(t *testing.T, docker *harness.Client, ref string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), harness.Random(1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY text /text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	docker.Run("build", "--quiet", "--network", "none", "--tag", ref, dir)
	t.Cleanup(func() {
		cmd := exec.Command(docker.Path, "image", "rm", "--force", ref)
		cmd.Env = docker.Environ()
		cmd.Run()
	})
}

// skopeo finds the authority where podman, buildah and CRI-O look for it, too: all use one library.
func TestSkopeo(t *testing.T) {
	harness.NeedRoot(t) // to write to /etc
	_, port := freeAddr(t)
	host := fmt.Sprintf("127.0.0.1:%d", port)
	a := authority{filepath.Join(t.TempDir(), "tls")}
	printed := berth(t, "cert", "self-signed", "--out", a.dir, "--port", fmt.Sprint(port), "127.0.0.1")
	start(t, a.env(), "--listen", host)

	image := harness.NewImage("amd64", nil, map[string][]byte{"random": harness.Random(1000)})
	skopeo := harness.NewClient(t, "skopeo", "--insecure-policy")
	source := "oci:" + image.Layout(t, "1") + ":1"
	if out, err := exec.Command(skopeo.Path, "--insecure-policy", "copy", source, "docker://"+host+"/tls/skopeo:1").CombinedOutput(); err == nil || !strings.Contains(string(out), "unknown authority") {
		t.Errorf("without the authority: %v: %s", err, out)
	}
	dir := trust(t, printed, "Podman, Buildah, Skopeo, CRI-O", host)
	skopeo.Run("copy", source, "docker://"+host+"/tls/skopeo:1")
	skopeo.Run("copy", "--src-cert-dir", dir, "docker://"+host+"/tls/skopeo:1", "dir:"+t.TempDir())
}
