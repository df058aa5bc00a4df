package fs

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteBack tells the kernel to bring n bytes at offset to the disk, and does not
// wait for them. Nothing depends on its success: a failed write shows at the sync.
func startWriteBack(f *os.File, offset, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
}

func (osCalls) free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(path, &st) }); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * int64(st.Frsize), nil
}
