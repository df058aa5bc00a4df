package fs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthregistry/berth/internal/blob"
)

// skip skips the test because the machine can't do something, but fails it in CI.
func skip(t *testing.T, why string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s: %v", why, err)
	}
	t.Skipf("%s: %v", why, err)
}

// checkStopped fails the test unless the store refuses to write for this reason and goes on reading.
func checkStopped(t *testing.T, s *Store, key, content string, reason error) {
	t.Helper()
	if _, err := s.Create(t.Context()); !errors.Is(err, reason) {
		t.Errorf("Create: %v, want %v", err, reason)
	}
	if err := s.Check(t.Context()); !errors.Is(err, reason) {
		t.Errorf("Check: %v, want %v", err, reason)
	}
	if got := get(t, s, key); got != content {
		t.Errorf("an object has %d bytes, want %d", len(got), len(content))
	}
	if size, err := s.Stat(t.Context(), key); size != int64(len(content)) || err != nil {
		t.Errorf("Stat: %d, %v", size, err)
	}
	if got := keys(t, s); len(got) != 1 || got[0] != key {
		t.Errorf("List yields %q, want %q", got, key)
	}
}

// writeUntil writes until an error comes, and returns it and how many bytes went before it.
func writeUntil(t *testing.T, w blob.Writer, limit int) (int64, error) {
	t.Helper()
	p := bytes.Repeat([]byte("x"), 100_000)
	for w.Size() < int64(limit) {
		if _, err := w.Write(p); err != nil {
			return w.Size(), err
		}
	}
	t.Fatalf("%d bytes were written without an error", limit)
	return 0, nil
}

// TestReserve fills a disk up to the reserve.
func TestReserve(t *testing.T) {
	dir := tmpfs(t, "size=8m")
	const reserve = 3 << 20
	s, err := Open(dir, Options{Reserve: reserve})
	if err != nil {
		t.Fatal(err)
	}
	free := func() int64 {
		n, err := osCalls{}.free(dir)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	key := put(t, s, "stays")
	suspended, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state, err := suspended.Suspend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := writeUntil(t, w, 16<<20); !errors.Is(err, blob.ErrNoSpace) || n < 4<<20 {
		t.Errorf("Write fails after %d bytes: %v", n, err)
	}
	if n := free(); n < reserve || n > reserve+200_000 {
		t.Errorf("%d bytes are free, %d should be", n, reserve)
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit succeeded after a Write that failed")
	}
	// That removed the file; another program takes its place.
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(spaceAge)
	if _, err := s.Resume(t.Context(), state); !errors.Is(err, blob.ErrNoSpace) {
		t.Errorf("Resume: %v", err)
	}
	if err := s.Delete(t.Context(), state.Key); err != nil {
		t.Fatal(err)
	}
	checkStopped(t, s, key, "stays", blob.ErrNoSpace)
	if err := os.Remove(filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(spaceAge)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check with space again: %v", err)
	}
	put(t, s, strings.Repeat("x", 1<<20))
}

// TestFullDisk fills a disk that has no reserve.
func TestFullDisk(t *testing.T) {
	s, err := Open(tmpfs(t, "size=4m"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	key := put(t, s, "stays")
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := writeUntil(t, w, 8<<20)
	if !errors.Is(err, blob.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) || n < 3<<20 {
		t.Errorf("Write fails after %d bytes: %v", n, err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, blob.ErrNoSpace) {
		t.Errorf("Check of a full disk: %v", err)
	}
	if get(t, s, key) != "stays" {
		t.Error("an object can't be read while the disk is full")
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit succeeded after a Write that failed")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check with space again: %v", err)
	}
	put(t, s, strings.Repeat("x", 1<<20))
}

// TestNoInodes uses up a disk's files.
func TestNoInodes(t *testing.T) {
	s, err := Open(tmpfs(t, "size=4m,nr_inodes=6"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	key := put(t, s, "stays") // the fourth inode, after the root and two folders
	var writers []blob.Writer
	for range 2 {
		w, err := s.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
	}
	if _, err := s.Create(t.Context()); !errors.Is(err, blob.ErrNoSpace) {
		t.Errorf("Create: %v", err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, blob.ErrNoSpace) {
		t.Errorf("Check: %v", err)
	}
	for _, w := range writers {
		w.Abort()
	}
	if get(t, s, key) != "stays" {
		t.Error("the object is gone")
	}
	put(t, s, "x")
}

func TestReadOnly(t *testing.T) {
	dir := tmpfs(t, "size=4m")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	key := put(t, s, "stays")
	remount := func(flags uintptr) {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	checkStopped(t, s, key, "stays", syscall.EROFS)
	if err := s.Delete(t.Context(), key); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Delete: %v", err)
	}
	remount(0)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check of a folder that is writable again: %v", err)
	}
	put(t, s, "x")
}

// TestNotPermitted takes the rights on files and folders away.
func TestNotPermitted(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	key := put(t, s, "stays")
	folder := filepath.Dir(filepath.Join(dir, key))
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(filepath.Dir(dir), 0o755)
	chmod(dir, 0o755)
	chmod(filepath.Dir(folder), 0o755)
	chmod(folder, 0o555)
	chmod(filepath.Join(dir, key), 0o444)
	unprivileged(t, func() {
		checkStopped(t, s, key, "stays", os.ErrPermission)
		if err := s.Delete(t.Context(), key); !errors.Is(err, os.ErrPermission) {
			t.Errorf("Delete: %v", err)
		}
	})
	chmod(filepath.Join(dir, key), 0)
	unprivileged(t, func() {
		if _, err := s.Open(t.Context(), key); !errors.Is(err, os.ErrPermission) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Open of an unreadable file: %v", err)
		}
		if _, err := s.Resume(t.Context(), blob.State{Key: key}); !errors.Is(err, os.ErrPermission) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Resume of an unreadable file: %v", err)
		}
	})
	chmod(folder, 0)
	unprivileged(t, func() {
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, os.ErrPermission) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Stat in an unreadable folder: %v", err)
		}
		var last error
		for _, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
			last = err
		}
		if !errors.Is(last, os.ErrPermission) {
			t.Errorf("List of an unreadable folder: %v", last)
		}
	})
	chmod(folder, 0o755)
	chmod(filepath.Join(dir, key), 0o644)
	if get(t, s, key) != "stays" {
		t.Error("the object is gone")
	}
	put(t, s, "x")
}

// TestFolderGone takes the whole folder away, as an unmounted disk does.
func TestFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "blobs")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	key := put(t, s, "stays")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context()); !errors.Is(err, os.ErrNotExist) || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Create: %v", err)
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("Check succeeded")
	}
	var last error
	for _, err := range s.List(t.Context(), time.Time{}, time.Time{}) {
		last = err
	}
	if last == nil {
		t.Error("List succeeded")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if get(t, s, key) != "stays" {
		t.Error("the object is gone")
	}
	put(t, s, "x")
}

// TestSpace shows how often free space is read, and what counts in between.
func TestSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &fakeSpace{bytes: 1000}
		s := &space{sys: disk, reserve: 100}
		take := func(n int64, want error) {
			t.Helper()
			if err := s.take(n); !errors.Is(err, want) {
				t.Errorf("take(%d) = %v, want %v", n, err, want)
			}
		}
		take(0, nil)
		take(500, nil)
		take(401, blob.ErrNoSpace)
		take(400, nil)
		take(0, nil)
		take(1, blob.ErrNoSpace)
		if disk.reads != 1 {
			t.Errorf("free space was read %d times within a second", disk.reads)
		}
		time.Sleep(spaceAge)
		take(900, nil)
		take(1, blob.ErrNoSpace)
		disk.bytes = 99
		time.Sleep(spaceAge)
		take(0, blob.ErrNoSpace)
		disk.err = io.ErrClosedPipe
		time.Sleep(spaceAge)
		take(0, io.ErrClosedPipe)
		disk.err, disk.bytes = nil, 200
		take(0, nil)
		if disk.reads != 5 {
			t.Errorf("free space was read %d times, want 5", disk.reads)
		}
	})
}

type fakeSpace struct {
	osCalls
	bytes int64
	reads int
	err   error
}

func (f *fakeSpace) free(string) (int64, error) {
	f.reads++
	return f.bytes, f.err
}

// unprivileged runs f in a thread that has no rights beyond those of nobody.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			if err := setThreadUser(65534); err != nil {
				done <- err
				return
			}
		}
		f()
	}()
	if err := <-done; err != nil {
		skip(t, "change a thread's user", err)
	}
}

// tmpfs mounts a file system in memory and returns its folder.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		skip(t, "mount a tmpfs", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// setThreadUser gives the thread's file accesses another user's rights.
func setThreadUser(uid int) error { return unix.Setfsuid(uid) }
