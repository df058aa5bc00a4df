package server

import "log/slog"

// manyFiles is more than are ever needed.
const manyFiles = 1 << 30

// openable returns how many of the wanted connections the process has files for. Each needs
// two, its own and one that is read or written; some blobs are kept open, and the database needs some.
func openable(wanted int, log *slog.Logger) int {
	files := openFiles()
	possible := max(files-128-keepable(files), 0) / 2
	if possible >= wanted {
		return wanted
	}
	log.Warn("the limit on open files allows fewer connections than limits.connections",
		"files", files, "connections", max(possible, 1))
	return max(possible, 1)
}

// keepable returns how many blobs' files are kept open of as many as may be: few beside the connections, many
// beside the layers that are being pulled at a time.
func keepable(files int) int { return min(files/16, 256) }
