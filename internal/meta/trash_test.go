package meta

import (
	"fmt"
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// trashed deletes a manifest into the trash.
func trashed(t testing.TB, db *DB, n NewManifest, seconds int64) {
	t.Helper()
	origin := Origin{Actor: "ann", Credential: "laptop", Method: "delete", Trash: true}
	if err := db.DeleteManifest(t.Context(), n.Repository, n.Digest, nil, origin, at(seconds)); err != nil {
		t.Fatal(err)
	}
}

// inTrash returns the digests in a repository's trash, the last deleted first.
func inTrash(t testing.TB, db *DB, r oci.Repository) []oci.Digest {
	t.Helper()
	all, err := db.Trash(t.Context(), r, TrashPlace{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	digests := []oci.Digest{}
	for _, m := range all {
		digests = append(digests, m.Digest)
	}
	return digests
}

// What lies in the trash is not served, and keeps its blobs and its repository.
func TestTrashKeeps(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1, "t", "u")
	blob := n.Parsed.Blobs[0].Digest
	trashed(t, db, n, 5)
	for _, ref := range []oci.Reference{byTag("t"), byDigest(n.Digest)} {
		_, err := db.Manifest(t.Context(), "a", ref, true)
		wantErr(t, err, ErrNotFound)
	}
	if names, err := db.Repositories(t.Context(), "", 10); err != nil || len(names) > 0 {
		t.Errorf("listed are %v, %v", names, err)
	}
	if got := collectAll(t, db); got != (Collected{}) {
		t.Errorf("collected: %+v", got)
	}
	got, err := db.Trash(t.Context(), "a", TrashPlace{}, 10)
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if m := got[0]; m.Digest != n.Digest || m.Size != int64(len(n.Body)) || m.Blobs != 10 || !m.Deleted.Equal(at(5)) || m.MediaType != n.Parsed.MediaType ||
		m.Origin != (Origin{Actor: "ann", Credential: "laptop", Method: "delete"}) || !slices.Equal(m.Tags, []oci.Tag{"t", "u"}) {
		t.Errorf("%+v", m)
	}
	// A manifest that needs the blob, too, comes and goes without the trash.
	other := put(t, db, document{seed: 2, blobs: []oci.Digest{blob}}.build(t, "a", at(7)))
	if err := db.DeleteManifest(t.Context(), "a", other.Digest, nil, Origin{}, at(8)); err != nil {
		t.Fatal(err)
	}
	if got := collectAll(t, db); got != (Collected{}) {
		t.Errorf("collected: %+v", got)
	}
	// Pushed again, it is not in the trash any more; deleted again, it is.
	put(t, db, n)
	if got := inTrash(t, db, "a"); len(got) > 0 {
		t.Errorf("in the trash is %v, which was pushed again", got)
	}
	trashed(t, db, n, 9)
	if got := inTrash(t, db, "a"); !slices.Equal(got, []oci.Digest{n.Digest}) {
		t.Errorf("in the trash is %v", got)
	}
}

// Who deletes a blob by itself wants it gone: what needs it goes out of the trash, unless a manifest that is there needs the blob, too.
func TestDeletedBlobEmptiesTrash(t *testing.T) {
	db := newDB(t)
	n, other := image(t, db, "a", 1, "t"), image(t, db, "a", 2, "u")
	blob := n.Parsed.Blobs[0].Digest
	trashed(t, db, n, 5)
	trashed(t, db, other, 5)
	user := put(t, db, document{seed: 3, blobs: []oci.Digest{blob}}.build(t, "a", at(6)))
	wantErr(t, db.DeleteBlob(t.Context(), "a", blob, Origin{}, at(7)), ErrReferenced)
	if got := inTrash(t, db, "a"); len(got) != 2 {
		t.Errorf("in the trash is %v after a delete that was refused", got)
	}
	must(t, db.DeleteManifest(t.Context(), "a", user.Digest, nil, Origin{}, at(8)))
	must(t, db.DeleteBlob(t.Context(), "a", blob, Origin{}, at(9)))
	_, err := db.Blob(t.Context(), "a", blob)
	wantErr(t, err, ErrNotFound)
	if got := inTrash(t, db, "a"); !slices.Equal(got, []oci.Digest{other.Digest}) {
		t.Errorf("in the trash is %v", got)
	}
}

// When its time is over, or somebody empties the trash, the grace period of blobs begins that nothing else needs.
func TestEmptyTrash(t *testing.T) {
	for name, empty := range map[string]func(db *DB, first, last NewManifest) (Emptied, error){
		"expired": func(db *DB, _, _ NewManifest) (Emptied, error) {
			return db.ExpireTrash(t.Context(), at(6), 10, at(100))
		},
		"by digest": func(db *DB, first, _ NewManifest) (Emptied, error) {
			return db.EmptyTrash(t.Context(), "a", first.Digest, 10, Origin{}, at(100))
		},
		"in parts": func(db *DB, _, _ NewManifest) (Emptied, error) {
			return db.EmptyTrash(t.Context(), "a", oci.Digest{}, 1, Origin{}, at(100))
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			alone, shared, needed := digestOf("alone"), digestOf("shared"), digestOf("needed")
			for _, b := range []oci.Digest{alone, shared, needed} {
				commit(t, db, "a", b, at(0))
			}
			first := put(t, db, document{seed: 1, blobs: []oci.Digest{alone, shared, needed}}.build(t, "a", at(0), "t"))
			last := put(t, db, document{seed: 2, blobs: []oci.Digest{shared}}.build(t, "a", at(0)))
			put(t, db, document{seed: 3, blobs: []oci.Digest{needed}}.build(t, "a", at(0)))
			trashed(t, db, first, 5)
			trashed(t, db, last, 6)
			got, err := empty(db, first, last)
			if err != nil || got != (Emptied{Manifests: 1, Bytes: int64(len(first.Body))}) {
				t.Errorf("%+v, %v", got, err)
			}
			if got := inTrash(t, db, "a"); !slices.Equal(got, []oci.Digest{last.Digest}) {
				t.Errorf("in the trash is %v", got)
			}
			if links := unreferenced(t, db, at(1000), 10); len(links) != 1 || links[0].Digest != alone || !links[0].Since.Equal(at(100)) {
				t.Errorf("unreferenced are %+v", links)
			}
		})
	}
}

// A repository goes when its trash was the last that it had.
func TestEmptiedRepository(t *testing.T) {
	db := newDB(t)
	child := digestOf("absent")
	n := put(t, db, document{seed: 1, manifests: []oci.Digest{child}}.build(t, "a", at(0), "t"))
	trashed(t, db, n, 5)
	if there, err := db.RepositoryExists(t.Context(), "a"); err != nil || !there {
		t.Errorf("the repository is there: %v, %v", there, err)
	}
	got, err := db.ExpireTrash(t.Context(), at(6), 10, at(6))
	if err != nil || got != (Emptied{Manifests: 1, Bytes: int64(len(n.Body)), Repositories: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	if there, err := db.RepositoryExists(t.Context(), "a"); err != nil || there {
		t.Errorf("the repository is there: %v, %v", there, err)
	}
}

// A Berth that knows no trash does it no harm, and sees a blob there as one that a manifest needs.
func TestTrashBesideOlderBerth(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1)
	trashed(t, db, n, 5)
	index := put(t, db, document{seed: 2, manifests: []oci.Digest{n.Digest}}.build(t, "b", at(0)))
	trashed(t, db, index, 5)
	for _, text := range []string{
		`UPDATE repository_blob SET unreferenced_since = 1 WHERE repository_id = (SELECT id FROM repository WHERE name = 'a')`,
		`DELETE FROM repository_blob WHERE repository_id = (SELECT id FROM repository WHERE name = 'a')`,
		`DELETE FROM repository WHERE name = 'b'`,
	} {
		if err := db.update(t.Context(), func(t *tx) error { _, err := t.exec(text); return err }); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if n := count(t, db, "repository_blob"); n != 1 {
		t.Errorf("%d links are left, want 1", n)
	}
	if got := unreferenced(t, db, at(1000), 10); len(got) > 0 {
		t.Errorf("unreferenced are %+v", got)
	}
	if n := count(t, db, "repository"); n != 2 {
		t.Errorf("%d repositories are left, want 2", n)
	}
}

func TestTrashByPages(t *testing.T) {
	db := newDB(t)
	var want []oci.Digest
	for i := range 7 {
		n := image(t, db, "org/a", i, oci.Tag(fmt.Sprint("t", i)))
		trashed(t, db, n, int64(i/3)) // several at the same time
		want = append(want, n.Digest)
	}
	slices.Reverse(want)
	var got []oci.Digest
	for place := (TrashPlace{}); ; {
		page, err := db.Trash(t.Context(), "org/a", place, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			got = append(got, m.Digest)
			place = TrashPlace{m.Deleted, m.ID}
		}
		if len(page) < 2 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pages have %v, want %v", got, want)
	}
	image(t, db, "org/b", "b", "t")
	for _, r := range []oci.Repository{"org", "org/a-b", "org/a/b", "org0/c"} {
		trashed(t, db, image(t, db, r, r), 0)
	}
	for scope, want := range map[string][]string{
		"": {"org", "org/a", "org/a-b", "org/a/b", "org0/c"}, "org/": {"org/a", "org/a-b", "org/a/b"}, "org/a": {"org/a"}, "org": {"org"}, "org/b": {}, "none/": {},
	} {
		if got, err := db.TrashedRepositories(t.Context(), scope, "", 10); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", scope, got, err, want)
		}
	}
	if got, err := db.TrashedRepositories(t.Context(), "", "org/a", 1); err != nil || !slices.Equal(got, []string{"org/a-b"}) {
		t.Errorf("after org/a: %v, %v", got, err)
	}
}
