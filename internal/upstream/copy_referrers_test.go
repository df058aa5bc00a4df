package upstream

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

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

func TestReferrersOfSHA512WithoutAPI(t *testing.T) {
	name, _ := fresh("sha512referrers")
	old := at(t, withoutReferrers(t), name)
	d := oci.DigestBytes(oci.SHA512, []byte("subject"))
	if list, err := old.Referrers(t.Context(), d, ""); err != nil || len(list) != 0 {
		t.Errorf("none: %v, %v", list, err)
	}
	sbom := newImage()
	api(t).PushImage(name, "", sbom)
	sbom.Manifest.ArtifactType = "application/spdx+json"
	api(t).PushManifest(name, string(d.ReferrersTag()), harness.NewIndex(sbom.Manifest.Descriptor))
	for kind, want := range map[string]int{"": 1, "application/spdx+json": 1, "text/plain": 0} {
		if list, err := old.Referrers(t.Context(), d, kind); err != nil || len(list) != want {
			t.Errorf("of type %q: %v, %v", kind, list, err)
		}
	}
}
