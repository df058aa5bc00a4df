package fsck_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// world is a registry with an image of two blobs, a spare blob and an upload.
type world struct {
	*testing.T
	dir   string
	db    *meta.DB
	store blob.Store
	reg   *registry.Registry

	needed, spare oci.Digest
	manifest      oci.Digest
	upload        registry.Session
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir()}
	var err error
	if w.store, err = fs.Open(filepath.Join(w.dir, "blobs"), fs.Options{}); err != nil {
		t.Fatal(err)
	}
	if w.db, err = meta.Open(t.Context(), filepath.Join(w.dir, "berth.db"), meta.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	if w.reg, err = registry.New(t.Context(), w.db, w.store, registry.Options{
		Sparse: func(oci.Repository) registry.Sparse { return registry.SparseNone },
		Delete: true, Grace: time.Hour, UploadExpiry: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
	config := w.push("{}")
	w.needed, w.spare = w.push("needed"), w.push("spare")
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"%s","size":2},
		"layers":[{"mediaType":"a/b","digest":"%s","size":6}]}`, config, w.needed)
	w.manifest = digestOf(manifest)
	if _, err := w.reg.PutManifest(t.Context(), registry.Push{Repository: "app", Reference: oci.Reference{Tag: "1"}, Body: []byte(manifest)}); err != nil {
		t.Fatal(err)
	}
	w.upload = w.reg.StartUpload("app", oci.SHA256, 0)
	if _, err := w.reg.AppendUpload(t.Context(), w.upload, body("upload")); err != nil {
		t.Fatal(err)
	}
	return w
}

func digestOf(s string) oci.Digest { return oci.DigestBytes(oci.SHA256, []byte(s)) }

func body(s string) registry.Body {
	return registry.Body{Reader: bytes.NewReader([]byte(s)), First: -1, Interrupt: func() {}}
}

func (w *world) push(s string) oci.Digest {
	w.Helper()
	if err := w.reg.PutBlob(w.Context(), "app", digestOf(s), body(s)); err != nil {
		w.Fatal(err)
	}
	return digestOf(s)
}

// sql changes the database behind everyone's back.
func (w *world) sql(statement string, args ...any) {
	w.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.dir, "berth.db")+"?_pragma=foreign_keys(OFF)")
	if err != nil {
		w.Fatal(err)
	}
	defer db.Close()
	if res, err := db.Exec(statement, args...); err != nil {
		w.Fatal(err)
	} else if n, _ := res.RowsAffected(); n == 0 {
		w.Fatalf("%s changes nothing", statement)
	}
}

// object returns the file of an object that a query names.
func (w *world) object(query string, args ...any) string {
	w.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.dir, "berth.db"))
	if err != nil {
		w.Fatal(err)
	}
	defer db.Close()
	var key string
	if err := db.QueryRow(query, args...).Scan(&key); err != nil {
		w.Fatal(err)
	}
	return filepath.Join(w.dir, "blobs", key)
}

func (w *world) blob(d oci.Digest) string {
	w.Helper()
	return w.object(`SELECT storage_key FROM blob WHERE digest = ?`, d.String())
}

func (w *world) uploadFile() string {
	w.Helper()
	return w.object(`SELECT storage_key FROM upload WHERE id = ?`, w.upload.ID)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// check runs fsck and returns what it found.
func (w *world) check(deep, repair bool) (fsck.Report, []fsck.Finding) {
	w.Helper()
	var found []fsck.Finding
	report, err := fsck.Run(w.Context(), w.db, w.store, fsck.Options{
		Deep: deep, Repair: repair, Found: func(f fsck.Finding) { found = append(found, f) },
	})
	if err != nil {
		w.Fatal(err)
	}
	var sum fsck.Report
	for _, f := range found {
		switch {
		case f.Mended:
			sum.Mended++
		case f.Damage:
			sum.Damaged++
		default:
			sum.Leftover++
		}
	}
	if report.Damaged != sum.Damaged || report.Leftover != sum.Leftover || report.Mended != sum.Mended {
		w.Errorf("the report %+v is not the sum of %+v", report, found)
	}
	return report, found
}

// snapshot lists every file below the folder with its bytes, the database's aside.
func (w *world) snapshot() string {
	w.Helper()
	var b strings.Builder
	w.must(filepath.WalkDir(filepath.Join(w.dir, "blobs"), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			content, _ := os.ReadFile(path)
			fmt.Fprintf(&b, "%s %q\n", path, content)
		}
		return err
	}))
	return b.String()
}

// trash deletes the manifest into the trash.
func (w *world) trash() {
	w.Helper()
	w.must(w.db.DeleteManifest(w.Context(), "app", w.manifest, nil, meta.Origin{Trash: true}, time.Now()))
}

func TestTrash(t *testing.T) {
	w := newWorld(t)
	w.trash()
	want := fsck.Report{Blobs: 3, Bytes: 2 + 6 + 5, Trash: 1, Uploads: 1}
	for _, repair := range []bool{false, true} {
		if got, found := w.check(true, repair); got != want {
			t.Errorf("repair %t: %+v, %+v", repair, got, found)
		}
	}
}

func TestWhole(t *testing.T) {
	w := newWorld(t)
	want := fsck.Report{Blobs: 3, Bytes: 2 + 6 + 5, Manifests: 1, Uploads: 1}
	for _, deep := range []bool{false, true} {
		for _, repair := range []bool{false, true} {
			if got, found := w.check(deep, repair); got != want {
				t.Errorf("deep %t, repair %t: %+v, %+v", deep, repair, got, found)
			}
		}
	}
}

func TestFindings(t *testing.T) {
	for name, test := range map[string]struct {
		harm    func(*world)
		damage  bool
		deep    bool   // only a deep check finds it
		mended  bool   // a repair mends it
		finding string // a part of what is found
	}{
		"a needed blob is missing": {
			harm:   func(w *world) { w.must(os.Remove(w.blob(w.needed))) },
			damage: true, finding: "missing; a manifest needs it",
		},
		"a needed blob is short": {
			harm:   func(w *world) { w.must(os.Truncate(w.blob(w.needed), 3)) },
			damage: true, finding: "has 3 bytes, the database says 6; a manifest needs it",
		},
		"a needed blob is wrong": {
			harm:   func(w *world) { w.must(os.WriteFile(w.blob(w.needed), []byte("NEEDED"), 0o600)) },
			damage: true, deep: true, finding: digestOf("NEEDED").String(),
		},
		"a needed blob is a folder": {
			harm:   func(w *world) { p := w.blob(w.needed); w.must(errors.Join(os.Remove(p), os.Mkdir(p, 0o700))) },
			damage: true, finding: "missing; a manifest needs it",
		},
		"a spare blob is missing": {
			harm:   func(w *world) { w.must(os.Remove(w.blob(w.spare))) },
			damage: true, mended: true, finding: "missing",
		},
		"a spare blob is long": {
			harm:   func(w *world) { w.must(os.Truncate(w.blob(w.spare), 100)) },
			damage: true, mended: true, finding: "has 100 bytes",
		},
		"a spare blob is wrong": {
			harm:   func(w *world) { w.must(os.WriteFile(w.blob(w.spare), []byte("SPARE"), 0o600)) },
			damage: true, deep: true, mended: true, finding: digestOf("SPARE").String(),
		},
		"a manifest's bytes are others": {
			harm:   func(w *world) { w.sql(`UPDATE manifest SET body = CAST(body || ' ' AS BLOB)`) },
			damage: true, finding: "its bytes are",
		},
		"a manifest's size is another": {
			harm:   func(w *world) { w.sql(`UPDATE manifest SET size = size + 1`) },
			damage: true, finding: "the database says",
		},
		"a manifest's type is another": {
			harm:   func(w *world) { w.sql(`UPDATE manifest SET media_type = ?`, oci.MediaTypeIndex) },
			damage: true, finding: "MANIFEST_INVALID",
		},
		"a manifest's blob is not kept": {
			harm: func(w *world) {
				w.sql(`DELETE FROM manifest_blob WHERE blob_id = (SELECT id FROM blob WHERE digest = ?)`, w.needed.String())
				w.sql(`UPDATE repository_blob SET unreferenced_since = 1 WHERE unreferenced_since IS NULL`)
			},
			damage: true, finding: "nothing keeps its blob " + digestOf("needed").String(),
		},
		"a manifest in the trash has other bytes": {
			harm:   func(w *world) { w.trash(); w.sql(`UPDATE trashed_manifest SET body = CAST(body || ' ' AS BLOB)`) },
			damage: true, finding: "its bytes are",
		},
		"a blob of the trash is missing": {
			harm:   func(w *world) { w.trash(); w.must(os.Remove(w.blob(w.needed))) },
			damage: true, finding: "missing; a manifest needs it",
		},
		"a foreign key is broken": {
			harm:   func(w *world) { w.sql(`UPDATE tag SET manifest_id = 4711`) },
			damage: true, finding: "foreign key",
		},
		"a link is marked as needed": {
			harm: func(w *world) {
				w.sql(`UPDATE repository_blob SET unreferenced_since = NULL WHERE unreferenced_since IS NOT NULL`)
			},
			mended: true, finding: "marked as needed",
		},
		"usage is counted wrongly": {
			harm:   func(w *world) { w.sql(`UPDATE organization_usage SET bytes = bytes - 1, tags = tags + 1`) },
			mended: true, finding: "1 repositories, 1 tags",
		},
		"links are counted wrongly": {
			harm:   func(w *world) { w.sql(`DELETE FROM organization_blob`) },
			mended: true, finding: "the links to 3 blobs of organization",
		},
		"an upload is missing": {
			harm:   func(w *world) { w.must(os.Remove(w.uploadFile())) },
			mended: true, finding: "begin again",
		},
		"an upload is short": {
			harm:   func(w *world) { w.must(os.Truncate(w.uploadFile(), 2)) },
			mended: true, finding: "begin again",
		},
		"an orphan": {
			harm: func(w *world) {
				hour := filepath.Join(w.dir, "blobs", "20200101", "05")
				w.must(errors.Join(os.MkdirAll(hour, 0o700), os.WriteFile(filepath.Join(hour, "ORPHAN"), []byte("x"), 0o600)))
			},
			mended: true, finding: "no row speaks of",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			test.harm(w)
			before := w.snapshot()
			if test.deep {
				if _, found := w.check(false, false); len(found) != 0 {
					t.Errorf("a shallow check finds %+v", found)
				}
			}
			_, found := w.check(true, false)
			if len(found) != 1 || found[0].Damage != test.damage || found[0].Mended || !strings.Contains(found[0].What, test.finding) {
				t.Fatalf("a check finds %+v", found)
			}
			if after := w.snapshot(); after != before {
				t.Errorf("a check has changed\n%s\nto\n%s", before, after)
			}
			_, found = w.check(true, true)
			if len(found) != 1 || found[0].Mended != test.mended {
				t.Fatalf("a repair finds %+v", found)
			}
			_, found = w.check(true, false)
			if (len(found) == 0) != test.mended {
				t.Errorf("after a repair a check finds %+v", found)
			}
			// Nothing that a manifest needs has gone: a push of it mends what is not mended yet.
			w.push("needed")
			if _, found = w.check(true, false); test.damage && strings.Contains(name, "needed blob") && len(found) != 0 {
				t.Errorf("after a push a check finds %+v", found)
			}
		})
	}
}

// A repair that is cut short does no harm and can be made again.
func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		hour := filepath.Join(w.dir, "blobs", "20200101", fmt.Sprintf("%02d", i))
		w.must(errors.Join(os.MkdirAll(hour, 0o700), os.WriteFile(filepath.Join(hour, "ORPHAN"), []byte("x"), 0o600)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := fsck.Run(ctx, w.db, w.store, fsck.Options{Repair: true, Found: func(fsck.Finding) {
		if n++; n == 2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	report, _ := w.check(true, true)
	if report.Mended != 3 {
		t.Errorf("the second repair: %+v", report)
	}
	if _, found := w.check(true, false); len(found) != 0 {
		t.Errorf("a check finds %+v", found)
	}
}

// Pages do not lose anything between them.
func TestManyPages(t *testing.T) {
	w := newWorld(t)
	var lost []string
	for i := range 1100 {
		d := w.push(fmt.Sprint("blob ", i))
		if i%100 == 7 {
			w.must(os.Remove(w.blob(d)))
			lost = append(lost, "blob "+d.String())
		}
	}
	report, found := w.check(false, false)
	var names []string
	for _, f := range found {
		names = append(names, f.Object)
	}
	if report.Blobs != 1103 || !slices.Equal(names, lost) {
		t.Errorf("%+v, %v, expected %v", report, names, lost)
	}
}

// Beside servers at work, what may be part of a push is left alone.
func TestRepairBesideServers(t *testing.T) {
	w := newWorld(t)
	writer, err := w.store.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh, old := writer.Key(), blob.NewKey("20200101/05")
	file := filepath.Join(w.dir, "blobs", old)
	w.must(errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("x"), 0o600)))

	found := make(map[string]fsck.Finding)
	report, err := fsck.Run(t.Context(), w.db, w.store, fsck.Options{
		Repair: true, Settled: time.Now().Add(-2 * time.Hour), Found: func(f fsck.Finding) { found[f.Object] = f },
	})
	if err != nil {
		t.Fatal(err)
	}
	if f := found["object "+fresh]; f.Mended || !strings.Contains(f.What, "may be part of a push") {
		t.Errorf("of the new object: %+v", f)
	}
	if f := found["object "+old]; !f.Mended {
		t.Errorf("of the old object: %+v", f)
	}
	if report.Leftover != 1 || report.Mended != 1 || len(found) != 2 {
		t.Errorf("report %+v, found %+v", report, found)
	}
	if _, err := w.store.Stat(t.Context(), fresh); err != nil {
		t.Errorf("the new object: %v", err)
	}
}
