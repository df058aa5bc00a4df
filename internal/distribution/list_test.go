package distribution

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

var nextPage = regexp.MustCompile(`^<([^>]+)>; rel="next"$`)

// next returns where the next page is, "" if this was the last.
func next(t testing.TB, a answer) string {
	t.Helper()
	link := a.Header.Get("Link")
	if link == "" {
		return ""
	}
	m := nextPage.FindStringSubmatch(link)
	if m == nil {
		t.Fatalf("Link is %q", link)
	}
	return m[1]
}

func TestTagPages(t *testing.T) {
	w := newWorld(t, Options{})
	var want []string
	for _, tag := range []string{"Z", "_", "a", "a.b", "a1", "b", "latest"} { // in ASCII order
		w.pushImage("app", tag, nil)
		want = append(want, tag)
	}
	type list struct {
		Name string
		Tags []string
	}
	for n := 1; n <= len(want)+1; n++ {
		var got []string
		pages := 0
		for path := fmt.Sprintf("/v2/app/tags/list?n=%d", n); path != ""; pages++ {
			a := w.want(200, "GET", path, "")
			l := decode[list](t, a)
			if l.Name != "app" || len(l.Tags) > n || len(l.Tags) == 0 {
				t.Fatalf("%s is %+v", path, l)
			}
			got = append(got, l.Tags...)
			path = next(t, a)
		}
		if !slices.Equal(got, want) || pages != (len(want)+n-1)/n {
			t.Errorf("in pages of %d: %d pages, %v", n, pages, got)
		}
	}
	for query, want := range map[string]string{
		"":                     `{"name":"app","tags":["Z","_","a","a.b","a1","b","latest"]}`,
		"?last=b":              `{"name":"app","tags":["latest"]}`,
		"?last=zzz":            `{"name":"app","tags":[]}`,
		"?last=a0&n=1":         `{"name":"app","tags":["a1"]}`, // need not be there
		"?last=%00%ff%27&n=1":  `{"name":"app","tags":["Z"]}`,
		"?n=0":                 `{"name":"app","tags":[]}`,
		"?n=10000000000000000": `{"name":"app","tags":["Z","_","a","a.b","a1","b","latest"]}`,
	} {
		if a := w.want(200, "GET", "/v2/app/tags/list"+query, ""); strings.TrimSpace(string(a.body)) != want || query == "?n=0" && a.Header.Get("Link") != "" {
			t.Errorf("%q is %s, expected %s", query, a.body, want)
		}
	}
	for _, query := range []string{"?n=-1", "?n=abc", "?n=1.0"} {
		w.want(400, "GET", "/v2/app/tags/list"+query, "")
		w.want(400, "GET", "/v2/_catalog"+query, "")
	}
	if got := w.code(w.want(404, "GET", "/v2/none/tags/list?n=0", "")); got != "NAME_UNKNOWN" {
		t.Errorf("an unknown repository is %s", got)
	}
}

// A list that is longer than what is read at a time is whole, and in order.
func TestLongList(t *testing.T) {
	w := newWorld(t, Options{})
	d := w.pushImage("app", "", nil)
	var want []string
	for i := range 2*streamPage + 10 {
		want = append(want, fmt.Sprintf("t%06d", i))
	}
	for page := range slices.Chunk(want, maxTags) {
		w.want(201, "PUT", "/v2/app/manifests/"+d+"?"+url.Values{"tag": page}.Encode(), image(nil))
	}
	got := decode[struct{ Tags []string }](t, w.want(200, "GET", "/v2/app/tags/list", "")).Tags
	if !slices.Equal(got, want) {
		t.Errorf("got %d tags, expected %d", len(got), len(want))
	}
	a := w.want(200, "GET", fmt.Sprintf("/v2/app/tags/list?n=%d", streamPage), "")
	if n := len(decode[struct{ Tags []string }](t, a).Tags); n != streamPage || next(t, a) == "" {
		t.Errorf("a page has %d tags, Link %q", n, a.Header.Get("Link"))
	}
}

type index struct {
	SchemaVersion int
	MediaType     string
	Manifests     []oci.Descriptor
}

func TestReferrers(t *testing.T) {
	w := newWorld(t, Options{})
	subject := w.pushImage("app", "1", nil)
	refer := map[string]any{"mediaType": oci.MediaTypeImage, "digest": subject, "size": 1}
	want := make(map[string][]string) // digests by artifact type
	for i := range 7 {
		kind := fmt.Sprintf("application/vnd.kind%d", i%2)
		d := w.pushImage("app", "", map[string]any{"subject": refer, "artifactType": kind, "annotations": map[string]string{"i": fmt.Sprint(i)}})
		want[""] = append(want[""], d)
		want[kind] = append(want[kind], d)
	}
	fallback := w.pushImage("app", "", map[string]any{"subject": refer}) // its type is the config's
	want[""] = append(want[""], fallback)
	want["application/vnd.test"] = []string{fallback}

	path := "/v2/app/referrers/" + subject
	for kind, digests := range want {
		for n := 1; n <= len(digests)+1; n++ {
			var got []string
			q := url.Values{"n": {fmt.Sprint(n)}}
			if kind != "" {
				q.Set("artifactType", kind)
			}
			for p := path + "?" + q.Encode(); p != ""; {
				a := w.want(200, "GET", p, "")
				if applied := a.Header.Get("OCI-Filters-Applied"); (applied == "artifactType") != (kind != "") || a.Header.Get("Content-Type") != oci.MediaTypeIndex {
					t.Errorf("%s: %v", p, a.Header)
				}
				page := decode[index](t, a)
				if page.SchemaVersion != 2 || page.MediaType != oci.MediaTypeIndex || len(page.Manifests) > n {
					t.Fatalf("%s is %+v", p, page)
				}
				for _, m := range page.Manifests {
					got = append(got, m.Digest.String())
					if kind != "" && m.ArtifactType != kind || m.Size == 0 || m.MediaType != oci.MediaTypeImage {
						t.Errorf("%s has %+v", p, m)
					}
				}
				p = next(t, a)
			}
			if !slices.Equal(got, digests) {
				t.Errorf("type %q in pages of %d: %v, expected %v", kind, n, got, digests)
			}
		}
	}
	first := decode[index](t, w.want(200, "GET", path+"?n=1", "")).Manifests[0]
	if first.Annotations["i"] != "0" {
		t.Errorf("the annotations are %v", first.Annotations)
	}
	for _, p := range []string{path + "?artifactType=none", "/v2/app/referrers/" + digest("unknown"), "/v2/none/referrers/" + subject} {
		if got := string(w.want(200, "GET", p, "").body); !strings.Contains(got, `"manifests":[]`) {
			t.Errorf("%s is %s", p, got)
		}
	}
	w.want(400, "GET", path+"?n=x", "")
	w.want(400, "GET", path+"?last=x", "")
	w.want(http.StatusAccepted, "DELETE", "/v2/app/manifests/"+fallback, "")
	if n := len(decode[index](t, w.want(200, "GET", path, "")).Manifests); n != 7 {
		t.Errorf("after a delete there are %d referrers", n)
	}
}
