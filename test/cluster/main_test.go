// Package cluster drives several nodes of the real server behind a real nginx, over a real PostgreSQL and a real S3 server, and
// takes parts of that away while clients push and pull. Each test has a database and a bucket of its own.
//
// Every test ends the same way: fsck finds no damage, and all that clients were told is stored comes back whole from
// every node.
package cluster

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// rounds is how often a node is killed: BERTH_CLUSTER_ROUNDS, or 10.
var rounds = 10

var dockerEngine = harness.NewDockerEngine()

func TestMain(m *testing.M) {
	// Read first: the harness hides the server's variables.
	if s := os.Getenv("BERTH_CLUSTER_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "BERTH_CLUSTER_ROUNDS is %q, it must be a number from 1 on\n", s)
			os.Exit(2)
		}
		rounds = n
	}
	os.Exit(harness.Main(m, dockerEngine.Close))
}
