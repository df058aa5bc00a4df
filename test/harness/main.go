package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Main runs the tests of a package, then the closers, and returns the exit status. The server's
// settings are not taken from the environment of whoever runs the tests: BERTH_* is
// unset.
func Main(m *testing.M, closers ...func() error) int {
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "BERTH_") {
			os.Unsetenv(name)
		}
	}
	// A program built with the race detector sleeps a second when it ends, unless it is told not to.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	code := m.Run()
	for _, c := range append(closers, binary.Close) {
		if err := c(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}

// Root returns the directory of the module. Tests run in the directory of their
// package, which lies below it.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			panic("harness: no go.mod above the working directory")
		}
		dir = up
	}
}

// builtVariable names a berth that was built with the race detector before the tests, so that not each package builds one.
const builtVariable = "HARNESS_BERTH"

// binary is that, or berth built once for each test process, with the race detector where the
// test has it.
var binary = Shared[string]{Start: func(t testing.TB) (string, func() error) {
	if built := os.Getenv(builtVariable); built != "" && raceEnabled {
		// A result is kept by go test no longer than a file that the test has looked at.
		if _, err := os.Stat(built); err != nil {
			t.Fatal(err)
		}
		return built, func() error { return nil }
	}
	dir, err := os.MkdirTemp("", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "berth")
	args := []string{"build", "-o", out}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/berth")...)
	cmd.Dir = Root()
	if text, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		t.Fatalf("go %s: %v\n%s", strings.Join(cmd.Args[1:], " "), err, text)
	}
	return out, func() error { return os.RemoveAll(dir) }
}}

// Binary returns the path of the berth program under test.
func Binary(t testing.TB) string {
	t.Helper()
	return binary.Get(t)
}
