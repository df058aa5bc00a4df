package cluster

import (
	"math/rand/v2"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// A node is killed at a random moment, again and again, while clients push and pull through the balancer. Whatever a client was
// at completes when it tries again, and everything that it was told of is there.
func TestKill(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, rounds)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := start(t, options{env: []string{"BERTH_COLLECTION_INTERVAL=1s", "BERTH_TRASH_KEEP=0", "BERTH_LOG_ACCESS=false"}})
	var old []image
	again := 0
	for round := range rounds {
		l := pushAndPull(t, c.api(), 4, name("kill-%d", round), rng.Uint64(), brokenOnes)
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		node := rng.IntN(nodes)
		c.nodes[node].Kill()
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		c.restart(node)
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		images := l.end()
		again += l.again()
		c.verify(images)
		c.fsck()
		if t.Failed() {
			t.Fatalf("round %d of seed %d", round, seed)
		}
		// What is old goes, so that the cost of a round does not grow.
		c.remove(old)
		old = images
	}
	c.verify(old)
	c.fsck("--deep")
	if again == 0 {
		t.Error("no request was hit by a kill: this tests nothing")
	}
}

// remove deletes images and their blobs.
func (c *cluster) remove(images []image) {
	c.t.Helper()
	api := c.at(0)
	for _, i := range images {
		api.Expect(http.StatusAccepted, "DELETE", "/v2/"+i.repo+"/manifests/"+i.digest.String(), nil)
	}
	gone := make(map[string]bool)
	for _, i := range images {
		for _, b := range i.blobs {
			if path := "/v2/" + i.repo + "/blobs/" + b.digest.String(); !gone[path] {
				gone[path] = true
				api.Expect(http.StatusAccepted, "DELETE", path, nil)
			}
		}
	}
}

// Every node is taken out of service, stopped, started, and put into service again, while clients push and pull: no
// request fails.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	l := pushAndPull(t, c.api(), 4, name("rolling"), 1, noFaults)
	for round := range 2 {
		for n := range nodes {
			time.Sleep(300 * time.Millisecond)
			c.balancer.InService(n, false)
			if err := c.nodes[n].Terminate(); err != nil {
				t.Errorf("round %d, node %d: %v", round, n, err)
			}
			c.restart(n)
			c.balancer.InService(n, true)
		}
	}
	time.Sleep(300 * time.Millisecond)
	images := l.end()
	c.verify(images)
	c.fsck("--deep")
}

// Nodes stop without the balancer knowing. It has passive checks only, so an upload can break, and goes on when the client
// tries again; pulls don't fail.
func TestStopWithoutNotice(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	l := pushAndPull(t, c.api(), 2, name("notice"), 2, noFaults)
	time.Sleep(time.Second)
	images := l.end()

	pulls := onlyPull(t, c.api(), 3, images, noFaults)
	pushes := pushAndPull(t, c.api(), 3, name("notice-push"), 4, brokenOnes)
	for n := range nodes {
		time.Sleep(300 * time.Millisecond)
		if err := c.nodes[n].Terminate(); err != nil {
			t.Errorf("node %d: %v", n, err)
		}
		time.Sleep(200 * time.Millisecond)
		c.restart(n)
		time.Sleep(6 * time.Second) // nginx sends nothing to it for five seconds
	}
	pulls.end()
	images = append(images, pushes.end()...)
	c.verify(images)
	c.fsck("--deep")
}

// A node stands still for some seconds, as one does that is moved or swaps. Requests to it wait and then end.
func TestNodeStandsStill(t *testing.T) {
	t.Parallel()
	c := start(t, options{})
	l := pushAndPull(t, c.api(), 4, name("pause"), 5, noFaults)
	for n := range nodes {
		time.Sleep(300 * time.Millisecond)
		if err := c.nodes[n].Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := c.nodes[n].Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	images := l.end()
	c.verify(images)
	c.fsck("--deep")
}
