package meta

import (
	"context"
	"errors"
	"time"
)

// A periodic job is run by one process at a time, whichever comes first. It has a lease on the job, which it renews while the
// run lasts; when it is killed the lease ends, and another takes over. All times are the database's, so that clocks of
// nodes do not matter.

// ErrLost: the lease on the job has ended and another process may have it.
var ErrLost = errors.New("the lease was lost")

// Job is what is known of a periodic job.
type Job struct {
	Name   string
	Holder string        // who runs it now, or was killed while running it; "" for nobody
	Leased bool          // the holder's lease has not ended
	Began  time.Time     // when that run began
	Ended  time.Time     // when the last run ended; before the first one, when the job was first heard of
	Took   time.Duration // how long the last run took that ended; -1 before the first one
	Result string        // of that run
	Error  string        // of that run, "" if it succeeded
	Asked  bool          // a run was asked for that has not ended
	Paused time.Time     // since when no run begins; zero if the job is not paused
	By     string        // who paused it
	State  string        // how far it is, in a form of the job's own; "" if it has noted nothing
}

// Jobs returns all periodic jobs, by name.
func (db *DB) Jobs(ctx context.Context) ([]Job, error) {
	var found []Job
	err := db.query(ctx, func(scan func(...any) error) error {
		var j Job
		var began, paused *int64
		var ended, took int64
		if err := scan(&j.Name, &j.Holder, &j.Leased, &began, &ended, &took, &j.Result, &j.Error, &j.Asked, &paused, &j.By, &j.State); err != nil {
			return err
		}
		if began != nil {
			j.Began = time.UnixMilli(*began)
		}
		if paused != nil {
			j.Paused = time.UnixMilli(*paused)
		}
		j.Ended = time.UnixMilli(ended)
		if j.Took = time.Duration(took) * time.Millisecond; took < 0 {
			j.Took = -1
		}
		found = append(found, j)
		return nil
	}, `SELECT name, COALESCE(holder, ''), holder IS NOT NULL AND lease_until > `+db.now+`, began_at, ended_at, COALESCE(took, -1), COALESCE(result, ''), COALESCE(error, ''),
		asked > 0, paused_at, COALESCE(paused_by, ''), COALESCE(state, '') FROM job ORDER BY name`)
	return found, err
}

// StartJob gives the job to the holder for the time of the lease, if every has passed since its last run ended, or retry since one that failed, or somebody has
// asked for one, it is not paused and nobody has it. Else it returns how long the holder should wait before it asks again. A job that nobody has heard of counts
// as having ended now.
func (db *DB) StartJob(ctx context.Context, name, holder string, every, retry, lease time.Duration) (started bool, wait time.Duration, err error) {
	err = db.update(ctx, func(t *tx) error {
		// What lies far in the future was noted by a clock that has been corrected since.
		n, err := t.exec(`UPDATE job SET holder = $2, lease_until = `+t.now+` + $4, began_at = `+t.now+`,
			asked = CASE WHEN asked > 0 THEN 2 ELSE 0 END WHERE name = $1 AND paused_at IS NULL
			AND (lease_until <= `+t.now+` OR began_at > `+t.now+` + 3600000) AND (asked > 0 OR ended_at + CASE WHEN error IS NULL THEN CAST($3 AS BIGINT) ELSE CAST($5 AS BIGINT) END <= `+t.now+` OR ended_at > `+t.now+` + 3600000)`,
			name, holder, every.Milliseconds(), lease.Milliseconds(), retry.Milliseconds())
		if started = n > 0; err != nil || started {
			return err
		}
		var leased, due int64
		var paused bool
		err = t.queryRow(`SELECT lease_until - `+t.now+`, ended_at + CASE WHEN error IS NULL THEN CAST($2 AS BIGINT) ELSE CAST($3 AS BIGINT) END - `+t.now+`, paused_at IS NOT NULL
			FROM job WHERE name = $1`, name, every.Milliseconds(), retry.Milliseconds()).Scan(&leased, &due, &paused)
		if errors.Is(err, ErrNotFound) {
			wait = every
			_, err = t.exec(`INSERT INTO job (name, lease_until, ended_at) VALUES ($1, 0, `+t.now+`) ON CONFLICT (name) DO NOTHING`, name)
			return err
		}
		if paused {
			leased = max(leased, lease.Milliseconds())
		}
		wait = min(time.Duration(max(leased, due, 1))*time.Millisecond, max(every, lease))
		return err
	})
	return started, wait, err
}

// RenewJob makes the lease last so long from now on, or returns ErrLost.
func (db *DB) RenewJob(ctx context.Context, name, holder string, lease time.Duration) error {
	return db.ofHolder(ctx, `UPDATE job SET lease_until = `+db.now+` + $3 WHERE name = $1 AND holder = $2`, name, holder, lease.Milliseconds())
}

// EndJob notes what came of a run and ends the lease. It returns ErrLost, and notes nothing, if that had ended.
func (db *DB) EndJob(ctx context.Context, name, holder, result string, failed error) error {
	var text *string
	if failed != nil {
		s := asText(failed.Error())
		text = &s
	}
	return db.ofHolder(ctx, `UPDATE job SET holder = NULL, lease_until = 0, began_at = NULL, took = `+db.now+` - began_at, ended_at = `+db.now+`,
		asked = CASE WHEN asked = 1 THEN 1 ELSE 0 END, result = $3, error = $4 WHERE name = $1 AND holder = $2`, name, holder, asText(result), text)
}

// ReleaseJob ends the lease of a run that came to no end, so that another process can begin at once.
func (db *DB) ReleaseJob(ctx context.Context, name, holder string) error {
	return db.ofHolder(ctx, `UPDATE job SET holder = NULL, lease_until = 0, began_at = NULL WHERE name = $1 AND holder = $2`, name, holder)
}

// AskJob asks for a run of a job as soon as may be, after the one under way if there is one; of a job, too, that nobody has heard of yet.
func (db *DB) AskJob(ctx context.Context, name string) error {
	return db.ofJob(ctx, name, `UPDATE job SET asked = 1 WHERE name = $1`)
}

// PauseJob sees to it that no run of a job begins. Who has one under way is to look and end it.
func (db *DB) PauseJob(ctx context.Context, name, by string) error {
	return db.ofJob(ctx, name, `UPDATE job SET paused_at = `+db.now+`, paused_by = $2 WHERE name = $1 AND paused_at IS NULL`, asText(by))
}

// ResumeJob lets a job go on.
func (db *DB) ResumeJob(ctx context.Context, name string) error {
	return db.ofJob(ctx, name, `UPDATE job SET paused_at = NULL, paused_by = NULL WHERE name = $1`)
}

// SetJobState notes how far a job is that the holder runs, or nobody if that is "". It returns ErrLost, and notes nothing, if another one has it by now.
func (db *DB) SetJobState(ctx context.Context, name, holder, state string) error {
	return db.ofHolder(ctx, `INSERT INTO job (name, lease_until, ended_at, state) VALUES ($1, 0, `+db.now+`, $3)
		ON CONFLICT (name) DO UPDATE SET state = excluded.state WHERE COALESCE(job.holder, '') = $2`, name, holder, state)
}

// ofJob changes the row of a job, which is made if nobody has heard of it yet.
func (db *DB) ofJob(ctx context.Context, name, text string, args ...any) error {
	return db.update(ctx, func(t *tx) error {
		if _, err := t.exec(`INSERT INTO job (name, lease_until, ended_at) VALUES ($1, 0, `+t.now+`) ON CONFLICT (name) DO NOTHING`, name); err != nil {
			return err
		}
		_, err := t.exec(text, append([]any{name}, args...)...)
		return err
	})
}

// Job returns what is known of a periodic job, or ErrNotFound.
func (db *DB) Job(ctx context.Context, name string) (Job, error) {
	jobs, err := db.Jobs(ctx)
	for _, j := range jobs {
		if j.Name == name {
			return j, nil
		}
	}
	if err == nil {
		err = ErrNotFound
	}
	return Job{}, err
}

// ofHolder changes a job's row if it is the holder's.
func (db *DB) ofHolder(ctx context.Context, text string, args ...any) error {
	return db.update(ctx, func(t *tx) error {
		n, err := t.exec(text, args...)
		if err == nil && n == 0 {
			err = ErrLost
		}
		return err
	})
}

// BackupJob is the name of the periodic job that makes backups. While a process has its lease, the collector deletes no bytes.
const BackupJob = "backup"

// BackupRuns tells whether a backup may be running that needs bytes of blobs whose rows are gone.
func (db *DB) BackupRuns(ctx context.Context) (runs bool, err error) {
	err = db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM job WHERE name = $1 AND lease_until > `+db.now+`)`, BackupJob).Scan(&runs)
	return runs, err
}
