package deploy

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// The image is built here without a network, from a binary that is built here.
func TestImage(t *testing.T) {
	t.Parallel()
	docker := harness.NewDocker(t, dockerEngine)
	name := fmt.Sprintf("berth-test-image-%d", time.Now().UnixNano())
	t.Cleanup(func() {
		cmd := exec.Command(docker.Path, "image", "rm", "--force", name)
		cmd.Env = docker.Environ()
		cmd.Run()
	})
	// Go's caches are where the user has them.
	cmd := exec.Command(deployed("image"), name)
	cmd.Env = append(cmd.Environ(), docker.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("deploy/image: %v\n%s", err, out)
	}

	var images []struct {
		Config struct {
			User         string
			Entrypoint   []string
			ExposedPorts map[string]any
			Volumes      map[string]any
		}
		RootFS struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(docker.Run("image", "inspect", name)), &images); err != nil {
		t.Fatal(err)
	}
	c := images[0].Config
	_, port := c.ExposedPorts["5000/tcp"]
	_, data := c.Volumes["/data"]
	if c.User != "65532:65532" || len(c.Entrypoint) != 1 || !port || !data {
		t.Errorf("the image is configured as %+v", c)
	}

	// It runs as it will in Kubernetes: nothing can be written but /data.
	limits := []string{"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}
	run := func(args ...string) []string { return append(append([]string{}, limits...), args...) }
	harness.Contains(t, docker.Run(run(name, "version")...), "berth ")
	harness.Contains(t, docker.Fail(run(name)...), "insecure_open")
	// A program that needs no shell shows that the certificates are there.
	harness.Contains(t, docker.RunAll(run("--volume", harness.Need(t, "busybox")+":/busybox:ro", "--entrypoint", "/busybox", name,
		"stat", "-c", "%n %u %a", "/data", "/tmp", "/etc/ssl/certs/ca-certificates.crt", "/berth")...),
		"/data 65532 755", "/tmp 0 1777", "/etc/ssl/certs/ca-certificates.crt 0 644", "/berth 0 755")

	// Data that was put on the volume is there after the container.
	volume := name + "-data"
	docker.Run("volume", "create", volume)
	t.Cleanup(func() {
		cmd := exec.Command(docker.Path, "volume", "rm", "--force", volume)
		cmd.Env = docker.Environ()
		cmd.Run()
	})
	id := strings.TrimSpace(docker.Run("run", "--detach", "--network", "none", "--read-only", "--volume", volume+":/data", name, "serve", "--listen", "127.0.0.1:5000"))
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(docker.RunAll("logs", id), "msg=serving"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve:\n%s", docker.RunAll("logs", id))
		}
	}
	docker.Run("stop", id)
	if code := strings.TrimSpace(docker.Run("wait", id)); code != "0" {
		t.Errorf("it stopped with the exit code %s:\n%s", code, docker.RunAll("logs", id))
	}
	docker.Run("rm", id)
	harness.Contains(t, docker.Run(run("--volume", volume+":/data", name, "fsck")...), "damaged: 0")
}
