//go:build darwin || freebsd

package fs

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteBack does nothing: there is no such system call.
func startWriteBack(f *os.File, offset, n int64) {}

func (osCalls) free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(path, &st) }); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
