package meta

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

func save(t *testing.T, db *DB, u Upload, first bool) {
	t.Helper()
	if err := db.SaveUpload(t.Context(), &u, first); err != nil {
		t.Fatal(err)
	}
}

func TestUpload(t *testing.T) {
	db := newDB(t)
	u := Upload{ID: "u", Repository: "a", Key: "k", Size: 5, Algorithm: oci.SHA512, HashState: []byte{1, 0}, StoreState: []byte("s"), Updated: at(1)}
	wantErr(t, db.SaveUpload(t.Context(), &u, false), ErrCancelled) // it must be there
	save(t, db, u, true)
	wantErr(t, db.SaveUpload(t.Context(), &u, true), ErrCancelled) // it must not
	u.Saved = u.Size
	check := func(want Upload) {
		t.Helper()
		if got, err := db.Upload(t.Context(), "a", "u"); err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	check(u)
	u.Size, u.HashState, u.StoreState, u.Updated = 9<<40, []byte{2}, nil, at(2)
	save(t, db, u, false)
	wantErr(t, db.SaveUpload(t.Context(), &u, false), ErrCancelled) // it has gone on from there
	u.Saved = u.Size
	check(u)
	for _, wrong := range []Upload{
		{ID: "u", Repository: "b", Key: "k", Algorithm: oci.SHA512}, {ID: "u", Repository: "a", Key: "l", Algorithm: oci.SHA512},
		{ID: "u", Repository: "a", Key: "k", Algorithm: oci.SHA256}, {ID: "v", Repository: "a", Key: "k", Algorithm: oci.SHA512},
	} {
		wrong.Saved = u.Saved
		wantErr(t, db.SaveUpload(t.Context(), &wrong, false), ErrCancelled)
	}
	other := u
	other.ID = "other"
	wantErr(t, db.SaveUpload(t.Context(), &other, true), ErrCancelled) // a key belongs to one session
	check(u)
	for r, id := range map[oci.Repository]string{"b": "u", "a": "v"} {
		_, err := db.Upload(t.Context(), r, id)
		wantErr(t, err, ErrNotFound)
	}
	if n, err := db.CountUploads(t.Context()); err != nil || n != 1 {
		t.Errorf("%d sessions, %v", n, err)
	}
}

func TestUploadBecomesBlob(t *testing.T) {
	db := newDB(t)
	u := Upload{ID: "u", Repository: "a", Key: "k", Size: 5, Algorithm: oci.SHA256, Updated: at(1)}
	save(t, db, u, true)
	n := NewBlob{Repository: "a", Digest: digestOf("d"), Size: 5, Key: "k", Upload: "u", Now: at(2)}
	for _, wrong := range []NewBlob{
		{Repository: "a", Digest: n.Digest, Key: "other", Upload: "u", Now: at(2)}, {Repository: "a", Digest: n.Digest, Key: "k", Upload: "v", Now: at(2)},
	} {
		wantErr(t, db.CommitBlob(t.Context(), wrong), ErrNotFound)
	}
	if err := db.CommitBlob(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	_, err := db.Upload(t.Context(), "a", "u")
	wantErr(t, err, ErrNotFound)
	wantErr(t, db.CommitBlob(t.Context(), n), ErrNotFound) // a session ends once
	wantErr(t, db.SaveUpload(t.Context(), &u, false), ErrCancelled)
	if len(doomed(t, db)) > 0 {
		t.Errorf("doomed are %v", doomed(t, db))
	}
	// The question whether an object is whole leaves the session as it is.
	save(t, db, Upload{ID: "v", Repository: "a", Key: "l", Size: 5, Algorithm: oci.SHA256, Updated: at(1)}, true)
	again := NewBlob{Repository: "a", Digest: n.Digest, Size: 5, Key: "l", Upload: "v", Now: at(2)}
	if err := db.CommitBlob(t.Context(), again); err == nil {
		t.Fatal("no question")
	}
	if _, err := db.Upload(t.Context(), "a", "v"); err != nil {
		t.Error(err)
	}
	again.Whole = "k"
	if err := db.CommitBlob(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if got := doomed(t, db); len(got) != 1 || !got["l"] {
		t.Errorf("doomed are %v", got)
	}
}

// A session may go on under another key; who knows the one before only does not.
func TestUploadChangesKey(t *testing.T) {
	db := newDB(t)
	u := Upload{ID: "u", Repository: "a", Key: "k", Size: 5, Algorithm: oci.SHA256, Updated: at(1)}
	save(t, db, u, true)
	late := u
	u.Saved, u.SavedKey, u.Key, u.Size = 5, "k", "l", 9
	save(t, db, u, false)
	late.Saved, late.SavedKey, late.Key = 9, "k", "m"
	wantErr(t, db.SaveUpload(t.Context(), &late, false), ErrCancelled)
	if got := doomed(t, db); len(got) != 1 || !got["k"] {
		t.Errorf("doomed are %v", got)
	}
	n := NewBlob{Repository: "a", Digest: digestOf("d"), Size: 9, Key: "n", Upload: "u", UploadKey: "k", Now: at(2)}
	wantErr(t, db.CommitBlob(t.Context(), n), ErrNotFound)
	n.UploadKey = "l"
	if err := db.CommitBlob(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if got := doomed(t, db); len(got) != 2 || !got["l"] {
		t.Errorf("doomed are %v", got)
	}
}

func TestCancelUpload(t *testing.T) {
	db := newDB(t)
	u := Upload{ID: "u", Repository: "a", Key: "k", Size: 5, Algorithm: oci.SHA256, HashState: []byte{1}, Updated: at(1)}
	save(t, db, u, true)
	cancel := func(id string) error { return db.CancelUpload(t.Context(), "a", id, oci.SHA256, 0, at(2)) }
	if err := cancel("u"); err != nil {
		t.Fatal(err)
	}
	if err := cancel("rowless"); err != nil { // one that has no bytes yet
		t.Fatal(err)
	}
	for i, id := range []string{"u", "rowless"} {
		_, err := db.Upload(t.Context(), "a", id)
		wantErr(t, err, ErrCancelled)
		wantErr(t, cancel(id), ErrCancelled)
		for _, first := range []bool{true, false} {
			late := u
			late.ID, late.Key = id, fmt.Sprint("late", i)
			wantErr(t, db.SaveUpload(t.Context(), &late, first), ErrCancelled)
		}
		wantErr(t, db.CommitBlob(t.Context(), NewBlob{Repository: "a", Digest: digestOf("d"), Key: "k", Upload: id, Now: at(2)}), ErrNotFound)
	}
	if got := doomed(t, db); len(got) != 1 || !got["k"] {
		t.Errorf("doomed are %v", got)
	}
	if n, err := db.CountUploads(t.Context()); err != nil || n != 0 {
		t.Errorf("%d sessions hold bytes, %v", n, err)
	}
}

func TestExpireUploads(t *testing.T) {
	db := newDB(t)
	for i := range 5 {
		save(t, db, Upload{ID: fmt.Sprint(i), Repository: "a", Key: fmt.Sprint("k", i), Algorithm: oci.SHA256, Updated: at(int64(i))}, true)
	}
	save(t, db, Upload{ID: "0", Repository: "a", Key: "k0", Algorithm: oci.SHA256, Updated: at(100)}, false) // used again
	if err := db.CancelUpload(t.Context(), "a", "1", oci.SHA256, 0, at(1)); err != nil {
		t.Fatal(err)
	}
	if err := db.Buried(t.Context(), []string{"k1"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{2, 1, 0} { // cancelled ones are forgotten likewise
		if n, err := db.ExpireUploads(t.Context(), at(4), 2, at(50)); err != nil || n != want {
			t.Errorf("%d expired, %v, want %d", n, err, want)
		}
	}
	for id, want := range map[string]error{"0": nil, "1": ErrNotFound, "2": ErrNotFound, "3": ErrNotFound, "4": nil} {
		_, err := db.Upload(t.Context(), "a", id)
		wantErr(t, err, want)
	}
	if got := doomed(t, db); len(got) != 2 || !got["k2"] || !got["k3"] {
		t.Errorf("doomed are %v", got)
	}
}
