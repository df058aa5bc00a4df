//go:build !unix

package server

import "log/slog"

// openable returns wanted: the system knows no limit on open files.
func openable(wanted int, _ *slog.Logger) int { return wanted }
