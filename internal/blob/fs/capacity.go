//go:build unix

package fs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Capacity returns the size in bytes of the file system that holds dir.
func Capacity(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", dir, err)
	}
	return int64(st.Blocks) * int64(st.Bsize), nil
}
