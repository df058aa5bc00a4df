package upstream

import (
	"net/http"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// tree is an index with everything in it that is found in the wild.
type tree struct {
	images  []harness.Image
	nested  harness.Blob
	cache   harness.Blob // an index of blobs
	blobs   []harness.Blob
	root    harness.Blob
	foreign harness.Blob // not pushed
}

func pushTree(t testing.TB, name string) tree {
	a := api(t)
	layer := harness.NewBlob(v1.MediaTypeImageLayerGzip, harness.Random(2<<20))
	config := harness.NewBlob(v1.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`))
	dockerConfig := harness.NewBlob("application/vnd.docker.container.image.v1+json", config.Bytes)
	dockerLayer := layer
	dockerLayer.MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	tr := tree{foreign: harness.NewBlob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", harness.Random(100))}
	tr.foreign.URLs = []string{"https://example.com/layer"}
	empty := harness.NewBlob("application/vnd.docker.image.rootfs.diff.tar.gzip", harness.Random(32))

	ociImage := harness.Pack(v1.Manifest{}, config, layer)
	docker := harness.Pack(v1.Manifest{MediaType: oci.MediaTypeDockerImage}, dockerConfig, dockerLayer, empty, empty, tr.foreign)
	tr.images = []harness.Image{ociImage, docker, newImage()}
	tr.blobs = append([]harness.Blob{layer, config, empty}, tr.images[2].Blobs...)
	for _, b := range tr.blobs {
		a.PushBlob(name, b)
	}
	for _, image := range tr.images {
		a.PushManifest(name, "", image.Manifest)
	}
	cached := harness.NewBlob(v1.MediaTypeImageLayerGzip, harness.Random(3000))
	a.PushBlob(name, cached)
	tr.blobs = append(tr.blobs, cached)
	tr.cache = harness.NewIndex(cached.Descriptor)
	a.PushManifest(name, "", tr.cache)
	tr.nested = harness.NewIndex(ociImage.Manifest.Descriptor, tr.images[2].Manifest.Descriptor)
	a.PushManifest(name, "", tr.nested)
	list := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeDockerIndex, Manifests: []v1.Descriptor{
		ociImage.Manifest.Descriptor, docker.Manifest.Descriptor, tr.nested.Descriptor, tr.cache.Descriptor, ociImage.Manifest.Descriptor,
	}}
	tr.root = harness.NewBlob(oci.MediaTypeDockerIndex, harness.JSON(list))
	a.PushManifest(name, "root", tr.root)
	return tr
}

func (tr tree) check(t testing.TB, name string) {
	t.Helper()
	same(t, name, "", tr.root)
	same(t, name, "", tr.nested)
	same(t, name, "", tr.cache)
	for _, image := range tr.images {
		same(t, name, "", image.Manifest)
	}
	for _, b := range tr.blobs {
		has(t, name, b)
	}
}

func TestCopyOfATree(t *testing.T) {
	from, to := fresh("tree")
	tr := pushTree(t, from)
	source, dest := harness.NewTap(t, addr(t)), harness.NewTap(t, addr(t))
	rec := newRecord()
	d := copyTo(t, at(t, source.Addr, from), at(t, dest.Addr, to), tagRef("root"), "copied", CopyOptions{Observer: rec})
	if d.Digest.String() != tr.root.Digest.String() || d.MediaType != tr.root.MediaType {
		t.Errorf("copied %s, expected %s", d.Digest, tr.root.Digest)
	}
	tr.check(t, to)
	same(t, to, "copied", tr.root)
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/"+to+"/blobs/"+tr.foreign.Digest.String(), nil)
	if got := rec.outcomes[tr.foreign.Digest.String()]; got != Foreign {
		t.Errorf("the foreign layer's outcome is %d", got)
	}
	// Whatever is shared or repeated was read and sent once.
	count := map[string]int{}
	for _, e := range append(only(source.Exchanges("/v2/"), "GET"), only(dest.Exchanges("/v2/"), "POST", "PUT")...) {
		key := e.Method + " " + e.URL.Path
		if e.Method == "POST" {
			count["POST"]++
			continue
		}
		if count[key]++; count[key] > 1 {
			t.Errorf("%s was asked %d times", key, count[key])
		}
	}
	if count["POST"] != len(tr.blobs) {
		t.Errorf("%d uploads for %d blobs", count["POST"], len(tr.blobs))
	}

	// A second copy sends nothing.
	again := newRecord()
	dest2 := harness.NewTap(t, addr(t))
	copyTo(t, at(t, source.Addr, from), at(t, dest2.Addr, to), tagRef("root"), "copied", CopyOptions{Observer: again})
	if sent := only(dest2.Exchanges("/v2/"), "POST", "PATCH", "PUT"); len(sent) != 0 {
		t.Errorf("the second copy sent %d requests that write, such as %s %s", len(sent), sent[0].Method, sent[0].URL)
	}
	for digest, outcome := range again.outcomes {
		if outcome != Existed && outcome != Foreign {
			t.Errorf("outcome of %s in the second copy: %d", digest, outcome)
		}
	}
}
