package meta

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sync does without the file's time of change, which would be one more write.
func (l logFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(l.Fd())); err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
