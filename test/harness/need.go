package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Need returns the path of a program, looked for in the module's .cache/bin and
// then in PATH. Where it is missing the test is skipped, or fails if CI=true.
func Need(t testing.TB, program string) string {
	t.Helper()
	if path, err := exec.LookPath(filepath.Join(Root(), ".cache", "bin", program)); err == nil {
		return path
	}
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", program)) // not in every user's PATH
	}
	if err != nil {
		Missing(t, "%s is not installed; ./scripts/install-tools installs it", program)
	}
	return path
}

// NeedRoot skips the test of what only root can do, or fails it if CI=true.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "this needs root")
	}
}

// Missing skips the test because something outside of the project is not there, or
// fails it if CI=true.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
