package clients

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

func newBuildah(t *testing.T) *harness.Client {
	t.Helper()
	harness.NeedRoot(t) // others would have to run it inside of "buildah unshare"
	return newContainersClient(t, "buildah")
}

func TestBuildahBuildsFromScratchPushesAndContinues(t *testing.T) {
	t.Parallel()
	c := newBuildah(t)
	root := filepath.Join(buildContext(t, "hello from buildah", nil), "root")
	work := strings.TrimSpace(c.Run("from", "scratch"))
	c.Run("copy", "--quiet", work, root, "/")
	c.Run("config", "--cmd", "/bin/busybox cat /text", "--label", "step=1", work)
	ref := host(t) + "/buildah/app:1"
	digestFile := filepath.Join(c.Home, "digest")
	c.Run("commit", "--quiet", work, ref)
	c.Run("push", "--quiet", "--digestfile", digestFile, ref)
	digest, err := os.ReadFile(digestFile)
	if err != nil {
		t.Fatal(err)
	}
	if want := digestOf(t, "buildah/app", "1"); string(digest) != want {
		t.Errorf("buildah pushed %s, the registry has %s", digest, want)
	}

	// Another machine goes on from it: only its own layer is sent.
	other := newBuildah(t)
	work = strings.TrimSpace(other.Run("from", ref))
	if out := other.Run("run", "--isolation", "chroot", work, "--", "/bin/busybox", "cat", "/text"); out != "hello from buildah" {
		t.Errorf("the container printed %q", out)
	}
	if err := os.WriteFile(filepath.Join(other.Home, "second"), []byte("more"), 0o644); err != nil {
		t.Fatal(err)
	}
	other.Run("copy", "--quiet", work, filepath.Join(other.Home, "second"), "/second")
	other.Run("commit", "--quiet", work, "docker://"+host(t)+"/buildah/app:2")
	resp := api(t).Expect(http.StatusOK, "GET", "/v2/buildah/app/manifests/2", nil)
	if got := strings.Count(string(resp.Bytes), "rootfs.diff.tar") + strings.Count(string(resp.Bytes), "layer.v1.tar"); got != 2 {
		t.Errorf("the image has %d layers, expected 2:\n%s", got, resp.Bytes)
	}
	wantStatuses(t, seen(t, "buildah/app"), 200, 201, 202, 404)
}

func TestBuildahManifestForSeveralPlatforms(t *testing.T) {
	t.Parallel()
	c := newBuildah(t)
	dir := buildContext(t, "several platforms", nil)
	c.Run("manifest", "create", "list")
	for _, arch := range []string{"amd64", "arm64", "ppc64le"} {
		c.Run("bud", "--quiet", "--platform", "linux/"+arch, "--manifest", "list", dir)
	}
	for _, f := range []struct{ format, mediaType string }{
		{"oci", "application/vnd.oci.image.index.v1+json"},
		{"v2s2", "application/vnd.docker.distribution.manifest.list.v2+json"},
	} {
		repo := "buildah/multi-" + f.format
		c.Run("manifest", "push", "--quiet", "--all", "--format", f.format, "list", "docker://"+host(t)+"/"+repo+":1")
		resp := api(t).Expect(http.StatusOK, "GET", "/v2/"+repo+"/manifests/1", nil)
		if got := resp.Header.Get("Content-Type"); got != f.mediaType {
			t.Errorf("%s: Content-Type %q, expected %q", repo, got, f.mediaType)
		}
		harness.Contains(t, string(resp.Bytes), "amd64", "arm64", "ppc64le")
		other := newBuildah(t)
		other.Run("pull", "--quiet", "--arch", "ppc64le", host(t)+"/"+repo+":1")
	}
}
