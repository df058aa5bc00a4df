package meta

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"github.com/berthregistry/berth/test/service"
)

// TestOverPostgres runs the tests of the package once more, with databases of PostgreSQL.
func TestOverPostgres(t *testing.T) {
	service.NeedPostgres(t)
	t.Parallel()
	over(t, "postgres")
}

// TestOverPgBouncer runs them with pgbouncer between, which hands each transaction to another connection.
func TestOverPgBouncer(t *testing.T) {
	service.NeedPgBouncer(t)
	t.Parallel()
	over(t, "pgbouncer", "-test.short")
}

// over runs this test binary with another database.
func over(t *testing.T, database string, flags ...string) {
	t.Helper()
	if testing.Short() {
		flags = append(flags, "-test.short")
	}
	// What is for SQLite, or for servers of its own, does not care.
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(flags, "-test.v", "-test.timeout=20m", "-test.skip=^Test(SQLite|Over|Postgres)")...)
	cmd.Env = append(os.Environ(), databaseVariable+"="+database)
	out, err := cmd.CombinedOutput()
	passed := bytes.Count(out, []byte("\n--- PASS: "))
	if err != nil || passed < 30 {
		t.Fatalf("%d tests passed: %v\n%s", passed, err, out)
	}
	t.Logf("%d tests passed", passed)
}
