package clients

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// startLimited starts a server with rate limits, which is asked past a tap.
func startLimited(t *testing.T, env ...string) (*harness.Server, *harness.Tap) {
	t.Helper()
	s := harness.Start(t, harness.Settings{Env: env})
	return s, harness.NewTap(t, s.Addr)
}

// refusals returns the requests that were refused because the client asked too often.
func refusals(tap *harness.Tap) (refused []harness.Exchange) {
	for _, e := range tap.Exchanges("/") {
		if e.Status == 429 {
			refused = append(refused, e)
		}
	}
	return refused
}

// A client that minds Retry-After gets everything in the end: three that pull at the same time, where one may every 3 seconds.
func TestSkopeoWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	c := newSkopeo(t)
	s, tap := startLimited(t, "BERTH_RATE_LIMITS_ANONYMOUS_PULLS=1/3s")
	image := hello(t, "in turn")
	harness.NewAPI(t, s).PushImage("skopeo/limited", "1", image)
	for round := 0; len(refusals(tap)) == 0; round++ {
		if round == 10 {
			t.Fatal("nobody was refused")
		}
		t.Run(fmt.Sprint("round ", round), func(t *testing.T) {
			for i := range 3 {
				t.Run(fmt.Sprint(i), func(t *testing.T) {
					t.Parallel()
					mine := *c
					mine.T = t
					mine.Run("copy", "--src-tls-verify=false", "docker://"+tap.Addr+"/skopeo/limited:1", "dir:"+filepath.Join(c.Home, fmt.Sprint(round, "-", i)))
				})
			}
		})
	}
}

// Whoever may not begin one more push is told so before anything is sent, and a push that was begun ends.
func TestCranePushIsRefusedAtItsBeginning(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "crane")
	_, tap := startLimited(t, "BERTH_RATE_LIMITS_ANONYMOUS_PUSHES=2/30d")
	for i := range 2 {
		c.Run("push", hello(t, fmt.Sprint("push ", i)).Layout(t, "1"), fmt.Sprintf("%s/crane/limited-%d:1", tap.Addr, i))
	}
	if n := len(refusals(tap)); n != 0 {
		t.Errorf("%d requests of the first two were refused", n)
	}
	told := c.Fail("push", hello(t, "one too many").Layout(t, "1"), tap.Addr+"/crane/limited-2:1")
	harness.Contains(t, told, "TOOMANYREQUESTS", "too many pushes from your network: try again in")
	for _, e := range tap.Exchanges("/v2/crane/limited-2/") {
		if e.Method == "PATCH" || e.Method == "PUT" || e.Method == "POST" && e.Status != 429 {
			t.Errorf("%s %s: status %d", e.Method, e.URL.Path, e.Status)
		}
	}
	if n := len(refusals(tap)); n == 0 {
		t.Error("nothing was refused")
	}
}

// Docker shows what the registry says.
func TestDockerTellsThatItAskedTooOften(t *testing.T) {
	c := harness.NewDocker(t, dockerEngine)
	s, tap := startLimited(t, "BERTH_RATE_LIMITS_ANONYMOUS_PULLS=1/30d")
	for _, tag := range []string{"1", "2"} { // two images, because Docker may remember the manifest of one that it has pulled before
		harness.NewAPI(t, s).PushImage("docker/limited", tag, hello(t, "limited "+tag))
	}
	ref := tap.Addr + "/docker/limited:"
	c.Run("pull", ref+"1")
	c.Run("rmi", ref+"1")
	told := c.Fail("pull", ref+"2")
	if !strings.Contains(strings.ToLower(told), "too many pulls from your network") {
		t.Errorf("docker says %q", told)
	}
}
