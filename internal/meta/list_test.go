package meta

import (
	"fmt"
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// wantPages reads a list by pages of every size and fails unless they make up want.
func wantPages(t *testing.T, what string, want []string, read func(after string, n int) ([]string, error)) {
	t.Helper()
	for n := 1; n <= len(want)+2; n++ {
		var got []string
		for after, page := "", n; page == n; {
			names, err := read(after, n)
			if err != nil {
				t.Fatalf("%s after %q: %v", what, after, err)
			}
			if names == nil {
				t.Fatalf("%s after %q: nil instead of an empty page", what, after)
			}
			got = append(got, names...)
			if page = len(names); page > n {
				t.Fatalf("%s after %q: %d in a page of %d", what, after, page, n)
			} else if page > 0 {
				after = names[page-1]
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s by pages of %d: %q, want %q", what, n, got, want)
		}
	}
	for _, after := range []string{"", "zzzz"} {
		if names, err := read(after, 0); err != nil || len(names) > 0 {
			t.Errorf("%s, none of them: %q, %v", what, names, err)
		}
	}
	if names, err := read("~", 100); err != nil || len(names) > 0 {
		t.Errorf("%s after the last: %q, %v", what, names, err)
	}
}

func TestTagsByPages(t *testing.T) {
	db := newDB(t)
	// ASCII order: digits, capitals, '_', small letters; '-' and '.' before all of them.
	tags := []string{"1", "1-a", "1.0", "10", "2", "A", "B", "Z", "_", "a", "a-b", "a.b", "aB", "a_b", "aa", "b", "z"}
	slices.Sort(tags)
	n := image(t, db, "a", 1)
	for _, i := range []int{3, 0, 9, 16, 1, 2, 15, 4, 14, 5, 13, 6, 12, 7, 11, 8, 10} { // in no order
		n.Tags = append(n.Tags, oci.Tag(tags[i]))
	}
	put(t, db, n)
	image(t, db, "b", 1, "other")
	wantPages(t, "tags", tags, func(after string, n int) ([]string, error) { return db.Tags(t.Context(), "a", after, n) })
	// After a name that is not there, or not one at all.
	for after, want := range map[string]string{"a.a": "a.b", "a.b0": "aB", "B": "Z", "%": "1", "'; --": "1", "\x00": "1"} {
		if got, err := db.Tags(t.Context(), "a", after, 1); err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("after %q: %q, %v, want %q", after, got, err, want)
		}
	}
	image(t, db, "untagged", 1)
	wantPages(t, "no tags", []string{}, func(after string, n int) ([]string, error) { return db.Tags(t.Context(), "untagged", after, n) })
	for _, n := range []int{0, 1} {
		_, err := db.Tags(t.Context(), "none", "", n)
		wantErr(t, err, ErrNotFound)
	}
}

func TestRepositoriesByPages(t *testing.T) {
	db := newDB(t)
	wantPages(t, "no repositories", []string{}, func(after string, n int) ([]string, error) { return db.Repositories(t.Context(), after, n) })
	names := []string{"0", "a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a__b", "a_b", "aa", "b", "b/a"}
	slices.Sort(names)
	for _, i := range []int{5, 1, 11, 0, 2, 9, 3, 10, 4, 8, 6, 7} {
		image(t, db, oci.Repository(names[i]), i)
	}
	commit(t, db, "a/blobs/only", digestOf("d"), at(0)) // holds no manifest
	wantPages(t, "repositories", names, func(after string, n int) ([]string, error) { return db.Repositories(t.Context(), after, n) })
	wantPages(t, "all that is searched", names, func(after string, n int) ([]string, error) {
		return db.SearchRepositories(t.Context(), "", after, n)
	})
	for term, want := range map[string][]string{
		"a/b": {"a/b", "a/b/c"}, "_": {"a__b", "a_b"}, "__": {"a__b"}, "a_b": {"a_b"}, "%": {}, "a%b": {}, `\`: {}, `\_`: {}, ".": {"a.b"},
		"A/B/C": {"a/b/c"}, "only": {}, "'": {}, "b/a": {"b/a"}, "*": {}, "a?b": {}, "[a]": {},
	} {
		wantPages(t, fmt.Sprintf("search for %q", term), want, func(after string, n int) ([]string, error) {
			return db.SearchRepositories(t.Context(), term, after, n)
		})
	}
}

// Pages that are read while tags come and go hold every tag that was there all the time, once.
func TestPagesWhileTagsMove(t *testing.T) {
	db := newDB(t)
	var steady []string
	n := image(t, db, "a", 1)
	for i := range 50 {
		steady = append(steady, fmt.Sprintf("t%02d", i))
		n.Tags = append(n.Tags, oci.Tag(steady[i]))
	}
	put(t, db, n)
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			m := n
			m.Tags = []oci.Tag{oci.Tag(fmt.Sprintf("t%02dx", i%50)), oci.Tag(steady[i%50])}
			if _, err := db.PutManifest(t.Context(), m); err != nil {
				t.Error(err)
			}
			if err := db.DeleteTag(t.Context(), "a", m.Tags[0], Origin{}, at(0)); err != nil {
				t.Error(err)
			}
		}
	}()
	for range rounds(100) {
		var got []string
		for after := ""; ; {
			names, err := db.Tags(t.Context(), "a", after, 7)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range names {
				if len(s) == 3 {
					got = append(got, s)
				}
			}
			if len(names) < 7 {
				break
			}
			after = names[6]
		}
		if !slices.Equal(got, steady) {
			t.Fatalf("%q, want %q", got, steady)
		}
	}
	close(done)
	<-stopped
}
