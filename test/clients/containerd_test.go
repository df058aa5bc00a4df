package clients

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// containerd is the private containerd that the tests share; its value is the
// address of its socket.
var containerd = harness.Shared[string]{Start: func(t testing.TB) (string, func() error) {
	harness.NeedRoot(t)
	path := harness.Need(t, "containerd")
	ctr := harness.Need(t, "ctr")
	dir, err := os.MkdirTemp("", "berth-containerd-")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "containerd.sock")
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ready := func() bool { return exec.Command(ctr, "--address", socket, "version").Run() == nil }
	return socket, harness.StartDaemon(t, dir, ready, path, "--config", config)
}}

// ctr is containerd's command line in a namespace of the test's own, so that it
// shares no content with other tests.
type ctr struct {
	*harness.Client
	host  string
	hosts string // directory of registry configurations
}

func newCtr(t *testing.T) ctr { return newCtrFor(t, host(t)) }

func newCtrFor(t *testing.T, host string) ctr {
	t.Helper()
	namespace := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	c := harness.NewClient(t, "ctr", "--address", containerd.Get(t), "--namespace", namespace)
	return ctr{c, host, t.TempDir()}
}

func (c ctr) pull(ref string, args ...string) string {
	c.T.Helper()
	return c.RunAll(append([]string{"images", "pull", "--plain-http"}, append(args, ref)...)...)
}

func (c ctr) push(ref string, args ...string) string {
	c.T.Helper()
	return c.RunAll(append([]string{"images", "push", "--plain-http"}, append(args, ref)...)...)
}

func (c ctr) runImage(ref string) string {
	c.T.Helper()
	// Into a file, as ctr may end before it has read the pipe.
	out := filepath.Join(c.T.TempDir(), "out")
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		c.T.Fatal(err)
	}
	c.Run("run", "--rm", "--log-uri", "file://"+out, ref, "berth-test")
	b, err := os.ReadFile(out)
	if err != nil {
		c.T.Fatal(err)
	}
	return string(b)
}

// mirror has containerd ask the registry first for what is in docker.io.
func (c ctr) mirror(host string) {
	c.T.Helper()
	dir := filepath.Join(c.hosts, "docker.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.T.Fatal(err)
	}
	// The server line is what containerd falls back to; a closed port keeps it here.
	text := fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", host)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		c.T.Fatal(err)
	}
}

func TestContainerdPullsRunsAndPushes(t *testing.T) {
	t.Parallel()
	c := newCtr(t)
	api(t).PushImage("containerd/app", "1", hello(t, "hello from containerd"))
	ref := c.host + "/containerd/app:1"
	c.pull(ref)
	if out := c.runImage(ref); out != "hello from containerd" {
		t.Errorf("the container printed %q", out)
	}

	target := c.host + "/containerd/copy/deep/name:2"
	c.Run("images", "tag", ref, target)
	c.push(target)
	if got, want := digestOf(t, "containerd/copy/deep/name", "2"), digestOf(t, "containerd/app", "1"); got != want {
		t.Errorf("the pushed image is %s, expected %s", got, want)
	}
	wire := seen(t, "containerd/copy/deep/name")
	wantStatuses(t, wire, 200, 201, 202, 404)
	for _, e := range withMethod(wire, "PUT") {
		if e.Response.Get("Docker-Content-Digest") == "" {
			t.Errorf("PUT %s was answered without Docker-Content-Digest", e.URL)
		}
	}
	if len(mounts(wire)) == 0 {
		t.Error("nothing was mounted from containerd/app, where containerd has it from")
	}
	c.push(target) // everything is there
}

// containerd sends a blob with POST and one PUT, and checks the digest of the answer.
func TestContainerdUploadsWithPostAndOnePut(t *testing.T) {
	t.Parallel()
	c := newCtr(t)
	layout := filepath.Join(t.TempDir(), "image.tar")
	image := hello(t, "imported")
	ref := c.host + "/containerd/imported:1"
	archive(t, image.Layout(t, ref), layout)
	c.Run("images", "import", "--no-unpack", layout)
	c.push(ref)
	for _, b := range image.Blobs {
		api(t).Expect(http.StatusOK, "HEAD", "/v2/containerd/imported/blobs/"+b.Digest.String(), nil)
	}
	puts := uploads(seen(t, "containerd/imported"))
	if len(puts) != len(image.Blobs) {
		t.Errorf("%d uploads were sent for %d blobs", len(puts), len(image.Blobs))
	}
	for _, e := range puts {
		if e.Method != "PUT" || e.Status != http.StatusCreated || e.Response.Get("Docker-Content-Digest") != e.URL.Query().Get("digest") {
			t.Errorf("%s %s was answered with %d, Docker-Content-Digest %q", e.Method, e.URL, e.Status, e.Response.Get("Docker-Content-Digest"))
		}
	}
}

func TestContainerdIndexForAllPlatforms(t *testing.T) {
	t.Parallel()
	c := newCtr(t)
	var children []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		image := helloFor(t, arch, "for "+arch)
		api(t).PushImage("containerd/index", "", image)
		child := image.Manifest.Descriptor
		child.Platform = &v1.Platform{OS: "linux", Architecture: arch}
		children = append(children, child)
	}
	index := harness.NewIndex(children...)
	api(t).PushManifest("containerd/index", "all", index)
	ref, target := c.host+"/containerd/index:all", c.host+"/containerd/index-copy:all"
	c.pull(ref, "--all-platforms")
	c.Run("images", "tag", ref, target)
	c.push(target)
	if got := digestOf(t, "containerd/index-copy", "all"); got != index.Digest.String() {
		t.Errorf("the index is %s, expected %s", got, index.Digest)
	}
	for _, child := range children {
		api(t).Expect(http.StatusOK, "GET", "/v2/containerd/index-copy/manifests/"+child.Digest.String(), nil)
	}
}

func TestContainerdMirrorOfDockerIO(t *testing.T) {
	t.Parallel()
	c := newCtr(t)
	c.mirror(c.host)
	api(t).PushImage("library/containerd-mirrored", "1", hello(t, "from the mirror"))
	ref := "docker.io/library/containerd-mirrored:1"
	c.Run("images", "pull", "--hosts-dir", c.hosts, ref)
	if out := c.runImage(ref); out != "from the mirror" {
		t.Errorf("the container printed %q", out)
	}
	wire := seen(t, "library/containerd-mirrored")
	asked := 0
	for _, e := range wire {
		if ns := e.URL.Query().Get("ns"); ns != "" {
			asked++
			if ns != "docker.io" || e.Response.Get("OCI-Namespace") != ns {
				t.Errorf("%s %s was answered with OCI-Namespace %q, expected docker.io", e.Method, e.URL, e.Response.Get("OCI-Namespace"))
			}
		}
	}
	if asked == 0 {
		t.Error("containerd sent no ns parameter")
	}
}

// What a mirror lacks is 404, after which containerd asks the next host.
func TestContainerdMirrorFallsBack(t *testing.T) {
	t.Parallel()
	first := harness.Start(t, harness.Settings{})
	firstTap := harness.NewTap(t, first.Addr)
	c := newCtr(t)
	c.mirror(firstTap.Addr)
	hosts := filepath.Join(c.hosts, "docker.io", "hosts.toml")
	text, err := os.ReadFile(hosts)
	if err != nil {
		t.Fatal(err)
	}
	second := fmt.Sprintf("[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", c.host)
	if err := os.WriteFile(hosts, append(text, second...), 0o644); err != nil {
		t.Fatal(err)
	}
	api(t).PushImage("library/containerd-fallback", "1", hello(t, "from the second mirror"))
	ref := "docker.io/library/containerd-fallback:1"
	c.Run("images", "pull", "--hosts-dir", c.hosts, ref)
	if out := c.runImage(ref); out != "from the second mirror" {
		t.Errorf("the container printed %q", out)
	}
	wire := firstTap.Exchanges("/v2/library/containerd-fallback/")
	if len(wire) == 0 {
		t.Error("containerd did not ask the first mirror")
	}
	wantStatuses(t, wire, http.StatusNotFound)
}

// containerd keeps what it has of a layer, and a second pull asks for the rest.
func TestContainerdPullResumesWithRange(t *testing.T) {
	t.Parallel()
	image := harness.NewImage(hostArch, []string{"/none"}, map[string][]byte{"big": harness.Random(8 << 20)})
	api(t).PushImage("containerd/resume", "1", image)
	tap := harness.NewTap(t, registry.Get(t).Addr)
	c := newCtrFor(t, tap.Addr)
	ref := tap.Addr + "/containerd/resume:1"
	tap.CutDownload(3 << 20)
	// Newer versions go on by themselves, older ones with the next pull.
	c.run("images", "pull", "--plain-http", ref)
	c.pull(ref)
	if tap.Cuts() != 1 {
		t.Fatalf("%d connections were cut, expected 1", tap.Cuts())
	}
	resumed := false
	for _, e := range tap.Exchanges("/v2/containerd/resume/blobs/" + image.Blobs[1].Digest.String()) {
		if r := e.Header.Get("Range"); r != "" && r != "bytes=0-" && e.Status == http.StatusPartialContent {
			resumed = true
		}
	}
	if !resumed {
		t.Error("containerd did not go on with a Range request")
	}
}

func TestContainerdPullOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	c := newCtr(t)
	harness.Contains(t, c.Fail("images", "pull", "--plain-http", c.host+"/containerd/absent:1"), "not found")
}

// run runs ctr, whether it succeeds or not.
func (c ctr) run(args ...string) {
	cmd := exec.Command(c.Path, append(c.Args, args...)...)
	cmd.Run()
}

// archive packs a directory as a tar archive, as image tools exchange layouts.
func archive(t testing.TB, dir, path string) {
	t.Helper()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("tar", "-C", dir, "-c", ".")
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

// The commands that "berth cert self-signed" prints make containerd trust the server, which wants its certificate, too.
func TestContainerdWithTLS(t *testing.T) {
	t.Parallel()
	s := newSecure(t, "containerd")
	c := newCtrFor(t, s.Addr)

	_, commands, _ := strings.Cut(s.printed, "# containerd, for ")
	_, commands, _ = strings.Cut(commands, "\n")
	commands, _, _ = strings.Cut(commands, "\n\n")
	commands = strings.NewReplacer("sudo ", "", "/etc/containerd/certs.d", c.hosts, s.printedFor, s.Addr).Replace(commands)
	if out, err := exec.Command("sh", "-ec", commands).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	api(t).PushImage("containerd/tls", "1", hello(t, "over TLS"))
	ref, secure := host(t)+"/containerd/tls:1", s.Addr+"/containerd/tls:1"
	c.pull(ref)
	c.Run("images", "tag", ref, secure)
	push := []string{"images", "push", "--hosts-dir", c.hosts, secure}
	if out, err := exec.Command(c.Path, append(c.Args, push...)...).CombinedOutput(); err == nil {
		t.Errorf("without a certificate, containerd pushes: %s", out)
	}
	toml := filepath.Join(c.hosts, s.Addr, "hosts.toml")
	text, err := os.ReadFile(toml)
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "  client = [[%q, %q]]\n", s.file("containerd.crt"), s.file("containerd.key"))
	if err := os.WriteFile(toml, text, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Run(push...)
	c.Run("images", "rm", ref, secure)
	c.Run("images", "pull", "--hosts-dir", c.hosts, secure)
	if out := c.runImage(secure); out != "over TLS" {
		t.Errorf("the container printed %q", out)
	}
}
