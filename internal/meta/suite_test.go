package meta

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/service"
)

// TestOverPostgres runs the tests of the package once more, with databases of PostgreSQL.
func TestOverPostgres(t *testing.T) {
	service.NeedPostgres(t)
	t.Parallel()
	// What is for SQLite, or for servers of its own, does not care.
	if passed := over(t, "postgres", "-test.skip=^Test(SQLite|Over|Postgres)"); len(passed) < 100 {
		t.Errorf("only %d tests passed", len(passed))
	}
}

// behindPgBouncer are the tests that may come out differently when pgbouncer hands each transaction to another connection. Statements, rows and
// tables are the same there, so tests of what methods do are not among them; that each of their statements can be run is for
// TestPostgresMethodsBehindPgBouncer to see.
var behindPgBouncer = slices.Concat(
	// Many at a time: who waits for whom, by locks of rows, by advisory locks and by foreign keys.
	[]string{
		"TestAllowRaces", "TestChangesMeet", "TestCollectorComesFirst", "TestCollectorComesSecond", "TestCommitTwice", "TestCreatedOnce",
		"TestFailures", "TestFirstUse", "TestForeignKeyIsTheLock", "TestFreezeIsAtOnce", "TestGrantIsReplaced", "TestLastAdministrator",
		"TestLateBlobsRaceWithCollection", "TestPagesWhileTagsMove", "TestPullsBesideDeletes", "TestPushesRaceWithCollection",
		"TestQuotaIsExact", "TestReadsSeeAcknowledgedWrites", "TestSettings", "TestUploadsEndOnce",
	},
	// Transactions that fail, are given up, or last for long, with settings of their own.
	[]string{
		"TestCancelledTooLate", "TestCheckUsage", "TestCondition", "TestMoveHoldsKeepNoRows", "TestMoveIsRefused", "TestMoveIsSwept", "TestMoveRows",
		"TestTagLogOfFailures",
	},
	// What depends on the connection, or on who else has one: groups of connections that count, what others have not ended, leases.
	[]string{"TestAudit", "TestAskedAndPausedJobs", "TestJobs", "TestTotals", "TestUsage", "TestUsageOfRandomHistory"},
)

// TestOverPgBouncer runs those with pgbouncer between.
func TestOverPgBouncer(t *testing.T) {
	service.NeedPgBouncer(t)
	t.Parallel()
	passed := over(t, "pgbouncer", "-test.short", "-test.run=^("+strings.Join(behindPgBouncer, "|")+")$")
	for _, name := range behindPgBouncer {
		if !slices.Contains(passed, name) {
			t.Errorf("%s did not pass", name)
		}
	}
}

// TestPostgresMethodsBehindPgBouncer runs every statement in the way that a pooler allows for.
func TestPostgresMethodsBehindPgBouncer(t *testing.T) {
	exercise(t, openDB(t, service.PgBouncer(t, migratedPostgres(t))))
}

// over runs this test binary with another database, and returns the tests that passed.
func over(t *testing.T, database string, flags ...string) (passed []string) {
	t.Helper()
	if testing.Short() {
		flags = append(flags, "-test.short")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(flags, "-test.v", "-test.timeout=20m")...)
	cmd.Env = append(os.Environ(), databaseVariable+"="+database)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range bytes.Lines(out) {
		if rest, ok := bytes.CutPrefix(line, []byte("--- PASS: ")); ok {
			name, _, _ := strings.Cut(string(rest), " ")
			passed = append(passed, name)
		}
	}
	t.Logf("%d tests passed", len(passed))
	return passed
}
