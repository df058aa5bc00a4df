package gc_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// keepTrash opens the registry again with a trash.
func (w *world) keepTrash(keep time.Duration) {
	w.Helper()
	store, err := fs.Open(w.dir, fs.Options{})
	if err != nil {
		w.Fatal(err)
	}
	if w.reg, err = registry.New(w.Context(), w.db, store, registry.Options{
		Sparse: func(oci.Repository) registry.Sparse { return registry.SparseIndex },
		Delete: true, Grace: grace, UploadExpiry: expiry, Trash: true,
	}); err != nil {
		w.Fatal(err)
	}
	w.collector = gc.New(w.db, store, gc.Options{Log: slog.New(slog.DiscardHandler), Grace: grace, UploadExpiry: expiry, TrashKeep: keep})
}

// A deleted manifest keeps its blobs until its time in the trash is over; then their grace period begins.
func TestTrash(t *testing.T) {
	const keep = 7 * 24 * time.Hour
	inBubble(t, func(w *world) {
		w.keepTrash(keep)
		alone, shared := text("alone"), text("shared")
		w.push("app", alone)
		w.push("app", shared)
		d := w.tag("app", "1", image("gone", digestOf(alone), digestOf(shared)))
		w.tag("app", "2", image("stays", digestOf(shared)))
		w.deleteManifest("app", d)
		time.Sleep(keep - time.Minute)
		if res := w.collect(); res != (gc.Result{}) {
			w.Errorf("the pass took away %+v", res)
		}
		w.want("app", alone, true)
		time.Sleep(2 * time.Minute)
		if res := w.collect(); res != (gc.Result{Trash: 1}) {
			w.Errorf("the pass took away %+v", res)
		}
		w.want("app", alone, true)
		time.Sleep(long)
		if res := w.collect(); res.Links != 1 || res.Blobs != 1 {
			w.Errorf("the pass took away %+v", res)
		}
		w.want("app", alone, false)
		w.want("app", shared, true)
		// More than a batch, and what is left of the repository.
		for i := range 450 {
			w.deleteManifest("other", w.tag("other", "", image(string(text("%d", i)), w.push("other", shared))))
		}
		time.Sleep(keep + time.Minute)
		if res := w.collect(); res.Trash != 450 {
			w.Errorf("the pass took away %+v", res)
		}
		time.Sleep(long)
		if res := w.collect(); res.Repositories != 1 {
			w.Errorf("the pass took away %+v", res)
		}
	})
}
