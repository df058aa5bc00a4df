package journal

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/world"
)

// served is a registry with its journal.
type served struct {
	*world.World
	journal *Journal
}

func serve(t testing.TB, db *meta.DB, store blob.Store) *served {
	t.Helper()
	world.Must(t, newJournal(t, db, store).Begin(t.Context()))
	return &served{world.Serve(t, db, store, false), newJournal(t, db, store)}
}

func newJournal(t testing.TB, db *meta.DB, store blob.Documents) *Journal {
	return New(db, store, Options{Log: slog.New(slog.DiscardHandler), Interval: 10 * time.Millisecond})
}

func (w *served) export() {
	w.Helper()
	_, err := w.journal.Export(w.Context())
	world.Must(w, err)
	if lag, err := w.journal.Lag(w.Context()); lag != 0 || err != nil {
		w.Fatalf("after an export, the oldest change has waited for %s, %v", lag, err)
	}
}

// deletes takes back each third image that a client pushes.
func (w *served) deletes(ctx context.Context, r oci.Repository, manifest oci.Digest, before int) error {
	if before%3 > 0 {
		return nil
	}
	return w.Registry.DeleteManifest(ctx, r, oci.Reference{Digest: manifest}, world.Tester, nil)
}

// rebuild makes a database from the journal, of which nothing may be lost.
func rebuild(t testing.TB, db *meta.DB, store blob.Store) Report {
	t.Helper()
	report, err := Rebuild(t.Context(), db, store, RebuildOptions{
		Deep: true, Parallel: 4, Found: func(l Loss) { t.Errorf("lost: %+v", l) },
	})
	world.Must(t, err)
	return report
}
