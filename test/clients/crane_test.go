package clients

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

func TestCranePushPullValidate(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	image := hello(t, "crane")
	layout := image.Layout(t, "1")
	ref := host(t) + "/crane/a/b/app:1"
	c.Run("push", layout, ref)
	if got := strings.TrimSpace(c.Run("digest", ref)); got != image.Manifest.Digest.String() {
		t.Errorf("the manifest is %s, expected %s", got, image.Manifest.Digest)
	}
	if got := c.Run("manifest", ref); got != string(image.Manifest.Bytes) {
		t.Errorf("the manifest is\n%s\nexpected\n%s", got, image.Manifest.Bytes)
	}
	if got := c.Run("config", ref); strings.TrimSpace(got) != string(image.Blobs[0].Bytes) {
		t.Errorf("the config is\n%s\nexpected\n%s", got, image.Blobs[0].Bytes)
	}
	if got := c.Run("blob", host(t)+"/crane/a/b/app@"+image.Blobs[1].Digest.String()); got != string(image.Blobs[1].Bytes) {
		t.Errorf("the layer came back with %d bytes, expected %d", len(got), len(image.Blobs[1].Bytes))
	}
	c.Run("validate", "--remote", ref)
	tarball := filepath.Join(c.Home, "image.tar")
	c.Run("pull", ref, tarball)
	c.Run("validate", "--tarball", tarball)
	c.Run("push", tarball, host(t)+"/crane/from-tarball:1")
	if got := c.Run("export", ref, "-"); !bytes.Contains([]byte(got), []byte("crane")) {
		t.Error("the exported file system lacks the text")
	}
	wantStatuses(t, seen(t, "crane/a/b/app"), 200, 201, 202, 404)
}

func TestCraneCopyMounts(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	image := hello(t, "copied")
	api(t).PushImage("crane/copy-source", "1", image)
	c.Run("copy", host(t)+"/crane/copy-source:1", host(t)+"/crane/copy-target:1")
	wire := seen(t, "crane/copy-target")
	for _, b := range image.Blobs {
		if !slices.Contains(mounts(wire), b.Digest.String()) {
			t.Errorf("blob %s was not mounted", b.Digest)
		}
	}
	if sent := uploads(wire); len(sent) != 0 {
		t.Errorf("crane uploaded %d times", len(sent))
	}
	c.Run("copy", "--all-tags", host(t)+"/crane/copy-source", host(t)+"/crane/copy-all")
	if got := api(t).Tags("crane/copy-all"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("the copy has the tags %q", got)
	}
}

func TestCraneTagsListsAndDeletes(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	api(t).PushImage("crane/tags", "b", hello(t, "tags"))
	ref := host(t) + "/crane/tags"
	c.Run("tag", ref+":b", "a")
	c.Run("tag", ref+":b", "C")
	if got := strings.Fields(c.Run("ls", ref)); !slices.Equal(got, []string{"C", "a", "b"}) {
		t.Errorf("crane ls found %q", got)
	}
	if got := strings.Fields(c.Run("catalog", host(t))); !slices.Contains(got, "crane/tags") || !slices.IsSorted(got) {
		t.Errorf("crane catalog found %q", got)
	}
	c.Run("delete", ref+":a") // the tag alone
	if got := strings.Fields(c.Run("ls", ref)); !slices.Equal(got, []string{"C", "b"}) {
		t.Errorf("after the delete of a tag, crane ls found %q", got)
	}
	c.Run("delete", ref+"@"+digestOf(t, "crane/tags", "b")) // and all its tags
	if got := strings.Fields(c.Run("ls", ref)); len(got) != 0 {
		t.Errorf("after the delete of the manifest, crane ls found %q", got)
	}
	harness.Contains(t, c.Fail("manifest", ref+":b"), "MANIFEST_UNKNOWN")
}

func TestCraneAppendMutateRebase(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	repo := host(t) + "/crane/mutate"
	api(t).PushImage("crane/mutate", "base", hello(t, "base"))
	api(t).PushImage("crane/mutate", "new-base", hello(t, "new base"))
	layer := filepath.Join(c.Home, "layer.tar.gz")
	if err := os.WriteFile(layer, harness.Gzip(harness.Tar(map[string][]byte{"more": []byte("more")})), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Run("append", "--base", repo+":base", "--new_layer", layer, "--new_tag", repo+":appended")
	c.Run("mutate", "--label", "answer=42", "--annotation", "question=unknown", repo+":appended", "--tag", repo+":labelled")
	harness.Contains(t, c.Run("config", repo+":labelled"), `"answer":"42"`)
	c.Run("rebase", "--old_base", repo+":base", "--new_base", repo+":new-base", "--tag", repo+":rebased", repo+":labelled")
	c.Run("flatten", "--tag", repo+":flat", repo+":rebased")
	for _, tag := range []string{"appended", "labelled", "rebased", "flat"} {
		c.Run("validate", "--remote", repo+":"+tag)
	}
}

func TestCraneIndexForSeveralPlatforms(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	repo := host(t) + "/crane/index"
	for _, arch := range []string{"amd64", "arm64"} {
		api(t).PushImage("crane/index", arch, helloFor(t, arch, arch))
	}
	c.Run("index", "append", "--manifest", repo+":amd64", "--manifest", repo+":arm64", "--tag", repo+":all")
	c.Run("validate", "--remote", repo+":all")
	if got, want := strings.TrimSpace(c.Run("digest", "--platform", "linux/arm64", repo+":all")), digestOf(t, "crane/index", "arm64"); got != want {
		t.Errorf("the index has %s for arm64, expected %s", got, want)
	}
	c.Run("index", "filter", "--platform", "linux/arm64", repo+":all", "--tag", repo+":filtered")
	// An index within an index, as buildx makes of several builds.
	index := v1.Descriptor{MediaType: v1.MediaTypeImageIndex}
	resp := api(t).Expect(http.StatusOK, "GET", "/v2/crane/index/manifests/all", nil)
	index.Digest, index.Size = harness.NewBlob("", resp.Bytes).Digest, int64(len(resp.Bytes))
	if got := resp.Header.Get("Content-Type"); got != v1.MediaTypeImageIndex {
		index.MediaType = got
	}
	nested := harness.NewIndex(index)
	api(t).PushManifest("crane/index", "nested", nested)
	c.Run("copy", repo+":nested", host(t)+"/crane/index-copy:nested")
	c.Run("validate", "--remote", host(t)+"/crane/index-copy:nested")
	if got := digestOf(t, "crane/index-copy", "nested"); got != nested.Digest.String() {
		t.Errorf("the copy is %s, expected %s", got, nested.Digest)
	}
	layout := filepath.Join(c.Home, "layout")
	c.Run("pull", "--format", "oci", repo+":all", layout)
	c.Run("push", "--index", layout, host(t)+"/crane/index-from-layout:1")
}

func TestCraneLoginToOpenRegistry(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	c.Run("auth", "login", host(t), "--username", "anyone", "--password", "any")
	ref := host(t) + "/crane/login:1"
	c.Run("push", hello(t, "login").Layout(t, "1"), ref)
	c.Run("validate", "--remote", ref)
}

// Over TLS crane speaks HTTP/2.
func TestCraneOverHTTP2(t *testing.T) {
	t.Parallel()
	cert := harness.NewCert(t)
	front := harness.TLSFront(t, registry.Get(t).Addr, cert)
	c := harness.NewClient(t, "crane")
	c.Env = []string{"SSL_CERT_FILE=" + cert.CertFile}
	image := harness.NewImage(hostArch, []string{"/none"}, map[string][]byte{"big": harness.Random(4 << 20)})
	ref := front + "/crane/h2:1"
	c.Run("push", image.Layout(t, "1"), ref)
	c.Run("validate", "--remote", ref)
	c.Run("copy", ref, front+"/crane/h2-copy:1")
	c.Run("delete", front+"/crane/h2-copy:1")
	resp := (&harness.API{T: t, Base: "https://" + front, Client: cert.HTTP()}).Expect(http.StatusOK, "GET", "/v2/crane/h2/blobs/"+image.Blobs[1].Digest.String(), nil)
	if resp.ProtoMajor != 2 || !bytes.Equal(resp.Bytes, image.Blobs[1].Bytes) {
		t.Errorf("the layer came over %s with %d bytes, expected HTTP/2.0 and %d", resp.Proto, len(resp.Bytes), len(image.Blobs[1].Bytes))
	}
}
