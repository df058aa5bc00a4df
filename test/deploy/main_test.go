// Package deploy tests what is in deploy/ with the programs that use it: nginx, Docker, Helm, and berth itself.
package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

var dockerEngine = harness.NewDockerEngine()

func TestMain(m *testing.M) { os.Exit(harness.Main(m, dockerEngine.Close)) }

// deployed returns the path of something in deploy/.
func deployed(elem ...string) string {
	return filepath.Join(append([]string{harness.Root(), "deploy"}, elem...)...)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkConfig has berth read a configuration.
func checkConfig(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command(harness.Binary(t), "config", "check", "--config", path).CombinedOutput()
	if err != nil {
		t.Errorf("berth config check: %v\n%s\n%s", err, out, read(t, path))
	}
}
