//go:build unix

package server

import "syscall"

// openFiles returns how many files the process may have open.
func openFiles() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return manyFiles
	}
	// The types differ between systems, and infinity is larger than any int.
	return int(min(uint64(files.Cur), manyFiles))
}
