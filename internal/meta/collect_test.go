package meta

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

func unreferenced(t *testing.T, db *DB, before time.Time, n int) []UnreferencedBlob {
	t.Helper()
	links, err := db.UnreferencedBlobs(t.Context(), before, n)
	if err != nil {
		t.Fatal(err)
	}
	return links
}

func TestUnreferencedBlobs(t *testing.T) {
	db := newDB(t)
	for i := range 5 {
		commit(t, db, oci.Repository(fmt.Sprintf("r%d", 4-i)), digestOf(i), at(int64(10+i)))
	}
	image(t, db, "r0", "needed")
	found := func(links []UnreferencedBlob) (seconds []int64) {
		for _, l := range links {
			seconds = append(seconds, l.Since.Unix()-at(0).Unix())
		}
		return seconds
	}
	for _, c := range []struct {
		before int64
		n      int
		want   []int64
	}{
		{100, 100, []int64{10, 11, 12, 13, 14}}, {100, 2, []int64{10, 11}}, {13, 100, []int64{10, 11, 12}}, {10, 100, nil}, {100, 0, nil},
	} {
		if got := found(unreferenced(t, db, at(c.before), c.n)); !slices.Equal(got, c.want) {
			t.Errorf("before %d, %d of them: %v, want %v", c.before, c.n, got, c.want)
		}
	}
	if l := unreferenced(t, db, at(11), 9)[0]; l.Repository != "r4" || l.Digest != digestOf(0) || l.Size != 10 {
		t.Errorf("%+v", l)
	}
}

func TestCollectBlobs(t *testing.T) {
	db := newDB(t)
	alone, shared, needed := digestOf("alone"), digestOf("shared"), digestOf("needed")
	key := commit(t, db, "a", alone, at(0))
	commit(t, db, "a", shared, at(0))
	mount(t, db, "b", shared, at(0))
	commit(t, db, "b", needed, at(0))
	put(t, db, document{seed: 1, blobs: []oci.Digest{needed}}.build(t, "b", at(0)))
	mount(t, db, "c", needed, at(0))
	commit(t, db, "c", digestOf("fresh"), at(100))
	got, err := db.CollectBlobs(t.Context(), unreferenced(t, db, at(50), 100), at(50), at(60))
	if err != nil || got != (Collected{Links: 4, Blobs: 2, Bytes: 20, Repositories: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	if d := doomed(t, db); len(d) != 2 || !d[key] {
		t.Errorf("doomed are %v", d)
	}
	for r, there := range map[oci.Repository]bool{"a": false, "b": true, "c": true} {
		if got, err := db.RepositoryExists(t.Context(), r); err != nil || got != there {
			t.Errorf("%s is there: %v, %v", r, got, err)
		}
	}
	if got := unreferenced(t, db, at(50), 100); len(got) > 0 {
		t.Errorf("left are %v", got)
	}
	if got, err := db.CollectBlobs(t.Context(), nil, at(50), at(60)); err != nil || got != (Collected{}) {
		t.Errorf("of nothing: %+v, %v", got, err)
	}
}

// Every order in which a push and a collection can meet.
func TestCollectorComesSecond(t *testing.T) {
	d := digestOf("d")
	for name, between := range map[string]func(*testing.T, *DB){
		"a manifest needs the blob": func(t *testing.T, db *DB) {
			put(t, db, document{seed: 1, blobs: []oci.Digest{d}}.build(t, "a", at(20)))
		},
		"the blob was pushed again":  func(t *testing.T, db *DB) { commit(t, db, "a", d, at(20)) },
		"the blob was mounted again": func(t *testing.T, db *DB) { mount(t, db, "a", d, at(20)) },
		"a client was told that it is there": func(t *testing.T, db *DB) {
			if err := db.TouchBlob(t.Context(), "a", d, at(20)); err != nil {
				t.Fatal(err)
			}
		},
		"it was deleted, collected and pushed anew": func(t *testing.T, db *DB) {
			if err := db.DeleteBlob(t.Context(), "a", d, Origin{}, at(20)); err != nil {
				t.Fatal(err)
			}
			commit(t, db, "a", d, at(0)) // even as old as before: it is another blob
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			commit(t, db, "a", d, at(0))
			links := unreferenced(t, db, at(10), 10)
			if len(links) != 1 {
				t.Fatalf("%v", links)
			}
			between(t, db)
			if got, err := db.CollectBlobs(t.Context(), links, at(10), at(30)); err != nil || got != (Collected{}) {
				t.Errorf("collected %+v, %v", got, err)
			}
			if _, err := db.Blob(t.Context(), "a", d); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCollectorComesFirst(t *testing.T) {
	db := newDB(t)
	d := digestOf("d")
	commit(t, db, "a", d, at(0))
	if _, err := db.Blob(t.Context(), "a", d); err != nil { // a client is told that it is there
		t.Fatal(err)
	}
	if got := collectAll(t, db); got != (Collected{1, 1, 10, 1}) {
		t.Errorf("%+v", got)
	}
	wantErr(t, db.TouchBlob(t.Context(), "a", d, at(1)), ErrNotFound)
	wantErr(t, db.MountBlob(t.Context(), "b", "a", d, at(1)), ErrNotFound)
	wantErr(t, db.MountBlob(t.Context(), "b", "", d, at(1)), ErrNotFound)
	wantErr(t, db.DeleteBlob(t.Context(), "a", d, Origin{}, at(1)), ErrNotFound)
	_, err := db.PutManifest(t.Context(), document{seed: 1, blobs: []oci.Digest{d}}.build(t, "a", at(1)))
	wantMissing(t, err, d)
}

// The collector trusts in the foreign key alone: were a mark wrong, it would still not take what is needed.
func TestForeignKeyIsTheLock(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1)
	commit(t, db, "a", digestOf("free"), at(0))
	mark := func(value any) {
		t.Helper()
		if err := db.update(t.Context(), func(x *tx) error {
			_, err := x.exec(`UPDATE repository_blob SET unreferenced_since = $1 WHERE blob_id = (SELECT id FROM blob WHERE digest = $2)`, value, digests(n)[0].String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	mark(at(0).UnixMilli())
	if got := collectAll(t, db); got.Links != 1 || got.Blobs != 1 {
		t.Errorf("%+v", got)
	}
	if _, err := db.Blob(t.Context(), "a", digests(n)[0]); err != nil {
		t.Errorf("the blob of a manifest was collected: %v", err)
	}
	mark(nil)
}

func TestDoomedAndBuried(t *testing.T) {
	db := newDB(t)
	blob := commit(t, db, "a", digestOf("d"), at(0))
	if err := db.SaveUpload(t.Context(), &Upload{ID: "u", Repository: "a", Key: "upload", Algorithm: oci.SHA256, Updated: at(0)}, true); err != nil {
		t.Fatal(err)
	}
	for i, k := range []string{"c", "a", "b", "b", blob, "upload"} {
		if orphan, err := db.DoomOrphan(t.Context(), k, at(1)); err != nil || orphan != (i < 3) {
			t.Fatalf("%s is an orphan: %v, %v", k, orphan, err)
		}
	}
	for _, n := range []int{0, 2, 3, 100} {
		if got, err := db.Doomed(t.Context(), "", n); err != nil || !slices.Equal(got, []string{"a", "b", "c"}[:min(n, 3)]) {
			t.Errorf("%d of them: %v, %v", n, got, err)
		}
	}
	known := func(want map[string]bool) {
		t.Helper()
		for k, there := range want {
			if got, err := db.KnownKey(t.Context(), k); err != nil || got != there {
				t.Errorf("%s is known: %v, %v", k, got, err)
			}
		}
	}
	known(map[string]bool{blob: true, "upload": true, "a": true, "b": true, "none": false, "": false})
	if err := db.Buried(t.Context(), []string{"a", "c", "never doomed"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Buried(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	known(map[string]bool{blob: true, "upload": true, "a": false, "b": true, "c": false})
}
