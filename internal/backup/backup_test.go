package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"log/slog"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/internal/oci"
)

// create makes a set, as the periodic job does.
func create(t testing.TB, w *world, target blob.Store) (Set, error) {
	t.Helper()
	var set Set
	var failed error
	ran, err := job.New(w.db, job.Options{Log: slog.New(slog.DiscardHandler)}).Now(t.Context(), job.Job{Name: meta.BackupJob, Run: func(ctx context.Context) (string, error) {
		set, failed = Create(ctx, Options{DB: w.db, Blobs: w.store, Target: target, Parallel: 3, Temp: t.TempDir(),
			Lost: func(digest, what string) { t.Errorf("lost: %s: %s", digest, what) }})
		return set.Name, failed
	}})
	must(t, err)
	if !ran {
		t.Fatal("another backup is running")
	}
	return set, failed
}

type quiet struct{}

func (quiet) Begin(move.Step, int64, int64) {}
func (quiet) Add(int64)                     {}

// restore makes a registry of a set.
func restore(t testing.TB, s Set, target blob.Store, db *meta.DB, store blob.Store) error {
	t.Helper()
	from, err := s.Fetch(t.Context(), target, t.TempDir())
	must(t, err)
	defer from.Close()
	done, err := move.Switch(t.Context(), move.Options{
		From: move.End{DB: from, Blobs: target}, To: move.End{DB: db, Blobs: store}, Parallel: 3, Deep: true, Progress: quiet{},
		Damaged: func(d move.Damage) { t.Errorf("damaged: %+v", d) },
	})
	if err == nil {
		done.Release()
	}
	return err
}

func verify(t testing.TB, target blob.Store, s Set) (wrong []string) {
	t.Helper()
	_, _, err := Verify(t.Context(), target, s, true, 3, t.TempDir(), func(what string) { wrong = append(wrong, what) })
	must(t, err)
	return wrong
}

func objects(t testing.TB, store blob.Store) (n int) {
	t.Helper()
	for _, err := range store.List(t.Context(), time.Time{}, time.Time{}) {
		must(t, err)
		n++
	}
	return n
}

// hence is an hour in which no object has been begun yet.
func hence() time.Time { return time.Now().Add(2 * time.Hour) }

// Each set is restored as the registry was, wherever either is; an object is copied once; what no set has goes with a prune.
func TestBackup(t *testing.T) {
	everywhere(t, func(t *testing.T, newDB func(testing.TB) *meta.DB, store blob.Store) {
		w := serve(t, newDB(t), store)
		target := folder(t)
		if _, ok := store.(interface {
			Unfinished(context.Context) (int64, error)
		}); !ok {
			target = bucket(t)
		}
		if _, err := Find(t.Context(), target, "", time.Time{}); !errors.Is(err, ErrNoSet) {
			t.Errorf("a backup without sets: %v", err)
		}
		var had [][]string
		var sets []Set
		for i := range 3 {
			w.fill(i)
			had = append(had, content(t, w.db, store))
			before := objects(t, target)
			s, err := create(t, w, target)
			must(t, err)
			sets = append(sets, s)
			if n := objects(t, target) - before; int64(n) != s.Copied+1 || s.Copied == 0 || i > 0 && s.Copied >= s.Blobs {
				t.Errorf("set %d: %d new objects, %+v", i, n, s)
			}
			time.Sleep(10 * time.Millisecond)
		}
		again, err := create(t, w, target)
		must(t, err)
		if again.Copied != 0 || again.Blobs != sets[2].Blobs || again.Bytes != sets[2].Bytes {
			t.Errorf("a second set of the same is %+v", again)
		}
		for i, s := range sets {
			if wrong := verify(t, target, s); len(wrong) > 0 {
				t.Errorf("set %d: %q", i, wrong)
			}
			found, err := Find(t.Context(), target, "", s.At.Add(5*time.Millisecond))
			must(t, err)
			if found.Name != s.Name {
				t.Errorf("the set of %s is %s", s.At, found.Name)
			}
			db, other := newDB(t), folder(t)
			must(t, restore(t, found, target, db, other))
			wantSame(t, had[i], content(t, db, other))
			wantClean(t, db, other)
			must(t, db.Close())
		}
		if _, err := Find(t.Context(), target, "", sets[0].At.Add(-time.Hour)); !errors.Is(err, ErrNoSet) {
			t.Errorf("a set of before the first one: %v", err)
		}
		// Content goes from the registry, then sets go.
		stored, err := w.db.StoredManifests(t.Context(), 0, 10_000)
		must(t, err)
		for _, m := range stored {
			d, err := oci.ParseDigest(m.Digest)
			must(t, err)
			must(t, w.reg.DeleteManifest(t.Context(), m.Repository, oci.Reference{Digest: d}, tester, nil))
		}
		must(t, collect(t, w)) // empties the trash
		must(t, collect(t, w))
		last, err := create(t, w, target)
		must(t, err)
		if done, err := Prune(t.Context(), target, PruneOptions{Keep: 2, Settled: time.Now().Add(-2 * time.Hour)}); err != nil || len(done.Sets) != 3 || done.Objects != 0 {
			t.Errorf("a prune that spares what may be under way: %+v, %v", done, err)
		}
		for keep := 2; keep > 0; keep-- {
			done, err := Prune(t.Context(), target, PruneOptions{Keep: keep, Settled: hence()})
			must(t, err)
			if done.Objects == 0 {
				t.Errorf("a prune that keeps %d took nothing away", keep)
			}
			left, err := Sets(t.Context(), target)
			must(t, err)
			if len(left) != keep || left[len(left)-1].Name != last.Name {
				t.Errorf("after a prune the sets are %+v", left)
			}
			for _, s := range left {
				if wrong := verify(t, target, s); len(wrong) > 0 {
					t.Errorf("after a prune: %q", wrong)
				}
			}
		}
		if n := objects(t, target); n != int(last.Blobs)+1 {
			t.Errorf("%d objects are left of a set of %d", n, last.Blobs)
		}
	})
}

// collect takes away what no manifest needs.
func collect(t testing.TB, w *world) error {
	t.Helper()
	time.Sleep(5 * time.Millisecond)
	_, err := gc.New(w.db, w.store, gc.Options{Log: slog.New(slog.DiscardHandler), Grace: time.Millisecond, UploadExpiry: time.Hour}).Collect(t.Context())
	return err
}

// A set made while clients push and delete and the collector is at work is whole.
func TestBackupBesideChanges(t *testing.T) {
	for name, newDB := range map[string]func(testing.TB) *meta.DB{"sqlite": sqlite, "postgres": postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, newDB(t), folder(t))
			w.fill(0)
			// One that begins and one that is there all the time.
			target := folder(t)
			stop := w.pushing(3)
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			group.Go(func() {
				// What is deleted is collected at once. A push may lose a blob that way before its manifest comes; who pushes here
				// has had its answer by then.
				for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
					stored, err := w.db.StoredManifests(t.Context(), 0, 50)
					if err == nil && len(stored) > 0 {
						m := stored[len(stored)/2]
						d, _ := oci.ParseDigest(m.Digest)
						_ = w.reg.DeleteManifest(t.Context(), m.Repository, oci.Reference{Digest: d}, tester, nil)
						parsed, _ := oci.ParseManifest(m.MediaType, m.Body)
						for _, b := range parsed.Blobs {
							_ = w.reg.DeleteBlob(t.Context(), m.Repository, b.Digest, tester)
						}
					}
					if _, err := gc.New(w.db, w.store, gc.Options{Log: slog.New(slog.DiscardHandler), Grace: time.Hour, UploadExpiry: time.Hour}).Collect(t.Context()); err != nil {
						t.Errorf("collect: %v", err)
					}
				}
			})
			for range 4 {
				s, err := create(t, w, target)
				must(t, err)
				if wrong := verify(t, target, s); len(wrong) > 0 || s.Lost > 0 {
					t.Errorf("%+v: %q", s, wrong)
				}
				db, other := sqlite(t), folder(t)
				must(t, restore(t, s, target, db, other))
				wantClean(t, db, other)
				must(t, db.Close())
			}
			cancel()
			group.Wait()
			stop()
		})
	}
}

// The collector deletes no bytes while a backup runs, and those afterwards.
func TestHold(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	d := w.push("a/b", []byte("bytes"))
	b, err := w.db.Blob(t.Context(), "a/b", d.Digest)
	must(t, err)
	_, err = job.New(w.db, job.Options{Log: slog.New(slog.DiscardHandler)}).Now(t.Context(), job.Job{Name: meta.BackupJob, Run: func(ctx context.Context) (string, error) {
		must(t, w.reg.DeleteBlob(ctx, "a/b", d.Digest, tester))
		must(t, collect(t, w))
		if _, err := w.store.Stat(ctx, b.Key); err != nil {
			t.Errorf("bytes that a backup may need: %v", err)
		}
		return "", nil
	}})
	must(t, err)
	must(t, collect(t, w))
	if _, err := w.store.Stat(t.Context(), b.Key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("bytes that no backup needs: %v", err)
	}
}

// A run that breaks off at any step leaves a backup with the sets that it had, and the next one is as if there had been none.
func TestBackupFaults(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	for i := range 8 {
		w.push("a/b", fmt.Appendf(nil, "blob %d", i))
	}
	w.mustPut("a/b", image(nil, w.push("a/b", []byte("layer"))), "1")
	faults, sets := 0, 0
	for n := 1; ; n++ {
		failed := false
		for _, after := range []bool{false, true} {
			w.push("a/b", fmt.Append(nil, n, after))
			_, err := create(t, w, &faulty{Store: target, left: n, after: after})
			if err != nil && !errors.Is(err, errFault) {
				t.Fatal(err)
			}
			failed = failed || err != nil
			now, err := Sets(t.Context(), target)
			must(t, err)
			if len(now) < sets {
				t.Fatalf("of %d sets %d are left", sets, len(now))
			}
			s, err := create(t, w, target)
			must(t, err)
			if wrong := verify(t, target, s); len(wrong) > 0 {
				t.Fatalf("call %d, %t: %q", n, after, wrong)
			}
			if sets = len(now) + 1; n%4 == 0 {
				if _, err := Prune(t.Context(), &faulty{Store: target, left: n / 2, after: after}, PruneOptions{Keep: 2, Settled: hence()}); err != nil && !errors.Is(err, errFault) {
					t.Fatal(err)
				}
				_, err := Prune(t.Context(), target, PruneOptions{Keep: 2, Settled: hence()})
				must(t, err)
				left, err := Sets(t.Context(), target)
				must(t, err)
				if sets = len(left); sets != 2 || len(verify(t, target, left[0]))+len(verify(t, target, left[1])) > 0 {
					t.Fatalf("after prunes that broke off, %+v", left)
				}
			}
		}
		if !failed {
			break
		}
		faults++
	}
	if faults < 4 {
		t.Errorf("only %d calls could fail", faults)
	}
	newest, err := Find(t.Context(), target, "", time.Time{})
	must(t, err)
	db, other := sqlite(t), folder(t)
	must(t, restore(t, newest, target, db, other))
	wantSame(t, content(t, w.db, w.store), content(t, db, other))
}

// What a run that was cut off has copied is not copied again.
func TestBackupGoesOn(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	for i := range 20 {
		w.push("a/b", fmt.Appendf(nil, "blob %d", i))
	}
	if _, err := create(t, w, &faulty{Store: target, left: 15}); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	before := objects(t, target)
	s, err := create(t, w, target)
	must(t, err)
	// What was on its way when the call failed is not noted.
	if before < 10 || s.Copied > int64(20-before+3) {
		t.Errorf("%d were copied before, and %d again", before, s.Copied)
	}
	for d, err := range target.Documents(t.Context(), pendingRoot) {
		t.Errorf("%s is left, %v", d.Name, err)
	}
}

// Bytes that the registry has lost are named, and the rest is in the set; damage of the backup is found.
func TestDamage(t *testing.T) {
	for name, newDB := range map[string]func(testing.TB) *meta.DB{"sqlite": sqlite, "postgres": postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, newDB(t), folder(t))
			target := folder(t)
			layer, other := w.push("a/b", []byte("layer")), w.push("a/b", []byte("other"))
			w.mustPut("a/b", image(nil, layer, other), "1")
			lone := w.push("lone", []byte("lone"))
			trashed := w.mustPut("a/b", image(nil, other, layer))
			must(t, w.reg.DeleteManifest(t.Context(), "a/b", oci.Reference{Digest: trashed.Digest}, tester, nil))
			bare := w.mustPut("trash/only", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
			must(t, w.reg.DeleteManifest(t.Context(), "trash/only", oci.Reference{Digest: bare.Digest}, tester, nil))
			for r, d := range map[oci.Repository]oci.Digest{"a/b": layer.Digest, "lone": lone.Digest} {
				b, err := w.db.Blob(t.Context(), r, d)
				must(t, err)
				must(t, w.store.Delete(t.Context(), b.Key))
			}
			var lost []string
			s, err := Create(t.Context(), Options{DB: w.db, Blobs: w.store, Target: target, Parallel: 2, Temp: t.TempDir(), Lost: func(d, _ string) { lost = append(lost, d) }})
			must(t, err)
			slices.Sort(lost)
			want := []string{layer.Digest.String(), lone.Digest.String()}
			slices.Sort(want)
			if !slices.Equal(lost, want) || s.Lost != 2 || s.Blobs != 1 {
				t.Errorf("lost are %q of %+v", lost, s)
			}
			db, store := newDB(t), folder(t)
			must(t, restore(t, s, target, db, store))
			wantClean(t, db, store)
			r := serve(t, db, store)
			for repository, d := range map[oci.Repository]oci.Digest{"a/b": trashed.Digest, "trash/only": bare.Digest} {
				_, err := db.Undelete(t.Context(), repository, d, nil, meta.Origin{Actor: "tester"}, time.Now())
				must(t, err)
			}
			wantClean(t, db, store)
			r.push("a/b", []byte("layer")) // mends it
			wantClean(t, db, store)

			from, err := s.Fetch(t.Context(), target, t.TempDir())
			must(t, err)
			b, err := from.FindBlob(t.Context(), other.Digest.String())
			must(t, err)
			must(t, from.Close())
			must(t, target.Delete(t.Context(), b.Key))
			if wrong := verify(t, target, s); len(wrong) != 1 {
				t.Errorf("a verification finds %q", wrong)
			}
			must(t, target.Delete(t.Context(), s.Database.Key))
			if wrong := verify(t, target, s); len(wrong) != 1 {
				t.Errorf("a verification finds %q", wrong)
			}
			if _, err := Prune(t.Context(), target, PruneOptions{Keep: 1, Settled: hence()}); !errors.Is(err, ErrDamaged) {
				t.Errorf("a prune of what cannot be read: %v", err)
			}
		})
	}
}

// late is a store in which something happens when documents were listed for the first time.
type late struct {
	blob.Store
	once sync.Once
	then func()
}

func (l *late) Documents(ctx context.Context, prefix string) iter.Seq2[blob.Document, error] {
	return func(yield func(blob.Document, error) bool) {
		for d, err := range l.Store.Documents(ctx, prefix) {
			if !yield(d, err) {
				return
			}
		}
		l.once.Do(l.then)
	}
}

// A prune takes nothing from a set that is finished while it looks around, nor what that has from a run that broke off.
func TestPruneBesideCreate(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	w.push("a/b", []byte("first"))
	_, err := create(t, w, target)
	must(t, err)
	for i := range 20 {
		w.push("a/b", fmt.Appendf(nil, "blob %d", i))
	}
	if _, err := create(t, w, &faulty{Store: target, left: 15}); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	var made Set
	_, err = Prune(t.Context(), &late{Store: target, then: func() { made, err = create(t, w, target) }}, PruneOptions{Keep: 1, Settled: hence()})
	must(t, err)
	if wrong := verify(t, target, made); len(wrong) > 0 || made.Blobs != 21 {
		t.Errorf("%+v: %q", made, wrong)
	}
}

// Where the newest set or a note is damaged, backups go on with what is whole.
func TestDamagedSet(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	w.fill(0)
	first, err := create(t, w, target)
	must(t, err)
	w.push("a/b", []byte("new"))
	second, err := create(t, w, target)
	must(t, err)
	must(t, target.Delete(t.Context(), second.Database.Key))
	must(t, target.PutDocument(t.Context(), pendingRoot+"x"+extension, []byte("[{")))
	var damaged []string
	third, err := Create(t.Context(), Options{DB: w.db, Blobs: w.store, Target: target, Parallel: 2, Damaged: func(set string, _ error) { damaged = append(damaged, set) }})
	must(t, err)
	if !slices.Equal(damaged, []string{second.Name}) || third.Copied != 1 || third.Blobs != first.Blobs+1 {
		t.Errorf("damaged are %q, the next set is %+v", damaged, third)
	}
	if wrong := verify(t, target, third); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
}

// How far a run is can be seen while it goes on.
func TestProgress(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	for i := range 300 {
		w.push("a/b", fmt.Append(nil, "blob ", i))
	}
	var seen []Progress
	s, err := Create(t.Context(), Options{DB: w.db, Blobs: w.store, Target: folder(t), Parallel: 1, Every: time.Millisecond, Progress: func(p Progress) { seen = append(seen, p) }})
	must(t, err)
	if !slices.ContainsFunc(seen, func(p Progress) bool {
		return p.Blobs == 300 && p.Bytes == s.Bytes && p.Done > 0 && p.Done < 300 && p.Copied == p.Done && p.At.Equal(s.At)
	}) {
		t.Errorf("%d looks at the run, none in its midst", len(seen))
	}
}

// A source gives the bytes of blobs from the newest set that has them, and again after it was closed.
func TestSource(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	opened := 0
	s := NewSource("here", t.TempDir(), func(context.Context) (blob.Store, error) { opened++; return target, nil })
	get := func(content string) (string, error) {
		r, err := s.Open(t.Context(), nil, digestOf([]byte(content)), int64(len(content)))
		if err != nil {
			return "", err
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		return string(got), err
	}
	if _, err := get("x"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("without a set: %v", err)
	}
	must(t, s.Close())
	w.push("a/b", []byte("old"))
	_, err := create(t, w, target)
	must(t, err)
	must(t, w.reg.DeleteBlob(t.Context(), "a/b", digestOf([]byte("old")), tester))
	w.push("a/b", []byte("new"))
	_, err = create(t, w, target)
	must(t, err)
	w.push("a/b", []byte("newest"))
	broken, err := create(t, w, target)
	must(t, err)
	must(t, target.Delete(t.Context(), broken.Database.Key))
	for range 2 {
		for _, content := range []string{"new", "old", "new"} {
			if got, err := get(content); got != content || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}
		if _, err := get("newest"); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("of a set that is damaged: %v", err)
		}
		dir := s.dir
		must(t, s.Close())
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("databases are left: %v", err)
		}
	}
	if opened != 3 {
		t.Errorf("the backup was opened %d times", opened)
	}
}

// A blob whose object in the backup is found damaged is copied anew for the next set, once.
func TestDamagedObject(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	w.fill(0)
	d := w.push("a/b", []byte("layer"))
	first, err := create(t, w, target)
	must(t, err)
	from, err := first.Fetch(t.Context(), target, t.TempDir())
	must(t, err)
	b, err := from.FindBlob(t.Context(), d.Digest.String())
	must(t, err)
	must(t, from.Close())
	must(t, target.Delete(t.Context(), b.Key))
	if second, err := create(t, w, target); err != nil || second.Copied != 0 {
		t.Errorf("before anybody knows of the damage: %+v, %v", second, err)
	}
	if wrong := verify(t, target, first); len(wrong) != 1 {
		t.Errorf("a verification finds %q", wrong)
	}
	for _, copied := range []int64{1, 0} {
		s, err := create(t, w, target)
		must(t, err)
		if wrong := verify(t, target, s); len(wrong) > 0 || s.Copied != copied {
			t.Errorf("the next set is %+v: %q", s, wrong)
		}
	}
	if wrong := verify(t, target, first); len(wrong) != 1 {
		t.Errorf("what was damaged is %q", wrong)
	}
}

// mending is a store in which something happens when an object is opened for the first time.
type mending struct {
	blob.Store
	once sync.Once
	then func()
}

func (m *mending) Open(ctx context.Context, key string) (blob.Reader, error) {
	r, err := m.Store.Open(ctx, key)
	m.once.Do(m.then)
	return r, err
}

// Bytes that are missing when they are to be copied, and are pushed again at this moment, are in the set.
func TestReplacedMeanwhile(t *testing.T) {
	w := serve(t, sqlite(t), folder(t))
	target := folder(t)
	d := w.push("a/b", []byte("layer"))
	b, err := w.db.Blob(t.Context(), "a/b", d.Digest)
	must(t, err)
	must(t, w.store.Delete(t.Context(), b.Key))
	s, err := Create(t.Context(), Options{DB: w.db, Blobs: &mending{Store: w.store, then: func() { w.push("a/b", []byte("layer")) }}, Target: target, Parallel: 2})
	must(t, err)
	if wrong := verify(t, target, s); len(wrong) > 0 || s.Lost != 0 || s.Blobs != 1 {
		t.Errorf("%+v: %q", s, wrong)
	}
}
