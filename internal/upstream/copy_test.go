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
