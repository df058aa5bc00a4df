package backup

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

const (
	tempPrefix = "berth-backup-"
	tempLock   = "lock" // is held by the process that uses the folder
)

// MakeTemp makes a folder for databases of sets, in the folder parent, or in the system's if that is empty. Such folders of processes that were killed are
// taken away before, so that none fills the disk. remove takes this one away.
func MakeTemp(parent string) (dir string, remove func() error, err error) {
	parent = cmp.Or(parent, os.TempDir())
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), tempPrefix) {
			sweepTemp(filepath.Join(parent, e.Name()))
		}
	}
	for {
		if dir, err = os.MkdirTemp(parent, tempPrefix+"*"); err != nil {
			return "", nil, err
		}
		lock := flock.New(filepath.Join(dir, tempLock))
		remove = func() error { return errors.Join(os.RemoveAll(dir), lock.Close()) }
		mine, err := lock.TryLock()
		if err != nil {
			return "", nil, errors.Join(err, remove())
		}
		if _, err := os.Stat(lock.Path()); err == nil && mine {
			return dir, remove, nil
		}
		// Somebody took it for one that was left.
		if err := remove(); err != nil {
			return "", nil, err
		}
	}
}

// sweepTemp takes a folder away that no process uses. One that cannot be is of no concern here.
func sweepTemp(dir string) {
	lock := flock.New(filepath.Join(dir, tempLock), flock.SetFlag(os.O_RDWR)) // not made: who is about to has it
	defer lock.Close()
	if mine, err := lock.TryLock(); err == nil && mine {
		_ = os.RemoveAll(dir)
	}
}
