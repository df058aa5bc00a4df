package move_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/internal/oci"
)

// While clients push to a registry in PostgreSQL, the switch makes them wait. What they were told is pushed is
// at the target; what waits is not pushed when the servers end before the source is released.
func TestSwitchWhileClientsPush(t *testing.T) {
	t.Parallel()
	from, _ := scaled(t)
	w := serve(t, from.end(t, false))
	w.fill()
	source, target := from.end(t, true), folder(t).end(t, false)
	stop := w.pushing(3)
	time.Sleep(100 * time.Millisecond)
	done, err := move.Switch(t.Context(), options(t, source, target))
	must(t, err)
	waited := make(chan int64)
	go func() { waited <- stop() }() // the servers end, or clients give up; what waits in the database is thrown away
	wantSame(t, source, target)
	time.Sleep(100 * time.Millisecond)
	wantSame(t, source, target)
	if _, _, err := source.DB.Totals(t.Context()); err != nil {
		t.Errorf("reading a frozen source: %v", err)
	}
	done.Release()
	t.Logf("%d pushes were acknowledged", <-waited)
}

// A frozen source takes changes again when it is released, or when the switch fails.
func TestReleased(t *testing.T) {
	t.Parallel()
	from, _ := scaled(t)
	w := serve(t, from.end(t, false))
	w.push("team/app", oci.SHA256, []byte("before"))
	source := from.end(t, true)
	frozen, err := source.DB.Freeze(t.Context())
	must(t, err)
	pushed := make(chan bool)
	go func() {
		w.push("team/app", oci.SHA256, []byte("after"))
		close(pushed)
	}()
	select {
	case <-pushed:
		t.Error("something was pushed to a frozen registry")
	case <-time.After(200 * time.Millisecond):
	}
	must(t, frozen.Check(t.Context()))
	frozen.Release()
	<-pushed
}

// Who loses the lock on the source does not finish the move.
func TestLockIsLost(t *testing.T) {
	t.Parallel()
	from, db := scaled(t)
	w := serve(t, from.end(t, false))
	w.fill()
	source, target := from.end(t, true), folder(t).end(t, false)
	opts := options(t, source, target)
	opts.Progress = &tally{add: func(s move.Step, _ int64) {
		if s == move.Verify {
			db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'blob'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		}
	}}
	done, err := move.Switch(t.Context(), opts)
	if err == nil {
		done.Release()
	}
	if !errors.Is(err, meta.ErrThawed) {
		t.Errorf("the error is %v", err)
	}
	if err := target.DB.CheckComplete(t.Context()); !errors.Is(err, meta.ErrMoving) {
		t.Errorf("the target: %v", err)
	}
	w.push("team/app", oci.SHA256, []byte("after"))
	switched(t, options(t, source, target))
	wantSame(t, source, target)
}

// Who loses the lock after the switch, while old servers may be there still, is told.
func TestLockIsLostLater(t *testing.T) {
	t.Parallel()
	from, db := scaled(t)
	w := serve(t, from.end(t, false))
	w.fill()
	done, err := move.Switch(t.Context(), options(t, from.end(t, true), folder(t).end(t, false)))
	must(t, err)
	defer done.Release()
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'blob'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := done.Hold(ctx); !errors.Is(err, meta.ErrThawed) {
		t.Errorf("the error is %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	must(t, done.Hold(ctx))
}

// Only one process at a time moves to a database.
func TestTwoMoves(t *testing.T) {
	t.Parallel()
	from := folder(t)
	w := serve(t, from.end(t, false))
	w.fill()
	to, _ := scaled(t)
	source, one, two := from.end(t, true), to.end(t, false), to.end(t, false)
	opts := options(t, source, one)
	tried := false
	opts.Progress = &tally{add: func(move.Step, int64) {
		if tried {
			return
		}
		tried = true
		if _, err := move.Copy(t.Context(), options(t, source, two)); !errors.Is(err, meta.ErrMoveRuns) {
			t.Errorf("a second move: %v", err)
		}
	}}
	_, err := move.Copy(t.Context(), opts)
	must(t, err)
	if !tried {
		t.Error("nothing was copied")
	}
	_, err = move.Copy(t.Context(), options(t, source, two))
	must(t, err)
}

// An artifactType that PostgreSQL cannot hold, in a database of an earlier version, becomes what it would be now.
func TestTextThatPostgresCannotHold(t *testing.T) {
	t.Parallel()
	from := folder(t)
	w := serve(t, from.end(t, false))
	subject := w.push("team/app", oci.SHA256, []byte("{}"))
	w.mustPut("team/app", oci.SHA256, image(map[string]any{"artifactType": "a/b", "subject": subject}, subject))
	db, err := sql.Open("sqlite", filepath.Join(from.name, "berth.db"))
	must(t, err)
	_, err = db.Exec(`UPDATE manifest SET artifact_type = 'a/' || char(0) || CAST(x'ff' AS TEXT)`)
	must(t, err)
	must(t, db.Close())
	to, _ := scaled(t)
	target := to.end(t, false)
	switched(t, options(t, w.End, target))
	found, _, err := target.DB.Referrers(t.Context(), "team/app", subject.Digest, "a/\x00\xff", 0, 10, 1000)
	if err != nil || len(found) != 1 || found[0].Descriptor.ArtifactType != "a/\uFFFD\uFFFD" {
		t.Errorf("the referrers are %+v, %v", found, err)
	}
}

// A row of the target that is not what was read makes the switch fail.
func TestRowsAreCompared(t *testing.T) {
	t.Parallel()
	w, to := serve(t, folder(t).end(t, false)), folder(t)
	w.fill()
	target := to.end(t, false)
	for _, change := range []string{`UPDATE tag_log SET actor = 'somebody else' WHERE id = 3`, `DELETE FROM tag_log WHERE id = 3`} {
		opts := options(t, w.End, target)
		changed := false
		opts.Progress = &tally{add: func(s move.Step, _ int64) {
			if s != move.Verify || changed {
				return
			}
			changed = true
			db, err := sql.Open("sqlite", filepath.Join(to.name, "berth.db"))
			must(t, err)
			_, err = db.Exec(change)
			must(t, err)
			must(t, db.Close())
		}}
		if _, err := move.Switch(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "table tag_log") {
			t.Errorf("after %s: %v", change, err)
		}
		if err := target.DB.CheckComplete(t.Context()); !errors.Is(err, meta.ErrMoving) {
			t.Errorf("the target: %v", err)
		}
	}
	switched(t, options(t, w.End, target))
	wantSame(t, w.End, target)
}
