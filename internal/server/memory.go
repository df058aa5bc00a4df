package server

import (
	"os"
	"runtime/debug"
)

const (
	gcPercent   = 200
	memoryLimit = 48 << 20
)

// tuneMemory sets the collector's defaults, which the environment variables
// GOGC and GOMEMLIMIT override.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
