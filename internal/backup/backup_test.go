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
	"github.com/berthregistry/berth/test/world"
)

// create makes a set, as the periodic job does.
func create(t testing.TB, w *world.World, target blob.Store) (Set, error) {
	t.Helper()
	var set Set
	var failed error
	ran, err := job.New(w.DB, job.Options{Log: slog.New(slog.DiscardHandler)}).Now(t.Context(), job.Job{Name: meta.BackupJob, Run: func(ctx context.Context) (string, error) {
		set, failed = Create(ctx, Options{DB: w.DB, Blobs: w.Store, Target: target, Parallel: 3, Temp: t.TempDir(),
			Lost: func(digest, what string) { t.Errorf("lost: %s: %s", digest, what) }})
		return set.Name, failed
	}})
	world.Must(t, err)
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
	world.Must(t, err)
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
	world.Must(t, err)
	return wrong
}

func objects(t testing.TB, store blob.Store) (n int) {
	t.Helper()
	for _, err := range store.List(t.Context(), time.Time{}, time.Time{}) {
		world.Must(t, err)
		n++
	}
	return n
}

// slowly has what there is to copy grow no faster than it can be copied.
func slowly(context.Context, oci.Repository, oci.Digest, int) error {
	time.Sleep(10 * time.Millisecond)
	return nil
}

// hence is an hour in which no object has been begun yet.
func hence() time.Time { return time.Now().Add(2 * time.Hour) }

// Each set is restored as the registry was, wherever either is; an object is copied once; what no set has goes with a prune.
func TestBackup(t *testing.T) {
	t.Parallel()
	world.Everywhere(t, func(t *testing.T, newDB func(testing.TB) *meta.DB, store blob.Store) {
		w := world.Serve(t, newDB(t), store, true)
		target := world.Folder(t)
		if _, ok := store.(interface {
			Unfinished(context.Context) (int64, error)
		}); !ok {
			target = world.Bucket(t)
		}
		if _, err := Find(t.Context(), target, "", time.Time{}); !errors.Is(err, ErrNoSet) {
			t.Errorf("a backup without sets: %v", err)
		}
		var had [][]string
		var sets []Set
		for i := range 3 {
			w.Fill(i)
			had = append(had, world.Content(t, w.DB, store))
			before := objects(t, target)
			s, err := create(t, w, target)
			world.Must(t, err)
			sets = append(sets, s)
			if n := objects(t, target) - before; int64(n) != s.Copied+1 || s.Copied == 0 || i > 0 && s.Copied >= s.Blobs {
				t.Errorf("set %d: %d new objects, %+v", i, n, s)
			}
			time.Sleep(10 * time.Millisecond)
		}
		again, err := create(t, w, target)
		world.Must(t, err)
		if again.Copied != 0 || again.Blobs != sets[2].Blobs || again.Bytes != sets[2].Bytes {
			t.Errorf("a second set of the same is %+v", again)
		}
		for i, s := range sets {
			if wrong := verify(t, target, s); len(wrong) > 0 {
				t.Errorf("set %d: %q", i, wrong)
			}
			found, err := Find(t.Context(), target, "", s.At.Add(5*time.Millisecond))
			world.Must(t, err)
			if found.Name != s.Name {
				t.Errorf("the set of %s is %s", s.At, found.Name)
			}
			db, other := newDB(t), world.Folder(t)
			world.Must(t, restore(t, found, target, db, other))
			world.WantSame(t, had[i], world.Content(t, db, other))
			world.WantClean(t, db, other)
			world.Must(t, db.Close())
		}
		if _, err := Find(t.Context(), target, "", sets[0].At.Add(-time.Hour)); !errors.Is(err, ErrNoSet) {
			t.Errorf("a set of before the first one: %v", err)
		}
		// Content goes from the registry, then sets go.
		stored, err := w.DB.StoredManifests(t.Context(), 0, 10_000)
		world.Must(t, err)
		for _, m := range stored {
			d, err := oci.ParseDigest(m.Digest)
			world.Must(t, err)
			world.Must(t, w.Registry.DeleteManifest(t.Context(), m.Repository, oci.Reference{Digest: d}, world.Tester, nil))
		}
		world.Must(t, collect(t, w)) // empties the trash
		world.Must(t, collect(t, w))
		last, err := create(t, w, target)
		world.Must(t, err)
		if done, err := Prune(t.Context(), target, PruneOptions{Keep: 2, Settled: time.Now().Add(-2 * time.Hour)}); err != nil || len(done.Sets) != 3 || done.Objects != 0 {
			t.Errorf("a prune that spares what may be under way: %+v, %v", done, err)
		}
		for keep := 2; keep > 0; keep-- {
			done, err := Prune(t.Context(), target, PruneOptions{Keep: keep, Settled: hence()})
			world.Must(t, err)
			if done.Objects == 0 {
				t.Errorf("a prune that keeps %d took nothing away", keep)
			}
			left, err := Sets(t.Context(), target)
			world.Must(t, err)
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
func collect(t testing.TB, w *world.World) error {
	t.Helper()
	time.Sleep(5 * time.Millisecond)
	_, err := gc.New(w.DB, w.Store, gc.Options{Log: slog.New(slog.DiscardHandler), Grace: time.Millisecond, UploadExpiry: time.Hour}).Collect(t.Context())
	return err
}

// A set made while clients push and delete and the collector is at work is whole.
func TestBackupBesideChanges(t *testing.T) {
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		w := world.Serve(t, newDB(t), world.Folder(t), true)
		w.Fill(0)
		// One that begins and one that is there all the time.
		target := world.Folder(t)
		stop := w.Pushing(3, slowly)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			// What is deleted is collected at once. A push may lose a blob that way before its manifest comes; who pushes here
			// has had its answer by then.
			for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				stored, err := w.DB.StoredManifests(t.Context(), 0, 50)
				if err == nil && len(stored) > 0 {
					m := stored[len(stored)/2]
					d, _ := oci.ParseDigest(m.Digest)
					_ = w.Registry.DeleteManifest(t.Context(), m.Repository, oci.Reference{Digest: d}, world.Tester, nil)
					parsed, _ := oci.ParseManifest(m.MediaType, m.Body)
					for _, b := range parsed.Blobs {
						_ = w.Registry.DeleteBlob(t.Context(), m.Repository, b.Digest, world.Tester)
					}
				}
				if _, err := gc.New(w.DB, w.Store, gc.Options{Log: slog.New(slog.DiscardHandler), Grace: time.Hour, UploadExpiry: time.Hour}).Collect(t.Context()); err != nil {
					t.Errorf("collect: %v", err)
				}
			}
		})
		for range 4 {
			s, err := create(t, w, target)
			world.Must(t, err)
			if wrong := verify(t, target, s); len(wrong) > 0 || s.Lost > 0 {
				t.Errorf("%+v: %q", s, wrong)
			}
			db, other := world.SQLite(t), world.Folder(t)
			world.Must(t, restore(t, s, target, db, other))
			world.WantClean(t, db, other)
			world.Must(t, db.Close())
		}
		cancel()
		group.Wait()
		stop()
	})
}

// The collector deletes no bytes while a backup runs, and those afterwards.
func TestHold(t *testing.T) {
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	d := w.Push("a/b", []byte("bytes"))
	b, err := w.DB.Blob(t.Context(), "a/b", d.Digest)
	world.Must(t, err)
	_, err = job.New(w.DB, job.Options{Log: slog.New(slog.DiscardHandler)}).Now(t.Context(), job.Job{Name: meta.BackupJob, Run: func(ctx context.Context) (string, error) {
		world.Must(t, w.Registry.DeleteBlob(ctx, "a/b", d.Digest, world.Tester))
		world.Must(t, collect(t, w))
		if _, err := w.Store.Stat(ctx, b.Key); err != nil {
			t.Errorf("bytes that a backup may need: %v", err)
		}
		return "", nil
	}})
	world.Must(t, err)
	world.Must(t, collect(t, w))
	if _, err := w.Store.Stat(t.Context(), b.Key); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("bytes that no backup needs: %v", err)
	}
}

// A run that breaks off at any step leaves a backup with the sets that it had, and the next one is as if there had been none.
func TestBackupFaults(t *testing.T) {
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	for i := range 8 {
		w.Push("a/b", fmt.Appendf(nil, "blob %d", i))
	}
	w.MustPut("a/b", world.Image(nil, w.Push("a/b", []byte("layer"))), "1")
	faults, sets := 0, 0
	for n := 1; ; n++ {
		failed := false
		for _, after := range []bool{false, true} {
			w.Push("a/b", fmt.Append(nil, n, after))
			_, err := create(t, w, &world.Faulty{Store: target, Left: n, After: after})
			if err != nil && !errors.Is(err, world.ErrFault) {
				t.Fatal(err)
			}
			failed = failed || err != nil
			now, err := Sets(t.Context(), target)
			world.Must(t, err)
			if len(now) < sets {
				t.Fatalf("of %d sets %d are left", sets, len(now))
			}
			s, err := create(t, w, target)
			world.Must(t, err)
			if wrong := verify(t, target, s); len(wrong) > 0 {
				t.Fatalf("call %d, %t: %q", n, after, wrong)
			}
			if sets = len(now) + 1; n%4 == 0 {
				if _, err := Prune(t.Context(), &world.Faulty{Store: target, Left: n / 2, After: after}, PruneOptions{Keep: 2, Settled: hence()}); err != nil && !errors.Is(err, world.ErrFault) {
					t.Fatal(err)
				}
				_, err := Prune(t.Context(), target, PruneOptions{Keep: 2, Settled: hence()})
				world.Must(t, err)
				left, err := Sets(t.Context(), target)
				world.Must(t, err)
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
	world.Must(t, err)
	db, other := world.SQLite(t), world.Folder(t)
	world.Must(t, restore(t, newest, target, db, other))
	world.WantSame(t, world.Content(t, w.DB, w.Store), world.Content(t, db, other))
}

// What a run that was cut off has copied is not copied again.
func TestBackupGoesOn(t *testing.T) {
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	for i := range 20 {
		w.Push("a/b", fmt.Appendf(nil, "blob %d", i))
	}
	if _, err := create(t, w, &world.Faulty{Store: target, Left: 15}); !errors.Is(err, world.ErrFault) {
		t.Fatal(err)
	}
	before := objects(t, target)
	s, err := create(t, w, target)
	world.Must(t, err)
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
	t.Parallel()
	world.EachDatabase(t, func(t *testing.T, newDB func(testing.TB) *meta.DB) {
		w := world.Serve(t, newDB(t), world.Folder(t), true)
		target := world.Folder(t)
		layer, other := w.Push("a/b", []byte("layer")), w.Push("a/b", []byte("other"))
		w.MustPut("a/b", world.Image(nil, layer, other), "1")
		lone := w.Push("lone", []byte("lone"))
		trashed := w.MustPut("a/b", world.Image(nil, other, layer))
		world.Must(t, w.Registry.DeleteManifest(t.Context(), "a/b", oci.Reference{Digest: trashed.Digest}, world.Tester, nil))
		bare := w.MustPut("trash/only", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
		world.Must(t, w.Registry.DeleteManifest(t.Context(), "trash/only", oci.Reference{Digest: bare.Digest}, world.Tester, nil))
		for r, d := range map[oci.Repository]oci.Digest{"a/b": layer.Digest, "lone": lone.Digest} {
			b, err := w.DB.Blob(t.Context(), r, d)
			world.Must(t, err)
			world.Must(t, w.Store.Delete(t.Context(), b.Key))
		}
		var lost []string
		s, err := Create(t.Context(), Options{DB: w.DB, Blobs: w.Store, Target: target, Parallel: 2, Temp: t.TempDir(), Lost: func(d, _ string) { lost = append(lost, d) }})
		world.Must(t, err)
		slices.Sort(lost)
		want := []string{layer.Digest.String(), lone.Digest.String()}
		slices.Sort(want)
		if !slices.Equal(lost, want) || s.Lost != 2 || s.Blobs != 1 {
			t.Errorf("lost are %q of %+v", lost, s)
		}
		db, store := newDB(t), world.Folder(t)
		world.Must(t, restore(t, s, target, db, store))
		world.WantClean(t, db, store)
		r := world.Serve(t, db, store, true)
		for repository, d := range map[oci.Repository]oci.Digest{"a/b": trashed.Digest, "trash/only": bare.Digest} {
			_, err := db.Undelete(t.Context(), repository, d, nil, meta.Origin{Actor: "world.Tester"}, time.Now())
			world.Must(t, err)
		}
		world.WantClean(t, db, store)
		r.Push("a/b", []byte("layer")) // mends it
		world.WantClean(t, db, store)

		from, err := s.Fetch(t.Context(), target, t.TempDir())
		world.Must(t, err)
		b, err := from.FindBlob(t.Context(), other.Digest.String())
		world.Must(t, err)
		world.Must(t, from.Close())
		world.Must(t, target.Delete(t.Context(), b.Key))
		if wrong := verify(t, target, s); len(wrong) != 1 {
			t.Errorf("a verification finds %q", wrong)
		}
		world.Must(t, target.Delete(t.Context(), s.Database.Key))
		if wrong := verify(t, target, s); len(wrong) != 1 {
			t.Errorf("a verification finds %q", wrong)
		}
		if _, err := Prune(t.Context(), target, PruneOptions{Keep: 1, Settled: hence()}); !errors.Is(err, ErrDamaged) {
			t.Errorf("a prune of what cannot be read: %v", err)
		}
	})
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
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	w.Push("a/b", []byte("first"))
	_, err := create(t, w, target)
	world.Must(t, err)
	for i := range 20 {
		w.Push("a/b", fmt.Appendf(nil, "blob %d", i))
	}
	if _, err := create(t, w, &world.Faulty{Store: target, Left: 15}); !errors.Is(err, world.ErrFault) {
		t.Fatal(err)
	}
	var made Set
	_, err = Prune(t.Context(), &late{Store: target, then: func() { made, err = create(t, w, target) }}, PruneOptions{Keep: 1, Settled: hence()})
	world.Must(t, err)
	if wrong := verify(t, target, made); len(wrong) > 0 || made.Blobs != 21 {
		t.Errorf("%+v: %q", made, wrong)
	}
}

// Where the newest set or a note is damaged, backups go on with what is whole.
func TestDamagedSet(t *testing.T) {
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	w.Fill(0)
	first, err := create(t, w, target)
	world.Must(t, err)
	w.Push("a/b", []byte("new"))
	second, err := create(t, w, target)
	world.Must(t, err)
	world.Must(t, target.Delete(t.Context(), second.Database.Key))
	world.Must(t, target.PutDocument(t.Context(), pendingRoot+"x"+extension, []byte("[{")))
	var damaged []string
	third, err := Create(t.Context(), Options{DB: w.DB, Blobs: w.Store, Target: target, Parallel: 2, Damaged: func(set string, _ error) { damaged = append(damaged, set) }})
	world.Must(t, err)
	if !slices.Equal(damaged, []string{second.Name}) || third.Copied != 1 || third.Blobs != first.Blobs+1 {
		t.Errorf("damaged are %q, the next set is %+v", damaged, third)
	}
	if wrong := verify(t, target, third); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
}

// How far a run is can be seen while it goes on.
func TestProgress(t *testing.T) {
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	for i := range 300 {
		w.Push("a/b", fmt.Append(nil, "blob ", i))
	}
	var seen []Progress
	s, err := Create(t.Context(), Options{DB: w.DB, Blobs: w.Store, Target: world.Folder(t), Parallel: 1, Every: time.Millisecond, Progress: func(p Progress) { seen = append(seen, p) }})
	world.Must(t, err)
	if !slices.ContainsFunc(seen, func(p Progress) bool {
		return p.Blobs == 300 && p.Bytes == s.Bytes && p.Done > 0 && p.Done < 300 && p.Copied == p.Done && p.At.Equal(s.At)
	}) {
		t.Errorf("%d looks at the run, none in its midst", len(seen))
	}
}

// A source gives the bytes of blobs from the newest set that has them, and again after it was closed.
func TestSource(t *testing.T) {
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	opened := 0
	s := NewSource("here", t.TempDir(), func(context.Context) (blob.Store, error) { opened++; return target, nil })
	get := func(content string) (string, error) {
		r, err := s.Open(t.Context(), nil, world.DigestOf([]byte(content)), int64(len(content)))
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
	world.Must(t, s.Close())
	w.Push("a/b", []byte("old"))
	_, err := create(t, w, target)
	world.Must(t, err)
	world.Must(t, w.Registry.DeleteBlob(t.Context(), "a/b", world.DigestOf([]byte("old")), world.Tester))
	w.Push("a/b", []byte("new"))
	_, err = create(t, w, target)
	world.Must(t, err)
	w.Push("a/b", []byte("newest"))
	broken, err := create(t, w, target)
	world.Must(t, err)
	world.Must(t, target.Delete(t.Context(), broken.Database.Key))
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
		world.Must(t, s.Close())
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
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	w.Fill(0)
	d := w.Push("a/b", []byte("layer"))
	first, err := create(t, w, target)
	world.Must(t, err)
	from, err := first.Fetch(t.Context(), target, t.TempDir())
	world.Must(t, err)
	b, err := from.FindBlob(t.Context(), d.Digest.String())
	world.Must(t, err)
	world.Must(t, from.Close())
	world.Must(t, target.Delete(t.Context(), b.Key))
	if second, err := create(t, w, target); err != nil || second.Copied != 0 {
		t.Errorf("before anybody knows of the damage: %+v, %v", second, err)
	}
	if wrong := verify(t, target, first); len(wrong) != 1 {
		t.Errorf("a verification finds %q", wrong)
	}
	for _, copied := range []int64{1, 0} {
		s, err := create(t, w, target)
		world.Must(t, err)
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
	t.Parallel()
	w := world.Serve(t, world.SQLite(t), world.Folder(t), true)
	target := world.Folder(t)
	d := w.Push("a/b", []byte("layer"))
	b, err := w.DB.Blob(t.Context(), "a/b", d.Digest)
	world.Must(t, err)
	world.Must(t, w.Store.Delete(t.Context(), b.Key))
	s, err := Create(t.Context(), Options{DB: w.DB, Blobs: &mending{Store: w.Store, then: func() { w.Push("a/b", []byte("layer")) }}, Target: target, Parallel: 2})
	world.Must(t, err)
	if wrong := verify(t, target, s); len(wrong) > 0 || s.Lost != 0 || s.Blobs != 1 {
		t.Errorf("%+v: %q", s, wrong)
	}
}
