package distribution

import (
	"net/http"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// A tag of the reserved form stands for another one as of a time, for who pulls. It cannot be pushed.
func TestTagAt(t *testing.T) {
	w := newWorld(t, Options{})
	note := func(n string) map[string]any { return map[string]any{"annotations": map[string]string{"n": n}} }
	one := w.pushImage("app", "1", note("one"))
	two := image(note("two"))
	at := func(when time.Time) string { return "/v2/app/manifests/1" + when.UTC().Format(".at-20060102T150405Z") }
	// The form knows no parts of a second, so the first move is put into the past.
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	parsed, err := oci.ParseManifest("", []byte(two))
	if err != nil {
		t.Fatal(err)
	}
	push := func(tag oci.Tag, when time.Time) {
		t.Helper()
		if _, err := w.db.PutManifest(t.Context(), meta.NewManifest{
			Repository: "app", Digest: oci.DigestBytes(oci.SHA256, []byte(two)), Parsed: parsed, Body: []byte(two), Tags: []oci.Tag{tag}, Now: when,
		}); err != nil {
			t.Fatal(err)
		}
	}
	push("old", old)
	for _, method := range []string{"GET", "HEAD"} {
		a := w.want(200, method, "/v2/app/manifests/old"+old.UTC().Format(".at-20060102T150405Z"), "")
		if a.Header.Get("Docker-Content-Digest") != digest(two) || method == "GET" && string(a.body) != two {
			t.Errorf("%s: %v, %s", method, a.Header, a.body)
		}
		w.want(404, method, "/v2/app/manifests/old"+old.Add(-time.Second).UTC().Format(".at-20060102T150405Z"), "")
		w.want(404, method, at(old), "")
		w.want(404, method, at(time.Now().Add(time.Hour)), "")
		w.want(404, method, "/v2/none/manifests/1"+old.UTC().Format(".at-20060102T150405Z"), "")
	}
	// What was moved, and what was deleted, since.
	w.want(201, "PUT", "/v2/app/manifests/old", image(note("three")))
	if a := w.want(200, "GET", "/v2/app/manifests/old"+old.UTC().Format(".at-20060102T150405Z"), ""); string(a.body) != two {
		t.Errorf("the body is %s", a.body)
	}
	w.want(202, "DELETE", "/v2/app/manifests/"+digest(two), "")
	w.want(404, "GET", "/v2/app/manifests/old"+old.UTC().Format(".at-20060102T150405Z"), "")

	for path, query := range map[string]string{at(old): "", "/v2/app/manifests/" + digest(two): "?tag=ok&tag=1.at-20261231T120000Z"} {
		a := w.want(http.StatusBadRequest, "PUT", path+query, two)
		if code := w.code(a); code != string(oci.CodeManifestInvalid) {
			t.Errorf("%s: %s", path, code)
		}
	}
	w.want(404, "HEAD", "/v2/app/manifests/ok", "")
	// One that was pushed before the form was reserved is what it is.
	push("1.at-20200101T000000Z", time.Now())
	if a := w.want(200, "HEAD", "/v2/app/manifests/1.at-20200101T000000Z", ""); a.Header.Get("Docker-Content-Digest") != digest(two) {
		t.Errorf("%v, not %s", a.Header, one)
	}
	w.want(202, "DELETE", "/v2/app/manifests/1.at-20200101T000000Z", "")
}
