package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// record is an Observer that remembers.
type record struct {
	mu       sync.Mutex
	outcomes map[string]Outcome // by digest
	running  int
	most     int   // that ran at a time
	sent     int64 // bytes
	onStart  func(oci.Descriptor)
}

func newRecord() *record { return &record{outcomes: map[string]Outcome{}} }

func (r *record) BlobStart(d oci.Descriptor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running++
	r.most = max(r.most, r.running)
	if r.onStart != nil {
		r.onStart(d)
	}
}

func (r *record) BlobProgress(d oci.Descriptor, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += n
}

func (r *record) Done(d oci.Descriptor, outcome Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if outcome == Copied && !isManifest(d.MediaType) {
		r.running--
	}
	r.outcomes[d.Digest.String()] = outcome
}

// copyTo copies with one Copier and fails the test if that does.
func copyTo(t testing.TB, from, to *Repository, ref oci.Reference, tag string, opt CopyOptions) oci.Descriptor {
	t.Helper()
	c := NewCopier(from, to, opt)
	d, err := c.Copy(t.Context(), ref, oci.Tag(tag))
	if err == nil {
		err = c.Referrers(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fresh returns names of two repositories that are not there yet, however often the test runs.
func fresh(base string) (from, to string) {
	base += fmt.Sprint(freshNames.Add(1))
	return base + "/from", base + "/to"
}

var freshNames atomic.Int64

// same fails the test unless the shared registry has exactly m.
func same(t testing.TB, name, reference string, m harness.Blob) {
	t.Helper()
	if reference == "" {
		reference = m.Digest.String()
	}
	got := api(t).Expect(http.StatusOK, "GET", "/v2/"+name+"/manifests/"+reference, nil)
	if !bytes.Equal(got.Bytes, m.Bytes) || got.Header.Get("Content-Type") != m.MediaType {
		t.Errorf("%s has other bytes or another type of %s", name, reference)
	}
}

func bigLayer() harness.Blob {
	return harness.NewBlob(v1.MediaTypeImageLayerGzip, harness.Random(3<<20))
}

func newImage() harness.Image {
	return harness.NewImage("amd64", nil, map[string][]byte{"f": harness.Random(10_000)})
}

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

func TestCopyWithinARegistryMounts(t *testing.T) {
	from, to := fresh("within")
	tr := pushTree(t, from)
	tap := harness.NewTap(t, addr(t))
	c, err := New(t.Context(), tap.Addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rec := newRecord()
	copyTo(t, c.Repository(repository(t, from)), c.Repository(repository(t, to)), tagRef("root"), "copied", CopyOptions{Observer: rec})
	tr.check(t, to)
	for _, e := range tap.Exchanges("/v2/" + to + "/blobs/uploads/") {
		if e.Method != "POST" {
			t.Errorf("%s %s: expected blobs to be mounted", e.Method, e.URL)
		}
	}
	for _, b := range tr.blobs {
		if got := rec.outcomes[b.Digest.String()]; got != Mounted {
			t.Errorf("outcome of %s: %d", b.Digest, got)
		}
	}
	if rec.sent != 0 {
		t.Errorf("%d bytes were sent", rec.sent)
	}
}

func TestCopyOfSparseIndex(t *testing.T) {
	here, gone := newImage(), newImage()
	api(t).PushImage("sparse/from", "", here)
	index := harness.NewIndex(here.Manifest.Descriptor, gone.Manifest.Descriptor)
	api(t).PushManifest("sparse/from", "1", index)
	rec := newRecord()
	copyTo(t, at(t, addr(t), "sparse/from"), at(t, addr(t), "sparse/to"), tagRef("1"), "1", CopyOptions{Observer: rec})
	same(t, "sparse/to", "1", index)
	same(t, "sparse/to", "", here.Manifest)
	if got := rec.outcomes[gone.Manifest.Digest.String()]; got != Missing {
		t.Errorf("outcome of the child that is not there: %d", got)
	}
	// A destination that has the index may still lack children that the source has now.
	api(t).PushImage("sparse/from", "", gone)
	copyTo(t, at(t, addr(t), "sparse/from"), at(t, addr(t), "sparse/to"), tagRef("1"), "1", CopyOptions{})
	same(t, "sparse/to", "", gone.Manifest)
}

func TestCopyOfOnePlatform(t *testing.T) {
	amd, arm := harness.NewImage("amd64", nil), harness.NewImage("arm64", nil)
	api(t).PushImage("platform/from", "", amd)
	api(t).PushImage("platform/from", "arm", arm)
	amd.Manifest.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	arm.Manifest.Platform = &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	index := harness.NewIndex(amd.Manifest.Descriptor, arm.Manifest.Descriptor)
	api(t).PushManifest("platform/from", "1", index)
	from, to := at(t, addr(t), "platform/from"), at(t, addr(t), "platform/to")
	copyTo(t, from, to, tagRef("1"), "1", CopyOptions{Platform: &oci.Platform{OS: "linux", Architecture: "arm64"}})
	same(t, "platform/to", "1", arm.Manifest)
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/platform/to/manifests/"+amd.Manifest.Digest.String(), nil)

	for ref, want := range map[string]string{"1": "only linux/amd64, linux/arm64/v8", "arm": "for linux/arm64 only"} {
		_, err := NewCopier(from, to, CopyOptions{Platform: &oci.Platform{OS: "linux", Architecture: "s390x"}}).Copy(t.Context(), tagRef(ref), "2")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}

// signed pushes an image whose SBOM has a signature, and which cosign signed with a tag.
func signed(t testing.TB, name string) (image, sbom, signature, cosign harness.Image) {
	a := api(t)
	image = newImage()
	a.PushImage(name, "1", image)
	attach := func(kind string, subject *v1.Descriptor) harness.Image {
		i := harness.Pack(v1.Manifest{ArtifactType: kind, Subject: subject},
			harness.NewBlob(v1.MediaTypeEmptyJSON, []byte("{}")), harness.NewBlob("text/plain", harness.Random(40)))
		return i
	}
	sbom = attach("application/spdx+json", &image.Manifest.Descriptor)
	a.PushImage(name, "", sbom)
	signature = attach("application/vnd.dev.sigstore.bundle.v0.3+json", &sbom.Manifest.Descriptor)
	a.PushImage(name, "", signature)
	cosign = attach("application/vnd.dev.cosign.artifact.sig.v1+json", nil)
	a.PushImage(name, strings.Replace(image.Manifest.Digest.String(), ":", "-", 1)+".sig", cosign)
	return
}

// checkSigned fails the test unless everything that signed pushed has arrived and is found.
func checkSigned(t testing.TB, repo *Repository, image, sbom, signature, cosign harness.Image) {
	t.Helper()
	name := string(repo.Name())
	same(t, name, "", sbom.Manifest)
	same(t, name, "", signature.Manifest)
	same(t, name, strings.Replace(image.Manifest.Digest.String(), ":", "-", 1)+".sig", cosign.Manifest)
	for subject, want := range map[string]harness.Image{image.Manifest.Digest.String(): sbom, sbom.Manifest.Digest.String(): signature} {
		d, err := oci.ParseDigest(subject)
		if err != nil {
			t.Fatal(err)
		}
		list, err := repo.Referrers(t.Context(), d, "")
		if err != nil || len(list) != 1 || list[0].Digest.String() != want.Manifest.Digest.String() || list[0].ArtifactType == "" {
			t.Errorf("referrers of %s: %v, %v", subject, list, err)
		}
	}
}

func TestCopyWithReferrers(t *testing.T) {
	image, sbom, signature, cosign := signed(t, "signed/from")
	from, to := at(t, addr(t), "signed/from"), at(t, addr(t), "signed/to")
	copyTo(t, from, to, tagRef("1"), "1", CopyOptions{})
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/signed/to/manifests/"+sbom.Manifest.Digest.String(), nil)
	copyTo(t, from, to, tagRef("1"), "1", CopyOptions{Referrers: true})
	checkSigned(t, to, image, sbom, signature, cosign)
}

// withoutReferrers is the shared registry as one that has no referrers API.
func withoutReferrers(t testing.TB) string {
	return host(front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/referrers/") {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		next.ServeHTTP(dropHeader{w, "Oci-Subject"}, r)
	}))
}

type dropHeader struct {
	http.ResponseWriter
	name string
}

func (d dropHeader) WriteHeader(status int) {
	d.Header().Del(d.name)
	d.ResponseWriter.WriteHeader(status)
}

func TestCopyWithReferrersToRegistryWithoutAPI(t *testing.T) {
	image, sbom, signature, cosign := signed(t, "noapi/from")
	old := withoutReferrers(t)
	to := at(t, old, "noapi/to")
	copyTo(t, at(t, addr(t), "noapi/from"), to, tagRef("1"), "1", CopyOptions{Referrers: true})
	checkSigned(t, to, image, sbom, signature, cosign)
	api(t).Expect(http.StatusOK, "HEAD", "/v2/noapi/to/manifests/"+strings.Replace(image.Manifest.Digest.String(), ":", "-", 1), nil)

	// And back, from its fallback tags.
	back := at(t, addr(t), "noapi/back")
	copyTo(t, at(t, old, "noapi/to"), back, tagRef("1"), "1", CopyOptions{Referrers: true})
	checkSigned(t, back, image, sbom, signature, cosign)
}

// A referrer that is at the destination but not listed there is listed after a copy.
func TestCopyListsReferrersThatExist(t *testing.T) {
	image, sbom, signature, cosign := signed(t, "unlisted/from")
	for _, i := range []harness.Image{image, sbom} {
		for _, b := range i.Blobs {
			api(t).PushBlob("unlisted/to", b)
		}
	}
	api(t).PushManifest("unlisted/to", "", sbom.Manifest)
	to := at(t, withoutReferrers(t), "unlisted/to")
	copyTo(t, at(t, addr(t), "unlisted/from"), to, tagRef("1"), "1", CopyOptions{Referrers: true})
	checkSigned(t, to, image, sbom, signature, cosign)
}

func TestCopyOfTagsShares(t *testing.T) {
	layer := bigLayer()
	var images []harness.Image
	for i := range 20 {
		config := harness.NewBlob(v1.MediaTypeImageConfig, fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","author":"%d"}`, i))
		image := harness.Pack(v1.Manifest{}, config, layer)
		api(t).PushImage("tags/from", fmt.Sprint(i), image)
		images = append(images, image)
	}
	dest := harness.NewTap(t, addr(t))
	rec := newRecord()
	c := NewCopier(at(t, addr(t), "tags/from"), at(t, dest.Addr, "tags/to"), CopyOptions{Parallel: 3, Observer: rec})
	var wg sync.WaitGroup
	for i := range images {
		wg.Go(func() {
			if _, err := c.Copy(t.Context(), tagRef(fmt.Sprint(i)), oci.Tag(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, image := range images {
		same(t, "tags/to", fmt.Sprint(i), image.Manifest)
	}
	if n := len(only(dest.Exchanges("/v2/tags/to/blobs/uploads/"), "PATCH")); n != 1 {
		t.Errorf("the layer was sent %d times", n)
	}
	if rec.most > 3 {
		t.Errorf("%d transfers at a time, expected at most 3", rec.most)
	}
}

func TestCopyGoesOnAfterAnInterruption(t *testing.T) {
	image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`)),
		bigLayer(), bigLayer(), bigLayer())
	from, to := fresh("interrupted")
	api(t).PushImage(from, "1", image)
	source := at(t, addr(t), from)

	ctx, cancel := context.WithCancel(t.Context())
	rec := newRecord()
	last := image.Blobs[len(image.Blobs)-1].Digest.String()
	rec.onStart = func(d oci.Descriptor) {
		if d.Digest.String() == last {
			cancel()
		}
	}
	tap := harness.NewTap(t, addr(t)) // another address, so that nothing is mounted
	_, err := NewCopier(source, at(t, tap.Addr, to), CopyOptions{Parallel: 1, Observer: rec}).Copy(ctx, tagRef("1"), "1")
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/"+to+"/manifests/1", nil)

	tap = harness.NewTap(t, addr(t))
	copyTo(t, source, at(t, tap.Addr, to), tagRef("1"), "1", CopyOptions{})
	same(t, to, "1", image.Manifest)
	left := len(image.Blobs)
	for _, outcome := range rec.outcomes {
		if outcome == Copied {
			left--
		}
	}
	if n := len(only(tap.Exchanges("/v2/"+to+"/blobs/uploads/"), "POST")); n != left || left == len(image.Blobs) {
		t.Errorf("%d of %d blobs were sent by the second copy, expected the %d that were left", n, len(image.Blobs), left)
	}
}

func TestCopyWhoseSourceLacksALayer(t *testing.T) {
	image := newImage()
	api(t).PushImage("lacks/from", "1", image)
	layer := image.Blobs[1].Digest.String()
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+layer) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
	_, err := NewCopier(at(t, host(s), "lacks/from"), at(t, addr(t), "lacks/to"), CopyOptions{}).Copy(t.Context(), tagRef("1"), "1")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "get blob "+layer) {
		t.Errorf("got %v", err)
	}
	api(t).Expect(http.StatusNotFound, "HEAD", "/v2/lacks/to/manifests/1", nil)
}

func TestCopyOfTooDeepIndexes(t *testing.T) {
	inner := newImage()
	api(t).PushImage("deep/from", "", inner)
	d := inner.Manifest.Descriptor
	for range maxDepth + 1 {
		index := harness.NewIndex(d)
		api(t).PushManifest("deep/from", "1", index)
		d = index.Descriptor
	}
	_, err := NewCopier(at(t, addr(t), "deep/from"), at(t, addr(t), "deep/to"), CopyOptions{}).Copy(t.Context(), tagRef("1"), "1")
	if err == nil || !strings.Contains(err.Error(), "nested more than") {
		t.Errorf("got %v", err)
	}
}

// A destination that stores something else than it was sent is found out.
func TestCopyIsVerifiedAtTheDestination(t *testing.T) {
	image, other := newImage(), newImage()
	api(t).PushImage("verify/from", "1", image)
	api(t).PushImage("verify/to", "other", other)
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/manifests/1") {
			r.URL.Path = "/v2/verify/to/manifests/other"
		}
		next.ServeHTTP(w, r)
	})
	_, err := NewCopier(at(t, addr(t), "verify/from"), at(t, host(s), "verify/to"), CopyOptions{}).Copy(t.Context(), tagRef("1"), "1")
	if err == nil || !strings.Contains(err.Error(), other.Manifest.Digest.String()) {
		t.Errorf("got %v", err)
	}
}

// When the one that copies something for several is cancelled, another goes on with it.
func TestOnceIsTakenOver(t *testing.T) { synctest.Test(t, testOnceIsTakenOver) }

func testOnceIsTakenOver(t *testing.T) {
	c := NewCopier(nil, nil, CopyOptions{})
	key := flightKey{"blob", oci.DigestBytes(oci.SHA256, nil)}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		first <- c.once(ctx, key, func() error {
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	synctest.Wait()
	runs := 0
	go func() {
		second <- c.once(t.Context(), key, func() error { runs++; return nil })
	}()
	synctest.Wait()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled one: %v", err)
	}
	if err := <-second; err != nil || runs != 1 {
		t.Errorf("the other: %d runs, %v", runs, err)
	}
	failed := errors.New("failed")
	other := flightKey{"blob", oci.DigestBytes(oci.SHA256, []byte("x"))}
	for range 2 {
		if err := c.once(t.Context(), other, func() error { runs++; return failed }); err != failed {
			t.Errorf("got %v", err)
		}
	}
	if runs != 2 {
		t.Errorf("a failure was tried again")
	}
}

func TestPlatforms(t *testing.T) {
	for s, want := range map[string]oci.Platform{
		"linux/amd64":  {OS: "linux", Architecture: "amd64"},
		"linux/arm/v7": {OS: "linux", Architecture: "arm", Variant: "v7"},
	} {
		got, err := ParsePlatform(s)
		if err != nil || got != want || FormatPlatform(got) != s {
			t.Errorf("ParsePlatform(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x"} {
		if _, err := ParsePlatform(s); err == nil {
			t.Errorf("ParsePlatform(%q): expected an error", s)
		}
	}
	child := func(arch, variant string) oci.Descriptor {
		return oci.Descriptor{
			Digest:   oci.DigestBytes(oci.SHA256, []byte(arch+variant)),
			Platform: &oci.Platform{OS: "linux", Architecture: arch, Variant: variant},
		}
	}
	children := []oci.Descriptor{child("arm", "v5"), child("arm", "v7"), child("arm64", ""), {}, child("amd64", "v3"), child("amd64", "")}
	for s, want := range map[string]int{
		"linux/arm": 0, "linux/arm/v7": 1, "linux/arm/v6": -1, "linux/arm64": 2, "linux/arm64/v8": 2,
		"linux/amd64": 5, "linux/amd64/v3": 4, "windows/amd64": -1,
	} {
		p, _ := ParsePlatform(s)
		got, ok := selectPlatform(children, p)
		if ok != (want >= 0) || ok && got.Digest != children[want].Digest {
			t.Errorf("selectPlatform(%s) = %v, %t, expected child %d", s, got.Platform, ok, want)
		}
	}
}
