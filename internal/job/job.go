// Package job runs periodic work in one process at a time, however many share the database.
//
// What holds true: who runs a job has a lease on it, which it renews while the run lasts. When the process is killed
// or cut off from the database, the lease ends and another process begins the job anew; the first one's context
// has ended by then. Time is the database's, so a node whose clock is wrong does no harm. The interval
// runs from the end of the last run, wherever that was, and goes on over restarts.
//
// People can ask for a run at once, and pause a job, on any node: what they want is in the job's row, where every node looks every few
// seconds. A run that is paused, or that a Window ends, is given back and is due again: the job goes on from where it noted to be.
//
// A machine that was suspended in the middle of a run learns of it late. So what a job does must not
// be wrong when two do it at once; the lease only sees to it that this is rare.
package job

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/berthregistry/berth/internal/meta"
)

// Job is periodic work.
type Job struct {
	// Name is the same on all nodes.
	Name string
	// Every is the time from the end of a run to the beginning of the next.
	Every time.Duration
	// Retry is that time after a run that failed, if it is not 0.
	Retry time.Duration
	// Window, if not nil, is when runs may be under way. One that somebody asked for begins outside of it, too.
	Window *Window
	// Run does the work. Its context ends with the lease, or when the process is to stop. The result is
	// noted, for people.
	Run func(ctx context.Context) (result string, err error)
}

// Options configure a Runner.
type Options struct {
	Log *slog.Logger
	// Lease is how long after its death a process keeps a job from others; 0 stands for 30 seconds.
	Lease time.Duration
	// Look is how often to look whether somebody asks for a run or pauses a job; 0 stands for 5 seconds.
	Look time.Duration
}

// Runner runs jobs. Each Runner competes with all others of the same database, in this process and elsewhere.
type Runner struct {
	db     *meta.DB
	log    *slog.Logger
	lease  time.Duration
	look   time.Duration
	holder string
}

// New returns a Runner.
func New(db *meta.DB, opts Options) *Runner {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Runner{
		db: db, log: opts.Log, lease: cmp.Or(opts.Lease, 30*time.Second), look: cmp.Or(opts.Look, 5*time.Second),
		holder: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8]), // no other process has the same
	}
}

// Run runs the jobs when they are due, until ctx ends and the runs under way with it.
func (r *Runner) Run(ctx context.Context, jobs ...Job) {
	var all sync.WaitGroup
	wishes := make(map[string]*wish, len(jobs))
	for _, j := range jobs {
		w := &wish{asked: make(chan struct{}, 1), stop: func() {}}
		wishes[j.Name] = w
		all.Go(func() { r.repeat(ctx, j, w) })
	}
	all.Go(func() { r.watch(ctx, wishes) })
	all.Wait()
}

// wish is how people reach a job.
type wish struct {
	asked  chan struct{} // has room for one
	paused bool          // when it was looked at last

	mu   sync.Mutex
	stop func() // the run under way, if there is one
}

// watch looks what people want, until ctx ends.
func (r *Runner) watch(ctx context.Context, wishes map[string]*wish) {
	tick := time.NewTicker(r.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		jobs, err := r.db.Jobs(ctx)
		if err != nil {
			continue // whoever wants to run one says so in the log
		}
		for _, j := range jobs {
			w := wishes[j.Name]
			if w == nil {
				continue
			}
			resumed := w.paused && j.Paused.IsZero()
			w.paused = !j.Paused.IsZero()
			switch {
			case w.paused:
				w.mu.Lock()
				w.stop()
				w.mu.Unlock()
			case resumed, j.Asked && !j.Leased: // also of a run whose process was killed
				select {
				case w.asked <- struct{}{}:
				default:
				}
			}
		}
	}
}

// errGiven is why a run ends before its work is done: somebody paused the job, or its window has closed.
var errGiven = errors.New("the run is to go on later")

// Now runs a job at once, unless it is being run already, and tells whether it did. What came of it is noted.
func (r *Runner) Now(ctx context.Context, j Job) (ran bool, err error) {
	for range 2 { // of a job that nobody has heard of, the first only takes note
		asked := time.Now()
		started, _, err := r.db.StartJob(ctx, j.Name, r.holder, 0, 0, r.lease)
		if err != nil {
			return false, err
		}
		if started {
			r.run(ctx, j, &wish{stop: func() {}}, time.Time{}, asked.Add(r.lease))
			return true, nil
		}
	}
	return false, nil
}

// repeat runs one job again and again.
func (r *Runner) repeat(ctx context.Context, j Job, w *wish) {
	wait := time.Duration(0)
	down := false // the database, since the last time
	for {
		// Not all nodes at once, and not while a process has something else to do to start.
		timer := time.NewTimer(wait + mathrand.N(min(j.Every, r.lease, 10*time.Second)/10+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-w.asked:
			timer.Stop()
		}
		asked := time.Now()
		every, retry, opens, closes := j.Every, cmp.Or(j.Retry, j.Every), time.Duration(0), time.Time{}
		if j.Window != nil {
			if open, until := j.Window.At(asked); open {
				closes = until
			} else {
				every, retry, opens = never, never, until.Sub(asked)
			}
		}
		started, next, err := r.db.StartJob(ctx, j.Name, r.holder, every, retry, r.lease)
		switch {
		case ctx.Err() != nil:
			if started {
				r.release(ctx, j)
			}
			return
		case err != nil:
			if !down {
				r.log.Error("job cannot be started", "job", j.Name, "error", err)
			}
			down, wait = true, r.lease/3
		case started:
			down, wait = false, min(j.Every, cmp.Or(j.Retry, j.Every))
			if !r.run(ctx, j, w, closes, asked.Add(r.lease)) {
				wait = r.lease / 3 // it is due as soon as it may go on
			}
		case opens > 0:
			down, wait = false, opens
		default:
			down, wait = false, next
		}
	}
}

// never is longer ago than anything a database notes.
const never = 100 * 365 * 24 * time.Hour

// errStopped is why a job's context ends when its work has.
var errStopped = errors.New("the run has ended")

// run makes one run, which is to end when its window closes, if that is not zero. The lease is held until expires at least. It tells whether
// the run came to its end.
func (r *Runner) run(ctx context.Context, j Job, w *wish, closes, expires time.Time) bool {
	work, stop := context.WithCancelCause(ctx)
	w.mu.Lock()
	w.stop = func() { stop(errGiven) }
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.stop = func() {}
		w.mu.Unlock()
	}()
	if !closes.IsZero() {
		timer := time.AfterFunc(time.Until(closes), func() { stop(errGiven) })
		defer timer.Stop()
	}
	var renewing sync.WaitGroup
	renewing.Go(func() { stop(r.renew(work, j, expires)) })
	result, err := call(work, j)
	lost, given := errors.Is(context.Cause(work), meta.ErrLost), errors.Is(context.Cause(work), errGiven)
	stop(errStopped)
	renewing.Wait()
	switch {
	case lost:
		r.log.Warn("job was stopped, its lease was lost", "job", j.Name)
		return false
	case (given || ctx.Err() != nil) && err != nil:
		r.release(ctx, j)
		return false
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.lease)
	defer cancel()
	if err := r.db.EndJob(end, j.Name, r.holder, result, err); err != nil {
		r.log.Error("end of a job cannot be noted", "job", j.Name, "error", err) // it will be done again
	}
	return true
}

// release gives back a job that was not finished.
func (r *Runner) release(ctx context.Context, j Job) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // else others wait for the lease's end
	defer cancel()
	if err := r.db.ReleaseJob(ctx, j.Name, r.holder); err != nil {
		r.log.Warn("job cannot be given back", "job", j.Name, "error", err)
	}
}

// renew keeps the lease until ctx ends. It returns meta.ErrLost when the lease has ended, or is about to
// and cannot be renewed.
func (r *Runner) renew(ctx context.Context, j Job, expires time.Time) error {
	wait := r.lease / 3
	for {
		timer := time.NewTimer(min(wait, time.Until(expires)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		asked := time.Now()
		bounded, cancel := context.WithDeadline(ctx, expires)
		err := r.db.RenewJob(bounded, j.Name, r.holder, r.lease)
		cancel()
		switch {
		case err == nil:
			expires, wait = asked.Add(r.lease), r.lease/3
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, meta.ErrLost), !time.Now().Before(expires):
			return meta.ErrLost
		default:
			wait = r.lease / 10
		}
	}
}

// call turns a panic into an error: the process goes on.
func call(ctx context.Context, j Job) (result string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a job: %v\n%s", p, debug.Stack())
		}
	}()
	return j.Run(ctx)
}
