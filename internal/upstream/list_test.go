package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

func TestTagsInPages(t *testing.T) {
	image := harness.NewImage("amd64", nil)
	a := api(t)
	var want []oci.Tag
	a.PushImage("manytags", "t0000", image)
	for i := range 2500 {
		tag := fmt.Sprintf("t%04d", i)
		want = append(want, oci.Tag(tag))
		a.PushManifest("manytags", tag, image.Manifest)
	}
	tap := harness.NewTap(t, addr(t))
	repo := at(t, tap.Addr, "manytags")
	var got []oci.Tag
	for tag, err := range repo.Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, tag)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d tags, expected %d", len(got), len(want))
	}
	if n := len(tap.Exchanges("/v2/manytags/tags/list")); n != 3 {
		t.Errorf("%d requests, expected 3", n)
	}
	for range repo.Tags(t.Context()) {
		break // fetches no further page
	}
	if n := len(tap.Exchanges("/v2/manytags/tags/list")); n != 4 {
		t.Errorf("%d requests, expected 4", n)
	}
}

func TestRepositories(t *testing.T) {
	image := harness.NewImage("amd64", nil)
	for _, name := range []string{"listed/a", "listed/b/c"} {
		api(t).PushImage(name, "1", image)
	}
	c, err := New(t.Context(), addr(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for name, err := range c.Repositories(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(name), "listed/") {
			got = append(got, string(name))
		}
	}
	if !slices.Equal(got, []string{"listed/a", "listed/b/c"}) {
		t.Errorf("got %v", got)
	}
}

// A registry whose next page is always the same must not keep its client for ever.
func TestPagesThatDoNotAdvance(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Link", `</v2/circle/tags/list?last=b>; rel="next"`)
		fmt.Fprint(w, `{"tags":["a","b"]}`)
	})
	n := 0
	var err error
	for _, err = range at(t, host(s), "circle").Tags(t.Context()) {
		if n++; n > 10 {
			break
		}
	}
	if err == nil || n != 3 {
		t.Errorf("%d results, %v", n, err)
	}
}

func TestNamesOutsideTheGrammar(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		fmt.Fprint(w, `{"tags":["good","../../etc/passwd"],"repositories":["good","Bad\u001b[31m"]}`)
	})
	repo := at(t, host(s), "grammar")
	var tags, names int
	var err error
	for _, err = range repo.Tags(t.Context()) {
		tags++
	}
	if err == nil || tags != 2 {
		t.Errorf("tags: %d results, %v", tags, err)
	}
	for _, err = range repo.client.Repositories(t.Context()) {
		names++
	}
	if err == nil || names != 2 {
		t.Errorf("repositories: %d results, %v", names, err)
	}
}
