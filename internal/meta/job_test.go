package meta

import (
	"errors"
	"testing"
	"time"
)

func TestJobs(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	start := func(holder string, every time.Duration, want bool) (wait time.Duration) {
		t.Helper()
		started, wait, err := db.StartJob(ctx, "work", holder, every, every, time.Hour)
		if err != nil || started != want {
			t.Fatalf("started %v, %v, want %v", started, err, want)
		}
		return wait
	}
	only := func() Job {
		t.Helper()
		jobs, err := db.Jobs(ctx)
		if err != nil || len(jobs) != 1 || jobs[0].Name != "work" {
			t.Fatalf("%+v, %v", jobs, err)
		}
		return jobs[0]
	}
	set := func(text string) {
		t.Helper()
		if err := db.update(ctx, func(x *tx) error { _, err := x.exec(text); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if wait := start("a", time.Hour, false); wait != time.Hour {
		t.Errorf("a new job waits %s", wait)
	}
	if wait := start("a", time.Hour, false); wait <= 0 || wait > time.Hour {
		t.Errorf("then it waits %s", wait)
	}
	if j := only(); j.Holder != "" || !j.Began.IsZero() || j.Took != -1 {
		t.Errorf("before the first run: %+v", j)
	}
	start("a", 0, true)
	if j := only(); j.Holder != "a" || j.Began.IsZero() || !j.Leased {
		t.Errorf("while it runs: %+v", j)
	}
	if wait := start("b", 0, false); wait <= 0 || wait > time.Hour {
		t.Errorf("another one waits %s", wait)
	}
	for what, err := range map[string]error{
		"renew": db.RenewJob(ctx, "work", "b", time.Hour), "end": db.EndJob(ctx, "work", "b", "", nil), "release": db.ReleaseJob(ctx, "work", "b"),
	} {
		if !errors.Is(err, ErrLost) {
			t.Errorf("%s by another one: %v", what, err)
		}
	}
	if err := db.RenewJob(ctx, "work", "a", -time.Hour); err != nil { // as if the holder had been killed
		t.Fatal(err)
	}
	if j := only(); j.Holder != "a" || j.Leased {
		t.Errorf("after its end: %+v", j)
	}
	start("b", 0, true)
	wantErr(t, db.RenewJob(ctx, "work", "a", time.Hour), ErrLost)
	if err := db.EndJob(ctx, "work", "b", "much", errors.New("too much")); err != nil {
		t.Fatal(err)
	}
	if started, wait, err := db.StartJob(ctx, "work", "a", 3*time.Hour, 2*time.Hour, time.Hour); err != nil || started || wait <= time.Hour || wait > 2*time.Hour {
		t.Errorf("after a run that failed: %t, %s, %v", started, wait, err)
	}
	if j := only(); j.Holder != "" || j.Took < 0 || j.Result != "much" || j.Error != "too much" || !j.Began.IsZero() {
		t.Errorf("after a run: %+v", j)
	}
	wantErr(t, db.EndJob(ctx, "work", "b", "", nil), ErrLost)
	start("a", time.Hour, false) // the interval runs from the end
	set(`UPDATE job SET ended_at = ended_at - 3600000`)
	if started, _, err := db.StartJob(ctx, "work", "a", time.Minute, 2*time.Hour, time.Hour); err != nil || started {
		t.Errorf("it failed an hour ago, and starts: %t, %v", started, err)
	}
	if started, _, err := db.StartJob(ctx, "work", "a", 2*time.Hour, time.Minute, time.Hour); err != nil || !started {
		t.Errorf("it failed an hour ago, and starts: %t, %v", started, err)
	}
	if err := db.ReleaseJob(ctx, "work", "a"); err != nil {
		t.Fatal(err)
	}
	start("b", time.Hour, true) // nothing has ended
	// The clock of the database was years ahead, and was put right.
	set(`UPDATE job SET began_at = began_at + 100000000000, lease_until = lease_until + 100000000000`)
	start("a", time.Hour, true)
	if err := db.EndJob(ctx, "work", "a", "", nil); err != nil {
		t.Fatal(err)
	}
	set(`UPDATE job SET ended_at = ended_at + 100000000000`)
	start("a", time.Hour, true)
	if err := db.ReleaseJob(ctx, "work", "a"); err != nil {
		t.Fatal(err)
	}
	if err := db.PauseJob(ctx, "work", "me"); err != nil {
		t.Fatal(err)
	}
	if wait := start("a", time.Hour, false); wait < time.Hour {
		t.Errorf("paused, it is looked at again after %s", wait)
	}
}
