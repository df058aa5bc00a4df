package fs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// fault is what becomes of one system call.
type fault int

const (
	works   fault = iota
	refused       // it fails and has done nothing
	partial       // it fails and has done half; only writes do that
	done          // it fails although all was done
)

// sim is the real system, in which calls can be made to fail, and which knows
// what would be left if the power failed now.
//
// Files are told apart by their path: a store never uses one twice.
type sim struct {
	osCalls
	// next decides about a call; nil means that all work. err is what those that fail return.
	next func(op, path string) fault
	err  error

	mu    sync.Mutex
	calls []string                   // the names of the calls so far
	bytes map[string][]byte          // what of each file is on the disk
	names map[string]map[string]bool // folder -> entries that are on the disk

	// Files and entries that a failed sync has lost: the kernel takes them for
	// clean, so that another sync succeeds without them.
	lostBytes, lostNames map[string]bool
}

func newSim(dir string) *sim {
	s := &sim{
		err:       syscall.EIO,
		bytes:     map[string][]byte{},
		names:     map[string]map[string]bool{},
		lostBytes: map[string]bool{},
		lostNames: map[string]bool{},
	}
	s.adopt(dir)
	return s
}

// adopt takes what is below dir as being on the disk.
func (s *sim) adopt(dir string) {
	names := map[string]bool{}
	for _, e := range readDir(dir) {
		names[e.Name()] = true
		if path := filepath.Join(dir, e.Name()); e.IsDir() {
			s.adopt(path)
		} else {
			s.bytes[path], _ = os.ReadFile(path)
		}
	}
	s.names[dir] = names
}

func readDir(dir string) []os.DirEntry {
	entries, _ := os.ReadDir(dir)
	return entries
}

func (s *sim) decide(op, path string) fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, op)
	if s.next == nil {
		return works
	}
	return s.next(op, path)
}

func (s *sim) fail(op, path string) error { return &os.PathError{Op: op, Path: path, Err: s.err} }

// run makes a call that either happens or not.
func (s *sim) run(op, path string, call func() error) error {
	f := s.decide(op, path)
	if f == refused {
		return s.fail(op, path)
	}
	if err := call(); err != nil || f == works {
		return err
	}
	return s.fail(op, path)
}

func (s *sim) open(path string, flag int) (f *os.File, err error) {
	op := "open"
	if flag&os.O_CREATE != 0 {
		op = "create"
	}
	err = s.run(op, path, func() error {
		f, err = s.osCalls.open(path, flag)
		return err
	})
	if err != nil && f != nil {
		f.Close()
	}
	return f, err
}

func (s *sim) write(f *os.File, p []byte) (int, error) {
	switch s.decide("write", f.Name()) {
	case refused:
		return 0, s.fail("write", f.Name())
	case partial:
		n, _ := f.Write(p[:len(p)/2])
		return n, s.fail("write", f.Name())
	case done:
		f.Write(p)
		return 0, s.fail("write", f.Name())
	}
	return f.Write(p)
}

func (s *sim) truncate(f *os.File, size int64) error {
	return s.run("truncate", f.Name(), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		// What was lost is after what was synced before, and goes.
		delete(s.lostBytes, f.Name())
		return f.Truncate(size)
	})
}

func (s *sim) close(f *os.File) error {
	err := f.Close()
	if s.decide("close", f.Name()) != works {
		return s.fail("close", f.Name())
	}
	return err
}

func (s *sim) unlink(path string) error {
	return s.run("unlink", path, func() error { return s.remove(path, s.osCalls.unlink) })
}

func (s *sim) rmdir(path string) error {
	return s.run("rmdir", path, func() error { return s.remove(path, s.osCalls.rmdir) })
}

func (s *sim) remove(path string, remove func(string) error) error {
	err := remove(path)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.lostNames, path) // what is made there next is another thing
	}
	return err
}

func (s *sim) rename(from, to string) error {
	return s.run("rename", to, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.osCalls.rename(from, to); err != nil {
			return err
		}
		s.bytes[to] = s.bytes[from]
		delete(s.bytes, from)
		delete(s.lostNames, to) // the entry is another one now
		return nil
	})
}

func (s *sim) mkdir(path string) error {
	return s.run("mkdir", path, func() error { return s.osCalls.mkdir(path) })
}

func (s *sim) free(path string) (n int64, err error) {
	err = s.run("free", path, func() error {
		n, err = s.osCalls.free(path)
		return err
	})
	return n, err
}

// sync copies the file's bytes to what is on the disk, or loses them for good.
func (s *sim) sync(f *os.File) error {
	path := f.Name()
	fault := s.decide("sync", path)
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := os.ReadFile(path)
	switch {
	case err != nil: // unlinked
	case fault == refused:
		s.lostBytes[path] = s.lostBytes[path] || !bytes.Equal(b, s.bytes[path])
	case !s.lostBytes[path]:
		s.bytes[path] = b
	}
	if fault != works {
		return s.fail("sync", path)
	}
	return nil
}

// syncDir copies the folder's entries to what is on the disk. If it is refused, new
// entries are lost for good.
func (s *sim) syncDir(path string) error {
	fault := s.decide("syncDir", path)
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	old, now := s.names[path], map[string]bool{}
	for _, e := range entries {
		entry := filepath.Join(path, e.Name())
		if fault == refused && !old[e.Name()] {
			s.lostNames[entry] = true
		}
		if !s.lostNames[entry] {
			now[e.Name()] = true
		}
	}
	if fault != refused {
		s.names[path] = now
	}
	if fault != works {
		return s.fail("syncDir", path)
	}
	return nil
}

// powerFailure makes in dir what a power failure may leave of the folder root:
// all that was synced, and of the rest what chance has it.
func (s *sim) powerFailure(t *testing.T, rnd *rand.Rand, root, dir string) {
	t.Helper()
	current := map[string]os.DirEntry{}
	names := []string{}
	for _, e := range readDir(root) {
		current[e.Name()] = e
		names = append(names, e.Name())
	}
	for name := range s.names[root] {
		if current[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names) // so that a seed always gives the same
	for _, name := range names {
		onDisk := s.names[root][name]
		if certain := onDisk && current[name] != nil; !certain && rnd.IntN(2) == 0 {
			continue // a new entry is lost, or a removal came to the disk
		}
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		if _, isDir := s.names[from]; isDir || current[name] != nil && current[name].IsDir() {
			if err := os.Mkdir(to, 0o750); err != nil {
				t.Fatal(err)
			}
			s.powerFailure(t, rnd, from, to)
			continue
		}
		if err := os.WriteFile(to, s.leftOf(rnd, from), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// leftOf returns what a power failure may leave of a file: what was synced last,
// what it holds now, or what both have in common with anything after it.
func (s *sim) leftOf(rnd *rand.Rand, path string) []byte {
	synced := s.bytes[path]
	now, err := os.ReadFile(path)
	if err != nil || bytes.Equal(now, synced) {
		return synced
	}
	switch rnd.IntN(3) {
	case 0:
		return synced
	case 1:
		if !s.lostBytes[path] {
			return now
		}
	}
	common := 0
	for common < min(len(synced), len(now)) && synced[common] == now[common] {
		common++
	}
	return append(bytes.Clone(synced[:common]), make([]byte, rnd.IntN(3000))...)
}

// together makes the calls one after the other, so that a run can be repeated.
func (s *sim) together(a, b func() error) (errA, errB error) {
	return a(), b()
}
