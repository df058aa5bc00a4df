package meta

import (
	"slices"
	"sync"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// tagPulls returns when the tags of a repository were pulled, in seconds as of at; -1 for never.
func tagPulls(t *testing.T, db *DB, r oci.Repository) []int64 {
	t.Helper()
	var all []int64
	for after := ""; ; {
		page, err := db.TagTimes(t.Context(), r, after, 2)
		must(t, err)
		if len(page) == 0 {
			return all
		}
		for _, tag := range page {
			after = string(tag.Tag)
			if tag.Pulled.IsZero() {
				all = append(all, -1)
			} else {
				all = append(all, int64(tag.Pulled.Sub(at(0)).Seconds()))
			}
		}
	}
}

func TestPulls(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("team/app")
	one, two := image(t, db, r, 1, "a", "b", "c"), image(t, db, r, 2, "d")
	other := image(t, db, "other", 1, "a")
	if one.Digest != other.Digest {
		t.Fatal("the images differ")
	}
	must(t, db.NotePulls(t.Context(), []Pull{
		{r, "a", one.Digest, at(10)}, {r, "a", one.Digest, at(30)}, {r, "a", one.Digest, at(20)}, // the latest counts, once
		{r, "b", one.Digest, at(40)},
		{r, "", two.Digest, at(50)},
		{r, "gone", digestOf("gone"), at(50)}, {"no/where", "a", one.Digest, at(50)}, // since the pull
	}))
	must(t, db.NotePulls(t.Context(), []Pull{{r, "b", one.Digest, at(35)}})) // late, from another node
	must(t, db.NotePulls(t.Context(), nil))
	if got := tagPulls(t, db, r); !slices.Equal(got, []int64{30, 40, -1, -1}) {
		t.Errorf("tags were pulled at %v", got)
	}
	if got := tagPulls(t, db, "other"); !slices.Equal(got, []int64{-1}) {
		t.Errorf("the same image elsewhere was pulled at %v", got)
	}
	manifests := func() map[oci.Digest]ManifestTimes {
		t.Helper()
		found := make(map[oci.Digest]ManifestTimes)
		for after := ""; ; {
			page, err := db.ManifestTimes(t.Context(), r, after, 1)
			must(t, err)
			if len(page) == 0 {
				return found
			}
			after = page[0].Digest.String()
			found[page[0].Digest] = page[0]
		}
	}
	got := manifests()
	if m := got[one.Digest]; len(got) != 2 || !m.Pulled.Equal(at(40)) || !m.Pushed.Equal(at(0)) || m.Tags != 3 || m.MediaType != oci.MediaTypeImage || m.Size != int64(len(one.Body)) {
		t.Errorf("manifests: %+v", got)
	}
	if m := got[two.Digest]; !m.Pulled.Equal(at(50)) || m.Tags != 1 {
		t.Errorf("the second manifest: %+v", m)
	}

	// A tag that moves is the same tag. One that is deleted and set again is not, nor is a manifest.
	two.Tags = []oci.Tag{"b"}
	put(t, db, two)
	must(t, db.DeleteTag(t.Context(), r, "a", Origin{}, at(60)))
	must(t, db.DeleteManifest(t.Context(), r, one.Digest, nil, Origin{}, at(60)))
	one.Tags = []oci.Tag{"a"}
	put(t, db, one)
	if got := tagPulls(t, db, r); !slices.Equal(got, []int64{-1, 40, -1}) {
		t.Errorf("tags were pulled at %v after deletes", got)
	}
	if m := manifests()[one.Digest]; !m.Pulled.IsZero() {
		t.Errorf("a new manifest was pulled at %v", m.Pulled)
	}
	if n := count(t, db, "tag_pull") + count(t, db, "manifest_use"); n != 2 {
		t.Errorf("%d rows are left, expected those of one tag and one manifest", n)
	}
	if _, err := db.TagTimes(t.Context(), "no/where", "", 1); err == nil {
		t.Error("a repository that does not exist has tags")
	}
}

// What comes out of the trash was pulled when it was before it went there, however it comes back.
func TestPullsSurviveTheTrash(t *testing.T) {
	const r = oci.Repository("team/app")
	for name, back := range map[string]func(*testing.T, *DB, oci.Digest){
		"undelete": func(t *testing.T, db *DB, d oci.Digest) {
			_, err := db.Undelete(t.Context(), r, d, nil, Origin{}, at(60))
			must(t, err)
		},
		"restore of a tag": func(t *testing.T, db *DB, d oci.Digest) {
			failed, _, err := db.RestoreTags(t.Context(), r, []TagRestore{{Tag: "a", To: d}}, nil, Origin{}, at(60))
			must(t, err)
			must(t, failed[0])
		},
	} {
		for _, way := range []string{"manifest", "cascade", "repository"} {
			t.Run(name+" after a delete by "+way, func(t *testing.T) {
				db := newDB(t)
				one := image(t, db, r, 1, "a", "b")
				must(t, db.NotePulls(t.Context(), []Pull{{r, "a", one.Digest, at(30)}, {r, "", one.Digest, at(40)}}))
				switch way {
				case "manifest":
					must(t, db.DeleteManifest(t.Context(), r, one.Digest, nil, Origin{Trash: true}, at(50)))
				case "cascade":
					_, err := db.DeleteCascade(t.Context(), r, ordered([]CascadeTag{{"a", one.Digest}, {"b", one.Digest}}), orderedManifests(one.Digest), nil, Origin{Trash: true}, at(50))
					must(t, err)
				case "repository":
					_, err := db.DeleteManifests(t.Context(), r, 1<<40, 100, nil, Origin{Trash: true}, at(50))
					must(t, err)
				}
				if n := count(t, db, "tag"); n != 0 {
					t.Fatalf("%d tags are left", n)
				}
				back(t, db, one.Digest)
				want := []int64{30, -1}
				if name != "undelete" {
					want = want[:1]
				}
				if got := tagPulls(t, db, r); !slices.Equal(got, want) {
					t.Errorf("tags were pulled at %v, expected %v", got, want)
				}
				m, err := db.KeptManifests(t.Context(), r, "", 10)
				must(t, err)
				if len(m) != 1 || !m[0].Pulled.Equal(at(40)) || m[0].Again.IsZero() {
					t.Errorf("manifests: %+v", m)
				}
				audit(t, db)
			})
		}
	}
}

// A push of what is there already is a push: of its tag, and of the manifest.
func TestPushedAgain(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("team/app")
	one := image(t, db, r, 1, "a", "b")
	one.Tags, one.Now = []oci.Tag{"a"}, at(10)
	put(t, db, one)
	one.Tags = nil
	put(t, db, one)
	tags, err := db.TagTimes(t.Context(), r, "", 10)
	must(t, err)
	m, err := db.KeptManifests(t.Context(), r, "", 10)
	must(t, err)
	if !tags[0].Pushed.Equal(at(10)) || !tags[1].Pushed.Equal(at(0)) || !m[0].Pushed.Equal(at(0)) || !m[0].Again.Equal(at(10)) {
		t.Errorf("tags: %+v, manifest: %+v", tags, m)
	}
	if log, err := db.TagLog(t.Context(), r, "a"); err != nil || len(log) != 1 {
		t.Errorf("the history is %+v, %v", log, err)
	}
}

// Nodes note pulls of the same tags while these are deleted and set again.
func TestPullsBesideDeletes(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("team/app")
	tags := []oci.Tag{"a", "b", "c", "d"}
	one := image(t, db, r, 1, tags...)
	var pulls []Pull
	for _, tag := range tags {
		pulls = append(pulls, Pull{r, tag, one.Digest, at(1)})
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range rounds(40) {
				if err := db.NotePulls(t.Context(), pulls); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for i := range rounds(40) {
			must(t, db.DeleteTag(t.Context(), r, tags[i%len(tags)], Origin{}, at(2)))
			put(t, db, one)
		}
	})
	all.Wait()
	audit(t, db)
}

// exercisePulls calls every method of pulls.
func exercisePulls(t *testing.T, db *DB) {
	t.Helper()
	one := image(t, db, "pulled", 1, "a")
	must(t, db.NotePulls(t.Context(), []Pull{{"pulled", "a", one.Digest, at(1)}}))
	_, err := db.TagTimes(t.Context(), "pulled", "", 10)
	must(t, err)
	_, err = db.ManifestTimes(t.Context(), "pulled", "", 10)
	must(t, err)
	_, _, err = db.PullsSince(t.Context())
	must(t, err)
	put(t, db, one)
	one.Tags = nil
	put(t, db, one)
	must(t, db.DeleteManifest(t.Context(), "pulled", one.Digest, nil, Origin{Trash: true}, at(2)))
	_, err = db.Undelete(t.Context(), "pulled", one.Digest, nil, Origin{}, at(3))
	must(t, err)
}
