package job_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
)

// node lets a node run a job until the test ends. It looks often for what people want.
func node(t *testing.T, db *meta.DB, j job.Job) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r := job.New(db, job.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Lease: 20 * time.Second, Look: 10 * time.Millisecond})
	go func() { defer close(done); r.Run(ctx, j) }()
	t.Cleanup(func() { cancel(); <-done })
}

// What is asked for on one node is begun on any, long before it is due; what is paused ends, and goes on when it is resumed.
func TestAskAndPause(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		var begun, ended, stopped atomic.Int64
		finish := make(chan struct{})
		j := job.Job{Name: "j", Every: time.Hour, Run: func(ctx context.Context) (string, error) {
			begun.Add(1)
			select {
			case <-ctx.Done():
				stopped.Add(1)
				return "", ctx.Err()
			case <-finish:
				ended.Add(1)
				return "done", nil
			}
		}}
		for range 2 {
			node(t, open(), j)
		}
		db := open()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the job is known", func() bool { return only(t, db).Name != "" })
		if begun.Load() != 0 {
			t.Fatal("a job began that is not due")
		}
		must(db.AskJob(t.Context(), "j"))
		until(t, "the job begins", func() bool { return begun.Load() == 1 })
		must(db.PauseJob(t.Context(), "j", "me"))
		until(t, "the job is stopped", func() bool { return stopped.Load() == 1 && only(t, db).Holder == "" })
		must(db.AskJob(t.Context(), "j"))
		time.Sleep(100 * time.Millisecond)
		if begun.Load() != 1 {
			t.Error("a job began that is paused")
		}
		must(db.ResumeJob(t.Context(), "j"))
		until(t, "the job goes on", func() bool { return begun.Load() == 2 })
		finish <- struct{}{}
		until(t, "the job ends", func() bool { j := only(t, db); return ended.Load() == 1 && j.Result == "done" && !j.Asked })
		time.Sleep(100 * time.Millisecond)
		if begun.Load() != 2 {
			t.Errorf("it began %d times", begun.Load())
		}
	})
}

// Out of its window a job does not begin though it is due, unless somebody asks for it; one that is under way when the window closes goes on later.
func TestJobInWindow(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		var begun atomic.Int64
		clock := func(d time.Duration) string { return time.Now().Add(d).Format("15:04") }
		closed, err := job.ParseWindow(clock(2*time.Hour) + "-" + clock(3*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		node(t, open(), job.Job{Name: "j", Every: time.Millisecond, Window: closed, Run: func(context.Context) (string, error) {
			begun.Add(1)
			return "", nil
		}})
		db := open()
		until(t, "the job is known", func() bool { return only(t, db).Name != "" })
		time.Sleep(200 * time.Millisecond)
		if begun.Load() != 0 {
			t.Fatal("it began while the window was closed")
		}
		if err := db.AskJob(t.Context(), "j"); err != nil {
			t.Fatal(err)
		}
		until(t, "the job begins", func() bool { return begun.Load() == 1 })
		until(t, "the job ends", func() bool { return only(t, db).Holder == "" })
		time.Sleep(100 * time.Millisecond)
		if begun.Load() != 1 {
			t.Errorf("it began %d times", begun.Load())
		}
	})
}

// A run that was asked for ends with the process that made it; another one takes it over, long before the job is due.
func TestTakeOver(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		var begun atomic.Int64
		node(t, open(), job.Job{Name: "j", Every: time.Hour, Run: func(context.Context) (string, error) {
			begun.Add(1)
			return "done", nil
		}})
		db := open()
		until(t, "the job is known", func() bool { return only(t, db).Name != "" })
		if started, _, err := db.StartJob(t.Context(), "j", "killed", 0, 0, 3*time.Second); err != nil || !started {
			t.Fatal(started, err)
		}
		if err := db.AskJob(t.Context(), "j"); err != nil {
			t.Fatal(err)
		}
		until(t, "another one takes over", func() bool { return begun.Load() == 1 })
	})
}

// A run that failed is made again soon, however long it is until the next one after a run that did not.
func TestRetry(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		var begun atomic.Int64
		node(t, open(), job.Job{Name: "j", Every: 24 * time.Hour, Retry: time.Millisecond, Run: func(context.Context) (string, error) {
			if begun.Add(1) < 3 {
				return "", errors.New("not yet")
			}
			return "done", nil
		}})
		db := open()
		until(t, "the job is known", func() bool { return only(t, db).Name != "" })
		if err := db.AskJob(t.Context(), "j"); err != nil {
			t.Fatal(err)
		}
		until(t, "it has succeeded", func() bool { return only(t, db).Result == "done" })
		time.Sleep(100 * time.Millisecond)
		if begun.Load() != 3 {
			t.Errorf("it began %d times", begun.Load())
		}
	})
}
