// Package job runs periodic work in one process at a time, however many share the database.
//
// What holds true: who runs a job has a lease on it, which it renews while the run lasts. When the process is killed
// or cut off from the database, the lease ends and another process begins the job anew; the first one's context
// has ended by then. Time is the database's, so a node whose clock is wrong does no harm. The interval
// runs from the end of the last run, wherever that was, and goes on over restarts.
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
	// Run does the work. Its context ends with the lease, or when the process is to stop. The result is
	// noted, for people.
	Run func(ctx context.Context) (result string, err error)
}

// Options configure a Runner.
type Options struct {
	Log *slog.Logger
	// Lease is how long after its death a process keeps a job from others; 0 stands for 30 seconds.
	Lease time.Duration
}

// Runner runs jobs. Each Runner competes with all others of the same database, in this process and elsewhere.
type Runner struct {
	db     *meta.DB
	log    *slog.Logger
	lease  time.Duration
	holder string
}

// New returns a Runner.
func New(db *meta.DB, opts Options) *Runner {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Runner{
		db: db, log: opts.Log, lease: cmp.Or(opts.Lease, 30*time.Second),
		holder: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8]), // no other process has the same
	}
}

// Run runs the jobs when they are due, until ctx ends and the runs under way with it.
func (r *Runner) Run(ctx context.Context, jobs ...Job) {
	var all sync.WaitGroup
	for _, j := range jobs {
		all.Go(func() { r.repeat(ctx, j) })
	}
	all.Wait()
}

// Now runs a job at once, unless it is being run already, and tells whether it did. What came of it is noted.
func (r *Runner) Now(ctx context.Context, j Job) (ran bool, err error) {
	for range 2 { // of a job that nobody has heard of, the first only takes note
		asked := time.Now()
		started, _, err := r.db.StartJob(ctx, j.Name, r.holder, 0, r.lease)
		if err != nil {
			return false, err
		}
		if started {
			r.run(ctx, j, asked.Add(r.lease))
			return true, nil
		}
	}
	return false, nil
}

// repeat runs one job again and again.
func (r *Runner) repeat(ctx context.Context, j Job) {
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
		}
		asked := time.Now()
		started, next, err := r.db.StartJob(ctx, j.Name, r.holder, j.Every, r.lease)
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
			down, wait = false, j.Every
			r.run(ctx, j, asked.Add(r.lease))
		default:
			down, wait = false, next
		}
	}
}

// errStopped is why a job's context ends when its work has.
var errStopped = errors.New("the run has ended")

// run makes one run. The lease is held until expires at least.
func (r *Runner) run(ctx context.Context, j Job, expires time.Time) {
	work, stop := context.WithCancelCause(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() { stop(r.renew(work, j, expires)) })
	result, err := call(work, j)
	lost := errors.Is(context.Cause(work), meta.ErrLost)
	stop(errStopped)
	renewing.Wait()
	switch {
	case lost:
		r.log.Warn("job was stopped, its lease was lost", "job", j.Name)
		return
	case ctx.Err() != nil && err != nil:
		r.release(ctx, j)
		return
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.lease)
	defer cancel()
	if err := r.db.EndJob(end, j.Name, r.holder, result, err); err != nil {
		r.log.Error("end of a job cannot be noted", "job", j.Name, "error", err) // it will be done again
	}
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
