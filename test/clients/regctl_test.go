package clients

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthregistry/berth/test/harness"
)

func newRegctl(t *testing.T) *harness.Client {
	t.Helper()
	c := harness.NewClient(t, "regctl")
	c.Run("registry", "set", "--tls", "disabled", host(t))
	return c
}

func TestRegctlImportCopyExport(t *testing.T) {
	t.Parallel()
	c := newRegctl(t)
	image := hello(t, "regctl")
	ref := host(t) + "/regctl/a/b/c/app:1"
	c.Run("image", "copy", "ocidir://"+image.Layout(t, "1")+":1", ref)
	if got := strings.TrimSpace(c.Run("image", "digest", ref)); got != image.Manifest.Digest.String() {
		t.Errorf("the manifest is %s, expected %s", got, image.Manifest.Digest)
	}
	c.Run("image", "copy", ref, host(t)+"/regctl/copy:1")
	wire := seen(t, "regctl/copy")
	if got := len(mounts(wire)); got != len(image.Blobs) {
		t.Errorf("%d blobs were mounted, expected %d", got, len(image.Blobs))
	}
	archive := filepath.Join(c.Home, "image.tar")
	c.Run("image", "export", ref, archive)
	c.Run("image", "import", host(t)+"/regctl/imported:1", archive)
	if got := digestOf(t, "regctl/imported", "1"); got != image.Manifest.Digest.String() {
		t.Errorf("the imported image is %s, expected %s", got, image.Manifest.Digest)
	}
	if got := c.Run("blob", "get", host(t)+"/regctl/a/b/c/app", image.Blobs[0].Digest.String()); got != string(image.Blobs[0].Bytes) {
		t.Errorf("the config came back as %q", got)
	}
	wantStatuses(t, seen(t, "regctl/a/b/c/app"), 200, 201, 202, 404)
}

func TestRegctlListsAndDeletes(t *testing.T) {
	t.Parallel()
	c := newRegctl(t)
	for _, tag := range []string{"3", "1", "2"} {
		api(t).PushImage("regctl/tags", tag, hello(t, tag))
	}
	repo := host(t) + "/regctl/tags"
	if got := strings.Fields(c.Run("tag", "ls", repo)); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("regctl tag ls found %q", got)
	}
	if got := strings.Fields(c.Run("tag", "ls", "--limit", "2", "--last", "1", repo)); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("regctl tag ls --limit 2 --last 1 found %q", got)
	}
	if got := strings.Fields(c.Run("repo", "ls", host(t))); !slices.Contains(got, "regctl/tags") {
		t.Errorf("regctl repo ls found %q", got)
	}
	digest := digestOf(t, "regctl/tags", "1")
	c.Run("tag", "delete", repo+":1") // the tag alone, its manifest stays
	c.Run("manifest", "head", repo+"@"+digest)
	c.Run("manifest", "delete", repo+"@"+digestOf(t, "regctl/tags", "2"))
	if got := strings.Fields(c.Run("tag", "ls", repo)); !slices.Equal(got, []string{"3"}) {
		t.Errorf("after the deletes, regctl tag ls found %q", got)
	}
	config := harness.NewBlob("", harness.Random(100))
	api(t).PushBlob("regctl/tags", config)
	c.Run("blob", "delete", repo, config.Digest.String())
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/regctl/tags/blobs/"+config.Digest.String(), nil)
}

func TestRegctlUploadsInChunks(t *testing.T) {
	t.Parallel()
	c := newRegctl(t)
	c.Run("registry", "set", "--blob-chunk", "300000", "--blob-max", "100000", host(t))
	blob := harness.Random(1_000_000)
	got := strings.TrimSpace(c.RunInput(string(blob), "blob", "put", host(t)+"/regctl/chunks"))
	if want := digest.FromBytes(blob).String(); got != want {
		t.Fatalf("regctl uploaded %s, expected %s", got, want)
	}
	patches := withMethod(seen(t, "regctl/chunks"), "PATCH")
	if len(patches) < 4 {
		t.Errorf("regctl sent %d chunks, expected at least 4", len(patches))
	}
	for _, e := range patches {
		_, end, _ := strings.Cut(e.Header.Get("Content-Range"), "-")
		if e.Status != http.StatusAccepted || e.Response.Get("Range") != "0-"+end {
			t.Errorf("chunk %q was answered with %d, Range %q", e.Header.Get("Content-Range"), e.Status, e.Response.Get("Range"))
		}
	}
	if got := c.Run("blob", "get", host(t)+"/regctl/chunks", got); got != string(blob) {
		t.Errorf("the blob came back with %d bytes", len(got))
	}
}

func TestRegctlReferrers(t *testing.T) {
	t.Parallel()
	c := newRegctl(t)
	image := hello(t, "subject")
	api(t).PushImage("regctl/referrers", "1", image)
	ref := host(t) + "/regctl/referrers:1"
	for _, kind := range []string{"application/vnd.example.sbom", "application/vnd.example.signature"} {
		c.RunInput("content of "+kind, "artifact", "put", "--subject", ref, "--artifact-type", kind, "--annotation", "kind="+kind)
	}
	harness.Contains(t, c.Run("artifact", "list", ref), "application/vnd.example.sbom", "application/vnd.example.signature", image.Manifest.Digest.String())
	filtered := c.Run("artifact", "list", "--filter-artifact-type", "application/vnd.example.sbom", ref)
	harness.Contains(t, filtered, "application/vnd.example.sbom")
	if strings.Contains(filtered, "signature") {
		t.Errorf("the filtered list has\n%s", filtered)
	}
	if got := c.Run("artifact", "get", "--subject", ref, "--filter-artifact-type", "application/vnd.example.sbom"); got != "content of application/vnd.example.sbom" {
		t.Errorf("the artifact is %q", got)
	}
	if got := api(t).Tags("regctl/referrers"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("tags are %q: regctl fell back to the tag scheme", got)
	}
	c.Run("image", "copy", "--referrers", ref, host(t)+"/regctl/referrers-copy:1")
	harness.Contains(t, c.Run("artifact", "tree", host(t)+"/regctl/referrers-copy:1"), "application/vnd.example.sbom", "application/vnd.example.signature")
}

// With sha512, regctl sends the tag as a parameter of the manifest's digest.
func TestRegctlSHA512(t *testing.T) {
	t.Parallel()
	c := newRegctl(t)
	api(t).PushImage("regctl/sha512", "256", hello(t, "sha512"))
	repo := host(t) + "/regctl/sha512"
	c.Run("image", "mod", repo+":256", "--digest-algo", "sha512", "--create", repo+":512")
	manifest := c.Run("manifest", "get", "--format", "raw-body", repo+":512")
	want := digest.SHA512.FromString(manifest)
	if got := digestOf(t, "regctl/sha512", "512"); got != want.String() {
		t.Errorf("the manifest is %s, expected %s", got, want)
	}
	if n := strings.Count(manifest, "sha512:"); n != 3 {
		t.Errorf("the manifest has %d sha512 digests, expected 3:\n%s", n, manifest)
	}
	c.Run("image", "copy", "--force-recursive", repo+"@"+want.String(), host(t)+"/regctl/sha512-copy:1")
	c.Run("image", "export", host(t)+"/regctl/sha512-copy:1", filepath.Join(c.Home, "export.tar"))
}

func TestRegctlIndexForSeveralPlatforms(t *testing.T) {
	t.Parallel()
	c := newRegctl(t)
	repo := host(t) + "/regctl/index"
	args := []string{"index", "create", repo + ":all"}
	for _, arch := range []string{"amd64", "arm64"} {
		api(t).PushImage("regctl/index", arch, helloFor(t, arch, arch))
		args = append(args, "--ref", repo+":"+arch)
	}
	c.Run(args...)
	c.Run("index", "create", "--media-type", "application/vnd.docker.distribution.manifest.list.v2+json", "--ref", repo+":amd64", repo+":docker")
	harness.Contains(t, c.Run("manifest", "get", repo+":all"), "linux/amd64", "linux/arm64")
	// The one copy follows the index, the other takes one platform of it.
	c.Run("image", "copy", repo+":all", host(t)+"/regctl/index-copy:all")
	c.Run("image", "copy", "--platform", "linux/arm64", repo+":all", host(t)+"/regctl/index-copy:arm64")
	if got, want := digestOf(t, "regctl/index-copy", "arm64"), digestOf(t, "regctl/index", "arm64"); got != want {
		t.Errorf("the copy of one platform is %s, expected %s", got, want)
	}
}

func TestRegctlOverHTTP2(t *testing.T) {
	t.Parallel()
	cert := harness.NewCert(t)
	front := harness.TLSFront(t, registry.Get(t).Addr, cert)
	c := harness.NewClient(t, "regctl")
	ca, err := os.ReadFile(cert.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	c.Run("registry", "set", "--tls", "enabled", "--cacert", string(ca), front)
	image := hello(t, "h2")
	c.Run("image", "copy", "ocidir://"+image.Layout(t, "1")+":1", front+"/regctl/h2:1")
	c.Run("image", "export", front+"/regctl/h2:1", filepath.Join(c.Home, "export.tar"))
}
