package clients

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// nextSecond waits until a second has begun that has nothing of the past in it, and returns it as tags have it.
func nextSecond() string {
	at := time.Now().Truncate(time.Second).Add(time.Second)
	time.Sleep(time.Until(at) + 10*time.Millisecond)
	return at.UTC().Format(".at-20060102T150405Z")
}

// Clients that know nothing of it pull a tag as it was.
func TestPullAsOfATime(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	ref := d.host + "/history/app:latest"
	d.build(ref, "the first")
	d.Run("push", ref)
	first := digestOf(t, "history/app", "latest")
	at := nextSecond()
	d.build(ref, "the second")
	d.Run("push", ref)
	if second := digestOf(t, "history/app", "latest"); second == first {
		t.Fatal("both images are the same")
	}
	d.Run("image", "rm", ref)
	then := ref + at
	d.Run("pull", then)
	d.forget(then)
	if out := d.runImage(then); out != "the first" {
		t.Errorf("the container printed %q", out)
	}
	d.Run("pull", ref)
	if out := d.runImage(ref); out != "the second" {
		t.Errorf("the container printed %q", out)
	}
	// It cannot be pushed, and Docker shows why.
	out := d.Fail("push", then)
	harness.Contains(t, out, "tags of this form stand for latest as it was at a time")

	if got := strings.TrimSpace(harness.NewClient(t, "crane").Run("digest", then)); got != first {
		t.Errorf("crane has %s, want %s", got, first)
	}
	api(t).Expect(http.StatusNotFound, "GET", "/v2/history/app/manifests/latest.at-20200101T000000Z", nil)
}

// What Docker's user deleted comes back with the command line, and Docker pulls it again.
func TestPullUndeleted(t *testing.T) {
	t.Parallel()
	d := newDocker(t)
	ref := d.host + "/history/undeleted:1"
	d.build(ref, "undeleted")
	d.Run("push", ref)
	d.Run("image", "rm", ref)
	harness.NewClient(t, "crane").Run("delete", d.host+"/history/undeleted@"+digestOf(t, "history/undeleted", "1"))
	d.Fail("pull", ref)
	berth := &harness.Client{T: t, Path: harness.Binary(t), Home: t.TempDir()}
	harness.Contains(t, berth.Run("trash", "ls", d.host+"/history/undeleted"), "history/undeleted")
	berth.Run("undelete", d.host+"/history/undeleted:1")
	d.Run("pull", ref)
	if out := d.runImage(ref); out != "undeleted" {
		t.Errorf("the container printed %q", out)
	}
}
