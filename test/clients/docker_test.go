package clients

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

const hostArch = runtime.GOARCH

var dockerEngine = harness.NewDockerEngine()

// docker is Docker's command line with a registry to use.
type docker struct {
	*harness.Client
	host string
}

func newDocker(t *testing.T) docker { return newDockerFor(t, host(t)) }

func newDockerFor(t *testing.T, host string) docker {
	t.Helper()
	return docker{harness.NewDocker(t, dockerEngine), host}
}

// build builds an image that prints text, with two layers of its own, and tags it.
func (d docker) build(ref, text string) {
	d.T.Helper()
	d.buildFile(ref, "FROM scratch\nCOPY . /\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"cp /text /said\"]\nCMD [\"/bin/busybox\", \"cat\", \"/said\"]\n",
		map[string][]byte{"bin/busybox": harness.Busybox(d.T), "text": []byte(text), "random": harness.Random(1 << 10)})
}

func (d docker) buildFile(ref, dockerfile string, files map[string][]byte) {
	d.T.Helper()
	dir := d.T.(*testing.T).TempDir()
	for name, content := range files {
		path := filepath.Join(dir, "root", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			d.T.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			d.T.Fatal(err)
		}
	}
	file := filepath.Join(dir, "Dockerfile")
	if err := os.WriteFile(file, []byte(dockerfile), 0o644); err != nil {
		d.T.Fatal(err)
	}
	d.Run("build", "--quiet", "--network", "none", "--tag", ref, "--file", file, filepath.Join(dir, "root"))
	d.forget(ref)
}

// forget removes an image when the test ends, since the engine may be the user's.
func (d docker) forget(ref string) {
	d.T.Cleanup(func() {
		cmd := exec.Command(d.Path, "image", "rm", "--force", ref)
		cmd.Env = d.Environ()
		cmd.Run()
	})
}

func (d docker) runImage(ref string) string {
	d.T.Helper()
	return d.Run("run", "--rm", "--network", "none", ref)
}

func TestDockerTagPushPullRun(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	ref := d.host + "/team/app:1.0"
	d.build("berth-test-app", "hello from team/app")
	d.Run("tag", "berth-test-app", ref)
	d.Run("push", ref)
	d.Run("image", "rm", ref, "berth-test-app")

	harness.Contains(t, d.Run("pull", ref), "Downloaded newer image")
	if out := d.runImage(ref); out != "hello from team/app" {
		t.Errorf("the container printed %q", out)
	}
	want := d.host + "/team/app@" + digestOf(t, "team/app", "1.0")
	if got := strings.TrimSpace(d.Run("image", "inspect", "--format", "{{join .RepoDigests \" \"}}", ref)); got != want {
		t.Errorf("Docker knows the image as %q, expected %q", got, want)
	}
	d.Run("image", "rm", ref)
	d.Run("pull", want)
	d.forget(want)
	wantStatuses(t, seen(t, "team/app"), 200, 201, 202, 404)
}

func TestDockerPushesAgainWithoutUploading(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	ref := d.host + "/docker/again:1"
	d.build(ref, "again")
	d.Run("push", ref)
	before := len(seen(t, "docker/again"))
	harness.Contains(t, d.Run("push", ref), "Layer already exists")
	for _, e := range uploads(seen(t, "docker/again")[before:]) {
		t.Errorf("the second push sent %s %s", e.Method, e.URL)
	}
	digest := digestOf(t, "docker/again", "1")
	d.Run("tag", ref, d.host+"/docker/again:2")
	d.forget(d.host + "/docker/again:2")
	d.Run("push", "--all-tags", d.host+"/docker/again")
	if got := digestOf(t, "docker/again", "2"); got != digest {
		t.Errorf("tag 2 is %s, expected %s", got, digest)
	}
}

func TestDockerMountsFromOtherRepository(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	source, target := d.host+"/docker/mount-source:1", d.host+"/docker/mount-target:1"
	d.build(source, "mounted")
	d.Run("push", source)
	d.Run("tag", source, target)
	d.forget(target)
	harness.Contains(t, d.Run("push", target), "Mounted from docker/mount-source")
	wire := seen(t, "docker/mount-target")
	if got := len(mounts(wire)); got < 2 {
		t.Errorf("%d blobs were mounted, expected both layers", got)
	}
	d.Run("image", "rm", source, target)
	d.Run("pull", target)
	if out := d.runImage(target); out != "mounted" {
		t.Errorf("the container printed %q", out)
	}
}

func TestDockerRepositoryNames(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	d.build("berth-test-names", "names")
	for _, repo := range []string{"a/b/c/d", "library/nginx", "docker-x", "docker/with.dot/under__score/da--sh/" + strings.Repeat("n", 100)} {
		ref := d.host + "/" + repo + ":v1.0_x-Y.z"
		d.Run("tag", "berth-test-names", ref)
		d.Run("push", ref)
		d.Run("image", "rm", ref)
		d.Run("pull", ref)
		d.forget(ref)
		if got := api(t).Tags(repo); !slices.Equal(got, []string{"v1.0_x-Y.z"}) {
			t.Errorf("tags of %s are %v", repo, got)
		}
	}
}

func TestDockerManifestListForSeveralPlatforms(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	list := d.host + "/docker/multi:latest"
	other := "arm64"
	if hostArch == other {
		other = "amd64"
	}
	for _, arch := range []string{hostArch, other} {
		d.build(list+"-"+arch, "built for "+arch)
		d.Run("push", list+"-"+arch)
	}
	d.Run("manifest", "create", "--insecure", list, list+"-"+hostArch, list+"-"+other)
	d.Run("manifest", "annotate", "--os", "linux", "--arch", other, list, list+"-"+other)
	d.Run("manifest", "push", "--insecure", list)
	harness.Contains(t, d.Run("manifest", "inspect", "--insecure", list), "manifest.list.v2+json", `"architecture": "arm64"`, `"architecture": "amd64"`)

	d.Run("image", "rm", list+"-"+hostArch)
	d.Run("pull", list)
	d.forget(list)
	if out := d.runImage(list); out != "built for "+hostArch {
		t.Errorf("the container printed %q", out)
	}
	resp := api(t).Expect(http.StatusOK, "GET", "/v2/docker/multi/manifests/latest", nil)
	if got := resp.Header.Get("Content-Type"); got != "application/vnd.docker.distribution.manifest.list.v2+json" {
		t.Errorf("Content-Type of the list is %q", got)
	}
}

func TestDockerSearch(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	image := hello(t, "found")
	api(t).PushImage("docker-search/needle-one", "latest", image)
	api(t).PushImage("docker-search/needle-two", "latest", image)
	api(t).PushImage("docker-search/hay", "latest", image)
	out := d.Run("search", "--format", "{{.Name}}", d.host+"/docker-search/needle")
	harness.Contains(t, out, "docker-search/needle-one", "docker-search/needle-two")
	if strings.Contains(out, "docker-search/hay") {
		t.Errorf("a repository that does not match was found:\n%s", out)
	}
	if out := d.Run("search", "--limit", "1", "--format", "{{.Name}}", d.host+"/docker-search/needle"); strings.Count(out, "needle") != 1 {
		t.Errorf("--limit 1 found\n%s", out)
	}
	if out := d.Run("search", "--format", "{{.Name}}", d.host+"/nothing-is-called-so"); strings.TrimSpace(out) != "" {
		t.Errorf("a search for nothing found\n%s", out)
	}
	for _, path := range []string{"/v1/_ping", "/v1/search"} {
		wire := registry.Get(t).tap.Exchanges(path)
		if len(wire) == 0 {
			t.Errorf("Docker did not ask for %s", path)
		}
		wantStatuses(t, wire, http.StatusOK)
	}
}

func TestDockerLoginToOpenRegistry(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	harness.Contains(t, d.RunInput("any password", "login", "--username", "anyone", "--password-stdin", d.host), "Login Succeeded")
	ref := d.host + "/docker/login:1"
	d.build(ref, "logged in")
	d.Run("push", ref)
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
	// Docker sends its credentials to the search endpoint without having been asked.
	harness.Contains(t, d.Run("search", "--format", "{{.Name}}", d.host+"/docker/login"), "docker/login")
	d.Run("logout", d.host)
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
}

func TestDockerPullOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	api(t).PushImage("docker/present", "1", hello(t, "here"))
	harness.Contains(t, d.Fail("pull", d.host+"/docker/present:2"), "manifest unknown")
	harness.Contains(t, d.Fail("pull", d.host+"/docker/absent:1"), "not found")
	harness.Contains(t, d.Fail("pull", d.host+"/docker/present@sha256:"+strings.Repeat("0", 64)), "manifest unknown")
}

// A pull that breaks off goes on where it stopped.
func TestDockerPullResumesWithRange(t *testing.T) {
	t.Parallel()
	image := harness.NewImage(hostArch, []string{"/none"}, map[string][]byte{"big": harness.Random(8 << 20)})
	api(t).PushImage("docker/resume", "1", image)
	tap := harness.NewTap(t, registry.Get(t).Addr)
	tap.CutDownload(3 << 20)
	d := newDockerFor(t, tap.Addr)
	ref := tap.Addr + "/docker/resume:1"
	d.Run("pull", ref)
	d.forget(ref)
	if tap.Cuts() != 1 {
		t.Fatalf("%d connections were cut, expected 1", tap.Cuts())
	}
	resumed := false
	for _, e := range tap.Exchanges("/v2/docker/resume/blobs/") {
		if r := e.Header.Get("Range"); r != "" && e.Status == http.StatusPartialContent {
			resumed = true
			if got := e.Response.Get("Content-Range"); !strings.HasPrefix(got, "bytes "+strings.TrimPrefix(strings.TrimSuffix(r, "-"), "bytes=")+"-") {
				t.Errorf("Range %q was answered with Content-Range %q", r, got)
			}
		}
	}
	if !resumed {
		t.Error("Docker did not go on with a Range request")
	}
}

func TestDockerPushSurvivesLostConnection(t *testing.T) {
	t.Parallel()
	tap := harness.NewTap(t, registry.Get(t).Addr)
	d := newDockerFor(t, tap.Addr)
	ref := tap.Addr + "/docker/broken-push:1"
	d.buildFile(ref, "FROM scratch\nCOPY . /\nCMD [\"/none\"]\n", map[string][]byte{"big": harness.Random(8 << 20)})
	tap.CutUpload(3 << 20)
	d.Run("push", ref)
	if tap.Cuts() != 1 {
		t.Fatalf("%d connections were cut, expected 1", tap.Cuts())
	}
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
}

// Docker streams a layer with one PATCH whose length it does not know.
func TestDockerStreamsLayersWithoutContentLength(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	ref := d.host + "/docker/stream:1"
	d.build(ref, "streamed")
	d.Run("push", ref)
	patches := withMethod(seen(t, "docker/stream"), "PATCH")
	if len(patches) == 0 {
		t.Fatal("Docker sent no PATCH")
	}
	for _, e := range patches {
		if !e.Chunked {
			t.Errorf("%s %s has a Content-Length; this test is there for those without", e.Method, e.URL)
		}
		if e.Status != http.StatusAccepted || !strings.HasPrefix(e.Response.Get("Range"), "0-") {
			t.Errorf("PATCH was answered with %d, Range %q", e.Status, e.Response.Get("Range"))
		}
	}
}

// Several clients push the same layers to several repositories at once.
func TestDockerConcurrentPushesAndPulls(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	d.build("berth-test-concurrent", "concurrent")
	errs := make(chan error)
	const pushes = 8
	for i := range pushes {
		ref := fmt.Sprintf("%s/docker/concurrent-%d:1", d.host, i%4)
		d.Run("tag", "berth-test-concurrent", ref)
		d.forget(ref)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var err error
			for _, verb := range []string{"push", "pull"} {
				cmd := exec.CommandContext(ctx, d.Path, verb, ref)
				cmd.Env = d.Environ()
				if out, e := cmd.CombinedOutput(); e != nil && err == nil {
					err = fmt.Errorf("docker %s %s: %w\n%s", verb, ref, e, out)
				}
			}
			errs <- err
		}()
	}
	for range pushes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// localhost resolves to the loopback address that the server listens on.
func TestDockerReachesLocalhostByName(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(host(t))
	if err != nil {
		t.Fatal(err)
	}
	d := newDockerFor(t, net.JoinHostPort("localhost", port))
	ref := d.host + "/docker/by-name:1"
	d.build(ref, "localhost")
	d.Run("push", ref)
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
}
