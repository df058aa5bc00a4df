package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// lockName is the file in a data folder whose lock stands for the use of the folder.
const lockName = "berth.lock"

// ErrInUse is what the errors of LockData and LockDataShared wrap when another process has the folder.
var ErrInUse = errors.New("in use")

// Lock holds a data folder for this process.
type Lock struct{ file *flock.Flock }

// LockData takes the folder dir, which exists, for this process alone. The kernel gives it
// back when the process ends, however it ends. The error names the process
// that has the folder.
func LockData(dir string) (*Lock, error) {
	return lockData(dir, (*flock.Flock).TryLock, "", "another server")
}

// LockDataShared takes the folder dir, which exists, together with others that only read: as long as
// one of them has it, nobody writes to it. Otherwise it is like LockData.
func LockDataShared(dir string) (*Lock, error) {
	return lockData(dir, (*flock.Flock).TryRLock, ", reading only", "a server that writes to it")
}

func lockData(dir string, try func(*flock.Flock) (bool, error), how, who string) (*Lock, error) {
	name := filepath.Join(dir, lockName)
	// The file is kept open for reading and writing: some network file systems
	// lock a file only for who may write it.
	file := flock.New(name, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	ok, err := try(file)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("the data folder %s is %w by %s%s", dir, ErrInUse, who, holder(name))
	}
	// The holder is a note for people. The lock itself is the kernel's, so a note
	// that cannot be written, is left behind by a crash, or is one reader's of several does no harm.
	host, _ := os.Hostname()
	_ = os.WriteFile(name, fmt.Appendf(nil, "process %d on %s%s\n", os.Getpid(), host, how), 0o600)
	return &Lock{file}, nil
}

// holder returns who wrote the note in the lock file.
func holder(name string) string {
	b, err := readSmall(name, 512)
	b = bytes.TrimSpace(b)
	if err != nil || len(b) == 0 {
		return ""
	}
	return ": " + string(b)
}

// Release gives the folder back.
func (l *Lock) Release() error {
	// The file stays. Removing it could take a lock away that another process has
	// just got on it.
	return l.file.Close()
}
