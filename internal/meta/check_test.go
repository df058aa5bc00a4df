package meta

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

func TestStoredByPages(t *testing.T) {
	db := newDB(t)
	var blobs, manifests, uploads []string
	keys := make(map[string]string)
	for i := range 5 {
		n := image(t, db, oci.Repository(fmt.Sprintf("r%d", 5-i)), i)
		d := digestOf(fmt.Sprint("free", i))
		keys[d.String()] = commit(t, db, "free", d, at(0))
		blobs = append(blobs, digests(n)[0].String(), d.String())
		manifests = append(manifests, n.Digest.String())
		id := fmt.Sprint("upload", i)
		save(t, db, Upload{ID: id, Repository: "a", Key: "k" + id, Size: int64(i), Algorithm: oci.SHA256, Updated: at(0)}, true)
		uploads = append(uploads, id)
	}
	if err := db.CancelUpload(t.Context(), "a", "upload2", oci.SHA256, 0, at(0)); err != nil {
		t.Fatal(err)
	}
	uploads = slices.Delete(uploads, 2, 3)
	for n := 1; n < 12; n++ {
		var gotBlobs, gotManifests, gotUploads []string
		for after := int64(0); ; {
			page, err := db.StoredBlobs(t.Context(), after, n)
			if err != nil || len(page) > n {
				t.Fatalf("%v, %v", page, err)
			}
			if len(page) == 0 {
				break
			}
			for _, b := range page {
				after = b.ID
				gotBlobs = append(gotBlobs, b.Digest)
				if key, free := keys[b.Digest]; b.Needed == free || free && b.Key != key || b.Size != 10 {
					t.Errorf("%+v", b)
				}
			}
		}
		for after := int64(0); ; {
			page, err := db.StoredManifests(t.Context(), after, n)
			if err != nil || len(page) > n {
				t.Fatalf("%v, %v", page, err)
			}
			if len(page) == 0 {
				break
			}
			for _, m := range page {
				after = m.ID
				gotManifests = append(gotManifests, m.Digest)
				if oci.DigestBytes(oci.SHA256, m.Body).String() != m.Digest || m.Size != int64(len(m.Body)) || m.MediaType != oci.MediaTypeImage || m.Repository == "" {
					t.Errorf("%+v", m)
				}
			}
		}
		for after := ""; ; {
			page, err := db.StoredUploads(t.Context(), after, n)
			if err != nil || len(page) > n {
				t.Fatalf("%v, %v", page, err)
			}
			if len(page) == 0 {
				break
			}
			for _, u := range page {
				after = u.ID
				gotUploads = append(gotUploads, u.ID)
				if u.Key != "k"+u.ID || u.Repository != "a" || fmt.Sprint("upload", u.Size) != u.ID {
					t.Errorf("%+v", u)
				}
			}
		}
		if !slices.Equal(gotBlobs, blobs) || !slices.Equal(gotManifests, manifests) || !slices.Equal(gotUploads, uploads) {
			t.Errorf("by %d: blobs %v, manifests %v, uploads %v", n, gotBlobs, gotManifests, gotUploads)
		}
	}
}

func TestManifestParts(t *testing.T) {
	db := newDB(t)
	here, away := digestOf("here"), digestOf("away")
	commit(t, db, "a", here, at(0))
	n := put(t, db, document{seed: 1, blobs: []oci.Digest{here}, foreign: []oci.Digest{away}}.build(t, "a", at(0)))
	stored, err := db.StoredManifests(t.Context(), 0, 10)
	if err != nil || len(stored) != 1 || stored[0].Digest != n.Digest.String() {
		t.Fatalf("%+v, %v", stored, err)
	}
	present, missing, err := db.ManifestParts(t.Context(), stored[0].ID)
	if err != nil || !slices.Equal(present, []string{here.String()}) || !slices.Equal(missing, []string{away.String()}) {
		t.Errorf("%v, %v, %v", present, missing, err)
	}
	present, missing, err = db.ManifestParts(t.Context(), stored[0].ID+1)
	if err != nil || len(present)+len(missing) > 0 {
		t.Errorf("of no manifest: %v, %v, %v", present, missing, err)
	}
}

func TestDropBlob(t *testing.T) {
	db := newDB(t)
	n := image(t, db, "a", 1)
	free := digestOf("free")
	key := commit(t, db, "a", free, at(0))
	mount(t, db, "b", free, at(0))
	stored, err := db.StoredBlobs(t.Context(), 0, 10)
	if err != nil || len(stored) != 2 {
		t.Fatalf("%+v, %v", stored, err)
	}
	wantErr(t, db.DropBlob(t.Context(), stored[0].ID, stored[0].Key, at(1)), ErrReferenced)
	if _, err := db.Blob(t.Context(), "a", digests(n)[0]); err != nil {
		t.Errorf("the blob of a manifest: %v", err)
	}
	// Its bytes were pushed again since somebody found that they are missing.
	if err := db.DropBlob(t.Context(), stored[1].ID, "missing", at(1)); err != nil {
		t.Fatal(err)
	}
	if again, err := db.StoredBlobs(t.Context(), stored[1].ID-1, 1); err != nil || len(again) != 1 || again[0].ID != stored[1].ID {
		t.Errorf("%+v, %v", again, err)
	}
	if err := db.DropBlob(t.Context(), stored[1].ID, stored[1].Key, at(1)); err != nil {
		t.Fatal(err)
	}
	for r, there := range map[oci.Repository]bool{"a": true, "b": false} {
		_, err := db.Blob(t.Context(), r, free)
		wantErr(t, err, ErrNotFound)
		if got, err := db.RepositoryExists(t.Context(), r); err != nil || got != there {
			t.Errorf("%s is there: %v, %v", r, got, err)
		}
	}
	if got := doomed(t, db); len(got) != 1 || !got[key] {
		t.Errorf("doomed are %v", got)
	}
	if err := db.DropBlob(t.Context(), 12345, "", at(1)); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestStrayLinks(t *testing.T) {
	db := newDB(t)
	image(t, db, "a", 1)
	free := digestOf("free")
	commit(t, db, "a", free, at(0))
	stray := func(want int64) {
		t.Helper()
		if n, err := db.StrayLinks(t.Context()); err != nil || n != want {
			t.Errorf("%d links are stray, %v, want %d", n, err, want)
		}
	}
	stray(0)
	if err := db.update(t.Context(), func(x *tx) error {
		x.touch("a")
		_, err := x.exec(`UPDATE repository_blob SET unreferenced_since = NULL`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	stray(1)
	if err := db.MarkStrayLinks(t.Context(), at(7)); err != nil {
		t.Fatal(err)
	}
	stray(0)
	if s := since(t, db, "a", free); !s.Equal(at(7)) {
		t.Errorf("unreferenced since %v", s)
	}
}

func TestSQLiteIntegrity(t *testing.T) {
	db := newDB(t)
	image(t, db, "a", 1)
	broken := func(query string, args ...any) {
		t.Helper()
		if err := db.update(t.Context(), func(x *tx) error { _, err := x.exec(query, args...); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if wrong, err := db.Integrity(t.Context()); err != nil || len(wrong) > 0 {
		t.Errorf("%v, %v", wrong, err)
	}
	// What no statement of the package can do: a row that refers to nothing.
	ctx := t.Context()
	if err := func() error {
		raw := raw(t, pathOf(t, db))
		raw.SetMaxOpenConns(1)
		for _, q := range []string{`PRAGMA foreign_keys = OFF`, `INSERT INTO tag (repository_id, name, manifest_id, updated_at) VALUES (99, 'x', 99, 0)`} {
			if _, err := raw.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		return raw.Close()
	}(); err != nil {
		t.Fatal(err)
	}
	wrong, err := db.Integrity(ctx)
	if err != nil || len(wrong) != 2 || !slices.ContainsFunc(wrong, func(s string) bool { return s == "foreign key: a row of tag refers to a missing row of manifest" }) {
		t.Errorf("%q, %v", wrong, err)
	}
	broken(`DELETE FROM tag WHERE repository_id = $1`, 99)
}

// pathOf returns the file that a database is in.
func pathOf(t testing.TB, db *DB) string {
	t.Helper()
	var path string
	if err := db.read.QueryRow(`SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettings(t *testing.T) {
	db := newDB(t)
	_, err := db.Setting(t.Context(), "a")
	wantErr(t, err, ErrNotFound)
	for _, want := range []string{"one", "two"} {
		if err := db.SetSetting(t.Context(), "a", []byte(want)); err != nil {
			t.Fatal(err)
		}
		if v, err := db.Setting(t.Context(), "a"); err != nil || string(v) != want {
			t.Errorf("%q, %v", v, err)
		}
	}
	answers := make(chan string)
	for i := range 20 {
		go func() {
			v, err := db.SettingOr(t.Context(), "key", fmt.Append(nil, i))
			if err != nil {
				t.Error(err)
			}
			answers <- string(v)
		}()
	}
	first := <-answers
	for range 19 {
		if v := <-answers; v != first {
			t.Errorf("two that asked at once got %q and %q", first, v)
		}
	}
	if v, err := db.SettingOr(t.Context(), "key", []byte("late")); err != nil || string(v) != first {
		t.Errorf("%q, %v, want %q", v, err, first)
	}
	for range 2 { // the second finds nothing
		if err := db.DeleteSetting(t.Context(), "key"); err != nil {
			t.Error(err)
		}
	}
	if v, err := db.Setting(t.Context(), "key"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what was deleted is %q, %v", v, err)
	}
}
