//go:build unix

package server

import (
	"log/slog"
	"syscall"
)

// openable returns how many of the wanted connections the process has files for. Each needs
// two, its own and one that is read or written; some are kept open, and the database needs some.
func openable(wanted int, log *slog.Logger) int {
	const others = 128 + keepOpen
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return wanted
	}
	// The types differ between systems, and infinity is larger than any int.
	possible := int(min(uint64(files.Cur), 1<<30)-min(uint64(files.Cur), others)) / 2
	if possible >= wanted {
		return wanted
	}
	log.Warn("the limit on open files allows fewer connections than limits.connections",
		"files", uint64(files.Cur), "connections", max(possible, 1))
	return max(possible, 1)
}
