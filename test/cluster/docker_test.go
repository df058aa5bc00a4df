package cluster

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// build builds an image whose layers are large, and which prints a text, under a name at the balancer.
func (c *cluster) build(docker *harness.Client, repo, text string, layers, size int) (ref string) {
	c.t.Helper()
	dir := c.t.TempDir()
	dockerfile := "FROM scratch\nCOPY busybox /bin/busybox\nCOPY text /\n"
	files := map[string][]byte{"busybox": harness.Busybox(c.t), "text": []byte(text)}
	for i := range layers {
		dockerfile += fmt.Sprintf("COPY large-%d /\n", i)
		files[fmt.Sprint("large-", i)] = harness.Random(size)
	}
	dockerfile += "CMD [\"/bin/busybox\", \"cat\", \"/text\"]\n"
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	file := filepath.Join(c.t.TempDir(), "Dockerfile")
	if err := os.WriteFile(file, []byte(dockerfile), 0o644); err != nil {
		c.t.Fatal(err)
	}
	ref = c.balancer.Addr + "/" + repo + ":1"
	docker.Run("build", "--quiet", "--network", "none", "--tag", ref, "--file", file, dir)
	return ref
}

// pullEverywhere pulls an image from the balancer and from every node, and runs it.
func (c *cluster) pullEverywhere(docker *harness.Client, repo, text string) {
	c.t.Helper()
	for _, host := range []string{c.balancer.Addr, c.nodes[0].Addr, c.nodes[1].Addr, c.nodes[2].Addr} {
		ref := host + "/" + repo + ":1"
		harness.Contains(c.t, docker.Run("pull", ref), "Downloaded newer image")
		if out := docker.Run("run", "--rm", "--network", "none", ref); out != text {
			c.t.Errorf("the image from %s prints %q", host, out)
		}
		docker.Run("image", "rm", ref)
	}
}

// Docker pushes and pulls through the balancer, and every node has a part in it.
func TestDockerThroughBalancer(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	docker := harness.NewDocker(t, dockerEngine)
	ref := c.build(docker, name("docker"), "through three nodes", 2, 10<<20)
	docker.Run("push", ref)
	docker.Run("image", "rm", ref)
	c.pullEverywhere(docker, name("docker"), "through three nodes")
	for i, n := range c.nodes {
		if !strings.Contains(n.Log(), name("docker")+"/blobs/uploads/") {
			t.Errorf("node %d had no part in the push", i)
		}
	}
	c.fsck("--deep")
}

// Two of three nodes are killed while Docker pushes; the push succeeds, because Docker sends a layer again.
func TestDockerPushOutlivesNodes(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	docker := harness.NewDocker(t, dockerEngine)
	ref := c.build(docker, name("docker-kill"), "in spite of all", 4, 15<<20)
	killed := make(chan int)
	go func() {
		cut := 0
		defer func() { killed <- cut }()
		// The log speaks of requests that have ended; a node that has begun uploads is at work on a layer.
		alive := slices.Clone(c.nodes)
		for deadline := time.Now().Add(20 * time.Second); cut < 2 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if i := slices.IndexFunc(alive, func(n *harness.Server) bool { return strings.Contains(n.Log(), "method=POST") }); i >= 0 {
				alive[i].Kill()
				alive = slices.Delete(alive, i, i+1)
				cut++
			}
		}
	}()
	out := docker.RunAll("push", ref)
	if n := <-killed; n == 0 {
		t.Error("no node was killed: this tests nothing")
	}
	t.Logf("Docker tried again %d times", strings.Count(out, "Retrying in"))
	for i := range c.nodes {
		if err := c.nodes[i].Terminate(); err != nil {
			t.Logf("node %d: %v", i, err) // it was killed
		}
		c.restart(i)
	}
	docker.Run("image", "rm", ref)
	c.pullEverywhere(docker, name("docker-kill"), "in spite of all")
	c.fsck("--deep")
}

func TestSkopeoThroughBalancer(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	skopeo := harness.NewClient(t, "skopeo", "--insecure-policy")
	image := harness.NewImage(runtime.GOARCH, []string{"/none"}, map[string][]byte{"large": harness.Random(12 << 20)}, map[string][]byte{"small": harness.Random(100)})
	ref := func(host, repo string) string { return fmt.Sprintf("docker://%s/%s:1", host, repo) }
	there, back := []string{"copy", "--dest-tls-verify=false"}, []string{"copy", "--src-tls-verify=false"}
	skopeo.Run(append(there, "oci:"+image.Layout(t, "1")+":1", ref(c.balancer.Addr, name("skopeo")))...)
	skopeo.Run("copy", "--src-tls-verify=false", "--dest-tls-verify=false", ref(c.nodes[0].Addr, name("skopeo")), ref(c.balancer.Addr, name("skopeo-copy")))
	for i, n := range c.nodes {
		dir := filepath.Join(skopeo.Home, fmt.Sprint("back-", i))
		skopeo.Run(append(back, ref(n.Addr, name("skopeo-copy")), "dir:"+dir)...)
		for _, b := range image.Blobs {
			got, err := os.ReadFile(filepath.Join(dir, b.Digest.Encoded()))
			if err != nil || harness.NewBlob("", got).Digest != b.Digest {
				t.Errorf("node %d: blob %s came back as %d bytes (%v)", i, b.Digest, len(got), err)
			}
		}
	}
	c.fsck("--deep")
}

// Clients that are sent to the bucket for blobs get them there, and the nodes send none.
func TestClientsAreSentToTheBucket(t *testing.T) {
	t.Parallel()
	bucket := service.S3(t)
	c := start(t, options{bucket: bucket, env: []string{"BERTH_STORAGE_S3_REDIRECT=on"}})
	docker := harness.NewDocker(t, dockerEngine)
	ref := c.build(docker, name("redirect"), "from the bucket", 1, 12<<20)
	docker.Run("push", ref)
	docker.Run("image", "rm", ref)
	c.pullEverywhere(docker, name("redirect"), "from the bucket")
	skopeo := harness.NewClient(t, "skopeo", "--insecure-policy")
	skopeo.Run("copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+filepath.Join(skopeo.Home, "back"))

	b := makeContent(18, 300_000)
	path := "/v2/" + name("redirect") + "/blobs/"
	c.at(0).Expect(http.StatusCreated, "POST", path+"uploads/?digest="+b.digest.String(), b.bytes())
	resp := c.at(1).Expect(http.StatusTemporaryRedirect, "GET", path+b.digest.String(), nil)
	location := resp.Header.Get("Location")
	if !strings.HasPrefix(location, bucket.Endpoint+"/"+bucket.Name+"/") {
		t.Fatalf("a client is sent to %q", location)
	}
	direct := newAPI(t, "")
	if resp := direct.Expect(http.StatusOK, "GET", location, nil); !bytes.Equal(resp.Bytes, b.bytes()) {
		t.Errorf("the bucket returns %d other bytes", len(resp.Bytes))
	}
	if resp := direct.Expect(http.StatusPartialContent, "GET", location, nil, harness.Header{"Range": "bytes=100-199"}); !bytes.Equal(resp.Bytes, b.bytes()[100:200]) {
		t.Errorf("a range has %d other bytes", len(resp.Bytes))
	}
	direct.Expect(http.StatusForbidden, "GET", strings.Replace(location, "X-Amz-Expires=", "X-Amz-Expires=9", 1), nil)
	c.at(1).Expect(http.StatusOK, "HEAD", path+b.digest.String(), nil)
	c.at(1).Expect(http.StatusNotFound, "GET", path+makeContent(19, 1).digest.String(), nil)
	c.fsck("--deep")
}
