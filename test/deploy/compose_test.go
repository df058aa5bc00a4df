package deploy

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// composeProject is what the tests look at of a Compose file that was read by its own loader.
type composeProject struct {
	Services map[string]struct {
		Image       string
		Build       any
		Command     []string
		Entrypoint  []string
		Environment map[string]*string
		EnvFile     []struct {
			Path     string
			Required bool
		} `json:"env_file"` // which the loader leaves for the start, or has put into Environment
		Ports []struct {
			HostIP    string `json:"host_ip"`
			Published string
			Target    int
		}
		Networks map[string]*struct {
			Address string `json:"ipv4_address"`
		}
		Secrets []struct{ Source string }
		Volumes []struct{ Source, Target, Type string }
	}
	Secrets map[string]struct{ File string }
}

// compose copies the example into a folder, makes its secrets, and reads it as Docker Compose does.
func compose(t *testing.T) (dir string, p composeProject) {
	t.Helper()
	harness.Need(t, "openssl")
	dir = filepath.Join(t.TempDir(), "compose")
	if err := os.CopyFS(dir, os.DirFS(deployed("compose"))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "secrets")); err != nil { // of whoever uses the example here
		t.Fatal(err)
	}
	makeSecrets(t, dir)
	return dir, loadCompose(t, dir)
}

// loadCompose reads the example in a folder.
func loadCompose(t *testing.T, dir string) (p composeProject) {
	t.Helper()
	var cmd *exec.Cmd
	if path, err := exec.LookPath("docker"); err == nil && exec.Command(path, "compose", "version").Run() == nil {
		cmd = exec.Command(path, "compose", "--file", filepath.Join(dir, "compose.yaml"), "config", "--format", "json")
	} else {
		// The program around the library that Docker Compose reads files with.
		cmd = exec.Command(harness.Need(t, "compose-go"), "-format", "json", filepath.Join(dir, "compose.yaml"))
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

func makeSecrets(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command(filepath.Join(dir, "make-secrets")).CombinedOutput(); err != nil {
		t.Fatalf("make-secrets: %v\n%s", err, out)
	}
}

// Nothing but the balancer is published, and that on this machine only; images have a version; no password stands in
// the file; every secret that is used is made.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	_, p := compose(t)
	var nodes []string
	for name, s := range p.Services {
		if name != "nginx" && len(s.Ports) > 0 {
			t.Errorf("%s is published: %v", name, s.Ports)
		}
		for _, port := range s.Ports {
			if ip := net.ParseIP(port.HostIP); ip == nil || !ip.IsLoopback() {
				t.Errorf("%s is published at %q, beyond this machine", name, port.HostIP)
			}
		}
		if s.Build == nil {
			if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
				t.Errorf("%s has the image %q, without a version", name, s.Image)
			}
		} else {
			nodes = append(nodes, name)
		}
		for key, value := range s.Environment {
			if regexp.MustCompile(`(?i)password|secret|key|token`).MatchString(key) && !strings.HasSuffix(key, "_FILE") {
				t.Errorf("%s: %s=%q is a secret in the file", name, key, *value)
			}
		}
		for _, secret := range s.Secrets {
			if text := read(t, p.Secrets[secret.Source].File); len(text) < 20 || strings.ContainsAny(text, " \n") {
				t.Errorf("%s: secret %s is %q", name, secret.Source, text)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != "bind" {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	slices.Sort(nodes)
	if want := []string{"berth-1", "berth-2", "berth-3"}; !slices.Equal(nodes, want) {
		t.Errorf("the nodes are %q, expected %q", nodes, want)
	}
}

// The addresses of the nodes, in the file, are those that nginx sends requests to and that rolling-restart takes out of service;
// the address of nginx is the one that the nodes believe.
func TestComposeAddresses(t *testing.T) {
	t.Parallel()
	dir, p := compose(t)
	nodes, restart := read(t, filepath.Join(dir, "nginx", "nodes.conf")), read(t, filepath.Join(dir, "rolling-restart"))
	for i := range 3 {
		addr := p.Services[fmt.Sprint("berth-", i+1)].Networks["berth"].Address
		if n := strings.Count(nodes, "\nserver "+addr+":5000 "); n != 1 {
			t.Errorf("nodes.conf has %s %d times", addr, n)
		}
		if !strings.Contains(restart, "address="+strings.TrimSuffix(addr, fmt.Sprint(i+1))+"$n\n") {
			t.Errorf("rolling-restart does not know %s", addr)
		}
	}
	if n := strings.Count(nodes, "\nserver "); n != 3 {
		t.Errorf("nodes.conf has %d nodes", n)
	}
	nginx := p.Services["nginx"].Networks["berth"].Address
	harness.Contains(t, read(t, filepath.Join(dir, "berth.yaml")), "trusted_proxies: ["+nginx+"]")
}

// The nodes' configuration is one that berth accepts, with the secrets where Compose puts them.
func TestComposeConfigurationOfNodes(t *testing.T) {
	t.Parallel()
	dir, p := compose(t)
	text := read(t, filepath.Join(dir, "berth.yaml"))
	for _, s := range p.Services["berth-1"].Secrets {
		text = strings.ReplaceAll(text, "file:/run/secrets/"+s.Source+"\n", "file:"+p.Secrets[s.Source].File+"\n")
	}
	if strings.Contains(text, "/run/secrets/") {
		t.Fatalf("a secret is missing from the nodes:\n%s", text)
	}
	path := filepath.Join(dir, "berth.yaml")
	write(t, path, text)
	checkConfig(t, path)
}

// Secrets differ from one installation to the next, and stay when the script runs again.
func TestMakeSecrets(t *testing.T) {
	t.Parallel()
	secrets := func(dir string) (all []string) {
		for _, name := range []string{"postgres-password", "database-url", "s3-access-key", "s3-secret-key"} {
			all = append(all, read(t, filepath.Join(dir, "secrets", name)))
		}
		return all
	}
	one, _ := compose(t)
	two, _ := compose(t)
	first := secrets(one)
	makeSecrets(t, one)
	if again := secrets(one); !slices.Equal(again, first) {
		t.Errorf("the second run made other secrets: %q and %q", first, again)
	}
	for i, s := range secrets(two) {
		if s == first[i] {
			t.Errorf("two installations have the same secret %q", s)
		}
	}
	if !strings.Contains(first[1], ":"+first[0]+"@") {
		t.Errorf("the password %q is not the one of the URL %q", first[0], first[1])
	}
	info, err := os.Stat(filepath.Join(one, "secrets"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has the mode %v (%v): others can read what is in it", info.Mode(), err)
	}
}

// The command of the S3 service, run by the real server, makes the bucket that the nodes use, and asks for the keys.
func TestComposeBucket(t *testing.T) {
	t.Parallel()
	curl := harness.Need(t, "curl")
	gateway := harness.Need(t, "versitygw")
	dir, p := compose(t)
	service := p.Services["s3"]
	command := append(slices.Clone(service.Entrypoint), service.Command...)
	addr := refusing(t)
	script := strings.ReplaceAll(command[len(command)-1], "$$", "$") // Docker Compose prints it as it stands in the file
	for old, new := range map[string]string{
		"/run/secrets/":   filepath.Join(dir, "secrets") + "/",
		"/data":           filepath.Join(dir, "data"),
		"--port :7070":    "--port " + addr,
		"exec versitygw ": "exec " + gateway + " ",
	} {
		if !strings.Contains(script, old) {
			t.Fatalf("the command has no %q:\n%s", old, script)
		}
		script = strings.ReplaceAll(script, old, new)
	}
	log := filepath.Join(t.TempDir(), "gateway") // of StartDaemon, which removes it
	if err := os.Mkdir(log, 0o700); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 5 * time.Second}
	ready := func() bool {
		resp, err := client.Get("http://" + addr + "/health") // as the health check does
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	command[len(command)-1] = script
	stop := harness.StartDaemon(t, log, ready, command[0], command[1:]...)
	defer stop()

	key, secret := read(t, filepath.Join(dir, "secrets", "s3-access-key")), read(t, filepath.Join(dir, "secrets", "s3-secret-key"))
	status := func(user string, args ...string) string {
		t.Helper()
		args = append([]string{"-sS", "-o", "/dev/null", "-w", "%{http_code}", "--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--user", user}, args...)
		out, err := exec.Command(curl, append(args, "http://"+addr+"/registry/object")...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl: %v\n%s", err, out)
		}
		return string(out)
	}
	if got := status(key+":"+secret, "-X", "PUT", "--data-binary", "bytes"); got != "200" {
		t.Errorf("an object was put with %s", got)
	}
	if got := status(key + ":" + secret); got != "200" {
		t.Errorf("it was read with %s", got)
	}
	if got := status(key + ":wrong"); got != "403" {
		t.Errorf("a wrong key was answered with %s", got)
	}
}

// Of rolling-restart: each node in turn is out of service while it restarts, and in the end all are in service.
func TestRollingRestartScript(t *testing.T) {
	t.Parallel()
	dir, _ := compose(t)
	// Compose itself cannot run here: what the script asks of it is noted, nginx's part of it answered.
	bin, journal := t.TempDir(), filepath.Join(dir, "journal")
	write(t, filepath.Join(bin, "docker"), `#!/bin/sh
nodes() { grep -c ' down;' nginx/nodes.conf | tr -d '\n'; grep ' down;' nginx/nodes.conf | cut -d' ' -f2; }
case "$*" in
*"-s reload") echo "reload with $(nodes) out of service" >>"$JOURNAL" ;;
*"wget -q -O - http://berth-"*":9090/metrics") echo "berth_http_requests_in_flight 0" ;;
*"wget -q -O /dev/null http://berth-"*":5000/readyz") ;;
"compose up --detach --no-deps --no-build --force-recreate "*) echo "start $7" >>"$JOURNAL" ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
`)
	if err := os.Chmod(filepath.Join(bin, "docker"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := read(t, filepath.Join(dir, "nginx", "nodes.conf"))
	cmd := exec.Command(filepath.Join(dir, "rolling-restart"))
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "JOURNAL=" + journal}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var want strings.Builder
	for n := 1; n <= 3; n++ {
		fmt.Fprintf(&want, "reload with 1172.28.50.1%d:5000 out of service\nstart berth-%d\nreload with 0 out of service\n", n, n)
	}
	if got := read(t, journal); got != want.String() {
		t.Errorf("the script did\n%s\nexpected\n%s", got, want.String())
	}
	if after := read(t, filepath.Join(dir, "nginx", "nodes.conf")); after != before {
		t.Errorf("nodes.conf became\n%s", after)
	}
}
