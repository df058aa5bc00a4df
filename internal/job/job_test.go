package job_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

const childVariable = "JOB_TEST_CHILD"

// onEach runs a test on SQLite and on PostgreSQL. open opens the same database again, as another node does where
// that is possible.
func onEach(t *testing.T, test func(t *testing.T, open func() *meta.DB)) {
	connect := func(t *testing.T, source string) *meta.DB {
		t.Helper()
		db, err := meta.Open(t.Context(), source, meta.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	t.Run("sqlite", func(t *testing.T) {
		db := connect(t, filepath.Join(t.TempDir(), "berth.db"))
		test(t, func() *meta.DB { return db })
	})
	t.Run("postgres", func(t *testing.T) {
		url := service.Postgres(t).URL
		test(t, func() *meta.DB { return connect(t, url) })
	})
}

// start lets a node run jobs until the test ends, or stop is called.
func start(t *testing.T, db *meta.DB, lease time.Duration, jobs ...job.Job) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r := job.New(db, job.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Lease: lease})
	go func() { defer close(done); r.Run(ctx, jobs...) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// only returns the only job that a database knows, if there is one.
func only(t *testing.T, db *meta.DB) meta.Job {
	t.Helper()
	jobs, err := db.Jobs(context.Background())
	if err != nil || len(jobs) > 1 {
		t.Errorf("%+v, %v", jobs, err)
	}
	if len(jobs) == 0 {
		return meta.Job{}
	}
	return jobs[0]
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 3000 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// Of many nodes one runs the job, and no sooner than the interval after the last run, whoever made that.
func TestOneRunsAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		const every = 30 * time.Millisecond
		var running, runs atomic.Int64
		for range 4 {
			db := open()
			start(t, db, 5*time.Second, job.Job{Name: "work", Every: every, Run: func(context.Context) (string, error) {
				if running.Add(1) != 1 {
					t.Error("two run at the same time")
				}
				now := only(t, db)
				if since := now.Began.Sub(now.Ended); since < every {
					t.Errorf("a run began %s after the last one", since)
				}
				if n := runs.Load(); n > 0 && now.Result != fmt.Sprint(n) || now.Holder == "" {
					t.Errorf("before run %d: %+v", n+1, now)
				}
				time.Sleep(5 * time.Millisecond)
				running.Add(-1)
				return fmt.Sprint(runs.Add(1)), nil
			}})
		}
		until(t, "30 runs", func() bool { return runs.Load() >= 30 })
	})
}

// What came of the last run is noted, and a failure or a panic is not the end.
// Of nodes that want to run a job now one does, and the others learn that they did not.
func TestNow(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		var runs atomic.Int64
		runner := func() *job.Runner {
			return job.New(open(), job.Options{Log: slog.New(slog.DiscardHandler), Lease: 5 * time.Second})
		}
		begun, end := make(chan struct{}), make(chan struct{})
		work := job.Job{Name: "work", Run: func(context.Context) (string, error) {
			runs.Add(1)
			begun <- struct{}{}
			<-end
			return "done", nil
		}}
		first := make(chan error, 1)
		go func() {
			ran, err := runner().Now(t.Context(), work)
			if !ran && err == nil {
				err = errors.New("it did not run")
			}
			first <- err
		}()
		<-begun
		if ran, err := runner().Now(t.Context(), work); ran || err != nil {
			t.Errorf("beside another: %v, %v", ran, err)
		}
		end <- struct{}{}
		if err := <-first; err != nil {
			t.Error(err)
		}
		go func() { <-begun; end <- struct{}{} }()
		again := open()
		if ran, err := job.New(again, job.Options{Log: slog.New(slog.DiscardHandler)}).Now(t.Context(), work); !ran || err != nil {
			t.Errorf("after another: %v, %v", ran, err)
		}
		if j := only(t, again); runs.Load() != 2 || j.Result != "done" || j.Holder != "" {
			t.Errorf("%d runs, %+v", runs.Load(), j)
		}
	})
}

func TestOutcomeIsNoted(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		db := open()
		proceed := make(chan int)
		start(t, db, 5*time.Second, job.Job{Name: "work", Every: time.Millisecond, Run: func(ctx context.Context) (string, error) {
			var step int
			select {
			case step = <-proceed:
			case <-ctx.Done():
				return "", ctx.Err()
			}
			switch step {
			case 1:
				return "half", errors.New("it \x00 broke")
			case 2:
				panic("at the disco")
			}
			return "all", nil
		}})
		for _, want := range []struct {
			step          int
			result, error string
		}{{0, "all", ""}, {1, "half", "it \uFFFD broke"}, {2, "", "at the disco"}, {0, "all", ""}} {
			until(t, "a run", func() bool { return !only(t, db).Began.IsZero() })
			if j := only(t, db); j.Holder == "" {
				t.Errorf("nobody holds %+v", j)
			}
			proceed <- want.step
			until(t, "its end", func() bool {
				j := only(t, db)
				return j.Result == want.result && (want.error == "" && j.Error == "" || want.error != "" && strings.Contains(j.Error, want.error)) && j.Took >= 0
			})
		}
	})
}

// The interval goes on over restarts: a job that was never run waits for it once, one that is overdue does not.
func TestIntervalOutlivesProcess(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		db := open()
		var runs atomic.Int64
		work := func(every time.Duration) job.Job {
			return job.Job{Name: "work", Every: every, Run: func(context.Context) (string, error) { runs.Add(1); return "", nil }}
		}
		for range 3 {
			stop := start(t, db, time.Second, work(time.Hour))
			until(t, "the job is known", func() bool { return only(t, db).Name != "" })
			time.Sleep(150 * time.Millisecond) // the first look comes within a tenth of the lease
			stop()
		}
		if n := runs.Load(); n != 0 || only(t, db).Took != -1 {
			t.Errorf("%d runs within the first hour: %+v", n, only(t, db))
		}
		start(t, db, time.Second, work(time.Millisecond))
		until(t, "a run that is due", func() bool { return runs.Load() > 0 })
	})
}

// A node that is told to stop gives the job back: another one need not wait for the lease.
func TestStopGivesBack(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		db := open()
		stop := start(t, db, time.Hour, job.Job{Name: "work", Every: time.Millisecond, Run: func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}})
		until(t, "a run", func() bool { return only(t, db).Holder != "" })
		stop()
		if j := only(t, db); j.Holder != "" || j.Took != -1 {
			t.Errorf("after the stop: %+v", j)
		}
		var ran atomic.Bool
		start(t, open(), time.Hour, job.Job{Name: "work", Every: time.Millisecond, Run: func(context.Context) (string, error) { ran.Store(true); return "", nil }})
		until(t, "a run elsewhere", ran.Load)
	})
}

// A run lasts longer than the lease, because that is renewed. Its context ends when another node has the lease.
func TestLease(t *testing.T) {
	onEach(t, func(t *testing.T, open func() *meta.DB) {
		db := open()
		const lease = 300 * time.Millisecond
		holder, cause := make(chan string, 1), make(chan error, 1)
		stop := start(t, db, lease, job.Job{Name: "work", Every: time.Millisecond, Run: func(ctx context.Context) (string, error) {
			holder <- only(t, db).Holder
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return "", ctx.Err()
		}})
		first := <-holder
		for deadline := time.Now().Add(4 * lease); time.Now().Before(deadline); time.Sleep(lease / 10) {
			if started, _, err := db.StartJob(t.Context(), "work", "thief", time.Millisecond, time.Millisecond, time.Hour); err != nil || started {
				t.Fatalf("the job was taken from a node that is at it: %v", err)
			}
		}
		select {
		case err := <-cause:
			t.Fatalf("the run was ended: %v", err)
		default:
		}
		if err := db.ReleaseJob(t.Context(), "work", first); err != nil { // as if the lease had ended
			t.Fatal(err)
		}
		until(t, "the lease is free", func() bool {
			started, _, err := db.StartJob(t.Context(), "work", "thief", time.Millisecond, time.Millisecond, time.Hour)
			return err == nil && started
		})
		if err := <-cause; !errors.Is(err, meta.ErrLost) {
			t.Errorf("the run was ended because %v", err)
		}
		stop()
		if j := only(t, db); j.Holder != "thief" {
			t.Errorf("the old holder changed %+v", j)
		}
		for what, err := range map[string]error{
			"renew": db.RenewJob(t.Context(), "work", first, lease), "end": db.EndJob(t.Context(), "work", first, "", nil), "release": db.ReleaseJob(t.Context(), "work", first),
		} {
			if !errors.Is(err, meta.ErrLost) {
				t.Errorf("%s by the old holder: %v", what, err)
			}
		}
	})
}

// A node is killed in the middle of a run. Another one takes the job over, once the lease has ended.
func TestKilledNode(t *testing.T) {
	if source := os.Getenv(childVariable); source != "" {
		db, err := meta.Open(t.Context(), source, meta.Options{})
		if err != nil {
			t.Fatal(err)
		}
		start(t, db, 2*time.Second, job.Job{Name: "work", Every: time.Millisecond, Run: func(ctx context.Context) (string, error) {
			fmt.Println("running")
			<-ctx.Done()
			return "", ctx.Err()
		}})
		select {}
	}
	url := service.Postgres(t).URL
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledNode$", "-test.count=1")
	child.Env = append(os.Environ(), childVariable+"="+url)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "running\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	db, err := meta.Open(t.Context(), url, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	killed := only(t, db)
	taken := make(chan meta.Job, 100)
	stop := start(t, db, 2*time.Second, job.Job{Name: "work", Every: time.Millisecond, Run: func(context.Context) (string, error) {
		taken <- only(t, db)
		return "", nil
	}})
	select {
	case j := <-taken:
		t.Fatalf("the job was taken from a node that lives: %+v", j)
	case <-time.After(3 * time.Second): // more than the lease
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	j := <-taken
	stop()
	if j.Holder == killed.Holder || !j.Began.After(killed.Began) || j.Took != -1 {
		t.Errorf("killed was %+v, then came %+v", killed, j)
	}
}

// A node that cannot reach the database any more ends its run before the lease does, and goes on when it can.
func TestDatabaseGone(t *testing.T) {
	c := service.NewPostgres(t)
	db, err := meta.Open(t.Context(), c.Database(t).URL, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	began, ended := make(chan struct{}, 100), make(chan error, 100)
	stop := start(t, db, time.Second, job.Job{Name: "work", Every: time.Millisecond, Run: func(ctx context.Context) (string, error) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return "", ctx.Err()
	}})
	<-began
	c.Stop(t, "immediate")
	if err := <-ended; !errors.Is(err, meta.ErrLost) {
		t.Errorf("the run ended because %v", err)
	}
	c.Start(t)
	<-began
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) || errors.Is(err, meta.ErrLost) {
		t.Errorf("the run ended because %v", err)
	}
}
