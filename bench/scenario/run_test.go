//go:build linux

package scenario

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
)

// Every scenario runs against Berth and the limits, with next to no content. It is about
// requests being right: no rate is looked at.
func TestEveryScenario(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts servers")
	}
	finder := &peer.Finder{Module: "../..", Build: t.TempDir(), Log: t.Logf}
	var peers []*peer.Peer
	for _, name := range []string{peer.Berth, peer.Nginx, peer.Limit} {
		p, err := finder.Find(t.Context(), name)
		switch {
		case err == nil:
			peers = append(peers, p)
		case name == peer.Nginx && os.Getenv("CI") != "true":
			t.Log(err)
		default:
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	r := new(report.Report)
	err := Run(t.Context(), Options{
		Plan: Plan{
			Sizes: content.Sizes{
				Big: 2 * mib, Batch: 3, BatchSize: mib,
				Tags: 150, NewTags: 20, Repositories: 120, Images: 20, Large: 130,
			},
			Quick: true, Rounds: 1, Duration: 50 * time.Millisecond, Storms: 1, Pulls: 1, Watch: 100 * time.Millisecond,
		},
		Peers: peers,
		Dir:   dir,
		Log:   t.Logf,
	}, r)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, row := range r.Rows {
		seen[row.Scenario] = true
		for server, failure := range row.Failed {
			t.Errorf("%s: %s failed: %s", row.Scenario, server, failure)
		}
		if v, ok := row.Value(peer.Berth); !ok || v <= 0 {
			t.Errorf("%s, %s: Berth's figure is %v", row.Scenario, row.Title, v)
		}
	}
	for _, name := range Names() {
		if !seen[name] {
			t.Errorf("%s did not run", name)
		}
	}
	for _, s := range peers {
		if left, err := os.ReadDir(filepath.Join(dir, s.Name)); err == nil {
			t.Errorf("%s left %d folders behind", s.Name, len(left))
		}
	}
}

func TestNextPage(t *testing.T) {
	for link, want := range map[string]string{
		"": "",
		`</v2/_catalog?last=a&n=100>; rel="next"`:                    "/v2/_catalog?last=a&n=100",
		`<http://localhost:5000/v2/_catalog?last=a&n=1>; rel="next"`: "/v2/_catalog?last=a&n=1",
	} {
		if got := next(link); got != want {
			t.Errorf("the next page of %q is %q, want %q", link, got, want)
		}
	}
}

func TestCalls(t *testing.T) {
	summary := []byte(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.88    0.183437         347       528        12 sendfile
  0.12    0.000220          73         3           write
------ ----------- ----------- --------- --------- ----------------
100.00    0.183657         345       531        12 total
`)
	if got, want := calls(summary), "sendfile 528 times, write 3 times"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
