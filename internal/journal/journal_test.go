package journal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/world"
)

// A database is made again from the journal alone, and again from the journal that it then goes on with.
func TestRebuild(t *testing.T) {
	t.Parallel()
	world.Everywhere(t, func(t *testing.T, newDB func(testing.TB) *meta.DB, store blob.Store) {
		db := newDB(t)
		for round := range 3 {
			w := serve(t, db, store)
			w.Fill(2 * round)
			w.export()
			w.Fill(2*round + 1)
			no := false
			world.Must(t, db.SetRepositoryPublic(t.Context(), "team0/app", &no))
			w.export()
			if round == 1 {
				_, err := w.journal.Merge(t.Context())
				world.Must(t, err)
			}
			had := world.Content(t, db, store)
			world.Must(t, db.Close())
			db = newDB(t)
			report := rebuild(t, db, store)
			world.WantSame(t, had, world.Content(t, db, store))
			world.WantClean(t, db, store)
			if report.Newest.IsZero() || time.Since(report.Newest) < 0 {
				t.Errorf("the newest change is of %s", report.Newest)
			}
		}
	})
}

// What was there before the journal began is in its checkpoint, also if it is written in many parts while changes go on.
func TestCheckpointBesideChanges(t *testing.T) {
	t.Parallel()
	world.Everywhere(t, func(t *testing.T, newDB func(testing.TB) *meta.DB, store blob.Store) {
		db := newDB(t)
		w := serve(t, db, store)
		w.Fill(1)
		forget(t, db) // as if there had been no triggers
		stop := w.Pushing(3, w.deletes)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.journal.Run(ctx, job.New(db, job.Options{Log: w.journal.opts.Log, Lease: 5 * time.Second}))
		}()
		for seen := int64(0); seen < 200; seen = w.journal.Stats().Records {
			if t.Context().Err() != nil {
				t.Fatal("no records are written")
			}
			time.Sleep(10 * time.Millisecond)
		}
		// Another epoch, while changes go on.
		s, raw, err := w.journal.load(t.Context())
		world.Must(t, err)
		_, err = w.journal.save(t.Context(), raw, state{Epoch: s.Epoch + 1})
		world.Must(t, err)
		time.Sleep(100 * time.Millisecond)
		stop()
		for {
			lag, err := w.journal.Lag(t.Context())
			world.Must(t, err)
			s, _, err := w.journal.load(t.Context())
			world.Must(t, err)
			if lag == 0 && s.Complete {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		<-ended
		had := world.Content(t, db, store)
		next := newDB(t)
		rebuild(t, next, store)
		world.WantSame(t, had, world.Content(t, next, store))
		world.WantClean(t, next, store)
	})
}

// forget drops the changes that wait.
func forget(t testing.TB, db *meta.DB) {
	t.Helper()
	world.Must(t, db.SetSetting(t.Context(), "journal", meta.JournalUnbegun))
	for {
		c, err := db.JournalChanges(t.Context())
		world.Must(t, err)
		if len(c.Records) == 0 {
			break
		}
		world.Must(t, db.Written(t.Context(), c, func([]byte) bool { return true }))
	}
	world.Must(t, db.DeleteSetting(t.Context(), "journal"))
}

// An export, a checkpoint or a merge that breaks off at any step, before or after it has had an effect, is made again by a process that knows
// nothing of it, and nothing is lost.
func TestFaults(t *testing.T) {
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		store := world.Folder(t)
		db := newDB(t)
		w := serve(t, db, store)
		seed := 0
		// Each round exports twice, with another epoch in between, and merges.
		round := func(store blob.Documents) error {
			seed++
			for i := range 2 {
				w.MustPut("a/b", world.Image(map[string]any{"annotations": map[string]string{"n": fmt.Sprint(seed, i)}}, w.Push("a/b", fmt.Append(nil, seed, i))), "latest")
				j := newJournal(t, db, store)
				if _, err := j.Export(t.Context()); err != nil {
					return err
				}
				if i == 0 && seed%3 == 0 {
					s, raw, err := j.load(t.Context())
					world.Must(t, err)
					_, err = j.save(t.Context(), raw, state{Epoch: s.Epoch + 1})
					world.Must(t, err)
				}
				if _, err := j.Merge(t.Context()); err != nil {
					return err
				}
			}
			return nil
		}
		faults := 0
		for n := 1; ; n++ {
			failed := false
			for _, after := range []bool{false, true} {
				err := round(&world.Faulty{Store: store, Left: n, After: after})
				if err != nil && !errors.Is(err, world.ErrFault) {
					t.Fatal(err)
				}
				failed = failed || err != nil
				// A loss at this very moment costs what waits, and nothing else.
				if _, err := newJournal(t, db, store).Export(t.Context()); err != nil {
					t.Fatal(err)
				}
				next := world.SQLite(t)
				rebuild(t, next, store)
				world.WantSame(t, world.Content(t, db, store), world.Content(t, next, store))
				world.Must(t, next.Close())
			}
			if !failed {
				break
			}
			faults++
		}
		if faults < 6 {
			t.Errorf("only %d calls could fail", faults)
		}
	})
}

// A rebuild that breaks off at any step is begun again and ends as if it had been made once. Until then nothing can be done with the database.
func TestRebuildFaults(t *testing.T) {
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		store := world.Folder(t)
		db := newDB(t)
		w := serve(t, db, store)
		w.Fill(1)
		w.export()
		had := world.Content(t, db, store)
		next := newDB(t)
		for n := 1; ; n += 5 {
			// A call that fails for good is a loss; one that is cut off ends the rebuild.
			ctx, cancel := context.WithCancel(t.Context())
			_, err := Rebuild(ctx, next, &cutting{world.Faulty{Store: store, Left: n}, cancel}, RebuildOptions{Parallel: 2})
			cancel()
			if err == nil {
				if n < 10 {
					t.Errorf("only %d calls could fail", n)
				}
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if !errors.Is(next.CheckComplete(t.Context()), meta.ErrRebuilding) {
				t.Fatalf("an unfinished rebuild (%v) leaves a database that can be used", err)
			}
		}
		world.WantSame(t, had, world.Content(t, next, store))
		world.WantClean(t, next, store)
		if _, err := Rebuild(t.Context(), next, store, RebuildOptions{Parallel: 1}); !errors.Is(err, meta.ErrNotEmpty) {
			t.Errorf("a rebuild of a database with content: %v", err)
		}
		world.WantSame(t, had, world.Content(t, next, store))
	})
}

// cutting is a faulty store that ends a context where it fails.
type cutting struct {
	world.Faulty
	cut context.CancelFunc
}

func (c *cutting) Document(ctx context.Context, name string) ([]byte, error) {
	data, err := c.Faulty.Document(ctx, name)
	if errors.Is(err, world.ErrFault) {
		c.cut()
		return nil, context.Canceled
	}
	return data, err
}

func (c *cutting) Stat(ctx context.Context, key string) (int64, error) {
	n, err := c.Faulty.Stat(ctx, key)
	if errors.Is(err, world.ErrFault) {
		c.cut()
		return 0, context.Canceled
	}
	return n, err
}

// Two that write at the same time do each other no harm, nor does one that is late.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		store := world.Folder(t)
		db := newDB(t)
		w := serve(t, db, store)
		stop := w.Pushing(2, w.deletes)
		done := make(chan error)
		for range 2 {
			j := newJournal(t, db, store)
			go func() {
				var failed error
				for range 20 {
					if _, err := j.Export(t.Context()); err != nil && !errors.Is(err, meta.ErrLost) {
						failed = err
					}
					if _, err := j.Merge(t.Context()); err != nil {
						failed = err
					}
				}
				done <- failed
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		stop()
		// One has read changes, and sleeps while the other one begins an epoch.
		w.Fill(1)
		late, err := db.JournalChanges(t.Context())
		world.Must(t, err)
		s, raw, err := w.journal.load(t.Context())
		world.Must(t, err)
		_, err = w.journal.save(t.Context(), raw, state{Epoch: s.Epoch + 1})
		world.Must(t, err)
		world.Must(t, w.journal.write(t.Context(), changesName(s.Epoch, late.Records[len(late.Records)-1].Change), late.Records))
		if err := db.Written(t.Context(), late, func(raw []byte) bool {
			now, err := parseState(raw)
			return err == nil && now.Epoch == s.Epoch
		}); !errors.Is(err, meta.ErrLost) {
			t.Errorf("changes of an epoch that has ended are taken for written: %v", err)
		}
		w.export()
		_, err = w.journal.Merge(t.Context())
		world.Must(t, err)
		next := newDB(t)
		rebuild(t, next, store)
		world.WantSame(t, world.Content(t, db, store), world.Content(t, next, store))
	})
}

// A database that is lost is not mistaken for a new registry, nor one that is put back from a copy for the newest state.
func TestOtherDatabase(t *testing.T) {
	t.Parallel()
	store := world.Folder(t)
	db := world.SQLite(t)
	w := serve(t, db, store)
	w.Fill(1)
	w.export()

	empty := world.SQLite(t)
	if err := newJournal(t, empty, store).Begin(t.Context()); !errors.Is(err, ErrForeign) {
		t.Errorf("an empty database beside a journal: %v", err)
	}
	if _, err := newJournal(t, empty, store).Export(t.Context()); !errors.Is(err, ErrForeign) {
		t.Errorf("an empty database writes to another one's journal: %v", err)
	}
	if _, err := Rebuild(t.Context(), world.SQLite(t), world.Folder(t), RebuildOptions{Parallel: 1}); !errors.Is(err, ErrNoJournal) {
		t.Errorf("a rebuild from nothing: %v", err)
	}

	// A copy that knows less than the journal, in which more is changed at once than is missing.
	older := world.SQLite(t)
	rebuild(t, older, store)
	o := serve(t, older, store)
	o.export()
	s, raw, err := o.journal.load(t.Context())
	world.Must(t, err)
	last, err := older.LastChange(t.Context())
	world.Must(t, err)
	world.Must(t, store.PutDocument(t.Context(), changesName(s.Epoch, last+1), mustEncode(t)))
	again := newJournal(t, older, store)
	world.Must(t, again.Begin(t.Context()))
	o.Fill(2)
	had := world.Content(t, older, store)
	_, err = again.Export(t.Context())
	world.Must(t, err)
	now, _, err := again.load(t.Context())
	world.Must(t, err)
	if now.Epoch != s.Epoch+1 || !now.Complete {
		t.Errorf("after %s the journal of an older database is %+v", raw, now)
	}
	_, err = again.Merge(t.Context())
	world.Must(t, err)
	found, err := parts(t.Context(), store)
	world.Must(t, err)
	for _, p := range found {
		if p.epoch != now.Epoch {
			t.Errorf("part %s is left of an epoch of no use", p.name)
		}
	}
	next := world.SQLite(t)
	rebuild(t, next, store)
	world.WantSame(t, had, world.Content(t, next, store))
}

func mustEncode(t testing.TB, records ...meta.JournalRecord) []byte {
	t.Helper()
	data, err := encode(records)
	world.Must(t, err)
	return data
}

// What is lost of bytes and of the journal is named, and the rest comes back.
func TestLosses(t *testing.T) {
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		store := world.Folder(t)
		db := newDB(t)
		w := serve(t, db, store)
		w.Fill(1)
		w.export()
		layer := w.Push("lost/app", []byte("lost layer"))
		w.MustPut("lost/app", world.Image(nil, layer), "1")
		lone := w.Push("lone", []byte("lone"))
		w.export()
		for _, d := range []oci.Descriptor{layer, lone} {
			r := oci.Repository("lost/app")
			if d.Digest == lone.Digest {
				r = "lone"
			}
			b, err := db.Blob(t.Context(), r, d.Digest)
			world.Must(t, err)
			world.Must(t, store.Delete(t.Context(), b.Key))
		}
		m := w.MustPut("torn/app", world.Image(nil, w.Push("torn/app", []byte("x"))), "1")
		record := meta.JournalRecord{Change: 1 << 30, Kind: meta.JournalMove, RepositoryID: 1, Repository: "team0/app", Ref: "1000000", Tag: "dangling", Digest: m.Digest.String(), At: 1}
		data := mustEncode(t, record, meta.JournalRecord{Kind: "nonsense", RepositoryID: 1, Repository: "x"}, meta.JournalRecord{Kind: meta.JournalRepository, RepositoryID: 7, Repository: "NO NAME"})
		world.Must(t, store.PutDocument(t.Context(), changesName(1, 1<<30), data))
		world.Must(t, store.PutDocument(t.Context(), changesName(1, 1<<31), data[:len(data)/2]))
		var losses []Loss
		next := newDB(t)
		report, err := Rebuild(t.Context(), next, store, RebuildOptions{Parallel: 4, Found: func(l Loss) { losses = append(losses, l) }})
		world.Must(t, err)
		if len(losses) != 5 || report.Lost != 5 {
			t.Errorf("%d losses: %+v", report.Lost, losses)
		}
		// The manifest waits for its blob; the repository that has nothing else is gone.
		got, err := next.Manifest(t.Context(), "lost/app", oci.Reference{Tag: "1"}, false)
		world.Must(t, err)
		stored, err := next.StoredManifests(t.Context(), 0, 1000)
		world.Must(t, err)
		for _, s := range stored {
			if s.Digest == got.Digest.String() {
				_, missing, err := next.ManifestParts(t.Context(), s.ID)
				world.Must(t, err)
				if len(missing) != 1 || missing[0] != layer.Digest.String() {
					t.Errorf("the manifest waits for %q", missing)
				}
			}
		}
		if there, err := next.RepositoryExists(t.Context(), "lone"); there || err != nil {
			t.Errorf("a repository that has lost its only blob is there: %v", err)
		}
		moves, err := next.TagLog(t.Context(), "team0/app", "dangling")
		world.Must(t, err)
		if len(moves) != 2 || moves[1].Origin.Actor != "rebuild" || moves[1].New != (oci.Digest{}) {
			t.Errorf("the log of a tag that is lost is %+v", moves)
		}
		world.WantClean(t, next, store)
		// A push mends it.
		n := serve(t, next, store)
		n.Push("lost/app", []byte("lost layer"))
		world.WantClean(t, next, store)
	})
}

// Bytes that were broken and have been pushed again are in another object, in all repositories that have the blob.
func TestReplacedBytes(t *testing.T) {
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		store := world.Folder(t)
		db := newDB(t)
		w := serve(t, db, store)
		layer := w.Push("a/b", []byte("layer"))
		w.Push("c/d", []byte("layer"))
		w.MustPut("a/b", world.Image(nil, layer), "1")
		w.MustPut("c/d", world.Image(nil, layer), "1")
		w.export()
		before, err := db.Blob(t.Context(), "a/b", layer.Digest)
		world.Must(t, err)
		world.Must(t, store.Delete(t.Context(), before.Key))
		w.Push("c/d", []byte("layer"))
		after, err := db.Blob(t.Context(), "a/b", layer.Digest)
		world.Must(t, err)
		if after.Key == before.Key {
			t.Fatal("the bytes were not replaced")
		}
		w.export()
		had := world.Content(t, db, store)
		next := newDB(t)
		rebuild(t, next, store)
		world.WantSame(t, had, world.Content(t, next, store))
	})
}
