package move_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// testMove moves a registry with all kinds of content while clients push, and pushes to the target then.
func testMove(t *testing.T, from, to place) {
	w := serve(t, from.end(t, false))
	w.fill()
	source, target := from.end(t, true), to.end(t, false)

	stop := w.pushing(2)
	report, err := move.Copy(t.Context(), options(t, source, target))
	must(t, err)
	if report.Copied < 100 || report.Before != 0 || report.Rows < 500 || report.Frozen <= 0 {
		t.Errorf("the copy reports %+v", report)
	}
	if err := target.DB.CheckComplete(t.Context()); !errors.Is(err, meta.ErrMoving) {
		t.Errorf("the unfinished target: %v", err)
	}
	if n := stop(); n == 0 {
		t.Error("nothing was pushed meanwhile")
	}
	w.push("after/copy", oci.SHA256, []byte("after the copy"))

	opts := options(t, source, target)
	opts.Deep = true
	progress := opts.Progress.(*tally)
	report = switched(t, opts)
	blobs, _, err := source.DB.Totals(t.Context())
	must(t, err)
	if rows, err := source.DB.CountRows(t.Context()); err != nil || report.Rows != rows || report.Copied == 0 || report.Before+report.Copied < blobs {
		t.Errorf("the switch reports %+v, there are %d rows and %d blobs, %v", report, rows, blobs, err)
	}
	if progress.step != move.Verify || progress.done != progress.total || progress.done != report.Rows {
		t.Errorf("the progress ends with %d: %d of %d", progress.step, progress.done, progress.total)
	}
	wantSame(t, source, target)
	if _, err := move.Copy(t.Context(), options(t, source, target)); !errors.Is(err, move.ErrDone) {
		t.Errorf("once more: %v", err)
	}

	// The target is a registry as any other: what the move has left goes, clients go on.
	moved := serve(t, target)
	collector := gc.New(target.DB, target.Blobs, gc.Options{Grace: time.Hour, UploadExpiry: time.Hour})
	_, err = collector.Collect(t.Context())
	must(t, err)
	wantClean(t, target)
	moved.push("sparse/app", oci.SHA256, []byte("later"))
	stop = moved.pushing(2)
	time.Sleep(50 * time.Millisecond)
	stop() // who could not push has said so; how many it were is a matter of the machine
	moved.mustPut("gone", oci.SHA256, image(nil, moved.push("gone", oci.SHA256, []byte("gone"))), "x")
	if log, err := target.DB.TagLog(t.Context(), "gone", "x"); err != nil || len(log) < 2 || !log[len(log)-1].Old.IsZero() {
		t.Errorf("the log of a new repository with an old name: %v, %v", log, err)
	}
	wantClean(t, target)
}

func TestMoveFolderToFolder(t *testing.T) {
	t.Parallel()
	testMove(t, folder(t), folder(t))
}

// There and back again.
func TestMoveFolderToPostgresAndBack(t *testing.T) {
	t.Parallel()
	first, last := folder(t), folder(t)
	middle, _ := scaled(t)
	t.Run("there", func(t *testing.T) { testMove(t, first, middle) })
	t.Run("back", func(t *testing.T) { testMove(t, middle, last) })
}

// Any other pairing, such as one step of the two at a time.
func TestMoveBetweenScaled(t *testing.T) {
	t.Parallel()
	from, _ := scaled(t)
	to, _ := scaled(t)
	testMove(t, from, to)
}

// A move that is interrupted at any moment goes on, and ends with all that there is.
func testInterrupted(t *testing.T, from, to place) {
	w := serve(t, from.end(t, false))
	w.fill()
	source := from.end(t, true)
	cut := 0
	for i := 0; ; i++ {
		target := to.end(t, false)
		ctx, cancel := context.WithCancel(t.Context())
		opts := options(t, source, target)
		// Most steps have enough calls of Add for this; if not, the last one has: one for each table at least.
		step, calls, last := move.Step(rand.N(4)), rand.N(60), rand.N(9)
		opts.Progress = &tally{add: func(s move.Step, _ int64) {
			if s == step {
				calls--
			}
			if s == move.Verify {
				last--
			}
			if i < 12 && (calls < 0 || last < 0) {
				cancel()
			}
		}}
		opts.Parallel = 1 + rand.N(4)
		if rand.N(4) == 0 {
			_, err := move.Copy(ctx, opts)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cancel()
			continue
		}
		done, err := move.Switch(ctx, opts)
		cancel()
		if err == nil {
			done.Release()
			wantSame(t, source, target)
			wantClean(t, target)
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		cut++
		if err := target.DB.CheckComplete(t.Context()); !errors.Is(err, meta.ErrMoving) {
			t.Fatalf("the target after an interrupted switch: %v", err)
		}
		// Something is pushed and deleted between two attempts.
		w.mustPut("team0/app", oci.SHA256, image(nil, w.push("team0/app", oci.SHA256, fmt.Append(nil, "between", i))), "between")
		if i%3 == 0 {
			must(t, w.reg.DeleteManifest(t.Context(), "team0/app", oci.Reference{Tag: "between"}, registry.Actor{Name: "tester"}, nil))
		}
	}
	if cut == 0 {
		t.Error("no switch was interrupted")
	}
	t.Logf("%d switches were interrupted", cut)
}

func TestInterruptedFolderToFolder(t *testing.T) {
	t.Parallel()
	testInterrupted(t, folder(t), folder(t))
}

func TestInterruptedFolderToPostgres(t *testing.T) {
	t.Parallel()
	to, _ := scaled(t)
	testInterrupted(t, folder(t), to)
}

func TestInterruptedPostgresToFolder(t *testing.T) {
	t.Parallel()
	from, _ := scaled(t)
	testInterrupted(t, from, folder(t))
}

// moving is a source with some blobs and a target that have begun a move.
type moving struct {
	*world
	from, to       place
	source, target move.End
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	m := &moving{from: folder(t), to: folder(t)}
	m.world = serve(t, m.from.end(t, false))
	m.source, m.target = m.from.end(t, true), m.to.end(t, false)
	return m
}

// key returns the key of a blob at the source.
func (m *moving) key(d oci.Digest) string {
	m.Helper()
	for _, b := range m.blobs(m.source) {
		if b.Digest == d.String() {
			return b.Key
		}
	}
	m.Fatalf("there is no blob %s", d)
	return ""
}

func (m *moving) blobs(e move.End) []meta.StoredBlob {
	m.Helper()
	blobs, err := e.DB.StoredBlobs(m.Context(), 0, 1000)
	must(m, err)
	return blobs
}

// Blobs that cannot be copied are named, with who needs them; the others are copied; the switch is refused until
// the source is mended.
func TestDamagedBlobs(t *testing.T) {
	t.Parallel()
	m := newMoving(t)
	missing := m.push("team/app", oci.SHA256, []byte("missing"))
	wrong := m.push("team/app", oci.SHA256, []byte("wrong bytes"))
	short := m.push("team/app", oci.SHA256, []byte("short"))
	good := m.push("team/app", oci.SHA256, []byte("good"))
	m.mustPut("team/app", oci.SHA256, image(nil, good, missing, wrong), "1")
	damage := func() {
		must(t, os.Remove(objectFile(t, m.from, m.key(missing.Digest))))
		must(t, os.Chmod(objectFile(t, m.from, m.key(wrong.Digest)), 0o600))
		must(t, os.WriteFile(objectFile(t, m.from, m.key(wrong.Digest)), []byte("other bytes"), 0o600))
		must(t, os.Chmod(objectFile(t, m.from, m.key(short.Digest)), 0o600))
		must(t, os.WriteFile(objectFile(t, m.from, m.key(short.Digest)), []byte("shor"), 0o600))
	}
	damage()
	want := map[string]string{
		missing.Digest.String(): "cannot be opened [team/app]",
		wrong.Digest.String():   "are " + oci.DigestBytes(oci.SHA256, []byte("other bytes")).String() + " [team/app]",
		short.Digest.String():   "has 4 bytes, the database says 5 []",
	}
	opts := options(t, m.source, m.target)
	for _, run := range []func() error{
		func() error { _, err := move.Copy(t.Context(), opts); return err },
		func() error { _, err := move.Switch(t.Context(), opts); return err },
	} {
		found := make(map[string]bool)
		opts.Damaged = func(d move.Damage) {
			what := fmt.Sprint(d.What, " ", d.NeededBy)
			if found[d.Digest] || want[d.Digest] == "" || !matches(what, want[d.Digest]) {
				t.Errorf("%s: %s", d.Digest, what)
			}
			found[d.Digest] = true
		}
		if err := run(); !errors.Is(err, move.ErrDamaged) || len(found) != len(want) {
			t.Errorf("the error is %v, found are %v", err, found)
		}
	}
	objects, _, err := m.target.DB.MovedTotals(t.Context())
	if err != nil || objects != 1 {
		t.Errorf("%d objects were moved, %v", objects, err)
	}
	if err := m.target.DB.CheckComplete(t.Context()); !errors.Is(err, meta.ErrMoving) {
		t.Errorf("the target: %v", err)
	}

	must(t, os.Remove(objectFile(t, m.from, m.key(wrong.Digest)))) // as fsck does
	for _, text := range []string{"missing", "wrong bytes", "short"} {
		m.push("team/app", oci.SHA256, []byte(text))
	}
	switched(t, options(t, m.source, m.target))
	wantSame(t, m.source, m.target)
}

// matches tells whether s has the parts of a text around "cannot be opened" and the like.
func matches(s, want string) bool {
	what, repositories, _ := strings.Cut(want, " [")
	return strings.Contains(s, what) && strings.HasSuffix(s, "["+repositories)
}

// What was copied and is lost or wrong at the target is copied again.
func TestCopiedObjectsAreChecked(t *testing.T) {
	t.Parallel()
	for _, deep := range []bool{false, true} {
		t.Run(fmt.Sprintf("deep=%t", deep), func(t *testing.T) {
			m := newMoving(t)
			for i := range 5 {
				m.push("team/app", oci.SHA256, fmt.Append(nil, "blob ", i))
			}
			_, err := move.Copy(t.Context(), options(t, m.source, m.target))
			must(t, err)
			objects, err := m.target.DB.MovedObjects(t.Context(), 0, 1000, 1000)
			must(t, err)
			must(t, os.Remove(objectFile(t, m.to, objects[0].Key)))
			bad := int64(1)
			if deep {
				must(t, os.Chmod(objectFile(t, m.to, objects[1].Key), 0o600))
				must(t, os.WriteFile(objectFile(t, m.to, objects[1].Key), []byte("blob ?"), 0o600))
				bad++
			}
			opts := options(t, m.source, m.target)
			opts.Deep = deep
			if report := switched(t, opts); report.Copied != bad {
				t.Errorf("%d objects were copied again, expected %d", report.Copied, bad)
			}
			wantSame(t, m.source, m.target)
			wantClean(t, m.target)
		})
	}
}

// Objects that an interrupted move left without a note are removed by the next.
func TestUnfinishedObjectsAreRemoved(t *testing.T) {
	t.Parallel()
	m := newMoving(t)
	m.push("team/app", oci.SHA256, []byte("blob"))
	_, err := move.Copy(t.Context(), options(t, m.source, m.target))
	must(t, err)
	left := []blob.Writer{}
	for i := range 3 {
		w, err := m.target.Blobs.Create(t.Context())
		must(t, err)
		_, err = w.Write([]byte("half"))
		must(t, err)
		if i == 0 {
			must(t, w.Commit(t.Context()))
		}
		w.Close()
		left = append(left, w)
	}
	_, err = move.Copy(t.Context(), options(t, m.source, m.target))
	must(t, err)
	for _, w := range left {
		if _, err := m.target.Blobs.Stat(t.Context(), w.Key()); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("object %s: %v", w.Key(), err)
		}
	}
	if report := switched(t, options(t, m.source, m.target)); report.Before != 1 {
		t.Errorf("the report is %+v", report)
	}
	wantClean(t, m.target)
}

func TestRefusedTargets(t *testing.T) {
	t.Parallel()
	m := newMoving(t)
	m.push("team/app", oci.SHA256, []byte("blob"))
	refused := func(name string, source, target move.End, want error) {
		t.Helper()
		for _, run := range []func() error{
			func() error { _, err := move.Copy(t.Context(), options(t, source, target)); return err },
			func() error { _, err := move.Switch(t.Context(), options(t, source, target)); return err },
		} {
			if err := run(); !errors.Is(err, want) {
				t.Errorf("%s: %v, expected %v", name, err, want)
			}
		}
	}
	other := serve(t, folder(t).end(t, false))
	refused("a store with something in it", m.source, func() move.End {
		e := folder(t).end(t, false)
		e.Blobs = other.Blobs
		other.push("x", oci.SHA256, []byte("x"))
		return e
	}(), move.ErrForeign)
	refused("a database with something in it", m.source, move.End{DB: other.DB, Blobs: m.target.Blobs}, meta.ErrOccupied)
	refused("a source that is nothing", folder(t).end(t, false), m.target, meta.ErrNeverServed)

	_, err := move.Copy(t.Context(), options(t, m.source, m.target))
	must(t, err)
	refused("another registry's target", other.End, m.target, meta.ErrOtherMove)
	refused("an unfinished source", m.target, folder(t).end(t, false), meta.ErrMoving)
	if len(content(t, other.End)) == 0 {
		t.Error("what was there is gone")
	}
	switched(t, options(t, m.source, m.target))
	refused("a finished target", m.source, m.target, move.ErrDone)
	wantSame(t, m.source, m.target)
}

// Where only the database is another one, objects stay what they are.
func TestSameStore(t *testing.T) {
	t.Parallel()
	from := folder(t)
	w := serve(t, from.end(t, false))
	w.fill()
	source := from.end(t, true)
	target := move.End{DB: folder(t).end(t, false).DB, Blobs: source.Blobs}
	opts := options(t, source, target)
	opts.SameStore = true
	report, err := move.Copy(t.Context(), opts)
	must(t, err)
	if report.Copied != 0 || report.Rows == 0 {
		t.Errorf("the copy reports %+v", report)
	}
	keys := func(e move.End) (keys []string) {
		blobs, err := e.DB.StoredBlobs(t.Context(), 0, 1000)
		must(t, err)
		for _, b := range blobs {
			keys = append(keys, b.Key)
		}
		return keys
	}
	want := keys(source)
	switched(t, opts)
	if !slices.Equal(keys(target), want) {
		t.Error("the keys are others")
	}
	wantSame(t, source, target)
}

// A blob that is collected, or gets another object, while it is about to be copied is no damage.
func TestBlobsChangeMeanwhile(t *testing.T) {
	t.Parallel()
	m := newMoving(t)
	for i := range 50 {
		m.push("team/app", oci.SHA256, fmt.Append(nil, "blob ", i))
	}
	replaced := m.push("team/app", oci.SHA256, []byte("replaced"))
	gone := m.push("team/app", oci.SHA256, []byte("gone"))
	goneKey := m.key(gone.Digest)
	opts := options(t, m.source, m.target)
	opts.Parallel = 1
	done := false
	opts.Progress = &tally{add: func(move.Step, int64) {
		if done {
			return
		}
		done = true // while the first of a page is copied, whose rows are all read
		must(t, os.Remove(objectFile(t, m.from, m.key(replaced.Digest))))
		m.push("team/app", oci.SHA256, []byte("replaced"))
		must(t, m.reg.DeleteBlob(t.Context(), "team/app", gone.Digest, registry.Actor{}))
		must(t, m.Blobs.Delete(t.Context(), goneKey))
	}}
	report, err := move.Copy(t.Context(), opts)
	must(t, err)
	if report.Copied != 51 {
		t.Errorf("%d blobs were copied", report.Copied)
	}
	switched(t, options(t, m.source, m.target))
	wantSame(t, m.source, m.target)
}
