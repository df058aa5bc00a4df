package meta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// group makes changes that share one transaction: they queue behind one that waits.
// It returns what became of each.
func group(t *testing.T, db *DB, changes ...func() error) []error {
	t.Helper()
	release := hold(t, db)
	errs := make([]error, len(changes))
	var all sync.WaitGroup
	for i, c := range changes {
		all.Go(func() { errs[i] = c() })
		queued(t, db, i+1) // one by one, so that the order is known
	}
	release()
	all.Wait()
	return errs
}

// hold keeps the writer busy until release is called.
func hold(t *testing.T, db *DB) (release func()) {
	t.Helper()
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		left <- db.update(context.Background(), func(*tx) error {
			close(entered)
			<-leave
			return nil
		})
	}()
	<-entered
	return func() {
		close(leave)
		if err := <-left; err != nil {
			t.Error(err)
		}
	}
}

// queued waits until n changes wait for their turn.
func queued(t *testing.T, db *DB, n int) {
	t.Helper()
	for range 10_000 {
		if len(lite(db).writer.changes) >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d changes wait, want %d", len(lite(db).writer.changes), n)
}

func set(db *DB, ctx context.Context, name string) func() error {
	return func() error { return db.SetSetting(ctx, name, []byte(name)) }
}

func wantSettings(t *testing.T, db *DB, want map[string]bool) {
	t.Helper()
	for name, there := range want {
		v, err := db.Setting(t.Context(), name)
		if there && (err != nil || string(v) != name) || !there && !errors.Is(err, ErrNotFound) {
			t.Errorf("setting %s: %q, %v; want it: %v", name, v, err, there)
		}
	}
}

func TestSQLiteGroupSharesOneCommit(t *testing.T) {
	db := newDB(t)
	inside, outside := -1, -1
	changes := []func() error{}
	for i := range 20 {
		changes = append(changes, set(db, t.Context(), fmt.Sprint(i)))
	}
	changes = append(changes, func() error {
		return db.update(t.Context(), func(x *tx) error {
			outside = count(t, db, "setting")
			return x.queryRow(`SELECT COUNT(*) FROM setting`).Scan(&inside)
		})
	})
	for i, err := range group(t, db, changes...) {
		if err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if inside != 20 || outside != 0 {
		t.Errorf("the last change of the group saw %d of the others, a reader %d at that time; want 20 and 0", inside, outside)
	}
	if n := count(t, db, "setting"); n != 20 {
		t.Errorf("%d settings, want 20", n)
	}
}

// What goes wrong with one change of a group is its own affair.
func TestSQLiteGroupIsNotHurtByOne(t *testing.T) {
	db := newDB(t)
	boom := errors.New("boom")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	writeThen := func(name string, then func(*tx) error) func() error {
		return func() error {
			return db.update(t.Context(), func(x *tx) error {
				if _, err := x.exec(`INSERT INTO setting (name, value) VALUES ($1, $1)`, name); err != nil {
					return err
				}
				return then(x)
			})
		}
	}
	errs := group(t, db,
		set(db, t.Context(), "first"),
		writeThen("fails", func(*tx) error { return boom }),
		set(db, t.Context(), "second"),
		writeThen("panics", func(*tx) error { panic("at the disco") }),
		set(db, cancelled, "cancelled"),
		writeThen("breaks a key", func(x *tx) error {
			_, err := x.exec(`INSERT INTO tag (repository_id, name, manifest_id, updated_at) VALUES (77, 'x', 77, 0)`)
			return err
		}),
		writeThen("is no SQL", func(x *tx) error { _, err := x.exec(`SELEKT`); return err }),
		writeThen("panics while it reads", func(x *tx) error {
			return x.query(func(func(...any) error) error { panic("reading") }, `SELECT name FROM setting`)
		}),
		set(db, t.Context(), "third"),
	)
	for i, want := range []func(error) bool{
		func(err error) bool { return err == nil },
		func(err error) bool { return err == boom },
		func(err error) bool { return err == nil },
		func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "at the disco") && strings.Contains(err.Error(), "group_test.go")
		},
		func(err error) bool { return errors.Is(err, context.Canceled) },
		func(err error) bool { return err != nil && strings.Contains(err.Error(), "FOREIGN KEY") },
		func(err error) bool { return err != nil && strings.Contains(err.Error(), "SELEKT") },
		func(err error) bool { return err != nil && strings.Contains(err.Error(), "reading") },
		func(err error) bool { return err == nil },
	} {
		if !want(errs[i]) {
			t.Errorf("change %d: %v", i, errs[i])
		}
	}
	wantSettings(t, db, map[string]bool{"first": true, "second": true, "third": true, "fails": false, "panics": false,
		"cancelled": false, "breaks a key": false, "is no SQL": false, "panics while it reads": false})
	if err := db.SetSetting(t.Context(), "after", []byte("after")); err != nil {
		t.Errorf("the writer does not go on: %v", err)
	}
}

func TestSQLiteGroupOfFailuresOnly(t *testing.T) {
	db := newDB(t)
	boom := errors.New("boom")
	fail := func() error { return db.update(t.Context(), func(*tx) error { return boom }) }
	for i, err := range group(t, db, fail, fail) {
		if err != boom {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if err := db.SetSetting(t.Context(), "after", []byte("x")); err != nil {
		t.Errorf("the writer does not go on: %v", err)
	}
}

// SQLite rolls back a whole transaction when there is no room for one of its changes. The
// others of the group run again without it, and their callers hear nothing of it.
func TestSQLiteGroupSurvivesLostTransaction(t *testing.T) {
	db := newDB(t)
	limit := func(pages string) {
		t.Helper()
		if err := db.update(t.Context(), func(x *tx) error {
			var n int
			return x.queryRow(`PRAGMA max_page_count = ` + pages).Scan(&n)
		}); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, db, "a", digestOf("garbage"), at(0))
	garbage := unreferenced(t, db, at(1), 10)
	var pages int
	if err := db.read.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit(fmt.Sprint(pages + 10))
	var runs atomic.Int64
	counted := func(name string) func() error {
		return func() error {
			return db.update(t.Context(), func(x *tx) error {
				runs.Add(1)
				_, err := x.exec(`INSERT INTO setting (name, value) VALUES ($1, $1)`, name)
				return err
			})
		}
	}
	big := func() error { return db.SetSetting(t.Context(), "big", make([]byte, 1<<20)) }
	var collected Collected
	collect := func() (err error) {
		collected, err = db.CollectBlobs(t.Context(), garbage, at(1), at(1))
		return err
	}
	errs := group(t, db, counted("first"), collect, big, counted("second"), counted("third"))
	for i, err := range errs {
		if full := IsFull(err); full != (i == 2) || err != nil && !full {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if collected != (Collected{Links: 1, Blobs: 1, Bytes: 10, Repositories: 1}) {
		t.Errorf("what ran again was counted as %+v", collected)
	}
	if runs.Load() <= 3 {
		t.Errorf("the changes ran %d times: the transaction was not lost, so nothing was tested", runs.Load())
	}
	wantSettings(t, db, map[string]bool{"first": true, "second": true, "third": true, "big": false})
	if err := big(); !IsFull(err) {
		t.Errorf("alone: %v", err)
	}
	limit("1000000")
	if err := big(); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}

// failingLog is a log whose disk has failed.
type failingLog struct{ syncer }

func (failingLog) Sync() error { return errors.New("the disk is gone") }

// A change whose sync failed is not acknowledged, and none is made after it: what readers
// see of it may vanish, and must carry nothing.
func TestSQLiteFailedSyncEndsWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	db := openDB(t, path)
	if err := set(db, t.Context(), "before")(); err != nil {
		t.Fatal(err)
	}
	healthy := lite(db).writer.log
	lite(db).writer.log = failingLog{healthy}
	for _, name := range []string{"during", "during too"} {
		if err := set(db, t.Context(), name)(); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "the disk is gone") {
			t.Errorf("%s: %v", name, err)
		}
	}
	lite(db).writer.log = healthy
	for _, name := range []string{"after", "after too"} {
		if err := set(db, t.Context(), name)(); !errors.Is(err, ErrBroken) {
			t.Errorf("%s the failure: %v", name, err)
		}
	}
	if err := db.Check(t.Context()); !errors.Is(err, ErrBroken) {
		t.Errorf("Check says %v", err)
	}
	wantSettings(t, db, map[string]bool{"before": true, "after": false, "after too": false}) // reads go on
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, path)
	if err := set(db, t.Context(), "later")(); err != nil {
		t.Errorf("opened anew: %v", err)
	}
	wantSettings(t, db, map[string]bool{"before": true, "after": false, "later": true})
}

// slowLog is a log whose syncs wait to be let go.
type slowLog struct {
	syncer
	entered chan struct{}
	leave   chan struct{}
}

func (l slowLog) Sync() error {
	l.entered <- struct{}{}
	<-l.leave
	return l.syncer.Sync()
}

// While a group is made durable the next one is made, and nobody hears of either too early. An object whose
// doom is not durable is not handed out to have its bytes deleted.
func TestSQLiteAcknowledgedAfterSync(t *testing.T) {
	db := newDB(t)
	log := slowLog{lite(db).writer.log, make(chan struct{}), make(chan struct{})}
	lite(db).writer.log = log
	acknowledged := make(chan string, 3)
	start := func(name string, change func() error) {
		go func() {
			if err := change(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			acknowledged <- name
		}()
	}
	visible := func(key string) {
		t.Helper()
		for range 10_000 {
			if known, err := db.KnownKey(t.Context(), key); err != nil {
				t.Fatal(err)
			} else if known {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("%s was not made while the sync went on", key)
	}
	doom := func(key string) func() error {
		return func() error { _, err := db.DoomOrphan(t.Context(), key, at(0)); return err }
	}
	start("first", doom("first"))
	<-log.entered
	start("second", doom("second"))
	visible("second") // although the first is not durable yet
	var keys []string
	start("doomed", func() (err error) { keys, err = db.Doomed(t.Context(), "", 10); return err })
	select {
	case name := <-acknowledged:
		t.Fatalf("%s was acknowledged before a sync had ended", name)
	case <-time.After(50 * time.Millisecond):
	}
	log.leave <- struct{}{}
	if name := <-acknowledged; name != "first" {
		t.Errorf("%s came first", name)
	}
	<-log.entered
	select {
	case name := <-acknowledged:
		t.Fatalf("%s was acknowledged before its sync had ended", name)
	case <-time.After(50 * time.Millisecond):
	}
	log.leave <- struct{}{}
	if name := <-acknowledged; name != "second" {
		t.Errorf("%s came second", name)
	}
	<-log.entered
	log.leave <- struct{}{}
	if name := <-acknowledged; name != "doomed" || len(keys) != 2 {
		t.Errorf("%s came last; doomed are %v", name, keys)
	}
	lite(db).writer.log = log.syncer
}

// A change whose turn has come is not stopped by its context: the outcome is what the caller hears.
func TestCancelledTooLate(t *testing.T) {
	db := newDB(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := db.update(ctx, func(x *tx) error {
		cancel()
		_, err := x.exec(`INSERT INTO setting (name, value) VALUES ('a', 'a')`)
		return err
	}); err != nil {
		t.Error(err)
	}
	wantSettings(t, db, map[string]bool{"a": true})
	// A read of SQLite is over before anybody could look; one of PostgreSQL waits for nothing any more.
	if _, err := db.Setting(ctx, "a"); db.embedded() && err != nil || !db.embedded() && !errors.Is(err, context.Canceled) {
		t.Errorf("a read with a context that has ended: %v", err)
	}
}

func TestSQLiteClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	db := openDB(t, path)
	put := image(t, db, "a", "a", "t")
	release := hold(t, db)
	errs := make([]error, 20)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = set(db, t.Context(), fmt.Sprint(i))() })
	}
	queued(t, db, len(errs))
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait for the changes under way: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("change %d was under way: %v", i, err)
		}
	}
	if err := db.SetSetting(t.Context(), "late", nil); !errors.Is(err, errClosed) {
		t.Errorf("a change after Close: %v", err)
	}
	if _, err := db.Setting(t.Context(), "0"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a read after Close: %v", err)
	}
	if err := db.Check(t.Context()); err == nil {
		t.Error("Check after Close says that all is well")
	}
	if err := db.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("a closed database is one file; here are %v, %v", files, err)
	}
	db = openDB(t, path)
	for i := range errs {
		wantSettings(t, db, map[string]bool{fmt.Sprint(i): true})
	}
	if m, err := db.Manifest(t.Context(), "a", byTag("t"), true); err != nil || m.Digest != put.Digest {
		t.Errorf("%+v, %v", m, err)
	}
}

// Changes that race with Close are made, or refused.
func TestSQLiteCloseUnderLoad(t *testing.T) {
	for range rounds(20) {
		path := filepath.Join(t.TempDir(), "berth.db")
		db := openDB(t, path)
		var all sync.WaitGroup
		var mu sync.Mutex
		made := make(map[string]bool)
		for i := range 16 {
			all.Go(func() {
				for j := 0; ; j++ {
					name := fmt.Sprint(i, "-", j)
					err := set(db, t.Context(), name)()
					mu.Lock()
					made[name] = err == nil
					mu.Unlock()
					if err != nil {
						if !errors.Is(err, errClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
		wantSettings(t, openDB(t, path), made)
	}
}
