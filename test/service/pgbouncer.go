package service

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// NeedPgBouncer skips the test where PostgreSQL or pgbouncer is missing, or fails it if CI=true.
func NeedPgBouncer(t testing.TB) {
	t.Helper()
	NeedPostgres(t)
	need(t, "pgbouncer")
}

// PgBouncer starts a pgbouncer in front of the database's cluster, in transaction mode, and returns the address of the
// same database behind it. Without pgbouncer the test is skipped, or fails if CI=true.
func PgBouncer(t testing.TB, d *Database) (url string) {
	t.Helper()
	program := need(t, "pgbouncer")
	as, err := unprivileged("postgres")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "berth-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, format string, args ...any) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, format, args...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("users", "%q %q\n", pgUser, pgPassword)
	write("config", `[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s/users
pool_mode = transaction
default_pool_size = 8
max_client_conn = 200
logfile = %s/log
pidfile = %s/pid
`, d.Cluster.Port, port, dir, dir, dir)
	// In the background by itself, so that the guard finds it by its file.
	end, err := guard(as, `kill -QUIT "$(cat "$1/pid")" 2>/dev/null || kill "$(cat "$1/pid")" 2>/dev/null; rm -rf "$1"`, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	c := &Cluster{Dir: dir, bin: filepath.Dir(program), as: as}
	if err := c.run(filepath.Base(program), "-d", filepath.Join(dir, "config")); err != nil {
		t.Fatal(err)
	}
	for range 6000 { // a minute: the machine may be busy
		conn, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", port), time.Second)
		if err == nil {
			conn.Close()
			return urlOf(port, d.Name)
		}
		time.Sleep(10 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("pgbouncer does not listen:\n%s", log)
	return ""
}
