package meta

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// retag points a tag to a manifest that is there.
func retag(t testing.TB, db *DB, n NewManifest, seconds int64, tags ...oci.Tag) {
	t.Helper()
	n.Tags, n.Now = tags, at(seconds)
	put(t, db, n)
}

var zero oci.Digest

func TestTagMovesByPages(t *testing.T) {
	db := newDB(t)
	one, two := image(t, db, "a", 1), image(t, db, "a", 2)
	for i := range 20 {
		retag(t, db, []NewManifest{one, two}[i%2], int64(i/3), "t") // several in a moment
		retag(t, db, []NewManifest{one, two}[i%2], int64(i/3), "u")
	}
	image(t, db, "b", 1, "t")
	for _, tag := range []oci.Tag{"t", ""} {
		all, err := db.TagMoves(t.Context(), "a", tag, MovePlace{}, 1000)
		if want := map[oci.Tag]int{"t": 20, "": 40}[tag]; err != nil || len(all) != want {
			t.Fatalf("%d moves, %v, want %d", len(all), err, want)
		}
		var got []TagMove
		for place := (MovePlace{}); ; {
			page, err := db.TagMoves(t.Context(), "a", tag, place, 3)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			if len(page) < 3 {
				break
			}
			place = MovePlace{page[2].At, page[2].ID}
		}
		if !slices.Equal(got, all) {
			t.Errorf("the pages have\n%v, want\n%v", got, all)
		}
		if tag == "t" {
			oldest := log(t, db, "a", "t")
			slices.Reverse(oldest)
			for i := range all {
				all[i].ID = 0
			}
			if !slices.Equal(all, oldest) {
				t.Errorf("the last first:\n%v, the first first:\n%v", all, oldest)
			}
		}
	}
	if moves, err := db.TagMoves(t.Context(), "none", "", MovePlace{}, 3); err != nil || len(moves) > 0 {
		t.Errorf("of nothing: %v, %v", moves, err)
	}
}

// The state of each time is what a model says, tag by tag and page by page.
func TestTagChanges(t *testing.T) {
	db := newDB(t)
	random := rand.New(rand.NewPCG(1, 2))
	var images []NewManifest
	for i := range 4 {
		images = append(images, image(t, db, "a", i))
	}
	tags := []oci.Tag{"A", "a", "a-b", "a.b", "b", "v1.10", "v1.9"}
	const steps = 60
	var model [steps]map[oci.Tag]TagState // after each step, which is a second
	last := map[oci.Tag]TagState{}
	for i := range model {
		tag, n := tags[random.IntN(len(tags))], images[random.IntN(len(images))]
		s, there := last[tag]
		switch {
		case there && random.IntN(3) == 0:
			if err := db.DeleteTag(t.Context(), "a", tag, Origin{}, at(int64(i))); err != nil {
				t.Fatal(err)
			}
			delete(last, tag)
		case !there || s.Digest != n.Digest:
			retag(t, db, n, int64(i), tag)
			last[tag] = TagState{tag, n.Digest, at(int64(i))}
		}
		model[i] = make(map[oci.Tag]TagState)
		for k, v := range last {
			model[i][k] = v
		}
	}
	state := func(seconds int) map[oci.Tag]TagState {
		if seconds < 0 {
			return nil
		}
		return model[min(seconds, steps-1)]
	}
	same := func(got TagState, want TagState) bool {
		return got.Digest == want.Digest && (want.Digest.IsZero() || got.Tag == want.Tag && got.Since.Equal(want.Since))
	}
	for range 100 {
		from, to := random.IntN(steps+2)-1, random.IntN(steps+2)-1
		toTime := at(int64(to))
		if to >= steps-1 {
			toTime = time.Time{}
		}
		got := map[oci.Tag]TagChange{}
		var order []oci.Tag
		for after, rounds := oci.Tag(""), 0; ; rounds++ {
			page, next, err := db.TagChanges(t.Context(), "a", at(int64(from)), toTime, after, 2)
			if err != nil || len(page) > 2 || rounds > len(tags) {
				t.Fatalf("%d in a page of two, %d pages: %v", len(page), rounds, err)
			}
			for _, c := range page {
				got[c.From.Tag] = c
				order = append(order, c.From.Tag)
			}
			if after = next; next == "" {
				break
			}
		}
		if !slices.IsSorted(order) {
			t.Errorf("the order is %v", order)
		}
		for _, tag := range tags {
			before, after := state(from)[tag], state(to)[tag]
			if c, ok := got[tag]; !same(c.From, before) || !same(c.To, after) || ok && before.Digest.IsZero() && after.Digest.IsZero() {
				t.Errorf("%s between %d and %d is %+v, want %+v and %+v", tag, from, to, c, before, after)
			}
			s, err := db.TagAt(t.Context(), "a", tag, at(int64(from)))
			if before.Digest.IsZero() != errors.Is(err, ErrNotFound) || !before.Digest.IsZero() && (err != nil || !same(s, before)) {
				t.Errorf("%s at %d is %+v, %v, want %+v", tag, from, s, err, before)
			}
		}
	}
}

// The cost of a state follows the tags, not the moves.
func TestManyMoves(t *testing.T) {
	db := newDB(t)
	one, two := image(t, db, "a", 1), image(t, db, "a", 2)
	retag(t, db, one, 0, "after", "before")
	n := rounds(20_000)
	if err := db.update(t.Context(), func(x *tx) error { // as if there had been so many
		_, err := x.exec(`INSERT INTO tag_log (repository_id, repository, tag, old_digest, new_digest, at, actor, method)
			WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < CAST($1 AS BIGINT))
			SELECT 0, 'a', 'moves', CAST($2 AS TEXT), CASE WHEN i = $1 THEN NULL WHEN i % 2 = 0 THEN CAST($2 AS TEXT) ELSE CAST($3 AS TEXT) END, CAST($4 AS BIGINT) + i, '', '' FROM i`,
			n, one.Digest.String(), two.Digest.String(), at(0).UnixMilli())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	must(t, db.Analyze(t.Context())) // PostgreSQL has not done that yet by itself
	for i, want := range map[int]oci.Digest{1: two.Digest, 2: one.Digest, n - 1 | 1: two.Digest} {
		changes, next, err := db.TagChanges(t.Context(), "a", at(0).Add(time.Duration(i)*time.Millisecond), time.Time{}, "", 10)
		if err != nil || next != "" || len(changes) != 3 || changes[2].From.Digest != want {
			t.Errorf("after %d moves: %+v, %q, %v", i, changes, next, err)
		}
	}
	page, err := db.TagMoves(t.Context(), "a", "moves", MovePlace{at(0).Add(time.Duration(n/2) * time.Millisecond), 0}, 5)
	if err != nil || len(page) != 5 || !page[0].At.Equal(at(0).Add(time.Duration(n/2-1)*time.Millisecond)) {
		t.Errorf("a page in the middle: %+v, %v", page, err)
	}
}

// A clock that goes back does not change the order of moves.
func TestMovesInOrder(t *testing.T) {
	db := newDB(t)
	one, two := image(t, db, "a", 1), image(t, db, "a", 2)
	retag(t, db, one, 10, "t")
	retag(t, db, two, 5, "t")
	if s, err := db.TagAt(t.Context(), "a", "t", at(10)); err != nil || s.Digest != two.Digest {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := db.TagAt(t.Context(), "a", "t", at(9)); !errors.Is(err, ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if err := db.DeleteManifest(t.Context(), "a", two.Digest, nil, Origin{}, at(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.TagAt(t.Context(), "a", "t", at(10)); !errors.Is(err, ErrNotFound) {
		t.Errorf("after: %v", err)
	}
}

func TestLoggedRepositories(t *testing.T) {
	db := newDB(t)
	for _, r := range []oci.Repository{"org", "org/a", "org/a-b", "org/a/b", "org0/c"} {
		image(t, db, r, r, "t", "u")
	}
	image(t, db, "untagged", "untagged")
	gone := image(t, db, "org/gone", "gone", "t")
	if err := db.DeleteManifest(t.Context(), "org/gone", gone.Digest, nil, Origin{}, at(1)); err != nil {
		t.Fatal(err)
	}
	collectAll(t, db)
	for scope, want := range map[string][]string{
		"": {"org", "org/a", "org/a-b", "org/a/b", "org/gone", "org0/c"}, "org/": {"org/a", "org/a-b", "org/a/b", "org/gone"},
		"org/a": {"org/a"}, "org": {"org"}, "none": {}, "none/": {},
	} {
		got := []string{}
		for after := ""; ; {
			page, err := db.LoggedRepositories(t.Context(), scope, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			if len(page) < 2 {
				break
			}
			after = page[1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", scope, got, want)
		}
	}
}

// restore sets one tag back.
func restore(t testing.TB, db *DB, r oci.Repository, tag oci.Tag, from, to oci.Digest) (int, error) {
	t.Helper()
	failed, revived, err := db.RestoreTags(t.Context(), r, []TagRestore{{tag, from, to}}, nil, Origin{Actor: "ann", Method: "restore", Trash: true}, at(1000))
	if err != nil {
		t.Fatal(err)
	}
	return revived, failed[0]
}

func TestRestoreTags(t *testing.T) {
	db := newDB(t)
	one, two := image(t, db, "a", 1, "t"), image(t, db, "a", 2)
	retag(t, db, two, 5, "t")
	want := func(tag oci.Tag, d oci.Digest) {
		t.Helper()
		m, err := db.Manifest(t.Context(), "a", byTag(tag), true)
		if d.IsZero() != errors.Is(err, ErrNotFound) || !d.IsZero() && (err != nil || m.Digest != d) {
			t.Errorf("%s is %+v, %v, want %s", tag, m, err, d)
		}
	}
	if _, err := restore(t, db, "a", "t", one.Digest, zero); !errors.Is(err, ErrChanged) {
		t.Errorf("a tag that has moved: %v", err)
	}
	if _, err := restore(t, db, "a", "t", two.Digest, digestOf("gone")); !errors.Is(err, ErrGone) {
		t.Errorf("a manifest that is gone: %v", err)
	}
	want("t", two.Digest)
	if n, err := restore(t, db, "a", "t", two.Digest, one.Digest); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	want("t", one.Digest)
	trashed(t, db, one, 6)
	want("t", zero)
	if n, err := restore(t, db, "a", "t", zero, one.Digest); n != 1 || err != nil {
		t.Errorf("out of the trash: %d, %v", n, err)
	}
	want("t", one.Digest)
	if n, err := restore(t, db, "a", "t", one.Digest, zero); n != 0 || err != nil {
		t.Errorf("a tag that was not there: %d, %v", n, err)
	}
	want("t", zero)
	if _, err := restore(t, db, "none", "t", zero, one.Digest); !errors.Is(err, ErrGone) {
		t.Errorf("a repository that is gone: %v", err)
	}
	// Who may not set one of several sets the others.
	no := errors.New("no")
	failed, _, err := db.RestoreTags(t.Context(), "a", []TagRestore{{"x", zero, one.Digest}, {"y", zero, two.Digest}, {"z", zero, digestOf("gone")}},
		func(tag oci.Tag, current, next oci.Digest) error {
			if tag == "x" && current.IsZero() && next == one.Digest {
				return no
			}
			return nil
		}, Origin{}, at(2000))
	if err != nil || len(failed) != 3 || failed[0] != no || failed[1] != nil || failed[2] != ErrGone {
		t.Errorf("%v, %v", failed, err)
	}
	want("x", zero)
	want("y", two.Digest)
	moves := log(t, db, "a", "t")
	if last := moves[len(moves)-1]; last.Origin != (Origin{Actor: "ann", Method: "restore"}) || last.Old != one.Digest || !last.New.IsZero() {
		t.Errorf("the last move is %+v", last)
	}
}

// What comes out of the trash is what went in: with its number, its blobs, its subject and its tags.
func TestUndelete(t *testing.T) {
	db := newDB(t)
	blob := digestOf("blob")
	commit(t, db, "a", blob, at(0))
	doc := document{seed: 1, blobs: []oci.Digest{blob}, foreign: []oci.Digest{digestOf("foreign")}, subject: digestOf("subject"), artifact: "b/c", notes: map[string]string{"k": "v"}}
	n := put(t, db, doc.build(t, "a", at(0), "t", "u", "v"))
	rows := func() (s string) {
		t.Helper()
		for _, text := range []string{
			`SELECT CONCAT(id, digest, media_type, size, artifact_type, subject, annotations, created_at, LENGTH(body)) FROM manifest ORDER BY id`,
			`SELECT CONCAT(manifest_id, ' ', blob_id, ' ', repository_id) FROM manifest_blob ORDER BY 1`, `SELECT CONCAT(manifest_id, digest) FROM manifest_missing_blob ORDER BY 1`,
			`SELECT CONCAT(manifest_id, digest, repository_id) FROM manifest_child ORDER BY 1`, `SELECT CONCAT(name, manifest_id) FROM tag ORDER BY 1`,
			`SELECT CONCAT(blob_id, ' ', unreferenced_since) FROM repository_blob ORDER BY 1`,
		} {
			found, err := db.names(t.Context(), text)
			if err != nil {
				t.Fatal(err)
			}
			s += fmt.Sprintln(found)
		}
		return s
	}
	before := rows()
	trashed(t, db, n, 5)
	collectAll(t, db)
	u, err := db.Undelete(t.Context(), "a", n.Digest, nil, Origin{Actor: "ann", Method: "undelete"}, at(6))
	if err != nil || u.Manifests != 1 || !slices.Equal(u.Tags, []oci.Tag{"t", "u", "v"}) || len(u.Taken) > 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if after := rows(); after != before {
		t.Errorf("before\n%s, after\n%s", before, after)
	}
	_, err = db.Undelete(t.Context(), "a", n.Digest, nil, Origin{}, at(7))
	wantErr(t, err, ErrNotFound)
	_, err = db.Undelete(t.Context(), "none", n.Digest, nil, Origin{}, at(7))
	wantErr(t, err, ErrNotFound)
	// A tag that is there again stays what it is.
	trashed(t, db, n, 8)
	other := image(t, db, "a", 2, "u")
	no := errors.New("no")
	_, err = db.Undelete(t.Context(), "a", n.Digest, func(tag oci.Tag, _, _ oci.Digest) error {
		if tag == "u" {
			t.Error("it was asked about a tag that it does not set")
		}
		return no
	}, Origin{}, at(9))
	wantErr(t, err, no)
	u, err = db.Undelete(t.Context(), "a", n.Digest, nil, Origin{}, at(9))
	if err != nil || !slices.Equal(u.Tags, []oci.Tag{"t", "v"}) || !slices.Equal(u.Taken, []oci.Tag{"u"}) {
		t.Errorf("%+v, %v", u, err)
	}
	if m, err := db.Manifest(t.Context(), "a", byTag("u"), true); err != nil || m.Digest != other.Digest {
		t.Errorf("%+v, %v", m, err)
	}
}

// An index comes with its children, and an image with its signatures, if they were not deleted before it.
func TestUndeleteTree(t *testing.T) {
	db := newDB(t)
	child := image(t, db, "a", "child")
	index := put(t, db, document{seed: "index", manifests: []oci.Digest{child.Digest, digestOf("absent")}}.build(t, "a", at(0), "t"))
	outer := put(t, db, document{seed: "outer", manifests: []oci.Digest{index.Digest}}.build(t, "a", at(0), "outer"))
	signature := func(seed string, of oci.Digest) NewManifest {
		return put(t, db, document{seed: seed, foreign: []oci.Digest{digestOf(seed)}, subject: of}.build(t, "a", at(0)))
	}
	old, signed := signature("old", child.Digest), signature("signed", child.Digest)
	attested := signature("attested", signed.Digest)
	trashed(t, db, old, 1)
	for i, n := range []NewManifest{outer, index, child, signed, attested} {
		trashed(t, db, n, int64(2+i))
	}
	u, err := db.Undelete(t.Context(), "a", outer.Digest, nil, Origin{}, at(100))
	if err != nil || u.Manifests != 5 || !slices.Equal(u.Tags, []oci.Tag{"outer", "t"}) {
		t.Errorf("%+v, %v", u, err)
	}
	if got := inTrash(t, db, "a"); !slices.Equal(got, []oci.Digest{old.Digest}) {
		t.Errorf("in the trash is %v, want %s", got, old.Digest)
	}
	// The index is there, its child is not.
	trashed(t, db, child, 200)
	if n, err := restore(t, db, "a", "new", zero, index.Digest); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if kept, err := db.Whereabouts(t.Context(), "a", []oci.Digest{child.Digest, old.Digest, digestOf("absent")}); err != nil ||
		kept[child.Digest] != KeptInRepository || kept[old.Digest] != KeptInTrash || kept[digestOf("absent")] != KeptNowhere {
		t.Errorf("%v, %v", kept, err)
	}
}

func TestDeleteManifests(t *testing.T) {
	db := newDB(t)
	for i := range 7 {
		image(t, db, "a", i, oci.Tag(fmt.Sprint("t", i)), "latest")
	}
	c, err := db.Contents(t.Context(), "a")
	if err != nil || c.Manifests != 7 || c.Tags != 8 || c.Blobs != 7 || c.Bytes != 70 {
		t.Errorf("%+v, %v", c, err)
	}
	late := image(t, db, "a", "late", "late")
	no := errors.New("no")
	_, err = db.DeleteManifests(t.Context(), "a", c.LastManifest, 10, func(tag oci.Tag, _ oci.Digest) error {
		if tag == "t5" {
			return no
		}
		return nil
	}, Origin{Trash: true}, at(1))
	wantErr(t, err, no)
	var all int
	for {
		n, err := db.DeleteManifests(t.Context(), "a", c.LastManifest, 3, nil, Origin{Trash: true}, at(1))
		if err != nil || n > 3 {
			t.Fatal(n, err)
		}
		if all += n; n == 0 {
			break
		}
	}
	if got := inTrash(t, db, "a"); all != 7 || len(got) != 7 {
		t.Errorf("%d were deleted, %d are in the trash", all, len(got))
	}
	if tags, err := db.Tags(t.Context(), "a", "", 10); err != nil || !slices.Equal(tags, []string{"late"}) {
		t.Errorf("%v, %v, want that of %s", tags, err, late.Digest)
	}
	if _, err := db.Contents(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if n, err := db.DeleteManifests(t.Context(), "none", 9, 9, nil, Origin{}, at(1)); n != 0 || err != nil {
		t.Error(n, err)
	}
}
