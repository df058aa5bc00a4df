package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// NewDockerEngine returns what starts the Docker Engine that the tests of a package share: the one that runs already, or a
// private one. Its value is what DOCKER_HOST has to be, empty for the user's own engine.
func NewDockerEngine() *Shared[string] {
	return &Shared[string]{Start: startDockerEngine}
}

func startDockerEngine(t testing.TB) (string, func() error) {
	docker := Need(t, "docker")
	if exec.Command(docker, "version", "--format", "{{.Server.Version}}").Run() == nil {
		return os.Getenv("DOCKER_HOST"), func() error { return nil }
	}
	NeedRoot(t)
	dockerd := Need(t, "dockerd")
	dir, err := os.MkdirTemp("", "berth-dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := "unix://" + filepath.Join(dir, "docker.sock")
	ready := func() bool {
		cmd := exec.Command(docker, "version")
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
		return cmd.Run() == nil
	}
	return host, StartDaemon(t, dir, ready, dockerd,
		"--config-file", config, // not the user's
		"--host", host,
		"--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"),
		"--bridge", "none", "--iptables=false", "--ip6tables=false")
}

// NewDocker returns Docker's command line for an engine.
func NewDocker(t testing.TB, engine *Shared[string]) *Client {
	t.Helper()
	c := NewClient(t, "docker")
	// The classic builder is part of the engine; BuildKit would need the buildx plugin.
	c.Env = []string{"DOCKER_HOST=" + engine.Get(t), "DOCKER_BUILDKIT=0"}
	return c
}
