// Package fs keeps objects as files in a folder.
//
// A key is the path of its file below the folder, with slashes:
// YYYYMMDD/HH/NAME, where the first two are the hour of creation in UTC and NAME is
// 26 random characters. Any other clean relative path is a key, too, for
// reading and deleting, so that files that another program wrote can be
// adopted where they are.
//
// A file is written under its final name. What a crash leaves at each step:
//
//  1. the folder of the hour is made and synced: an empty folder;
//  2. the file is created and written: a file of any length, or none;
//  3. the file is synced: a whole file, maybe without a name, which is none;
//  4. the folder of the hour is synced, at the same time as the file, once for all who wait for it: the object. Only when both
//     are done does Commit return nil.
//
// What 1 to 3 leave is known to no row of SQL, is found by List and deleted by key.
//
// A file whose sync failed is lost: the kernel may have dropped the bytes and
// forgotten the failure, so that a second sync would succeed without them.
// It is never synced again. Lost as well are all files whose names are not durable
// yet when the sync of a folder fails.
//
// A document is written as .document, synced, and renamed: its name never stands for half of it.
//
// One process at a time may write to a folder. A symbolic link inside it
// is followed: who can make one there owns the data.
package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// Options are what a Store may be told. The zero value is usable.
type Options struct {
	// Reserve is the count of bytes of the disk that are left free: where less is free,
	// writes fail with blob.ErrNoSpace. 0 turns it off.
	Reserve int64
	// KeepOpen is how many files stay open after they were read, for the next reader.
	KeepOpen int
}

// Store is a blob.Store on a folder.
type Store struct {
	dir   string
	sys   system
	space *space
	open  *openFiles
	now   func() time.Time

	// failures counts the syncs of folders that failed.
	failures atomic.Int64

	syncing sync.Mutex // held during a sync that several wait for

	documents sync.Mutex // held while a document is written

	mu      sync.Mutex
	hour    string                  // the last folder of an hour that was made durable
	pending map[string]*pendingSync // by folder
}

var _ blob.Store = (*Store)(nil)

// Open returns the store in the folder dir, which is made if it is missing.
func Open(dir string, opts Options) (*Store, error) {
	return open(dir, opts, osCalls{}, time.Now)
}

func open(dir string, opts Options, sys system, now func() time.Time) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob folder: %w", err)
	}
	s := &Store{
		dir:     dir,
		sys:     sys,
		now:     now,
		space:   &space{sys: sys, dir: dir, reserve: opts.Reserve},
		open:    newOpenFiles(sys, opts.KeepOpen),
		pending: make(map[string]*pendingSync),
	}
	if err := s.makeRoot(dir); err != nil {
		return nil, fmt.Errorf("open blob folder %s: %w", dir, err)
	}
	return s, nil
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context) (blob.Writer, error) {
	w, err := s.create()
	if err != nil {
		return nil, wrap("create object in", s.dir, err)
	}
	return w, nil
}

func (s *Store) create() (*writer, error) {
	if err := s.space.take(0); err != nil {
		return nil, err
	}
	failures := s.failures.Load()
	for attempt := 1; ; attempt++ {
		hour, err := s.hourFolder()
		if err != nil {
			return nil, err
		}
		key := blob.NewKey(hour)
		path := filepath.Join(s.dir, filepath.FromSlash(key))
		f, err := s.sys.open(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err == nil {
			return &writer{store: s, file: f, key: key, path: path, failures: failures}, nil
		}
		if !errors.Is(err, os.ErrNotExist) || attempt == 3 {
			return nil, err
		}
		// Somebody removed the folder after it was made: a Delete, if the clock was
		// set, or a person. Make it again.
		s.forgetHour(hour)
	}
}

// Resume implements blob.Store.
func (s *Store) Resume(ctx context.Context, state blob.State) (blob.Writer, error) {
	w, err := s.resume(state)
	if err != nil {
		return nil, wrap("resume upload", state.Key, missing(err))
	}
	return w, nil
}

func (s *Store) resume(state blob.State) (*writer, error) {
	path, err := s.path(state.Key)
	if err != nil {
		return nil, err
	}
	if err := s.space.take(0); err != nil {
		return nil, err
	}
	f, err := s.sys.open(path, os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	if err := s.rewind(f, state.Size); err != nil {
		_ = s.sys.close(f)
		return nil, err
	}
	return &writer{store: s, file: f, key: state.Key, path: path, size: state.Size, flushed: state.Size, named: true}, nil
}

// rewind drops what f holds after size and puts its offset there.
func (s *Store) rewind(f *os.File, size int64) error {
	has, err := fileSize(f)
	switch {
	case err != nil:
		return err
	case size < 0 || has < size:
		return fmt.Errorf("%w: %d bytes of %d are left", blob.ErrNotFound, has, size)
	case has > size:
		if err := s.sys.truncate(f, size); err != nil {
			return err
		}
	}
	_, err = f.Seek(size, io.SeekStart)
	return err
}

// Close closes the files that are kept open. Readers can go on, and so can the Store.
func (s *Store) Close() { s.open.close() }

// Open implements blob.Store. The Reader is a web.File.
func (s *Store) Open(ctx context.Context, key string) (blob.Reader, error) {
	r, err := s.openFile(key)
	if err != nil {
		return nil, wrap("open object", key, missing(err))
	}
	return r, nil
}

func (s *Store) openFile(key string) (*reader, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	f, size, err := s.open.acquire(key, path)
	if err != nil {
		return nil, err
	}
	return &reader{SectionReader: io.NewSectionReader(f.file, 0, size), store: s, open: f, path: path}, nil
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (int64, error) {
	path, err := s.path(key)
	if err != nil {
		return 0, wrap("stat object", key, missing(err))
	}
	size, err := pathSize(path)
	if err != nil {
		return 0, wrap("stat object", key, missing(err))
	}
	return size, nil
}

// Delete implements blob.Store. It removes the folders of an hour and a day
// that it leaves empty once they are past.
func (s *Store) Delete(ctx context.Context, key string) error {
	path, err := s.path(key)
	if err != nil {
		// Not silent as for a missing key: no store has given out such a key.
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	if err := s.sys.unlink(path); err != nil && !isMissing(err) {
		return wrap("delete object", key, err)
	}
	s.open.forget(key)
	// Synced even if the file was missing: the Delete that removed it may
	// have been interrupted before its own sync.
	if err := s.syncDir(filepath.Dir(path)); err != nil && !isMissing(err) {
		return wrap("delete object", key, err)
	}
	s.removeEmpty(key)
	return nil
}

// Room implements blob.Store.
func (s *Store) Room(ctx context.Context, n int64) error {
	if err := s.space.take(n); err != nil {
		return wrap("find room in", s.dir, err)
	}
	return nil
}

// Check implements blob.Store: it writes a small file in the folder and removes it.
func (s *Store) Check(ctx context.Context) error {
	if err := s.probe(); err != nil {
		return wrap("check blob folder", s.dir, err)
	}
	return nil
}

func (s *Store) probe() error {
	path := filepath.Join(s.dir, ".probe")
	f, err := s.sys.open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = s.sys.write(f, []byte("x"))
	err = errors.Join(err, s.sys.close(f))
	// Missing if another Check was faster.
	if gone := s.sys.unlink(path); gone != nil && !isMissing(gone) {
		err = errors.Join(err, gone)
	}
	if err != nil {
		return err
	}
	return s.space.take(0)
}

var errRemoved = fmt.Errorf("%w: its file was removed", blob.ErrNotFound)

var errNotFile = fmt.Errorf("%w: it is not a file", blob.ErrNotFound)

// isMissing tells whether err says that no file has the path.
func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}

// missing adds blob.ErrNotFound to an error that says that no file has the path.
func missing(err error) error {
	if isMissing(err) {
		return fmt.Errorf("%w: %w", blob.ErrNotFound, err)
	}
	return err
}

// wrap says what failed on what, and adds blob.ErrNoSpace where the disk or a quota is full.
func wrap(op, object string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: %w", blob.ErrNoSpace, err)
	}
	return fmt.Errorf("%s %s: %w", op, object, err)
}
