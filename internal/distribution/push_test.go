package distribution

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// A tag is moved only from where its client believes it to be (RFC 9110, section 13.1).
func TestConditionalPush(t *testing.T) {
	w := newWorld(t, Options{})
	note := func(n string) map[string]any { return map[string]any{"annotations": map[string]string{"n": n}} }
	one := w.pushImage("app", "1", note("one"))
	two, three := image(note("two")), image(note("three"))
	const path = "/v2/app/manifests/1"
	points := func(d string) {
		t.Helper()
		if got := w.want(200, "HEAD", path, "").Header.Get("Docker-Content-Digest"); got != d {
			t.Errorf("the tag points to %s, expected %s", got, d)
		}
	}
	w.want(412, "PUT", path, two, "If-None-Match", "*")
	w.want(412, "PUT", path, two, "If-None-Match", `"x", "`+one+`"`)
	w.want(412, "PUT", path, two, "If-Match", `"`+digest(two)+`"`)
	w.want(412, "PUT", path, two, "If-Match", `"`+one+`"`, "If-None-Match", `"`+one+`"`)
	points(one)
	w.want(404, "HEAD", "/v2/app/manifests/"+digest(two), "")
	w.want(201, "PUT", path, two, "If-Match", `"x", "`+one+`"`)
	points(digest(two))
	w.want(201, "PUT", path, three, "If-Match", "*")
	w.want(201, "PUT", path, two, "If-None-Match", `"`+one+`"`)
	points(digest(two))
	w.want(412, "PUT", "/v2/app/manifests/new", two, "If-Match", "*")
	w.want(404, "HEAD", "/v2/app/manifests/new", "")
	w.want(201, "PUT", "/v2/app/manifests/new", two, "If-None-Match", "*")
}

func TestConditionalPull(t *testing.T) {
	w := newWorld(t, Options{})
	m := w.pushImage("app", "1", nil)
	for path, d := range map[string]string{
		"/v2/app/manifests/1":           m,
		"/v2/app/manifests/" + m:        m,
		"/v2/app/blobs/" + digest("{}"): digest("{}"),
	} {
		for _, method := range []string{"GET", "HEAD"} {
			a := w.want(200, method, path, "")
			if a.Header.Get("ETag") != `"`+d+`"` || a.Header.Get("Docker-Content-Digest") != d || a.ContentLength <= 0 {
				t.Errorf("%s %s: %v", method, path, a.Header)
			}
			w.want(304, method, path, "", "If-None-Match", `"`+d+`"`)
			w.want(200, method, path, "", "If-None-Match", `"x"`)
			w.want(412, method, path, "", "If-Match", `"x"`)
		}
	}
	if a := w.want(206, "GET", "/v2/app/blobs/"+digest("{}"), "", "Range", "bytes=1-1"); string(a.body) != "}" {
		t.Errorf("a range is %q", a.body)
	}
	if a := w.want(206, "GET", "/v2/app/blobs/"+digest("{}"), "", "Range", "bytes=0-0,1-1"); !strings.HasPrefix(a.Header.Get("Content-Type"), "multipart/byteranges") {
		t.Errorf("two ranges have the type %s", a.Header.Get("Content-Type"))
	}
	w.want(416, "GET", "/v2/app/blobs/"+digest("{}"), "", "Range", "bytes=2-")
}

// spec.md#pushing-manifests-with-tags, spec.md#pushing-manifests-with-subject, spec.md#warnings
func TestPushHeaders(t *testing.T) {
	w := newWorld(t, Options{})
	w.pushBlob("app", "{}")
	w.pushBlob("sparse", "{}")
	subject := digest("subject")
	m := image(map[string]any{"subject": map[string]any{"mediaType": oci.MediaTypeImage, "digest": subject, "size": 7}})
	a := w.want(201, "PUT", "/v2/app/manifests/"+digest(m)+"?tag=b&tag=a&tag=b", m)
	if got := a.Header.Values("OCI-Tag"); !slices.Equal(got, []string{"b", "a", "b"}) {
		t.Errorf("OCI-Tag is %q", got)
	}
	if a.Header.Get("OCI-Subject") != subject || a.Header.Get("Warning") != "" || a.Header.Get("Location") != "/v2/app/manifests/"+digest(m) {
		t.Errorf("the headers are %v", a.Header)
	}
	for _, tag := range []string{"a", "b"} {
		w.want(200, "HEAD", "/v2/app/manifests/"+tag, "")
	}

	lacking := image(nil, digest("1"), digest("2"))
	if got := w.code(w.want(400, "PUT", "/v2/app/manifests/1", lacking)); got != "MANIFEST_BLOB_UNKNOWN" {
		t.Errorf("a manifest without its layers is refused with %s", got)
	}
	a = w.want(201, "PUT", "/v2/sparse/manifests/1", lacking)
	if got := a.Header.Get("Warning"); !strings.HasPrefix(got, `299 - "2 of what`) || !strings.HasSuffix(got, `"`) {
		t.Errorf("Warning is %q", got)
	}

	w.want(400, "PUT", "/v2/app/manifests/tag?tag=other", m)
	w.want(400, "PUT", "/v2/app/manifests/"+digest(m)+"?tag=ok&tag=-bad", m)
	w.want(404, "HEAD", "/v2/app/manifests/ok", "")
	many := strings.Repeat("&tag=x", maxTags+1)
	w.want(414, "PUT", "/v2/app/manifests/"+digest(m)+"?"+many[1:], m)
	w.want(400, "PUT", "/v2/app/manifests/"+digest("other"), m)
	w.want(400, "PUT", "/v2/app/manifests/"+oci.DigestBytes(oci.SHA512, []byte("other")).String(), m)
	w.want(201, "PUT", "/v2/app/manifests/"+oci.DigestBytes(oci.SHA512, []byte(m)).String(), m)
}

// A manifest beyond the limit is refused, whether its length is known or not.
func TestManifestLimit(t *testing.T) {
	w := newWorld(t, Options{MaxManifest: 1000})
	w.pushBlob("app", "{}")
	fits := image(nil)
	fits = strings.Replace(fits, "{", "{"+strings.Repeat(" ", 1000-len(fits)), 1)
	w.want(201, "PUT", "/v2/app/manifests/1", fits)
	if got := w.code(w.want(413, "PUT", "/v2/app/manifests/1", fits+" ")); got != "SIZE_INVALID" {
		t.Errorf("the code is %s", got)
	}
	for body, status := range map[string]int{fits: 201, fits + " ": 413} {
		req, err := http.NewRequest("PUT", w.url+"/v2/app/manifests/2", struct{ *strings.Reader }{strings.NewReader(body)})
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = -1
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%d bytes of no known length: status %d, expected %d", len(body), resp.StatusCode, status)
		}
	}
}

func TestExternalURL(t *testing.T) {
	w := newWorld(t, Options{ExternalURL: "https://registry.example.com"})
	for _, a := range []answer{
		w.want(202, "POST", "/v2/app/blobs/uploads/", ""),
		w.want(201, "POST", "/v2/app/blobs/uploads/?digest="+digest("{}"), "{}"),
		w.want(201, "PUT", "/v2/app/manifests/1", image(nil)),
	} {
		if got := a.Header.Get("Location"); !strings.HasPrefix(got, "https://registry.example.com/v2/app/") {
			t.Errorf("Location is %q", got)
		}
	}
	for i := range 3 {
		w.pushImage("app", fmt.Sprintf("t%d", i), nil)
	}
	if got := w.want(200, "GET", "/v2/app/tags/list?n=1", "").Header.Get("Link"); !strings.HasPrefix(got, "<https://registry.example.com/v2/app/tags/list?") {
		t.Errorf("Link is %q", got)
	}
}
