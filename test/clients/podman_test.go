package clients

import (
	"fmt"
	"mime"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// newContainersClient returns a client of the family of podman, with an image store of
// the test's own, that uses the shared registry without TLS.
func newContainersClient(t *testing.T, program string) *harness.Client {
	t.Helper()
	c := harness.NewClient(t, program)
	config := filepath.Join(c.Home, ".config", "containers")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"storage.conf": fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n"+
			"[storage.options]\npull_options = {enable_partial_images = \"true\", use_hard_links = \"false\", ostree_repos = \"\"}\n",
			filepath.Join(c.Home, "images"), filepath.Join(c.Home, "run", "images")),
		"registries.conf": fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", host(t)),
		"auth.json":       "{}",
	} {
		if err := os.WriteFile(filepath.Join(config, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Root's defaults are not in the home directory.
	c.Env = []string{"CONTAINERS_STORAGE_CONF=" + filepath.Join(config, "storage.conf"), "REGISTRY_AUTH_FILE=" + filepath.Join(config, "auth.json")}
	return c
}

// newPodman returns podman, which a user who is not root may be unable to run.
func newPodman(t *testing.T) *harness.Client {
	t.Helper()
	c := newContainersClient(t, "podman")
	if os.Geteuid() != 0 {
		cmd := exec.Command(c.Path, "info")
		cmd.Env = c.Environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			harness.Missing(t, "podman does not run for this user: %s", out)
		}
	}
	return c
}

// runWithPodman runs an image. It asks for low limits because not every machine allows
// those that podman would set.
func runWithPodman(c *harness.Client, ref string) string {
	c.T.Helper()
	return c.Run("run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", ref)
}

// buildContext writes a directory with a Dockerfile for an image that prints text,
// and returns it.
func buildContext(t testing.TB, text string, more map[string][]byte) string {
	t.Helper()
	files := map[string][]byte{
		"Dockerfile":       []byte("FROM scratch\nCOPY root /\nCMD [\"/bin/busybox\", \"cat\", \"/text\"]\n"),
		"root/bin/busybox": harness.Busybox(t),
		"root/text":        []byte(text),
		"root/random":      harness.Random(1 << 10),
	}
	for name, content := range more {
		files["root/"+name] = content
	}
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPodmanPushPullRun(t *testing.T) {
	t.Parallel()
	c := newPodman(t)
	ref := host(t) + "/podman/team/app:1.0"
	c.Run("build", "--quiet", "--tag", ref, buildContext(t, "hello from podman", nil))
	c.Run("push", ref)
	c.Run("rmi", "--all", "--force")
	c.Run("pull", "--quiet", ref)
	if out := runWithPodman(c, ref); out != "hello from podman" {
		t.Errorf("the container printed %q", out)
	}
	before := len(seen(t, "podman/team/app"))
	c.Run("push", ref)
	for _, e := range uploads(seen(t, "podman/team/app")[before:]) {
		t.Errorf("the second push sent %s %s", e.Method, e.URL)
	}
	// The blob cache of podman knows the first repository as a source.
	target := host(t) + "/podman/other/app:1.0"
	c.Run("push", ref, "docker://"+target)
	if len(mounts(seen(t, "podman/other/app"))) == 0 {
		t.Error("nothing was mounted from podman/team/app")
	}
	wantStatuses(t, seen(t, "podman/team/app"), 200, 201, 202, 404)
}

func TestPodmanFormatsAndCompressions(t *testing.T) {
	t.Parallel()
	c := newPodman(t)
	for _, f := range []struct{ repo, format, compression, manifest, layer string }{
		{"podman/zstd", "oci", "zstd", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"},
		{"podman/v2s2", "v2s2", "gzip", "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar"},
		{"podman/oci", "oci", "gzip", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar"},
	} {
		ref := host(t) + "/" + f.repo + ":1"
		// Each has content of its own: podman sends no second compression of a layer that is there.
		c.Run("build", "--quiet", "--tag", ref, buildContext(t, "formats", nil))
		c.Run("push", "--format", f.format, "--compression-format", f.compression, ref)
		resp := api(t).Expect(http.StatusOK, "GET", "/v2/"+f.repo+"/manifests/1", nil)
		if got := resp.Header.Get("Content-Type"); got != f.manifest {
			t.Errorf("%s: Content-Type %q, expected %q", f.repo, got, f.manifest)
		}
		harness.Contains(t, string(resp.Bytes), f.layer)
		other := newPodman(t)
		other.Run("pull", "--quiet", ref)
		if out := runWithPodman(other, ref); out != "formats" {
			t.Errorf("%s: the container printed %q", f.repo, out)
		}
	}
}

// Of a zstd:chunked layer podman asks for the pieces that it lacks, several ranges
// in one request.
func TestPodmanPartialPullOfZstdChunked(t *testing.T) {
	t.Parallel()
	builder, puller := newPodman(t), newPodman(t)
	files := map[string][]byte{}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		files[name] = harness.Random(150_000)
	}
	repo := "podman/chunked"
	for i, changed := range [][]string{nil, {"b", "d", "g"}} {
		for _, name := range changed {
			files[name] = harness.Random(150_000)
		}
		ref := fmt.Sprintf("%s/%s:%d", host(t), repo, i)
		builder.Run("build", "--quiet", "--tag", ref, buildContext(t, fmt.Sprintf("chunked %d", i), files))
		builder.Run("push", "--format", "oci", "--compression-format", "zstd:chunked", ref)
		before := len(seen(t, repo))
		puller.Run("pull", "--quiet", ref)
		if out := runWithPodman(puller, ref); out != fmt.Sprintf("chunked %d", i) {
			t.Errorf("the container printed %q", out)
		}
		partial := slices.DeleteFunc(withMethod(seen(t, repo)[before:], "GET"), func(e harness.Exchange) bool {
			return !strings.Contains(e.Header.Get("Range"), ",")
		})
		if i == 0 {
			continue // everything is lacking, which some versions fetch whole
		}
		if len(partial) == 0 {
			t.Error("podman asked for several ranges nowhere")
		}
		for _, e := range partial {
			kind, params, err := mime.ParseMediaType(e.Response.Get("Content-Type"))
			if e.Status != http.StatusPartialContent || err != nil || kind != "multipart/byteranges" || params["boundary"] == "" {
				t.Errorf("Range %q was answered with %d, Content-Type %q", e.Header.Get("Range"), e.Status, e.Response.Get("Content-Type"))
			}
		}
	}
}

func TestPodmanManifestListForSeveralPlatforms(t *testing.T) {
	t.Parallel()
	c := newPodman(t)
	dir := buildContext(t, "several platforms", nil)
	c.Run("build", "--quiet", "--layers=false", "--platform", "linux/amd64,linux/arm64,linux/arm/v7", "--manifest", "list", dir)
	ref := host(t) + "/podman/multi:latest"
	c.Run("manifest", "push", "--all", "list", "docker://"+ref)
	c.Run("rmi", "--all", "--force")
	harness.Contains(t, c.Run("manifest", "inspect", ref), `"amd64"`, `"arm64"`, `"v7"`)
	c.Run("pull", "--quiet", ref)
	if out := runWithPodman(c, ref); out != "several platforms" {
		t.Errorf("the container printed %q", out)
	}
}

func TestPodmanSearch(t *testing.T) {
	t.Parallel()
	c := newPodman(t)
	image := hello(t, "found")
	for _, tag := range []string{"1", "2", "3"} {
		api(t).PushImage("podman-search/needle", tag, image)
	}
	api(t).PushImage("podman-search/hay", "1", image)
	out := c.Run("search", "--format", "{{.Name}}", host(t)+"/podman-search/needle")
	harness.Contains(t, out, host(t)+"/podman-search/needle")
	if strings.Contains(out, "hay") {
		t.Errorf("a repository that does not match was found:\n%s", out)
	}
	out = c.Run("search", "--list-tags", host(t)+"/podman-search/needle")
	var tags []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[1] != "TAG" {
			tags = append(tags, f[1])
		}
	}
	if !slices.Equal(tags, []string{"1", "2", "3"}) {
		t.Errorf("podman search --list-tags found %q in\n%s", tags, out)
	}
}

func TestPodmanLoginToOpenRegistry(t *testing.T) {
	t.Parallel()
	c := newPodman(t)
	harness.Contains(t, c.RunInput("any password", "login", "--username", "anyone", "--password-stdin", host(t)), "Login Succeeded")
	ref := host(t) + "/podman/login:1"
	c.Run("build", "--quiet", "--tag", ref, buildContext(t, "logged in", nil))
	c.Run("push", ref)
	c.Run("pull", "--quiet", ref)
	harness.Contains(t, c.Run("search", "--format", "{{.Name}}", host(t)+"/podman/login"), "podman/login")
	c.Run("logout", host(t))
}

func TestPodmanPullsAllTags(t *testing.T) {
	t.Parallel()
	c := newPodman(t)
	for _, tag := range []string{"one", "two", "three"} {
		api(t).PushImage("podman/tags", tag, hello(t, tag))
	}
	c.Run("pull", "--quiet", "--all-tags", host(t)+"/podman/tags")
	for _, tag := range []string{"one", "two", "three"} {
		got := strings.TrimSpace(c.Run("image", "inspect", "--format", "{{.Digest}}", host(t)+"/podman/tags:"+tag))
		if want := digestOf(t, "podman/tags", tag); got != want {
			t.Errorf("tag %s is %s, expected %s", tag, got, want)
		}
	}
}

func TestPodmanWithTLS(t *testing.T) {
	t.Parallel()
	s := newSecure(t, "podman")
	c := newPodman(t)
	api(t).PushImage("podman/tls", "1", hello(t, "over TLS"))
	ref, secure := host(t)+"/podman/tls:1", s.Addr+"/podman/tls:1"
	c.Run("pull", ref)
	c.Run("tag", ref, secure)

	certs := t.TempDir()
	link := func(from, to string) {
		t.Helper()
		if err := os.Symlink(s.file(from), filepath.Join(certs, to)); err != nil {
			t.Fatal(err)
		}
	}
	push := func() (string, error) {
		cmd := exec.Command(c.Path, "push", "--cert-dir", certs, secure)
		cmd.Env = c.Environ()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := push(); err == nil || !strings.Contains(out, "unknown authority") {
		t.Errorf("without the authority: %v, %s", err, out)
	}
	link("ca.crt", "ca.crt")
	if out, err := push(); err == nil {
		t.Errorf("without a certificate: %s", out)
	}
	link("podman.crt", "client.cert")
	link("podman.key", "client.key")
	if out, err := push(); err != nil {
		t.Fatalf("with a certificate: %v, %s", err, out)
	}
	c.Run("rmi", ref, secure)
	c.Run("pull", "--cert-dir", certs, secure)
	if out := runWithPodman(c, secure); out != "over TLS" {
		t.Errorf("the container printed %q", out)
	}
}
