package distribution

import (
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// Whoever gets a manifest, or is told that it is what they have, has pulled it; who looks at it only has not.
func TestPulled(t *testing.T) {
	var got []string
	w := newWorld(t, Options{Pulled: func(r oci.Repository, tag oci.Tag, d oci.Digest) {
		got = append(got, string(r)+":"+string(tag)+"@"+d.String())
	}})
	d := w.pushImage("team/app", "1.0", nil)
	const path = "/v2/team/app/manifests/"
	w.want(200, "GET", path+"1.0", "")
	w.want(200, "HEAD", path+"1.0", "")
	w.want(304, "GET", path+"1.0", "", "If-None-Match", `"`+d+`"`)
	w.want(200, "GET", path+d, "")
	w.want(200, "GET", path+"1.0", "", "Berth-Inspect", "1")
	w.want(404, "GET", path+"2.0", "")
	w.want(200, "GET", "/v2/team/app/tags/list", "")
	tagged := "team/app:1.0@" + d
	if want := []string{tagged, tagged, tagged, "team/app:@" + d}; !slices.Equal(got, want) {
		t.Errorf("pulled: %q, expected %q", got, want)
	}
}
