// Package crash kills the server at random moments while many clients push to it,
// and then looks for every acknowledged byte. The same data folder goes on through all
// rounds. Another test kills it while it deletes and takes back.
//
// A killed process loses nothing that it has handed to the kernel. What a machine that
// loses power leaves is simulated by the tests of the blob store.
package crash

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

const defaultRounds = 20

// rounds is how often the server is killed: BERTH_CRASH_ROUNDS, or 20.
var rounds = defaultRounds

func TestMain(m *testing.M) {
	// Read first: the harness hides the server's variables.
	if s := os.Getenv("BERTH_CRASH_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "BERTH_CRASH_ROUNDS is %q, it must be a number from 1 on\n", s)
			os.Exit(2)
		}
		rounds = n
		os.Unsetenv("BERTH_CRASH_ROUNDS") // it is no setting of the server
	}
	os.Exit(harness.Main(m))
}
