package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Main runs the tests of a package in an environment that knows no registry
// credentials and no configuration of the user's, and returns their exit status.
// The closers run after the tests.
func Main(m *testing.M, closers ...func() error) int {
	// Clients look into these before the home directory that Client gives them.
	for _, name := range []string{
		"DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF",
		"CONTAINERS_REGISTRIES_CONF", "COSIGN_PASSWORD", "COSIGN_REPOSITORY", "COSIGN_EXPERIMENTAL",
		"HELM_REGISTRY_CONFIG", "HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME",
		"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
	} {
		os.Unsetenv(name)
	}
	code := m.Run()
	for _, c := range closers {
		if err := c(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if b, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(b))
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

// binary builds berth once for each test process, with the race detector where the
// test has it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "berth-test-")
	if err != nil {
		return "", err
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
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, text)
	}
	return out, nil
})

// Binary returns the path of the berth program under test.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
