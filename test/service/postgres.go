package service

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The user of every cluster, who may do everything.
const (
	pgUser     = "berth"
	pgPassword = "correct-horse"
)

// Cluster is a running PostgreSQL.
type Cluster struct {
	Port int
	Dir  string // holds data, log and the Unix socket

	bin       string
	as        *syscall.Credential
	end       func()
	databases atomic.Int64
}

// Database is an empty database of a cluster.
type Database struct {
	Cluster *Cluster
	Name    string
	URL     string // with the password
}

// shared is the cluster of the test binary.
var shared = sync.OnceValues(func() (*Cluster, error) { return startCluster() })

// Postgres returns a database of its own in the cluster of the test binary, which is started when it is first asked
// for. Without PostgreSQL the test is skipped, or fails if CI=true.
func Postgres(t testing.TB) *Database {
	t.Helper()
	NeedPostgres(t)
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c.Database(t)
}

// PostgresCopies returns what does the same as Postgres, but each database is a copy of one that fill has been given once, empty. Most tests of
// what needs tables care for what is in them, not for how they come about, and to make them anew is most of the cost of a database.
func PostgresCopies(fill func(url string) error) func(t testing.TB) *Database {
	template := sync.OnceValues(func() (name string, err error) {
		c, err := shared()
		if err != nil {
			return "", err
		}
		name = fmt.Sprint("filled", c.databases.Add(1))
		if err := c.exec("postgres", "CREATE DATABASE "+name); err != nil {
			return "", err
		}
		return name, fill(c.URL(name))
	})
	return func(t testing.TB) *Database {
		t.Helper()
		NeedPostgres(t)
		name, err := template()
		if err != nil {
			t.Fatal(err)
		}
		c, _ := shared()
		return c.database(t, name)
	}
}

// NewPostgres starts a cluster that the test can stop, start and configure. It ends with the test.
func NewPostgres(t testing.TB) *Cluster {
	t.Helper()
	NeedPostgres(t)
	c, err := startCluster()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	return c
}

// NeedPostgres skips the test where PostgreSQL is missing, or fails it if CI=true.
func NeedPostgres(t testing.TB) {
	t.Helper()
	if _, err := postgresFolder(); err != nil {
		need(t, "initdb")
	}
}

// postgresFolder finds the programs where Debian puts them, or in PATH.
func postgresFolder() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err == nil && len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("initdb")
	return filepath.Dir(path), err
}

// settings are those of every cluster. Nothing is synced, because no test switches the machine off; the server
// itself may be killed. Deadlocks are found soon. The locale is not C, so that whoever relies on it is found out.
const settings = `
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
max_wal_size = 128MB
max_connections = 200
deadlock_timeout = 100ms
log_line_prefix = '%m [%p] %d '
`

func startCluster() (*Cluster, error) {
	c, err := newCluster()
	if err != nil {
		return nil, err
	}
	if err := c.initialize(); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// newCluster makes the folder of a cluster, and sees to its end.
func newCluster() (*Cluster, error) {
	bin, err := postgresFolder()
	if err != nil {
		return nil, err
	}
	as, err := unprivileged("postgres")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "berth-postgres-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Dir: dir, bin: bin, as: as}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	// The server does not die with the process that started it, so somebody has to see to it.
	c.end, err = guard(as, `"$1/pg_ctl" -D "$2/data" -m immediate stop >/dev/null 2>&1; rm -rf "$2"`, bin, dir)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) initialize() error {
	password := filepath.Join(c.Dir, "password")
	if err := os.WriteFile(password, []byte(pgPassword+"\n"), 0o644); err != nil { // in a folder that only its owner enters
		return err
	}
	if err := c.run("initdb", "-D", c.data(), "-U", pgUser, "--pwfile", password, "-A", "scram-sha-256",
		"-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en", "--no-sync", "--no-instructions"); err != nil {
		return err
	}
	config, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = config.WriteString(settings)
	if closed := config.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return c.startAnywhere()
}

// startAnywhere starts the server on a free port.
func (c *Cluster) startAnywhere() (err error) {
	for range 5 { // another process can take the port between the choice and its use
		if c.Port, err = freePort(); err != nil {
			return err
		}
		if err = c.start(); err == nil {
			return nil
		}
	}
	return err
}

func (c *Cluster) data() string { return filepath.Join(c.Dir, "data") }

func (c *Cluster) start() error {
	return c.run("pg_ctl", "-D", c.data(), "-l", filepath.Join(c.Dir, "log"), "-o", fmt.Sprintf("-p %d -k %s", c.Port, c.Dir), "-w", "-t", "60", "start")
}

// run runs a program of PostgreSQL.
func (c *Cluster) run(program string, args ...string) error {
	cmd := exec.Command(filepath.Join(c.bin, program), args...)
	cmd.Dir = c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(c.Dir, "log"))
		return fmt.Errorf("%s: %w\n%s\n%s", strings.Join(cmd.Args, " "), err, out.Bytes(), log[max(0, len(log)-2000):])
	}
	return nil
}

// Standby starts a server that follows this one and takes no changes until it is promoted. What is acknowledged
// from then on is on both. It ends with the test.
func (c *Cluster) Standby(t testing.TB) *Cluster {
	t.Helper()
	s, err := c.standby()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	c.Exec(t, "postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
	c.Exec(t, "postgres", "SELECT pg_reload_conf()")
	return s
}

func (c *Cluster) standby() (*Cluster, error) {
	s, err := newCluster()
	if err != nil {
		return nil, err
	}
	if err = s.run("pg_basebackup", "-D", s.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", c.URL("postgres")); err == nil {
		err = s.startAnywhere()
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// Promote makes a standby a server of its own, which takes changes.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	c.Exec(t, "postgres", "SELECT pg_promote()")
}

// Stop stops the server: "fast" cuts all connections, "immediate" is a crash.
func (c *Cluster) Stop(t testing.TB, mode string) {
	t.Helper()
	if err := c.run("pg_ctl", "-D", c.data(), "-m", mode, "-w", "stop"); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server after a Stop, at the same address.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
}

// Restart is Stop and Start.
func (c *Cluster) Restart(t testing.TB, mode string) {
	t.Helper()
	c.Stop(t, mode)
	c.Start(t)
}

// URL returns the address of a database, with the password.
func (c *Cluster) URL(database string) string { return urlOf(c.Port, database) }

func urlOf(port int, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(pgUser, pgPassword), Host: fmt.Sprint("127.0.0.1:", port), Path: "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Exec runs statements in a database, as the superuser.
func (c *Cluster) Exec(t testing.TB, database, sql string, args ...any) {
	t.Helper()
	if err := c.exec(database, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (c *Cluster) exec(database, sql string, args ...any) error {
	ctx := context.Background() // a test's has ended when its cleanup runs
	conn, err := pgx.Connect(ctx, c.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// Database makes an empty database, which goes with the test.
func (c *Cluster) Database(t testing.TB) *Database {
	t.Helper()
	return c.database(t, "template1")
}

// database makes a database that is a copy of another one, which nobody may be connected to. It goes with the test.
func (c *Cluster) database(t testing.TB, template string) *Database {
	t.Helper()
	d := &Database{Cluster: c, Name: fmt.Sprint("test", c.databases.Add(1))}
	d.URL = c.URL(d.Name)
	// Files are copied, not written to the log page by page: a copy is cheap, as nothing is synced.
	c.Exec(t, "postgres", "CREATE DATABASE "+d.Name+" TEMPLATE "+template+" STRATEGY file_copy")
	t.Cleanup(func() {
		// The server may be stopped, and the whole cluster goes anyway.
		_ = c.exec("postgres", "DROP DATABASE IF EXISTS "+d.Name+" WITH (FORCE)")
	})
	return d
}

// Exec runs statements in the database, as the superuser.
func (d *Database) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	d.Cluster.Exec(t, d.Name, sql, args...)
}
