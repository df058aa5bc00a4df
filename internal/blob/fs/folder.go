package fs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// emptyFor is how long ago an hour must have begun before its empty folder may be removed. It is
// far more than a Create needs between choosing an hour and creating its file.
const emptyFor = 3 * time.Hour

// makeRoot makes dir and what is missing above it, durably.
func (s *Store) makeRoot(dir string) error {
	parent := filepath.Dir(dir)
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &os.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case err == nil:
		// Whoever made it may have died before this sync. An error is of no interest: the
		// folder may be on a disk of its own, in one that we may not read.
		_ = s.sys.syncDir(parent)
		return nil
	case !errors.Is(err, os.ErrNotExist) || parent == dir:
		return err
	}
	if err := s.makeRoot(parent); err != nil {
		return err
	}
	if err := s.sys.mkdir(dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := s.syncDir(parent); err != nil {
		_ = s.sys.rmdir(dir) // so that the next attempt makes it anew
		return err
	}
	return nil
}

// hourFolder returns the name of the folder of the present hour, which exists durably.
func (s *Store) hourFolder() (string, error) {
	hour := s.now().UTC().Format(blob.HourLayout)
	// Held through I/O by the first of an hour only; who waits needs that folder.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hour == hour {
		return hour, nil
	}
	if err := s.makeHour(hour); err != nil {
		return "", fmt.Errorf("make folder of the hour: %w", err)
	}
	s.hour = hour
	return hour, nil
}

// forgetHour makes the next hourFolder make the folder again.
func (s *Store) forgetHour(hour string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hour == hour {
		s.hour = ""
	}
}

func (s *Store) makeHour(hour string) (err error) {
	hourDir := filepath.Join(s.dir, filepath.FromSlash(hour))
	dayDir := filepath.Dir(hourDir)
	for _, dir := range []string{dayDir, hourDir} {
		if err := s.sys.mkdir(dir); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	defer func() {
		if err != nil {
			// The next attempt shall make and sync them anew, rather than trust the
			// second sync of a folder whose first one failed.
			_ = s.sys.rmdir(hourDir)
			_ = s.sys.rmdir(dayDir)
		}
	}()
	// Synced even if they existed: whoever made them may have died before its sync.
	if err := s.syncDir(dayDir); err != nil {
		return err
	}
	return s.syncDir(s.dir)
}

// syncDir makes the entries of a folder durable, and counts failures.
func (s *Store) syncDir(dir string) error {
	err := s.sys.syncDir(dir)
	if err != nil && !isMissing(err) {
		s.failures.Add(1)
	}
	return err
}

// pendingSync is the sync of a folder that has yet to begin. Whoever waits for it gets its result.
type pendingSync struct {
	done chan struct{}
	err  error
}

// syncDirTogether is syncDir for the many who have made a file in the same folder: those who come while one sync
// goes on share the next.
func (s *Store) syncDirTogether(dir string) error {
	s.mu.Lock()
	p, joined := s.pending[dir]
	if !joined {
		p = &pendingSync{done: make(chan struct{})}
		s.pending[dir] = p
	}
	s.mu.Unlock()
	if joined {
		<-p.done
		return p.err
	}
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	delete(s.pending, dir) // who comes from now on might be too late for this one
	s.mu.Unlock()
	p.err = s.syncDir(dir)
	close(p.done)
	return p.err
}

// removeEmpty removes the folders of key's hour and day if they are empty and
// past. It does nothing for a key of another form. Errors are ignored: an empty
// folder does no harm.
func (s *Store) removeEmpty(key string) {
	hour := path.Dir(key)
	begin, ok := hourOf(hour)
	if !ok || s.now().Sub(begin) < emptyFor {
		return
	}
	if err := s.sys.rmdir(filepath.Join(s.dir, filepath.FromSlash(hour))); err != nil && !isMissing(err) {
		return // almost always: it is not empty
	}
	if s.now().Sub(begin.Truncate(24*time.Hour)) >= 24*time.Hour+emptyFor {
		_ = s.sys.rmdir(filepath.Join(s.dir, path.Dir(hour)))
	}
}
