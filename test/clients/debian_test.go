package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// A real root file system in several layers, with devices, links, whiteouts and
// set-user-id programs, goes from Docker through the registry to Docker, Podman and
// containerd, and comes out the same.
func TestDockerPushesDebianThatPodmanAndContainerdRun(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	ref := d.host + "/debian/minbase:latest"
	dir := t.TempDir()
	if err := linkOrCopy(harness.DebianRoot(t), filepath.Join(dir, "debian.tar")); err != nil {
		t.Fatal(err)
	}
	dockerfile := `FROM scratch
ADD debian.tar /
RUN rm -r /usr/share/zoneinfo /usr/share/perl5 /usr/lib/udev; useradd --uid 4321 tester; ln -s /etc/os-release /release
RUN dd if=/dev/urandom of=/random bs=1M count=3 && sha256sum /random > /random.sum && chmod 4755 /usr/bin/id
CMD sha256sum --check --quiet /random.sum && . /release && echo "$ID $(id -u tester) $(stat -c %a /usr/bin/id) $(find / -xdev -type f -path '/usr/*' | wc -l)"
`
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Run("build", "--quiet", "--network", "none", "--tag", ref, dir)
	d.forget(ref)
	want := d.runImage(ref)
	if !strings.HasPrefix(want, "debian 4321 4755 ") {
		t.Fatalf("before the push, the container printed %q", want)
	}
	d.Run("push", ref)
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
	if out := d.runImage(ref); out != want {
		t.Errorf("after the pull, Docker's container printed %q, expected %q", out, want)
	}

	t.Run("Podman", func(t *testing.T) {
		t.Parallel()
		c := newPodman(t)
		c.Run("pull", "--quiet", ref)
		if out := runWithPodman(c, ref); out != want {
			t.Errorf("the container printed %q, expected %q", out, want)
		}
	})
	t.Run("Containerd", func(t *testing.T) {
		t.Parallel()
		c := newCtr(t)
		c.pull(ref)
		if out := c.runImage(ref); out != want {
			t.Errorf("the container printed %q, expected %q", out, want)
		}
	})
}

// linkOrCopy makes to a hard link of from, or a copy on another file system.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}
