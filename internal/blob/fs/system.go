package fs

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	filePerm   = 0o640
	folderPerm = 0o750
)

// system is what a store asks of the operating system in order to change or
// open something, so that tests can make each step fail. Paths are absolute.
type system interface {
	// open opens a file, and creates it if flag says so.
	open(path string, flag int) (*os.File, error)
	write(f *os.File, p []byte) (int, error)
	truncate(f *os.File, size int64) error
	// sync makes the content of a file durable.
	sync(f *os.File) error
	close(f *os.File) error
	// unlink removes a file, never a folder.
	unlink(path string) error

	// rename gives a file another name, in place of a file that has it.
	rename(from, to string) error

	mkdir(path string) error
	// syncDir makes durable which entries a folder has.
	syncDir(path string) error
	rmdir(path string) error

	// together makes two of these calls, neither of which needs the other's result, at the same time:
	// a disk takes as long for two syncs that overlap as for one.
	together(a, b func() error) (errA, errB error)

	// free returns how many bytes an unprivileged process could still write.
	free(path string) (int64, error)
}

// osCalls is the real system.
type osCalls struct{}

// open does without the attempt of os.OpenFile to have the runtime's poller
// watch the file, which costs four more system calls and is in vain for a file on a disk.
func (osCalls) open(path string, flag int) (*os.File, error) {
	var fd int
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(path, flag|unix.O_CLOEXEC, filePerm)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (osCalls) write(f *os.File, p []byte) (int, error) { return f.Write(p) }

func (osCalls) truncate(f *os.File, size int64) error { return f.Truncate(size) }

func (osCalls) sync(f *os.File) error { return f.Sync() }

func (osCalls) close(f *os.File) error { return f.Close() }

func (osCalls) unlink(path string) error {
	if err := ignoringEINTR(func() error { return unix.Unlink(path) }); err != nil {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

func (osCalls) rename(from, to string) error { return os.Rename(from, to) }

func (osCalls) mkdir(path string) error { return os.Mkdir(path, folderPerm) }

func (c osCalls) syncDir(path string) error {
	d, err := c.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osCalls) together(a, b func() error) (errA, errB error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		errB = b()
	}()
	errA = a()
	<-done
	return errA, errB
}

func (osCalls) rmdir(path string) error {
	if err := ignoringEINTR(func() error { return unix.Rmdir(path) }); err != nil {
		return &os.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// fileSize returns the size of an open file, or blob.ErrNotFound if it is something else.
func fileSize(f *os.File) (int64, error) {
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(int(f.Fd()), &st) }); err != nil {
		return 0, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return regularSize(&st)
}

// pathSize is fileSize of the file at path. It does without os.Stat, which
// costs half as much again: clients ask for blobs more often than for anything else.
func pathSize(path string) (int64, error) {
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Stat(path, &st) }); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return regularSize(&st)
}

func regularSize(st *unix.Stat_t) (int64, error) {
	if st.Nlink == 0 {
		return 0, errRemoved
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, errNotFile
	}
	return st.Size, nil
}

// ignoringEINTR repeats a system call that a signal interrupted.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
