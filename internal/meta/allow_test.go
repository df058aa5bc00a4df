package meta

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// Whoever pushes is asked for every tag, with what it points to; with one refusal nothing happens.
func TestAllow(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	one, two := image(t, db, "r", 1, "old", "same"), image(t, db, "r", 2)
	one.Tags = nil
	two.Tags = []oci.Tag{"old", "new", "same", "old"}
	type asked struct {
		tag oci.Tag
		d   oci.Digest
	}
	var got []asked
	refused := errors.New("refused")
	refuse := oci.Tag("")
	two.Allow = func(tag oci.Tag, current oci.Digest) error {
		got = append(got, asked{tag, current})
		if tag == refuse {
			return refused
		}
		return nil
	}
	for _, refuse = range []oci.Tag{"new", "same", "old"} {
		_, err := db.PutManifest(ctx, two)
		wantErr(t, err, refused)
		for _, tag := range []oci.Tag{"old", "same"} {
			if m, err := db.Manifest(ctx, "r", byTag(tag), false); err != nil || m.Digest != one.Digest {
				t.Errorf("%s is %+v, %v", tag, m, err)
			}
		}
		_, err = db.Manifest(ctx, "r", byTag("new"), false)
		wantErr(t, err, ErrNotFound)
	}
	got, refuse = nil, ""
	if db.embedded() { // nobody makes it run twice
		put(t, db, two)
		if want := []asked{{"old", one.Digest}, {"new", oci.Digest{}}, {"same", one.Digest}, {"old", one.Digest}}; !slices.Equal(got, want) {
			t.Errorf("asked for %v, want %v", got, want)
		}
	} else {
		put(t, db, two)
	}
	for tag, n := range map[oci.Tag]int{"old": 2, "new": 1, "same": 2} {
		if moves := log(t, db, "r", tag); len(moves) != n || moves[n-1].New != two.Digest {
			t.Errorf("%s: %+v", tag, moves)
		}
	}
	// A manifest goes with its tags or not at all.
	refuse = "same"
	wantErr(t, db.DeleteManifest(ctx, "r", two.Digest, two.Allow, Origin{}, at(1)), refused)
	if _, err := db.Manifest(ctx, "r", byTag("new"), false); err != nil {
		t.Error(err)
	}
	refuse = "another"
	must(t, db.DeleteManifest(ctx, "r", two.Digest, two.Allow, Origin{}, at(1)))
	// What does not exist is not made by a push that is refused.
	n := document{seed: 3, foreign: []oci.Digest{digestOf("x")}}.build(t, "fresh", at(0), "t")
	n.Allow = func(oci.Tag, oci.Digest) error { return refused }
	_, err := db.PutManifest(ctx, n)
	wantErr(t, err, refused)
	if there, err := db.RepositoryExists(ctx, "fresh"); err != nil || there {
		t.Errorf("%v, %v", there, err)
	}
}

// Of many that may make a tag but not move it, one makes it.
func TestAllowRaces(t *testing.T) {
	db := newDB(t)
	refused := errors.New("refused")
	var manifests []NewManifest
	for i := range 8 {
		n := image(t, db, "r", i)
		n.Tags = []oci.Tag{"t", "u"}
		n.Allow = func(tag oci.Tag, current oci.Digest) error {
			if !current.IsZero() {
				return refused
			}
			return nil
		}
		manifests = append(manifests, n)
	}
	errs := make([]error, len(manifests))
	var all sync.WaitGroup
	for i, n := range manifests {
		all.Go(func() { _, errs[i] = db.PutManifest(t.Context(), n) })
	}
	all.Wait()
	made := -1
	for i, err := range errs {
		switch {
		case err == nil && made < 0:
			made = i
		case !errors.Is(err, refused):
			t.Errorf("%d: %v", i, err)
		}
	}
	if made < 0 || len(log(t, db, "r", "t")) != 1 || log(t, db, "r", "u")[0].New != manifests[made].Digest {
		t.Errorf("%v", errs)
	}
}

// A repository that has a setting of its own stays, and so does the setting.
func TestRepositorySetting(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	no := false
	commit(t, db, "r", digestOf("a"), at(0))
	must(t, db.SetRepositoryPublic(ctx, "r", &no))
	must(t, db.DeleteBlob(ctx, "r", digestOf("a"), Origin{}, at(0)))
	if f, err := db.Facts(ctx, 0, 0, "r"); err != nil || !f.Exists || f.Public == nil || *f.Public {
		t.Errorf("%+v, %v", f, err)
	}
	must(t, db.SetRepositoryPublic(ctx, "r", nil))
	if there, err := db.RepositoryExists(ctx, "r"); err != nil || there {
		t.Errorf("%v, %v", there, err)
	}
}

func TestUploadHasAccount(t *testing.T) {
	db := newDB(t)
	u := Upload{ID: "u", Repository: "r", Key: newKey(), Algorithm: oci.SHA256, Account: 7, Updated: at(0)}
	save(t, db, u, true)
	u.Account, u.Size = 8, 1 // it does not pass to another
	save(t, db, u, false)
	if got, err := db.Upload(t.Context(), "r", "u"); err != nil || got.Account != 7 || got.Size != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, db.CancelUpload(t.Context(), "r", "none", oci.SHA256, 9, at(0)))
	if n := count(t, db, "upload WHERE id = 'none' AND account_id = 9"); n != 1 {
		t.Errorf("%d", n)
	}
}
