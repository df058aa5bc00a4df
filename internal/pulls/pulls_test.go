package pulls

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

func newDB(t *testing.T) *meta.DB {
	t.Helper()
	db, err := meta.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func push(t *testing.T, db *meta.DB, r oci.Repository, seed int, tags ...oci.Tag) oci.Digest {
	t.Helper()
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": []string{}, "annotations": map[string]string{"seed": fmt.Sprint(seed)}})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := oci.ParseManifest(oci.MediaTypeIndex, body)
	if err != nil {
		t.Fatal(err)
	}
	d := oci.DigestBytes(oci.SHA256, body)
	if _, err := db.PutManifest(t.Context(), meta.NewManifest{Repository: r, Digest: d, Parsed: parsed, Body: body, Tags: tags, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return d
}

func pulled(t *testing.T, db *meta.DB, r oci.Repository) map[oci.Tag]bool {
	t.Helper()
	tags, err := db.TagTimes(t.Context(), r, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[oci.Tag]bool)
	for _, tag := range tags {
		found[tag.Tag] = !tag.Pulled.IsZero()
	}
	return found
}

// What was noted until the end is written, by whichever goroutines.
func TestRunWritesAtTheEnd(t *testing.T) {
	db := newDB(t)
	defer db.Close()
	const r = oci.Repository("team/app")
	d := push(t, db, r, 1, "a", "b", "c")
	rec := New(db, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var run, notes sync.WaitGroup
	run.Go(func() { rec.Run(ctx) })
	for range 8 {
		notes.Go(func() {
			for range 100 {
				rec.Note(r, "a", d)
				rec.Note(r, "b", d)
				rec.Note(r, "gone", d)
				rec.Note("no/where", "a", d)
			}
		})
	}
	notes.Wait()
	cancel()
	run.Wait()
	if got := pulled(t, db, r); !got["a"] || !got["b"] || got["c"] {
		t.Errorf("pulled: %v", got)
	}
	if n := rec.Lost(); n != 0 {
		t.Errorf("%d were lost", n)
	}
}

// What cannot be written is kept, within bounds.
func TestFailureKeeps(t *testing.T) {
	db := newDB(t)
	rec := New(db, slog.New(slog.DiscardHandler))
	d := oci.DigestBytes(oci.SHA256, nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range maxKept + 5 {
		rec.Note("team/app", oci.Tag(fmt.Sprint("t", i)), d)
	}
	if err := rec.Flush(t.Context()); err == nil {
		t.Fatal("a closed database took pulls")
	}
	if len(rec.kept) != maxKept || rec.Lost() != 5 {
		t.Errorf("%d are kept and %d lost", len(rec.kept), rec.Lost())
	}
	select {
	case <-rec.much:
	default:
		t.Error("nobody was told that there is much")
	}
}

func BenchmarkNote(b *testing.B) {
	rec := New(nil, nil)
	d := oci.DigestBytes(oci.SHA256, nil)
	b.ReportAllocs()
	for b.Loop() {
		rec.Note("team/app", "latest", d)
	}
}
