package clients

import (
	"context"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// berth runs a command of the binary on a server.
func berth(t *testing.T, s *harness.Server, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), harness.Binary(t), append(args, "--server", s.URL)...).CombinedOutput()
	if err != nil {
		t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Who pushes with Docker reads why it is refused, what of the image came before costs nothing, and with more room it succeeds.
func TestDockerShowsQuota(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{Args: []string{"--metrics-listen", "127.0.0.1:0"}})
	d := newDockerFor(t, s.Addr)
	ref := s.Addr + "/team/app:1"
	d.build(ref, "limited")
	berth(t, s, "quota", "set", "team", "--bytes", "2KiB")
	harness.Contains(t, d.Fail("push", ref), "denied: organization team uses", "of the 2,048 bytes that its quota allows, and this needs")
	berth(t, s, "quota", "set", "team", "--bytes", "1GiB", "--deduplicated", "--tags", "1", "--warn", "100")
	d.Run("push", ref)
	second := s.Addr + "/team/other:1"
	d.Run("tag", ref, second)
	d.forget(second)
	harness.Contains(t, d.Fail("push", second), "denied: organization team uses 1 of the 1 tags that its quota allows, and this needs 1 more")
	d.Run("push", ref) // again, which needs nothing
	d.Run("image", "rm", ref, second)
	d.Run("pull", ref)
	if out := d.runImage(ref); out != "limited" {
		t.Errorf("the container printed %q", out)
	}
	harness.Contains(t, berth(t, s, "quota", "show", "team"), "1 of 1", "yes")
	harness.Contains(t, berth(t, s, "du", "team"), "team/app")
	harness.Contains(t, s.Log(), "an organization is near its quota", "a push does not fit into the quota")
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.MetricsURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	harness.Contains(t, string(metrics), `berth_quota_used{organization="team",resource="tags"} 1`, `berth_quota_limit{organization="team",resource="tags"} 1`,
		`berth_quota_limit{organization="team",resource="deduplicated bytes"} 1.073741824e+09`, "berth_quota_refusals_total")
}

// The answer to a push warns of a quota of which much is used, and is in the form of spec.md#warnings.
func TestQuotaWarning(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	a := harness.NewAPI(t, s)
	berth(t, s, "quota", "set", "team", "--tags", "2")
	image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}")))
	if resp := a.PushImage("team/app", "1", image); resp.Header.Get("Warning") != "" {
		t.Errorf("warned too early: %v", resp.Header)
	}
	if resp := a.PushImage("team/app", "2", image); resp.Header.Get("Warning") != `299 - "organization team uses 2 of the 2 tags that its quota allows"` {
		t.Errorf("the warning is %q", resp.Header.Get("Warning"))
	}
	resp := a.Do("PUT", "/v2/team/app/manifests/3", image.Manifest.Bytes, harness.Header{"Content-Type": image.Manifest.MediaType})
	a.Check(resp, http.StatusForbidden)
	want := `"detail":{"organization":"team","resource":"tags","limit":2,"used":2,"needed":1}`
	if !strings.Contains(string(resp.Bytes), want) || !strings.Contains(string(resp.Bytes), `"code":"DENIED"`) {
		t.Errorf("%s", resp.Bytes)
	}
	// A body that is announced to be too large is not taken in.
	berth(t, s, "quota", "set", "team", "--bytes", "1MiB")
	location := a.StartUpload("team/app")
	resp = a.Do("PATCH", location, make([]byte, 4<<20), harness.Header{"Content-Type": "application/octet-stream"})
	a.Check(resp, http.StatusForbidden)
}
