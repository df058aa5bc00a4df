package meta

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// stored returns the row of a blob.
func storedBlob(t *testing.T, db *DB, d oci.Digest) StoredBlob {
	t.Helper()
	all, err := db.StoredBlobs(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if b.Digest == d.String() {
			return b
		}
	}
	t.Fatalf("blob %s is not there", d)
	return StoredBlob{}
}

// What is marked as damaged is seen so in every repository at once, is not mounted, and is replaced by the next object of the digest.
func TestDamagedBlob(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	d := digestOf("layer")
	old := commit(t, db, "a/app", d, at(0))
	mount(t, db, "b/app", d, at(0))
	damaged := func(want bool) {
		t.Helper()
		for _, r := range []oci.Repository{"a/app", "b/app"} {
			if b, err := db.Blob(ctx, r, d); err != nil || b.Damaged != want {
				t.Errorf("in %s: %+v, %v, expected damaged: %t", r, b, err, want)
			}
		}
	}
	damaged(false)
	b := storedBlob(t, db, d)
	if news, err := db.MarkDamaged(ctx, b.ID, b.Key, Unreadable, "x", at(1)); err != nil || !news {
		t.Fatal(news, err)
	}
	damaged(false) // it may be right
	if news, err := db.MarkDamaged(ctx, b.ID, b.Key, Rotten, "y", at(2)); err != nil || !news {
		t.Fatal(news, err)
	}
	damaged(true)
	if news, err := db.MarkDamaged(ctx, b.ID, b.Key, Rotten, "z", at(3)); err != nil || news {
		t.Fatal(news, err)
	}
	if _, err := db.MarkDamaged(ctx, b.ID, "another", Rotten, "", at(3)); !errors.Is(err, ErrNotFound) {
		t.Errorf("another object was marked: %v", err)
	}
	if all, err := db.DamagedBlobs(ctx, 0, 10); err != nil || len(all) != 1 || all[0].Damage != Rotten || all[0].Detail != "y" || !all[0].Found.Equal(at(2)) {
		t.Errorf("%+v, %v", all, err)
	}
	if n, err := db.CountDamaged(ctx); err != nil || n[Rotten] != 1 || n[Unreadable] != 0 {
		t.Error(n, err)
	}
	for _, from := range []oci.Repository{"a/app", ""} {
		if err := db.MountBlob(ctx, "c/app", from, d, at(4)); !errors.Is(err, ErrNotFound) {
			t.Errorf("mounted from %q: %v", from, err)
		}
	}
	if got := storedBlob(t, db, d); got.Known != Rotten {
		t.Errorf("known is %q", got.Known)
	}
	if err := db.ClearDamage(ctx, b.ID, b.Key); err != nil {
		t.Fatal(err)
	}
	damaged(false)

	// A push replaces it, even one that looked at the object before it was marked.
	if _, err := db.MarkDamaged(ctx, b.ID, b.Key, Missing, "", at(5)); err != nil {
		t.Fatal(err)
	}
	n := NewBlob{Repository: "c/app", Digest: d, Size: 7, Key: newKey(), Whole: old, Now: at(6)}
	exists, ok := errors.AsType[*ExistsError](db.CommitBlob(ctx, n))
	if !ok || !exists.Damaged || exists.Key != old {
		t.Fatalf("%+v", exists)
	}
	n.Whole, n.Broken = "", old
	if err := db.CommitBlob(ctx, n); err != nil {
		t.Fatal(err)
	}
	damaged(false)
	if got, err := db.Blob(ctx, "a/app", d); err != nil || got.Key != n.Key {
		t.Errorf("%+v, %v", got, err)
	}
	if err := db.ReplaceObject(ctx, b.ID, old, newKey(), 7, at(7)); !errors.Is(err, ErrNotFound) {
		t.Errorf("what another one replaced was replaced: %v", err)
	}
	if keys, err := db.Doomed(ctx, "", 10); err != nil || len(keys) != 1 || keys[0] != old {
		t.Errorf("doomed: %v, %v", keys, err)
	}
	if n := count(t, db, "damaged_blob"); n != 0 {
		t.Errorf("%d rows of damage are left", n)
	}
	// With the blob goes what is known of it.
	c := commit(t, db, "z/app", digestOf("other"), at(0))
	other := storedBlob(t, db, digestOf("other"))
	if _, err := db.MarkDamaged(ctx, other.ID, c, Rotten, "", at(5)); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteBlob(ctx, "z/app", digestOf("other"), Origin{}, at(8)); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "damaged_blob"); n != 0 {
		t.Errorf("%d rows of damage are left", n)
	}
	audit(t, db)
}

func TestVerified(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	if since, err := db.AllVerifiedSince(ctx); err != nil || !since.IsZero() {
		t.Errorf("of nothing: %s, %v", since, err)
	}
	if last, err := db.LastBlob(ctx); err != nil || last != 0 {
		t.Errorf("of nothing: %d, %v", last, err)
	}
	var ids []int64
	for i := range 6 {
		commit(t, db, "app", digestOf(i), at(int64(i)))
		ids = append(ids, storedBlob(t, db, digestOf(i)).ID)
	}
	want := func(since int64, verified ...int64) {
		t.Helper()
		if got, err := db.AllVerifiedSince(ctx); err != nil || !got.Equal(at(since)) {
			t.Errorf("all since %s, %v, expected %s", got, err, at(since))
		}
		for i, w := range verified {
			if got, err := db.Verified(ctx, ids[i]); err != nil || !got.Equal(at(w)) {
				t.Errorf("blob %d at %s, %v, expected %s", i, got, err, at(w))
			}
		}
	}
	note := func(after, last int64, now int64) {
		t.Helper()
		if err := db.NoteVerified(ctx, after, last, at(now)); err != nil {
			t.Fatal(err)
		}
	}
	if last, err := db.LastBlob(ctx); err != nil || last != ids[5] {
		t.Errorf("the last of %v is %d, %v", ids, last, err)
	}
	want(0, 0, 1, 2, 3, 4, 5)
	note(0, ids[1], 100)
	want(2, 100, 100, 2, 3, 4, 5)
	note(ids[1], ids[4], 110)
	want(5, 100, 100, 110, 110, 110, 5)
	// The next pass, with other pages.
	note(0, ids[2], 200)
	want(5, 200, 200, 200, 110, 110, 5)
	note(ids[2], ids[3], 210)
	note(ids[3], ids[5], 220)
	want(200, 200, 200, 200, 210, 220, 220)
	if n := count(t, db, "verified_blobs"); n != 3 {
		t.Errorf("%d rows", n)
	}
	if _, err := db.Verified(ctx, ids[5]+1); !errors.Is(err, ErrNotFound) {
		t.Errorf("of no blob: %v", err)
	}
}

// The rows that statements return are counted, by who asks for them.
func TestCountRows(t *testing.T) {
	db := newDB(t)
	for i := range 3 {
		commit(t, db, "app", digestOf(i), at(0))
	}
	var n atomic.Int64
	counting := db.Counting(&n)
	before := db.Stats().Rows
	if _, err := db.StoredBlobs(t.Context(), 0, 10); err != nil {
		t.Fatal(err)
	}
	if n.Load() != 0 || db.Stats().Rows-before != 3 {
		t.Errorf("%d of none, %d of 3", n.Load(), db.Stats().Rows-before)
	}
	if _, err := counting.UnreferencedBlobs(t.Context(), at(1), 2); err != nil || n.Load() != 2 {
		t.Errorf("%d of 2, %v", n.Load(), err)
	}
	if _, err := counting.Doomed(t.Context(), "", 10); err != nil || n.Load() != 2 {
		t.Errorf("%d of 2, %v", n.Load(), err)
	}
	if known, err := counting.KnownKey(t.Context(), "no"); err != nil || known || n.Load() != 3 {
		t.Errorf("%d of 3, %v", n.Load(), err)
	}
}

// A job that is asked for is due, one that is paused is not, and how far it is outlives who ran it.
func TestAskedAndPausedJobs(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const hour = 3600e9
	starts := func(holder string, want bool) {
		t.Helper()
		if got, wait, err := db.StartJob(ctx, "j", holder, hour, hour, hour); err != nil || got != want || !got && wait <= 0 {
			t.Fatalf("%s starts: %t after %s, %v, expected %t", holder, got, wait, err, want)
		}
	}
	starts("a", false) // heard of for the first time
	must(db.AskJob(ctx, "j"))
	starts("a", true)
	must(db.SetJobState(ctx, "j", "a", "half"))
	must(db.ReleaseJob(ctx, "j", "a"))
	starts("b", true) // what was asked for has not been done
	wantErr(t, db.SetJobState(ctx, "j", "a", "less"), ErrLost)
	must(db.EndJob(ctx, "j", "b", "", nil))
	starts("b", false)
	must(db.AskJob(ctx, "j"))
	starts("b", true)
	must(db.AskJob(ctx, "j")) // during the run, which may be too late for whoever asks
	must(db.EndJob(ctx, "j", "b", "", nil))
	must(db.PauseJob(ctx, "j", "me"))
	starts("b", false)
	must(db.PauseJob(ctx, "j", "you"))
	if j, err := db.Job(ctx, "j"); err != nil || j.Paused.IsZero() || j.By != "me" || j.State != "half" || !j.Asked {
		t.Errorf("%+v, %v", j, err)
	}
	must(db.ResumeJob(ctx, "j"))
	starts("b", true)
	must(db.EndJob(ctx, "j", "b", "", nil))
	if j, err := db.Job(ctx, "j"); err != nil || !j.Paused.IsZero() || j.Asked || j.By != "" {
		t.Errorf("%+v, %v", j, err)
	}
	// Of a job that nobody has heard of, a state can be noted.
	must(db.SetJobState(ctx, "new", "", "some"))
	wantErr(t, db.SetJobState(ctx, "new", "a", "other"), ErrLost)
	if j, err := db.Job(ctx, "new"); err != nil || j.State != "some" {
		t.Errorf("%+v, %v", j, err)
	}
	if _, err := db.Job(ctx, "no"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
