package clients

import (
	"os/exec"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// Docker tells its user why a protected tag stays as it is, and that the registry is frozen, at once and without trying again.
func TestClients01_DockerHearsOfPolicies(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	manage := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), harness.Binary(t), append(args, "--server", s.URL)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	d := newDockerFor(t, s.Addr)
	release, latest := s.Addr+"/team/app:1.0.0", s.Addr+"/team/app:latest"
	d.build(release, "first")
	d.Run("push", release)
	manage("tag", "protect", "team", "--tag", "semver")
	d.Run("push", release) // the same once more
	d.forget(release)
	d.build(release, "second")
	harness.Contains(t, d.Fail("push", release), "denied", "tag 1.0.0 of team/app is protected by rule 1")
	d.Run("tag", release, latest)
	d.Run("push", latest)

	manage("freeze", "team", "--message", "back at six")
	harness.Contains(t, d.Fail("push", latest), "denied", "frozen", "back at six")
	d.forget(latest)
	d.Run("pull", latest)
	manage("unfreeze", "team")
	d.Run("push", latest)
}
