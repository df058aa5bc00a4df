package meta

import (
	"errors"
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

func log(t *testing.T, db *DB, r oci.Repository, tag oci.Tag) []TagMove {
	t.Helper()
	moves, err := db.TagLog(t.Context(), r, tag)
	if err != nil {
		t.Fatal(err)
	}
	for i := range moves {
		moves[i].ID = 0
	}
	return moves
}

// Every way in which a tag moves is logged once, with who, how and when.
func TestTagLog(t *testing.T) {
	db := newDB(t)
	const r = oci.Repository("team/app")
	none := oci.Digest{}
	one, two := image(t, db, r, 1), image(t, db, r, 2)
	push := func(n NewManifest, second int64, actor string, tags ...oci.Tag) {
		t.Helper()
		n.Tags, n.Now, n.Origin = tags, at(second), Origin{Actor: actor, Method: "push"}
		put(t, db, n)
	}
	push(one, 1, "ann", "v1", "latest")     // new tags
	push(one, 2, "ben", "v1", "latest")     // the same again: nothing
	push(one, 3, "ben", "v1", "v1")         // nothing, twice
	push(two, 4, "cat", "latest")           // moved
	push(two, 5, "dan", "v2", "v2")         // new, named twice
	push(one, 6, "eve", "latest", "latest") // moved back
	if err := db.DeleteTag(t.Context(), r, "v1", Origin{Actor: "fay", Method: "delete"}, at(7)); err != nil {
		t.Fatal(err)
	}
	push(one, 8, "gil", "v1") // there again
	if err := db.DeleteManifest(t.Context(), r, one.Digest, nil, Origin{Actor: "hal", Method: "delete"}, at(9)); err != nil {
		t.Fatal(err)
	}
	three := document{seed: 3, blobs: digests(one)}.build(t, r, at(10), "latest")
	three.Origin = Origin{Actor: "ida", Method: "mirror"}
	put(t, db, three)

	want := map[oci.Tag][]TagMove{
		"v1": {
			{0, "v1", none, one.Digest, at(1), Origin{Actor: "ann", Method: "push"}},
			{0, "v1", one.Digest, none, at(7), Origin{Actor: "fay", Method: "delete"}},
			{0, "v1", none, one.Digest, at(8), Origin{Actor: "gil", Method: "push"}},
			{0, "v1", one.Digest, none, at(9), Origin{Actor: "hal", Method: "delete"}},
		},
		"v2": {{0, "v2", none, two.Digest, at(5), Origin{Actor: "dan", Method: "push"}}},
		"latest": {
			{0, "latest", none, one.Digest, at(1), Origin{Actor: "ann", Method: "push"}},
			{0, "latest", one.Digest, two.Digest, at(4), Origin{Actor: "cat", Method: "push"}},
			{0, "latest", two.Digest, one.Digest, at(6), Origin{Actor: "eve", Method: "push"}},
			{0, "latest", one.Digest, none, at(9), Origin{Actor: "hal", Method: "delete"}},
			{0, "latest", none, three.Digest, at(10), Origin{Actor: "ida", Method: "mirror"}},
		},
		"never": nil,
	}
	total := 0
	for tag, moves := range want {
		total += len(moves)
		if got := log(t, db, r, tag); !slices.Equal(got, moves) {
			t.Errorf("%s moved %+v, want %+v", tag, got, moves)
		}
	}
	if n := count(t, db, "tag_log"); n != total {
		t.Errorf("the log has %d entries, want %d", n, total)
	}
	if moves := log(t, db, "other", "v1"); len(moves) > 0 {
		t.Errorf("an unknown repository has the moves %v", moves)
	}
}

// What fails is not in the log.
func TestTagLogOfFailures(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1, "t")
	blocked := n
	blocked.Tags = []oci.Tag{"u", "v"}
	blocked.Condition = func(oci.Digest) bool { return false }
	_, err := db.PutManifest(t.Context(), blocked)
	wantErr(t, err, ErrCondition)
	_, err = db.PutManifest(t.Context(), document{seed: 2, blobs: []oci.Digest{digestOf("none")}}.build(t, "a", at(0), "t"))
	if _, ok := errors.AsType[*MissingError](err); !ok {
		t.Fatal(err)
	}
	wantErr(t, db.DeleteTag(t.Context(), "a", "none", Origin{}, at(0)), ErrNotFound)
	wantErr(t, db.DeleteTag(t.Context(), "none", "t", Origin{}, at(0)), ErrNotFound)
	wantErr(t, db.DeleteManifest(t.Context(), "a", digestOf("none"), nil, Origin{}, at(0)), ErrNotFound)
	wantErr(t, db.DeleteManifest(t.Context(), "none", n.Digest, nil, Origin{}, at(0)), ErrNotFound)
	if n := count(t, db, "tag_log"); n != 1 {
		t.Errorf("the log has %d entries, want 1", n)
	}
}

// The log of a repository outlives it, and goes on when the name is given again.
func TestTagLogOutlivesRepository(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1, "t")
	if err := db.DeleteManifest(t.Context(), "a", n.Digest, nil, Origin{Actor: "ann", Method: "delete"}, at(1)); err != nil {
		t.Fatal(err)
	}
	collectAll(t, db)
	if there, err := db.RepositoryExists(t.Context(), "a"); err != nil || there {
		t.Fatalf("the repository is there: %v, %v", there, err)
	}
	if n := count(t, db, `tag_log WHERE repository = 'a' AND tag = 't'`); n != 2 {
		t.Errorf("%d moves outlived their repository, want 2", n)
	}
	image(t, db, "a", 1, "t")
	if moves := log(t, db, "a", "t"); len(moves) != 3 || !moves[1].New.IsZero() || !moves[2].Old.IsZero() {
		t.Errorf("the name has the moves %v", moves)
	}
}

func TestDeleteTag(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1, "t", "u")
	if err := db.DeleteTag(t.Context(), "a", "t", Origin{}, at(1)); err != nil {
		t.Fatal(err)
	}
	_, err := db.Manifest(t.Context(), "a", byTag("t"), true)
	wantErr(t, err, ErrNotFound)
	wantErr(t, db.DeleteTag(t.Context(), "a", "t", Origin{}, at(1)), ErrNotFound)
	for _, ref := range []oci.Reference{byTag("u"), byDigest(n.Digest)} {
		if m, err := db.Manifest(t.Context(), "a", ref, true); err != nil || m.Digest != n.Digest {
			t.Errorf("%s: %+v, %v", ref, m, err)
		}
	}
	if got := collectAll(t, db); got != (Collected{}) {
		t.Errorf("untagged content was collected: %+v", got)
	}
}

func TestCondition(t *testing.T) {
	db := newDB(t)
	one := image(t, db, "a", 1)
	two := image(t, db, "a", 2)
	push := func(n NewManifest, want, expect oci.Digest, tags ...oci.Tag) error {
		t.Helper()
		n.Tags = tags
		n.Condition = func(current oci.Digest) bool {
			if current != want {
				t.Errorf("the condition was asked with %v, want %v", current, want)
			}
			return current == expect
		}
		_, err := db.PutManifest(t.Context(), n)
		return err
	}
	none := oci.Digest{}
	wantErr(t, push(one, none, two.Digest, "t"), ErrCondition)
	wantErr(t, push(one, none, none, "t", "u"), nil)
	wantErr(t, push(two, one.Digest, none, "t"), ErrCondition) // must not be there
	wantErr(t, push(two, one.Digest, one.Digest, "t"), nil)    // must be what it was
	wantErr(t, push(one, two.Digest, one.Digest, "t"), ErrCondition)
	wantErr(t, push(one, one.Digest, two.Digest, "u", "t"), ErrCondition) // the first tag counts
	if m, err := db.Manifest(t.Context(), "a", byTag("t"), true); err != nil || m.Digest != two.Digest {
		t.Errorf("%+v, %v", m, err)
	}
	// A push that the condition stops leaves nothing, not even its repository.
	n := document{seed: 3, foreign: []oci.Digest{digestOf(3)}}.build(t, "new", at(0), "t")
	n.Condition = func(oci.Digest) bool { return false }
	_, err := db.PutManifest(t.Context(), n)
	wantErr(t, err, ErrCondition)
	if there, err := db.RepositoryExists(t.Context(), "new"); err != nil || there {
		t.Errorf("the repository is there: %v, %v", there, err)
	}
	asked := false
	n.Tags, n.Condition = nil, func(oci.Digest) bool { asked = true; return false }
	if _, err := db.PutManifest(t.Context(), n); err != nil || asked {
		t.Errorf("without tags: %v, asked %v", err, asked)
	}
}
