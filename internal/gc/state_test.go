package gc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/gc"
)

func (w *world) state() gc.State {
	w.Helper()
	j, err := w.db.Job(w.Context(), gc.Job)
	if err != nil {
		w.Fatal(err)
	}
	s, err := gc.StateOf(j)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// A pass that is stopped goes on, wherever that is, and counts on; it is no faster than it may be, and its cost follows the garbage.
func TestResumeAndRate(t *testing.T) {
	inBubble(t, func(w *world) {
		const garbage, kept = 50, 10
		for i := range kept {
			b := text("kept %d", i)
			w.push("a/app", b)
			w.tag("a/app", fmt.Sprint(i), image("", digestOf(b)))
		}
		for i := range garbage {
			w.push("b/app", text("garbage %d", i))
		}
		time.Sleep(long)
		w.collectorWith(gc.Options{Rate: 1}, func(c *gc.Collector) {
			ctx, cancel := context.WithCancel(w.Context())
			defer time.AfterFunc(10*time.Second, cancel).Stop()
			if _, err := c.Run(ctx); !errors.Is(err, context.Canceled) {
				w.Fatalf("the first run: %v", err)
			}
		})
		s := w.state()
		if s.Pass == nil || s.Last != nil || s.Pass.Blobs != 40 {
			w.Fatalf("%+v", s.Pass)
		}
		w.collectorWith(gc.Options{Rate: 10}, func(c *gc.Collector) {
			if _, err := c.Run(w.Context()); err != nil {
				w.Fatal(err)
			}
		})
		began := s.Pass.Began
		if s = w.state(); s.Pass != nil || s.Last == nil || s.Last.Blobs != garbage || s.Last.Objects != garbage || !s.Last.Began.Equal(began) {
			w.Fatalf("%+v, %+v", s.Pass, s.Last)
		}
		if took := s.Last.Ended.Sub(began); took < 12*time.Second {
			w.Errorf("it took %s", took)
		}
		// Hours that were listed for the first time cost a row for each object; from then on nothing that is kept does.
		for i := range garbage {
			w.push("b/app", text("garbage again %d", i))
		}
		time.Sleep(2 * long)
		w.collectorWith(gc.Options{}, func(c *gc.Collector) {
			if _, err := c.Run(w.Context()); err != nil {
				w.Fatal(err)
			}
		})
		if s = w.state(); s.Last.Blobs != garbage || s.Last.Rows > 15*garbage {
			w.Errorf("%d rows were read for %d blobs", s.Last.Rows, s.Last.Blobs)
		}
		last := s.Last.Rows
		w.collectorWith(gc.Options{}, func(c *gc.Collector) {
			if _, err := c.Run(w.Context()); err != nil {
				w.Fatal(err)
			}
		})
		if s = w.state(); s.Last.Rows > 20 || last == 0 {
			w.Errorf("%d rows were read for nothing", s.Last.Rows)
		}
	})
}

// While the registry is used, the collector rests nineteen times as long as it works. It works only where it deletes, by the clock of this test.
func TestRestsWhileUsed(t *testing.T) {
	const slow, garbage = time.Millisecond, 100
	for _, used := range []bool{false, true} {
		inBubble(t, func(w *world) {
			for i := range garbage {
				w.push("a/app", text("garbage %d", i))
			}
			time.Sleep(long)
			files, err := fs.Open(w.dir, fs.Options{})
			if err != nil {
				w.Fatal(err)
			}
			defer files.Close()
			began := time.Now()
			res, err := gc.New(w.db, slowStore{files, slow}, gc.Options{Grace: grace, UploadExpiry: expiry, Busy: func() bool { return used }}).Collect(w.Context())
			if err != nil || res.Objects != garbage {
				w.Fatalf("%+v, %v", res, err)
			}
			want := garbage * slow
			if used {
				want *= 20
			}
			if took := time.Since(began); took != want {
				w.Errorf("used: %t: it took %s, expected %s", used, took, want)
			}
		})
	}
}

// slowStore takes its time to delete.
type slowStore struct {
	blob.Store
	takes time.Duration
}

func (s slowStore) Delete(ctx context.Context, key string) error {
	time.Sleep(s.takes)
	return s.Store.Delete(ctx, key)
}

// collectorWith gives another collector of the same registry, as another process has.
func (w *world) collectorWith(opts gc.Options, use func(*gc.Collector)) {
	w.Helper()
	store, err := fs.Open(w.dir, fs.Options{})
	if err != nil {
		w.Fatal(err)
	}
	defer store.Close()
	opts.Log, opts.Grace, opts.UploadExpiry = slog.New(slog.DiscardHandler), grace, expiry
	use(gc.New(w.db, store, opts))
}
