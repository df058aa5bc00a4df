package meta

import (
	"errors"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

func doomed(t *testing.T, db *DB) map[string]bool {
	t.Helper()
	keys, err := db.Doomed(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, k := range keys {
		found[k] = true
	}
	return found
}

func TestCommitBlob(t *testing.T) {
	db := newDB(t)
	d := digestOf("d")
	first := commit(t, db, "a", d, at(1))
	for _, r := range []oci.Repository{"b", "none"} {
		_, err := db.Blob(t.Context(), r, d)
		wantErr(t, err, ErrNotFound)
	}
	want := Blob{Digest: d, Size: 10, Key: first, UnreferencedSince: at(1)}
	for range 2 {
		if b, err := db.Blob(t.Context(), "a", d); err != nil || *b != want {
			t.Errorf("%+v, %v, want %+v", b, err, want)
		}
	}
	// Nothing happens before the caller has said what it thinks of the object that is there.
	n := NewBlob{Repository: "b", Digest: d, Size: 10, Key: newKey(), Now: at(2)}
	for _, wrong := range []string{"", newKey(), n.Key} {
		n.Whole, n.Broken = wrong, wrong
		err := db.CommitBlob(t.Context(), n)
		if exists, ok := errors.AsType[*ExistsError](err); !ok || exists.Key != first || exists.Size != 10 {
			t.Fatalf("error is %v", err)
		}
	}
	if there, err := db.RepositoryExists(t.Context(), "b"); err != nil || there || len(doomed(t, db)) > 0 {
		t.Errorf("the question changed something: %v, %v, %v", there, err, doomed(t, db))
	}
	n.Whole, n.Broken = first, ""
	if err := db.CommitBlob(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if b, err := db.Blob(t.Context(), "b", d); err != nil || b.Key != first || !b.UnreferencedSince.Equal(at(2)) {
		t.Errorf("%+v, %v", b, err)
	}
	if got := doomed(t, db); len(got) != 1 || !got[n.Key] {
		t.Errorf("doomed are %v, want %s", got, n.Key)
	}
	// Pushed again, its grace period begins anew; once it is needed, it does not.
	commit(t, db, "a", d, at(3))
	if s := since(t, db, "a", d); !s.Equal(at(3)) {
		t.Errorf("unreferenced since %v", s)
	}
	put(t, db, document{seed: 1, blobs: []oci.Digest{d}}.build(t, "a", at(4)))
	commit(t, db, "a", d, at(5))
	if s := since(t, db, "a", d); !s.IsZero() {
		t.Errorf("a needed blob that is pushed again is unreferenced since %v", s)
	}
}

// An object that is committed again, because the answer got lost, stays what it is.
func TestCommitTwice(t *testing.T) {
	db := newDB(t)
	n := NewBlob{Repository: "a", Digest: digestOf("d"), Size: 10, Key: newKey(), Now: at(1)}
	for range 3 {
		if err := db.CommitBlob(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		n.Whole = n.Key // whatever the caller thinks of it
	}
	if got := doomed(t, db); len(got) > 0 {
		t.Errorf("doomed are %v", got)
	}
}

// A push of the same digest mends what has lost its bytes, for every repository.
func TestCommitReplacesBroken(t *testing.T) {
	db := newDB(t)
	d := digestOf("d")
	lost := commit(t, db, "a", d, at(1))
	put(t, db, document{seed: 1, blobs: []oci.Digest{d}}.build(t, "a", at(1), "t"))
	n := NewBlob{Repository: "b", Digest: d, Size: 11, Key: newKey(), Broken: lost, Now: at(2)} // the size was wrong, too
	if err := db.CommitBlob(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for r, needed := range map[oci.Repository]bool{"a": true, "b": false} {
		if b, err := db.Blob(t.Context(), r, d); err != nil || b.Key != n.Key || b.Size != 11 || b.UnreferencedSince.IsZero() != needed {
			t.Errorf("%s: %+v, %v", r, b, err)
		}
	}
	if got := doomed(t, db); len(got) != 1 || !got[lost] {
		t.Errorf("doomed are %v, want %s", got, lost)
	}
	if blobs, bytes, err := db.Totals(t.Context()); err != nil || blobs != 1 || bytes != 11 {
		t.Errorf("totals are %d blobs of %d bytes, %v", blobs, bytes, err)
	}
	// Who says so of an object that was replaced meanwhile is asked again.
	late := NewBlob{Repository: "b", Digest: d, Size: 10, Key: newKey(), Broken: lost, Now: at(3)}
	if exists, ok := errors.AsType[*ExistsError](db.CommitBlob(t.Context(), late)); !ok || exists.Key != n.Key {
		t.Errorf("%+v", exists)
	}
}

func TestMountBlob(t *testing.T) {
	db := newDB(t)
	d, other := digestOf("d"), digestOf("other")
	key := commit(t, db, "from", d, at(0))
	commit(t, db, "else", other, at(0))
	for _, from := range []oci.Repository{"none", "else", "into"} {
		wantErr(t, db.MountBlob(t.Context(), "into", from, d, at(1)), ErrNotFound)
	}
	wantErr(t, db.MountBlob(t.Context(), "into", "", digestOf("none"), at(1)), ErrNotFound)
	if there, err := db.RepositoryExists(t.Context(), "into"); err != nil || there {
		t.Errorf("a mount that failed made its repository: %v, %v", there, err)
	}
	for i, from := range []oci.Repository{"from", "", "into", "from"} {
		if err := db.MountBlob(t.Context(), "into", from, d, at(int64(i))); err != nil {
			t.Fatal(err)
		}
		if b, err := db.Blob(t.Context(), "into", d); err != nil || b.Key != key || !b.UnreferencedSince.Equal(at(int64(i))) {
			t.Errorf("%+v, %v", b, err)
		}
	}
	// The mounted blob outlives its source.
	if err := db.DeleteBlob(t.Context(), "from", d, Origin{}, at(9)); err != nil {
		t.Fatal(err)
	}
	if b, err := db.Blob(t.Context(), "into", d); err != nil || b.Key != key || len(doomed(t, db)) > 0 {
		t.Errorf("%+v, %v, doomed %v", b, err, doomed(t, db))
	}
	if err := db.DeleteBlob(t.Context(), "into", d, Origin{}, at(9)); err != nil {
		t.Fatal(err)
	}
	if got := doomed(t, db); len(got) != 1 || !got[key] {
		t.Errorf("doomed are %v, want %s", got, key)
	}
	wantErr(t, db.MountBlob(t.Context(), "into", "", d, at(10)), ErrNotFound)
}

func TestTouchBlob(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1)
	needed, d := digests(n)[0], digestOf("d")
	commit(t, db, "a", d, at(0))
	for _, x := range []oci.Digest{needed, d} {
		if err := db.TouchBlob(t.Context(), "a", x, at(50)); err != nil {
			t.Fatal(err)
		}
	}
	if s := since(t, db, "a", needed); !s.IsZero() {
		t.Errorf("a needed blob is unreferenced since %v", s)
	}
	if s := since(t, db, "a", d); !s.Equal(at(50)) {
		t.Errorf("unreferenced since %v", s)
	}
	wantErr(t, db.TouchBlob(t.Context(), "a", digestOf("none"), at(0)), ErrNotFound)
	wantErr(t, db.TouchBlob(t.Context(), "none", d, at(0)), ErrNotFound)
	commit(t, db, "b", digestOf("else"), at(0))
	wantErr(t, db.TouchBlob(t.Context(), "b", d, at(0)), ErrNotFound)
}

func TestDeleteBlob(t *testing.T) {
	db := newDB(t)
	d := digestOf("d")
	key := commit(t, db, "a", d, at(0))
	mount(t, db, "b", d, at(0))
	n := put(t, db, document{seed: 1, blobs: []oci.Digest{d}}.build(t, "a", at(0)))
	wantErr(t, db.DeleteBlob(t.Context(), "a", d, Origin{}, at(1)), ErrReferenced)
	wantErr(t, db.DeleteBlob(t.Context(), "none", d, Origin{}, at(1)), ErrNotFound)
	wantErr(t, db.DeleteBlob(t.Context(), "a", digestOf("none"), Origin{}, at(1)), ErrNotFound)
	if err := db.DeleteBlob(t.Context(), "b", d, Origin{}, at(1)); err != nil { // what one needs, another need not keep
		t.Fatal(err)
	}
	wantErr(t, db.DeleteBlob(t.Context(), "b", d, Origin{}, at(1)), ErrNotFound)
	if there, err := db.RepositoryExists(t.Context(), "b"); err != nil || there {
		t.Errorf("a repository that holds nothing is there: %v, %v", there, err)
	}
	if err := db.DeleteManifest(t.Context(), "a", n.Digest, nil, Origin{}, at(2)); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteBlob(t.Context(), "a", d, Origin{}, at(3)); err != nil {
		t.Fatal(err)
	}
	if got := doomed(t, db); len(got) != 1 || !got[key] {
		t.Errorf("doomed are %v, want %s", got, key)
	}
	for _, table := range []string{"repository", "repository_blob", "blob", "manifest", "manifest_blob"} {
		if n := count(t, db, table); n != 0 {
			t.Errorf("%d rows are left of %s", n, table)
		}
	}
	// The same digest again has a new row and another object.
	again := commit(t, db, "a", d, at(4))
	if b, err := db.Blob(t.Context(), "a", d); err != nil || b.Key != again || again == key {
		t.Errorf("%+v, %v", b, err)
	}
}

// The precision of times is a millisecond, everywhere.
func TestTimesAreMilliseconds(t *testing.T) {
	db := newDB(t)
	now := time.Unix(1_700_000_000, 123_456_789)
	commit(t, db, "a", digestOf("d"), now)
	if s := since(t, db, "a", digestOf("d")); !s.Equal(now.Truncate(time.Millisecond)) {
		t.Errorf("unreferenced since %v, want %v", s, now)
	}
}

func TestTotals(t *testing.T) {
	db := newDB(t)
	want := func(blobs, bytes int64) {
		t.Helper()
		if b, n, err := db.Totals(t.Context()); err != nil || b != blobs || n != bytes {
			t.Errorf("%d blobs of %d bytes, %v, want %d of %d", b, n, err, blobs, bytes)
		}
	}
	want(0, 0)
	for i := range 3 {
		commit(t, db, "a", digestOf(i), at(0))
	}
	commit(t, db, "a", digestOf(0), at(0)) // again
	mount(t, db, "b", digestOf(1), at(0))
	want(3, 30)
	for _, i := range []int{0, 1} { // the second has a link left
		if err := db.DeleteBlob(t.Context(), "a", digestOf(i), Origin{}, at(1)); err != nil {
			t.Fatal(err)
		}
	}
	want(2, 20)
	collectAll(t, db)
	want(0, 0)
}
