package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// newSimStore returns a store on a sim, and its clock.
func newSimStore(t *testing.T, opts Options) (*Store, *sim, *time.Time) {
	t.Helper()
	dir := t.TempDir()
	now := time.Date(2026, 11, 21, 5, 59, 0, 0, time.UTC)
	sim := newSim(dir)
	s, err := open(dir, opts, sim, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	sim.calls = nil
	return s, sim, &now
}

func put(t *testing.T, s *Store, content string) (key string) {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w.Key()
}

func get(t *testing.T, s *Store, key string) string {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func keys(t *testing.T, s *Store) (keys []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	slices.Sort(keys)
	return keys
}

// TestOrder shows in which order a store makes things durable.
func TestOrder(t *testing.T) {
	s, sim, _ := newSimStore(t, Options{})
	ctx := t.Context()
	check := func(what, want string) {
		t.Helper()
		if got := strings.Join(sim.calls, " "); got != want {
			t.Errorf("%s made the calls\n%s\nwant\n%s", what, got, want)
		}
		sim.calls = nil
	}
	key := put(t, s, "first")
	check("the first object of an hour", "mkdir mkdir syncDir syncDir create write sync close syncDir")
	put(t, s, "second")
	check("the second object", "create write sync close syncDir")

	w, err := s.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.Checkpoint()(ctx); err != nil {
			t.Fatal(err)
		}
	}
	state, err := w.Suspend(ctx)
	if err != nil {
		t.Fatal(err)
	}
	check("an upload with checkpoints", "create sync syncDir sync sync close")
	if w, err = s.Resume(ctx, state); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	check("its end", "open sync close")
	if err := s.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	check("a delete", "unlink syncDir")
	if err := s.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	check("a repeated delete", "unlink syncDir")
}

// TestFaults makes each call of an object's life fail in each way.
func TestFaults(t *testing.T) {
	ctx := context.Background()
	steps := []struct {
		name string
		run  func(s *Store, l *life) error
	}{
		{"create", func(s *Store, l *life) (err error) {
			l.w, err = s.Create(ctx)
			return err
		}},
		{"write", func(s *Store, l *life) error {
			_, err := l.w.Write([]byte("hello, "))
			return err
		}},
		{"checkpoint", func(s *Store, l *life) (err error) {
			l.state, err = l.w.Checkpoint()(ctx)
			return err
		}},
		{"write more", func(s *Store, l *life) error {
			_, err := l.w.Write([]byte("lost"))
			l.w.Close()
			return err
		}},
		{"resume", func(s *Store, l *life) (err error) {
			l.w, err = s.Resume(ctx, l.state)
			return err
		}},
		{"write on", func(s *Store, l *life) error {
			_, err := l.w.Write([]byte("world"))
			return err
		}},
		{"commit", func(s *Store, l *life) error { return l.w.Commit(ctx) }},
		{"delete", func(s *Store, l *life) error { return s.Delete(ctx, l.w.Key()) }},
	}
	// Which calls each step makes in a healthy store, "free" being read once a second.
	s, sim, _ := newSimStore(t, Options{Reserve: 1})
	type place struct {
		step string
		call int
		op   string
	}
	var places []place
	for l, i := new(life), 0; i < len(steps); i++ {
		sim.calls = nil
		if err := steps[i].run(s, l); err != nil {
			t.Fatal(err)
		}
		for n, op := range sim.calls {
			places = append(places, place{steps[i].name, n, op})
		}
	}
	for _, op := range []string{"free", "mkdir", "create", "write", "sync", "syncDir", "close", "open", "truncate", "unlink"} {
		if !slices.ContainsFunc(places, func(p place) bool { return p.op == op }) {
			t.Errorf("no step makes the call %s", op)
		}
	}
	for _, p := range places {
		for _, cause := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
			for _, f := range []fault{refused, partial, done} {
				if p.step == "write more" && p.op == "close" {
					continue // Close has no result: the bytes are given up anyway
				}
				t.Run(fmt.Sprintf("%s/%d-%s/%s/%d", p.step, p.call, p.op, cause, f), func(t *testing.T) {
					s, sim, _ := newSimStore(t, Options{Reserve: 1})
					sim.err = cause
					var err error
					l := new(life)
					for _, step := range steps {
						n := 0
						sim.next = func(op, _ string) fault {
							if n++; step.name == p.step && n == p.call+1 {
								return f
							}
							return works
						}
						if err = step.run(s, l); step.name == p.step {
							break
						} else if err != nil {
							t.Fatal(err)
						}
					}
					sim.next = nil
					checkFault(t, s, l, p.op, p.step, cause, err)
				})
			}
		}
	}
}

// life is what the steps of TestFaults pass on.
type life struct {
	w     blob.Writer
	state blob.State
}

// checkFault looks at a store after one call failed in one step.
func checkFault(t *testing.T, s *Store, l *life, op, step string, cause error, err error) {
	if !errors.Is(err, cause) {
		t.Fatalf("the step gives %v, want %v", err, cause)
	}
	if op == "create" {
		op = "open"
	}
	if got := errors.Is(err, blob.ErrNoSpace); got != (cause == syscall.ENOSPC || cause == syscall.EDQUOT) {
		t.Errorf("is ErrNoSpace: %v, of %v", got, err)
	}
	if errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), s.dir) {
		t.Errorf("not a clear error: %v", err)
	}
	var w blob.Writer
	if l.w != nil {
		w = l.w
	}
	if w != nil && (step == "write" || step == "checkpoint" || step == "write on") {
		if _, err := w.Checkpoint()(t.Context()); err == nil {
			t.Error("Checkpoint succeeded after an error")
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("Write succeeded after an error")
		}
		if err := w.Commit(t.Context()); err == nil {
			t.Error("Commit succeeded after an error")
		}
	}
	if step == "commit" {
		if err := w.Commit(t.Context()); err == nil {
			t.Error("Commit succeeded when repeated")
		}
		if _, err := s.Open(t.Context(), w.Key()); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open after a Commit that failed: %v", err)
		}
	}
	// The store works, and everything is removed by what List gives.
	key := put(t, s, "another")
	if got := get(t, s, key); got != "another" {
		t.Errorf("another object has %q", got)
	}
	for _, left := range keys(t, s) {
		if left != key {
			if err := s.Delete(t.Context(), left); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
	}
	if got := keys(t, s); !slices.Equal(got, []string{key}) {
		t.Errorf("List yields %q, want %q", got, key)
	}
}

// TestNameLost has the sync of the folder fail for one upload, which the kernel would not
// report to another one whose name is lost as well.
func TestNameLost(t *testing.T) {
	s, sim, _ := newSimStore(t, Options{})
	ctx := t.Context()
	var writers []blob.Writer
	for range 2 {
		w, err := s.Create(ctx)
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
	}
	sim.next = func(op, _ string) fault {
		if op == "syncDir" {
			return refused
		}
		return works
	}
	if err := writers[0].Commit(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Commit: %v", err)
	}
	sim.next = nil
	if err := writers[1].Commit(ctx); !errors.Is(err, errNameLost) {
		t.Errorf("Commit of the other upload: %v", err)
	}
	if got := keys(t, s); len(got) != 0 {
		t.Errorf("List yields %q", got)
	}
	put(t, s, "x")
}

// waiting is a system whose syncs of folders wait for their results.
type waiting struct {
	osCalls
	begun  chan struct{}
	result chan error
}

func (w waiting) syncDir(path string) error {
	w.begun <- struct{}{}
	if err := <-w.result; err != nil {
		return err
	}
	return w.osCalls.syncDir(path)
}

// Uploads that end while a folder is being synced share one sync that begins after all of them, and its failure.
func TestSharedSync(t *testing.T) {
	for _, result := range []error{nil, syscall.EIO} {
		sys := waiting{begun: make(chan struct{}), result: make(chan error)}
		s, err := Open(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "x") // so that the folder of the hour is there
		s.sys = sys
		const others = 5
		committed := make(chan error, others)
		commit := func() {
			w, err := s.Create(t.Context())
			if err != nil {
				committed <- err
				return
			}
			committed <- w.Commit(t.Context())
		}
		go commit()
		<-sys.begun
		for range others {
			go commit()
		}
		// All of them have their files once the folder shows so; they join then.
		for dir := filepath.Join(s.dir, s.hour); len(readDir(dir)) < 2+others; {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond)
		sys.result <- nil
		if err := <-committed; err != nil {
			t.Errorf("the first: %v", err)
		}
		syncs := 0
		for waiting := others; waiting > 0; {
			select {
			case <-sys.begun:
				syncs++
				sys.result <- result
			case err := <-committed:
				waiting--
				if !errors.Is(err, result) {
					t.Errorf("the shared sync gave %v, a commit %v", result, err)
				}
			}
		}
		if syncs == others { // it is 1, unless the machine stood still
			t.Errorf("%d uploads made %d syncs", others, syncs)
		}
	}
}

// TestFolderLost has the sync of a new folder fail once.
func TestFolderLost(t *testing.T) {
	for seed := range uint64(10) {
		s, sim, _ := newSimStore(t, Options{})
		syncs := uint64(0)
		sim.next = func(op, _ string) fault {
			if op != "syncDir" {
				return works
			}
			if syncs++; syncs == 1+seed%2 { // that of the day's folder, or of the root
				return refused
			}
			return works
		}
		if _, err := s.Create(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Create: %v", err)
		}
		sim.next = nil
		key := put(t, s, "x")
		dir := t.TempDir()
		sim.powerFailure(t, rand.New(rand.NewPCG(seed, 0)), s.dir, dir)
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(t.Context(), key); err != nil {
			t.Errorf("an object in a folder whose sync failed once: %v", err)
		}
	}
}

func TestOpenFaults(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := Open(dir, Options{}); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Open(%s): %v", dir, err)
		}
	}
	deep := filepath.Join(root, "a", "b", "c")
	sim := newSim(root)
	sim.next = func(op, path string) fault {
		if op == "syncDir" && path == filepath.Join(root, "a") {
			return refused
		}
		return works
	}
	if _, err := open(deep, Options{}, sim, time.Now); !errors.Is(err, syscall.EIO) {
		t.Errorf("Open with a failing sync: %v", err)
	}
	sim.next, sim.calls = nil, nil
	s, err := open(deep, Options{}, sim, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(sim.calls, " "), "syncDir mkdir syncDir mkdir syncDir"; got != want {
		t.Errorf("Open made the calls %s, want %s", got, want)
	}
	put(t, s, "x")
	if s, err = open(deep, Options{}, sim, time.Now); err != nil {
		t.Fatal(err)
	}
	put(t, s, "x")
	if got := keys(t, s); len(got) != 2 {
		t.Errorf("List yields %q", got)
	}
}
