package protocol

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// tagList reads a page of tags, and the path of the next.
func tagList(t *testing.T, a *harness.API, path string) (tags []string, next string) {
	t.Helper()
	resp := a.Expect(http.StatusOK, "GET", path, nil)
	var page struct {
		Name string
		Tags *[]string
	}
	if err := json.Unmarshal(resp.Bytes, &page); err != nil || page.Tags == nil {
		t.Fatalf("%s: %v in %s", path, err, resp.Bytes)
	}
	return *page.Tags, nextPage(t, resp)
}

func nextPage(t *testing.T, resp *harness.Response) string {
	t.Helper()
	link := resp.Header.Get("Link")
	if link == "" {
		return ""
	}
	target, found := strings.CutSuffix(link, `>; rel="next"`)
	if !found || !strings.HasPrefix(target, "<") {
		t.Fatalf("Link is %q", link)
	}
	u, err := resp.Request.URL.Parse(target[1:])
	if err != nil {
		t.Fatal(err)
	}
	return u.RequestURI()
}

// Renovate asks for 10,000 tags at a time.
func TestClients13_RenovateTagPages(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("renovate/tags", "first", im)
	want := []string{"first", "A", "Z", "_", "0", "1.10.0", "1.9.0", "a", "a-b", "a.b", "a_b", "latest"}
	for _, tag := range want[1:] {
		a.PushManifest("renovate/tags", tag, im.Manifest)
	}
	slices.Sort(want) // ASCII
	list := "/v2/renovate/tags/tags/list"
	for _, query := range []string{"", "?n=10000", "?n=1000000000", "?n=99999999999999999999999999", "?last=", "?n=12"} {
		if tags, next := tagList(t, a, list+query); !slices.Equal(tags, want) || next != "" {
			t.Errorf("%q: tags %q, next %q", query, tags, next)
		}
	}
	if tags, next := tagList(t, a, list+"?n=0"); len(tags) != 0 || next != "" {
		t.Errorf("n=0: tags %q, next %q", tags, next)
	}
	for n := 1; n <= 13; n++ {
		var got []string
		pages := 0
		for next := fmt.Sprintf("%s?n=%d", list, n); next != ""; pages++ {
			var page []string
			page, next = tagList(t, a, next)
			if len(page) > n || next != "" && len(page) == 0 {
				t.Fatalf("n=%d: a page of %d, next %q", n, len(page), next)
			}
			got = append(got, page...)
		}
		if !slices.Equal(got, want) || pages > len(want)/n+1 {
			t.Errorf("n=%d: %d pages with %q", n, pages, got)
		}
	}
	for last, first := range map[string]string{"a": "a-b", "1.10": "1.10.0", "b": "first", "!": "0"} {
		if tags, _ := tagList(t, a, list+"?n=1&last="+url.QueryEscape(last)); len(tags) != 1 || tags[0] != first {
			t.Errorf("last=%s: %q, expected %s", last, tags, first)
		}
	}
	for _, query := range []string{"?last=zzz", "?n=5&last=latest", "?n=0&last=a"} {
		if tags, next := tagList(t, a, list+query); len(tags) != 0 || next != "" {
			t.Errorf("%q: tags %q, next %q, expected an empty page", query, tags, next)
		}
	}
	for _, query := range []string{"?n=-1", "?n=x", "?n=1.5"} {
		if resp := a.Do("GET", list+query, nil); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q was answered with %d", query, resp.StatusCode)
		}
	}
	wantCode(t, a.Do("GET", "/v2/renovate/none/tags/list?n=10", nil), http.StatusNotFound, "NAME_UNKNOWN")
}

// More tags than a page may have are clamped, and a Link leads on.
func TestClients13_RenovateClampedPage(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	a.PushImage("renovate/many", "", im)
	const count = 10_100
	path := "/v2/renovate/many/manifests/" + im.Manifest.Digest.String() + "?"
	for first := 0; first < count; first += 100 {
		q := url.Values{}
		for i := range 100 {
			q.Add("tag", fmt.Sprintf("t%05d", first+i))
		}
		a.Expect(http.StatusCreated, "PUT", path+q.Encode(), im.Manifest.Bytes, harness.Header{"Content-Type": im.Manifest.MediaType})
	}
	var got []string
	pages := 0
	for next := "/v2/renovate/many/tags/list?n=1000000"; next != ""; pages++ {
		var page []string
		page, next = tagList(t, a, next)
		got = append(got, page...)
	}
	if len(got) != count || !slices.IsSorted(got) || pages != 2 {
		t.Errorf("%d pages had %d tags, expected 2 pages with %d", pages, len(got), count)
	}
	if all, next := tagList(t, a, "/v2/renovate/many/tags/list"); len(all) != count || next != "" {
		t.Errorf("without n there are %d tags, next %q", len(all), next)
	}
}

// referrersOf reads the referrers, which must be an index.
func referrersOf(t *testing.T, a *harness.API, path string) ([]v1.Descriptor, *harness.Response) {
	t.Helper()
	resp := a.Expect(http.StatusOK, "GET", path, nil)
	wantHeader(t, resp, "Content-Type", v1.MediaTypeImageIndex)
	var index struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     *[]v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(resp.Bytes, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != v1.MediaTypeImageIndex || index.Manifests == nil {
		t.Fatalf("%s: %v in %s", path, err, resp.Bytes)
	}
	return *index.Manifests, resp
}

// cosign and oras ask for what refers to an image, whether it is here or not.
func TestClients16_CosignReferrers(t *testing.T) {
	t.Parallel()
	a := api(t)
	top := image()
	path := "/v2/cosign/referrers/referrers/" + top.Manifest.Digest.String()
	if found, _ := referrersOf(t, a, path); len(found) != 0 {
		t.Errorf("an unknown repository has the referrers %v", found)
	}
	push := func(m v1.Manifest) harness.Blob {
		t.Helper()
		subject := top.Manifest.Descriptor
		m.Subject = &subject
		im := harness.Pack(m, harness.NewBlob(v1.MediaTypeEmptyJSON, []byte("{}")))
		for _, b := range im.Blobs {
			a.PushBlob("cosign/referrers", b)
		}
		resp := a.PushManifest("cosign/referrers", "", im.Manifest)
		wantHeader(t, resp, "Oci-Subject", subject.Digest.String())
		return im.Manifest
	}
	// Before the subject itself is here.
	signature := push(v1.Manifest{ArtifactType: "application/vnd.example.signature", Annotations: map[string]string{"by": "someone"}})
	push(v1.Manifest{ArtifactType: "application/vnd.example.sbom"})
	a.PushImage("cosign/referrers", "1", top)

	found, resp := referrersOf(t, a, path)
	if len(found) != 2 || resp.Header.Get("Oci-Filters-Applied") != "" {
		t.Errorf("found %d, OCI-Filters-Applied %q", len(found), resp.Header.Get("Oci-Filters-Applied"))
	}
	found, resp = referrersOf(t, a, path+"?artifactType=application/vnd.example.signature")
	wantHeader(t, resp, "Oci-Filters-Applied", "artifactType")
	if len(found) != 1 || found[0].Digest != signature.Digest || found[0].Size != signature.Size || found[0].MediaType != signature.MediaType ||
		found[0].ArtifactType != "application/vnd.example.signature" || found[0].Annotations["by"] != "someone" {
		t.Errorf("found %+v", found)
	}
	if found, _ = referrersOf(t, a, path+"?artifactType=none"); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	if found, _ = referrersOf(t, a, strings.Replace(path, "cosign/referrers/referrers", "cosign/other/referrers", 1)); len(found) != 0 {
		t.Errorf("another repository has %+v", found)
	}
	a.Expect(http.StatusAccepted, "DELETE", "/v2/cosign/referrers/manifests/"+signature.Digest.String(), nil)
	if found, _ = referrersOf(t, a, path); len(found) != 1 {
		t.Errorf("after the delete, found %+v", found)
	}
	wantCode(t, a.Do("GET", "/v2/cosign/referrers/referrers/sha256:short", nil), http.StatusBadRequest, "DIGEST_INVALID")
	wantCode(t, a.Do("GET", "/v2/cosign/referrers/referrers/latest", nil), http.StatusBadRequest, "DIGEST_INVALID")
}

// An image's type of artifact is its config's if it names none; an index has none then.
func TestClients16_OrasReferrersOfEachKind(t *testing.T) {
	t.Parallel()
	a := api(t)
	top := image()
	a.PushImage("oras/kinds", "1", top)
	subject := top.Manifest.Descriptor
	byConfig := harness.Pack(v1.Manifest{Subject: &subject}, harness.NewBlob("application/vnd.example.config", []byte("{}")))
	a.PushImage("oras/kinds", "", byConfig)
	index := harness.NewBlob(v1.MediaTypeImageIndex, harness.JSON(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Subject: &subject, Manifests: []v1.Descriptor{},
	}))
	wantHeader(t, a.PushManifest("oras/kinds", "", index), "Oci-Subject", subject.Digest.String())
	found, _ := referrersOf(t, a, "/v2/oras/kinds/referrers/"+subject.Digest.String())
	kinds := map[string]string{}
	for _, d := range found {
		kinds[d.Digest.String()] = d.ArtifactType
	}
	want := map[string]string{byConfig.Manifest.Digest.String(): "application/vnd.example.config", index.Digest.String(): ""}
	if len(kinds) != 2 || kinds[byConfig.Manifest.Digest.String()] != want[byConfig.Manifest.Digest.String()] || kinds[index.Digest.String()] != "" {
		t.Errorf("found %v, expected %v", kinds, want)
	}
}

// What older clients listed under the fallback tag is among the referrers.
func TestClients16_OrasFallbackTagIsIncluded(t *testing.T) {
	t.Parallel()
	a := api(t)
	top := image()
	a.PushImage("oras/fallback", "1", top)
	subject := top.Manifest.Descriptor
	signature := harness.Pack(v1.Manifest{Subject: &subject, ArtifactType: "application/vnd.example.signature"}, harness.NewBlob(v1.MediaTypeEmptyJSON, []byte("{}")))
	a.PushImage("oras/fallback", "", signature)
	tag := strings.Replace(subject.Digest.String(), ":", "-", 1)
	a.PushManifest("oras/fallback", tag, harness.NewIndex(signature.Manifest.Descriptor))
	found, _ := referrersOf(t, a, "/v2/oras/fallback/referrers/"+subject.Digest.String())
	if len(found) != 1 || found[0].Digest != signature.Manifest.Digest {
		t.Errorf("found %+v", found)
	}
	a.Expect(http.StatusOK, "GET", "/v2/oras/fallback/manifests/"+tag, nil)
}

// docker search HOST/TERM goes to the search of the first protocol, with
// credentials if there are any; podman sends none.
func TestClients17_DockerSearch(t *testing.T) {
	t.Parallel()
	a := api(t)
	im := image()
	for _, repo := range []string{"docker-find/one", "docker-find/two", "other/docker-find-three"} {
		a.PushImage(repo, "1", im)
	}
	for _, authorization := range []string{"", "Basic YW55OmJvZHk="} {
		auth := harness.Header{"Authorization": authorization}
		a.Expect(http.StatusOK, "GET", "/v1/_ping", nil, auth)
		for _, r := range []struct {
			query string
			want  []string
		}{
			{"?q=docker-find&n=25", []string{"docker-find/one", "docker-find/two", "other/docker-find-three"}},
			{"?q=docker-find/t", []string{"docker-find/two"}},
			{"?q=find-three&n=100", []string{"other/docker-find-three"}},
			{"?q=no-such-repository", nil},
			{"?q=%25", nil}, // no pattern of SQL's
			{"?q=docker_find", nil},
		} {
			resp := a.Expect(http.StatusOK, "GET", "/v1/search"+r.query, nil, auth)
			var page struct {
				NumResults int    `json:"num_results"`
				Query      string `json:"query"`
				Results    []struct {
					Name        string  `json:"name"`
					Description *string `json:"description"`
					StarCount   *int    `json:"star_count"`
					IsOfficial  *bool   `json:"is_official"`
				} `json:"results"`
			}
			if err := json.Unmarshal(resp.Bytes, &page); err != nil || page.Results == nil {
				t.Fatalf("%s: %v in %s", r.query, err, resp.Bytes)
			}
			var names []string
			for _, result := range page.Results {
				names = append(names, result.Name)
				if result.Description == nil || result.StarCount == nil || result.IsOfficial == nil {
					t.Errorf("%s: a field is missing in %s", r.query, resp.Bytes)
				}
			}
			slices.Sort(names)
			if !slices.Equal(names, r.want) || page.NumResults != len(r.want) {
				t.Errorf("%s found %q, num_results %d, expected %q", r.query, names, page.NumResults, r.want)
			}
		}
	}
	resp := a.Expect(http.StatusOK, "GET", "/v1/search?q=docker-find&n=2", nil)
	if got := strings.Count(string(resp.Bytes), `"name"`); got != 2 {
		t.Errorf("n=2 found %d", got)
	}
}
