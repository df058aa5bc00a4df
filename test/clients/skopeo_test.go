package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

func newSkopeo(t *testing.T) *harness.Client {
	t.Helper()
	c := newContainersClient(t, "skopeo")
	c.Args = []string{"--insecure-policy"}
	return c
}

func TestSkopeoCopyThereAndBack(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	image := hello(t, "skopeo")
	ref := "docker://" + host(t) + "/skopeo/deep/er/app:1"
	c.Run("copy", "oci:"+image.Layout(t, "1")+":1", ref)
	if got := digestOf(t, "skopeo/deep/er/app", "1"); got != image.Manifest.Digest.String() {
		t.Errorf("the manifest became %s, expected %s", got, image.Manifest.Digest)
	}
	dir := filepath.Join(c.Home, "back")
	c.Run("copy", ref, "dir:"+dir)
	for _, b := range image.Blobs {
		got, err := os.ReadFile(filepath.Join(dir, b.Digest.Encoded()))
		if err != nil || digest.FromBytes(got) != b.Digest {
			t.Errorf("blob %s came back as %d bytes (%v)", b.Digest, len(got), err)
		}
	}
	harness.Contains(t, c.Run("inspect", ref), `"Architecture": "`+hostArch+`"`, image.Manifest.Digest.String())
	if raw := c.Run("inspect", "--raw", ref); raw != string(image.Manifest.Bytes) {
		t.Errorf("the raw manifest is\n%s\nexpected\n%s", raw, image.Manifest.Bytes)
	}
	wantStatuses(t, seen(t, "skopeo/deep/er/app"), 200, 201, 202, 404)
}

func TestSkopeoMountsBetweenRepositories(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	image := hello(t, "mount")
	api(t).PushImage("skopeo/mount-source", "1", image)
	// skopeo remembers where it has seen a layer.
	c.Run("copy", "docker://"+host(t)+"/skopeo/mount-source:1", "dir:"+filepath.Join(c.Home, "seen"))
	c.Run("copy", "docker://"+host(t)+"/skopeo/mount-source:1", "docker://"+host(t)+"/skopeo/mount-target:1")
	wire := seen(t, "skopeo/mount-target")
	for _, b := range image.Blobs[1:] {
		if !slices.Contains(mounts(wire), b.Digest.String()) {
			t.Errorf("layer %s was not mounted", b.Digest)
		}
	}
	if got := digestOf(t, "skopeo/mount-target", "1"); got != image.Manifest.Digest.String() {
		t.Errorf("the copy is %s, expected %s", got, image.Manifest.Digest)
	}
}

func TestSkopeoConvertsFormats(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	for _, f := range []struct{ repo, format, compression, manifest, layer string }{
		{"skopeo/zstd", "oci", "zstd", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"},
		{"skopeo/v2s2", "v2s2", "gzip", "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{"skopeo/oci", "oci", "gzip", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"},
	} {
		ref := "docker://" + host(t) + "/" + f.repo + ":1"
		// Of a source that isn't compressed, every version of skopeo compresses the copy.
		source := "dir:" + t.TempDir()
		c.Run("copy", "--dest-decompress", "oci:"+hello(t, f.repo).Layout(t, "1")+":1", source)
		c.Run("copy", "--format", f.format, "--dest-compress-format", f.compression, source, ref)
		resp := api(t).Expect(http.StatusOK, "GET", "/v2/"+f.repo+"/manifests/1", nil)
		if got := resp.Header.Get("Content-Type"); got != f.manifest {
			t.Errorf("%s: Content-Type %q, expected %q", f.repo, got, f.manifest)
		}
		harness.Contains(t, string(resp.Bytes), f.layer)
		c.Run("copy", ref, "dir:"+t.TempDir())
	}
}

// Schema 1 is refused, and the client's user is told so.
func TestSkopeoSchema1IsRefused(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	source := "oci:" + hello(t, "old").Layout(t, "1") + ":1"
	out := c.Fail("copy", "--format", "v2s1", source, "docker://"+host(t)+"/skopeo/v2s1:1")
	harness.Contains(t, out, "schema 1")
}

func TestSkopeoCopiesIndexWithAllImages(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	var images []harness.Image
	var children []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		image := helloFor(t, arch, arch)
		images = append(images, image)
		child := image.Manifest.Descriptor
		child.Platform = &v1.Platform{OS: "linux", Architecture: arch}
		children = append(children, child)
	}
	index := harness.NewIndex(children...)
	layout := harness.WriteLayout(t, "all", index, images...)
	first, second := "docker://"+host(t)+"/skopeo/index:all", "docker://"+host(t)+"/skopeo/index-copy:all"
	c.Run("copy", "--all", "oci:"+layout+":all", first)
	c.Run("copy", "--all", first, second)
	if got := digestOf(t, "skopeo/index-copy", "all"); got != index.Digest.String() {
		t.Errorf("the index is %s, expected %s", got, index.Digest)
	}
	c.Run("copy", "--override-arch", "arm64", second, "dir:"+filepath.Join(c.Home, "arm64"))
	// An index of one image that is here: the others are left out.
	c.Run("copy", "docker://"+host(t)+"/skopeo/index@"+children[0].Digest.String(), "docker://"+host(t)+"/skopeo/one:1")
}

// Foreign layers stay where their URLs say.
func TestSkopeoForeignLayers(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	image := hello(t, "foreign")
	var m v1.Manifest
	if err := json.Unmarshal(image.Manifest.Bytes, &m); err != nil {
		t.Fatal(err)
	}
	foreign := harness.NewBlob("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", harness.Random(1<<10))
	foreign.URLs = []string{"http://127.0.0.1:1/layer"}
	m.Layers = append(m.Layers, foreign.Descriptor)
	image.Manifest = harness.NewBlob(m.MediaType, harness.JSON(m))
	api(t).PushImage("skopeo/foreign", "1", image)
	c.Run("copy", "docker://"+host(t)+"/skopeo/foreign:1", "docker://"+host(t)+"/skopeo/foreign-copy:1")
	resp := api(t).Expect(http.StatusOK, "GET", "/v2/skopeo/foreign-copy/manifests/1", nil)
	harness.Contains(t, string(resp.Bytes), foreign.URLs[0])
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/skopeo/foreign-copy/blobs/"+foreign.Digest.String(), nil)
}

func TestSkopeoListTagsAndDelete(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	for _, tag := range []string{"v2", "v10", "latest"} {
		api(t).PushImage("skopeo/tags", tag, hello(t, tag))
	}
	api(t).PushManifest("skopeo/tags", "same-as-v2", harness.Blob{
		Descriptor: v1.Descriptor{MediaType: v1.MediaTypeImageManifest},
		Bytes:      api(t).Expect(http.StatusOK, "GET", "/v2/skopeo/tags/manifests/v2", nil).Bytes,
	})
	list := func() []string {
		var out struct{ Tags []string }
		if err := json.Unmarshal([]byte(c.Run("list-tags", "docker://"+host(t)+"/skopeo/tags")), &out); err != nil {
			t.Fatal(err)
		}
		return out.Tags
	}
	if got, want := list(), []string{"latest", "same-as-v2", "v10", "v2"}; !slices.Equal(got, want) {
		t.Errorf("tags are %q, expected %q", got, want)
	}
	// skopeo deletes the manifest, and with it all of its tags.
	c.Run("delete", "docker://"+host(t)+"/skopeo/tags:v2")
	if got, want := list(), []string{"latest", "v10"}; !slices.Equal(got, want) {
		t.Errorf("tags after the delete are %q, expected %q", got, want)
	}
	harness.Contains(t, c.Fail("inspect", "docker://"+host(t)+"/skopeo/tags:v2"), "manifest unknown")
}

func TestSkopeoSync(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	for _, tag := range []string{"a", "b"} {
		api(t).PushImage("skopeo/sync-source", tag, hello(t, tag))
	}
	c.Run("sync", "--src", "docker", "--dest", "docker",
		host(t)+"/skopeo/sync-source", host(t)+"/skopeo/sync-target")
	if got := api(t).Tags("skopeo/sync-target/sync-source"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the copy has the tags %q", got)
	}
}
