package meta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// mustOpen opens a database that the test closes.
func mustOpen(t *testing.T, source string, opts Options) *DB {
	t.Helper()
	db, err := Open(t.Context(), source, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestPostgresOpenFails(t *testing.T) {
	d := service.Postgres(t)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	const secret = "hunter2secret"
	at := func(change func(u *url.URL)) string {
		u, err := url.Parse(d.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("berth", secret)
		change(u)
		return u.String()
	}
	for name, c := range map[string]struct {
		url  string
		want []string
		err  error
	}{
		"nobody listens":        {at(func(u *url.URL) { u.Host = nobody.Addr().String() }), []string{nobody.Addr().String(), "refused"}, ErrUnavailable},
		"wrong password":        {at(func(*url.URL) {}), []string{"password authentication failed", d.Name}, nil},
		"no such database":      {strings.Replace(d.URL, d.Name, "none", 1), []string{`"none" does not exist`}, nil},
		"wrong port":            {at(func(u *url.URL) { u.Host = "localhost:99999" }), []string{"cannot be read"}, nil},
		"wrong setting":         {at(func(u *url.URL) { u.RawQuery = "sslmode=perhaps" }), []string{"cannot be read", "sslmode"}, nil},
		"wrong timeout":         {at(func(u *url.URL) { u.RawQuery = "connect_timeout=soon" }), []string{"cannot be read", "soon"}, nil},
		"slash":                 {"postgres://berth:" + secret + "/x@localhost/db", []string{"%2F"}, nil},
		"question mark":         {"postgres://berth:" + secret + "?x@localhost/db", []string{"%3F"}, nil},
		"question mark, digits": {"postgres://berth:12?" + secret + "@localhost/db", []string{"%3F"}, nil},
		"hash":                  {"postgres://berth:" + secret + "#x@localhost/db", []string{"%23"}, nil},
		"at":                    {"postgres://berth:x@" + secret + "@localhost/db", []string{"%40"}, nil},
		"percent":               {"postgres://berth:" + secret + "%zz@localhost/db", []string{"%25"}, nil},
		"space":                 {"postgres://berth:" + secret + " x@localhost:port/db", []string{"cannot be read"}, nil},
		"in a setting":          {"postgres://localhost/db?user=berth&connect_timeout=x&password=" + secret, []string{"cannot be read"}, nil},
		"no host":               {"postgres://berth:" + secret + "@:x/db", []string{"cannot be read"}, nil},
	} {
		for _, open := range []func(context.Context, string, Options) (*DB, error){Open, OpenReadOnly} {
			limit := time.Minute
			if c.err != nil {
				limit = 5 * time.Second // it is waited for
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			db, err := open(ctx, c.url, Options{})
			cancel()
			if err == nil {
				t.Errorf("%s: it was opened", name)
				db.Close()
				continue
			}
			for _, s := range c.want {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%s: %q does not say %q", name, err, s)
				}
			}
			if strings.Contains(fmt.Sprintf("%s %v %+v", err, err, err), secret) || strings.Contains(fmt.Sprintf("%#v", err), secret) {
				t.Errorf("%s: the password is in %#v", name, err)
			}
			if errors.Is(err, ErrUnavailable) != (c.err != nil) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := OpenReadOnly(t.Context(), d.URL, Options{}); err == nil || !strings.Contains(err.Error(), "start the server once") {
		t.Errorf("an empty database: %v", err)
	}
}

// A password may hold anything, if it is written as a URL wants it.
func TestPostgresOddPassword(t *testing.T) {
	d := service.Postgres(t)
	const odd = `a/b?c#d@e:f%g h'i"j\k&l=m`
	d.Exec(t, `DROP ROLE IF EXISTS odd`)
	d.Exec(t, `CREATE ROLE odd LOGIN PASSWORD '`+strings.ReplaceAll(odd, "'", "''")+`'`)
	d.Exec(t, `GRANT ALL ON SCHEMA public TO odd`)
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("odd", odd)
	db, err := Open(t.Context(), u.String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	image(t, db, "a", "a", "t") // a user that may do nothing else
	audit(t, db)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	d.Exec(t, `DROP OWNED BY odd`)
	d.Exec(t, `DROP ROLE odd`)
}

func TestPostgresReadOnly(t *testing.T) {
	d := migratedPostgres(t)
	db := openDB(t, d.URL)
	n := image(t, db, "a", 1, "t")
	reader, err := OpenReadOnly(t.Context(), d.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if m, err := reader.Manifest(t.Context(), "a", byTag("t"), true); err != nil || m.Digest != n.Digest {
		t.Errorf("%+v, %v", m, err)
	}
	wantErr(t, reader.SetSetting(t.Context(), "a", nil), errReadOnly)
	if _, err := reader.read.Exec(`DELETE FROM tag`); err == nil {
		t.Error("a reader can write")
	}
}

// Nodes that start at the same time make one schema.
func TestPostgresOpenTogether(t *testing.T) {
	d := service.Postgres(t)
	names, err := migrationNames(steps("postgres"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for range 2 {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				db, err := Open(t.Context(), d.URL, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if n := count(t, db, "schema_migration"); n != len(names) {
					t.Errorf("%d migrations are noted", n)
				}
				db.Close()
			})
		}
		all.Wait()
	}
}

// One node is upgraded while others serve. An old one can work with a newer schema as far as that says so.
func TestPostgresRollingUpgrade(t *testing.T) {
	d := service.Postgres(t)
	connect := func() *pgx.Conn {
		t.Helper()
		c, err := pgx.Connect(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	one := connect()
	old := fstest.MapFS{"0001.sql": migration(`CREATE TABLE one (a BIGINT)`)}
	expanded := fstest.MapFS{"0001.sql": old["0001.sql"], "0002.sql": migration("-- compatible: 1\nALTER TABLE one ADD COLUMN b BIGINT; INSERT INTO one VALUES (1, 2)")}
	contracted := fstest.MapFS{"0001.sql": old["0001.sql"], "0002.sql": expanded["0002.sql"], "0003.sql": migration("-- compatible: 2\nALTER TABLE one DROP COLUMN a")}
	must := func(c *pgx.Conn, files fs.FS) {
		t.Helper()
		if err := migratePostgres(t.Context(), c, files); err != nil {
			t.Error(err)
		}
	}
	must(one, old)
	// The newer node waits while somebody uses the table for long, and keeps nobody waiting for ever.
	reading, err := one.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reading.Exec(t.Context(), `SELECT * FROM one`); err != nil {
		t.Fatal(err)
	}
	var upgrades sync.WaitGroup
	for range 3 {
		c := connect()
		upgrades.Go(func() { must(c, expanded) })
	}
	time.Sleep(100 * time.Millisecond)
	must(connect(), old) // an old node that starts meanwhile waits for nobody
	if err := reading.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	upgrades.Wait()
	must(one, old) // and can do with the new schema
	var b int
	if err := one.QueryRow(t.Context(), `SELECT b FROM one`).Scan(&b); err != nil || b != 2 {
		t.Errorf("%d, %v", b, err)
	}
	must(one, contracted)
	must(one, expanded)
	if err := migratePostgres(t.Context(), one, old); err == nil || !strings.Contains(err.Error(), "version 3, which works with a Berth that knows version 2") {
		t.Errorf("a node that is too old: %v", err)
	}
	// All or nothing.
	broken := fstest.MapFS{"0004.sql": migration(`CREATE TABLE four (a BIGINT)`), "0005.sql": migration(`CREATE TABLE five (a BIGINT); INSERT INTO nowhere VALUES (1)`)}
	for name, file := range contracted {
		broken[name] = file
	}
	if err := migratePostgres(t.Context(), one, broken); err == nil || !strings.Contains(err.Error(), "0005.sql") {
		t.Errorf("error does not name the migration: %v", err)
	}
	must(one, contracted)
	// Who is told to stop does not wait for the lock.
	holder, err := one.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), migrationLock); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	broken["0005.sql"] = migration(`CREATE TABLE five (a BIGINT)`)
	if err := migratePostgres(ctx, connect(), broken); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	must(connect(), broken)
}

func TestPostgresUpgradeToAccounts(t *testing.T) {
	d := service.Postgres(t)
	c, err := pgx.Connect(t.Context(), d.URL)
	must(t, err)
	defer c.Close(context.Background())
	older := olderSteps(t, "postgres", "0001_registry.sql")
	must(t, migratePostgres(t.Context(), c, older))
	for _, s := range beforeAccounts {
		if _, err := c.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	db := openDB(t, d.URL)
	wantAfterAccounts(t, db)
	must(t, migratePostgres(t.Context(), c, older)) // an old node can start, and goes on
	if _, err := c.Exec(t.Context(), `INSERT INTO upload (id, repository, storage_key, size, algorithm, created_at, updated_at) VALUES ('v', 'r', 'l', 0, 'sha256', 0, 0)`); err != nil {
		t.Error(err)
	}
}

// Each migration for PostgreSQL brings about what the ones for SQLite do: the same tables and columns.
func TestPostgresSchemaIsTheSame(t *testing.T) {
	columns := func(db *DB, query string) []string {
		t.Helper()
		found, err := db.names(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	lite, err := Open(t.Context(), t.TempDir()+"/berth.db", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer lite.Close()
	want := columns(lite, `SELECT m.name || ' ' || c.name AS name FROM sqlite_schema m, pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY name`)
	got := columns(openDB(t, service.Postgres(t).URL), `SELECT table_name || ' ' || column_name AS name FROM information_schema.columns
		WHERE table_schema = current_schema() ORDER BY table_name COLLATE "C", column_name COLLATE "C"`)
	got = slices.DeleteFunc(got, func(s string) bool { return strings.HasSuffix(s, " shard") || s == "rights_version version" })
	if !slices.Equal(got, want) {
		t.Errorf("PostgreSQL has\n%v, SQLite\n%v", got, want)
	}
}

// looked is what of a plan says that a whole table was looked at.
var looked = regexp.MustCompile(`Seq Scan on (\w+)`)

// Every statement finds its rows by an index, if PostgreSQL thinks that it is worth it.
func TestPostgresStatementsUseIndexes(t *testing.T) {
	db := openDB(t, mustQuery(t, mustQuery(t, migratedPostgres(t).URL, "pool_max_conns", "1"), "statement_cache_capacity", "10000")) // so that none is dropped
	exercise(t, db)
	type statement struct {
		name, text string
		args       int
	}
	var found []statement
	rows, err := db.read.Query(`SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var s statement
		if err := rows.Scan(&s.name, &s.text, &s.args); err != nil {
			t.Fatal(err)
		}
		found = append(found, s)
	}
	if err := rows.Err(); err != nil || len(found) < 50 {
		t.Fatalf("%d statements, %v", len(found), err)
	}
	for _, set := range []string{`SET enable_seqscan = off`, `SET plan_cache_mode = force_generic_plan`, `DISCARD PLANS`} { // some were planned before
		if _, err := db.read.Exec(set); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range found {
		if !regexp.MustCompile(`^(SELECT|INSERT|UPDATE|DELETE)`).MatchString(s.text) || unplanned.MatchString(s.text) || s.text == anyAccount || strings.Contains(s.text, " FROM pg_") {
			continue
		}
		call := `EXPLAIN EXECUTE "` + s.name + `"`
		if s.args > 0 {
			call += "(NULL" + strings.Repeat(", NULL", s.args-1) + ")"
		}
		rows, err := db.read.Query(call)
		if err != nil {
			t.Errorf("%s: %v", s.text, err)
			continue
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			if m := looked.FindStringSubmatch(line); m != nil && !slices.Contains(scanned, m[1]) {
				t.Errorf("%s\nlooks at every row: %s", s.text, line)
			}
		}
		if err := rows.Err(); err != nil {
			t.Errorf("%s: %v", s.text, err)
		}
	}
}

// A foreign key is looked up from its end, too, when what it refers to is deleted.
func TestPostgresForeignKeysHaveIndexes(t *testing.T) {
	db := openDB(t, migratedPostgres(t).URL)
	missing, err := db.names(t.Context(), `SELECT conrelid::regclass || ' ' || conname AS name FROM pg_constraint c WHERE contype = 'f' AND NOT EXISTS (
		SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid
		AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) = (SELECT '(' || attname || ' IS NOT NULL)' FROM pg_attribute WHERE attrelid = c.conrelid AND attnum = c.conkey[1]))
		AND (SELECT array_agg(k ORDER BY k) FROM unnest(c.conkey) k) = (SELECT array_agg(k ORDER BY k) FROM unnest((i.indkey::int2[])[0:cardinality(c.conkey) - 1]) k))`)
	if err != nil || len(missing) > 0 {
		t.Errorf("%v, %v", missing, err)
	}
	if n := count(t, db, "pg_constraint WHERE contype = 'f'"); n < 8 {
		t.Errorf("only %d foreign keys", n)
	}
}

// mustQuery adds a setting to a URL.
func mustQuery(t testing.TB, source, name, value string) string {
	t.Helper()
	u, err := url.Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// How many statements requests cost. A pull of a manifest or blob is one, outside of a transaction: one round trip.
func TestPostgresStatementsOfRequests(t *testing.T) {
	db := openDB(t, migratedPostgres(t).URL)
	ctx := t.Context()
	n := image(t, db, "r", "a", "t")
	blob := digests(n)[0]
	used := func(what string, want int64, do func() error) {
		t.Helper()
		before := db.Stats().Statements
		if err := do(); err != nil {
			t.Fatal(err)
		}
		got := db.Stats().Statements - before
		t.Logf("%s: %d statements", what, got)
		if want > 0 && got != want {
			t.Errorf("%s: %d statements, want %d", what, got, want)
		}
	}
	xacts := func() (n int) {
		t.Helper()
		if err := db.read.QueryRow(`SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 2 { // whether it was asked for before or not
		used("GET manifest by tag", 1, func() error { _, err := db.Manifest(ctx, "r", byTag("t"), true); return err })
		used("HEAD manifest by tag", 1, func() error { _, err := db.Manifest(ctx, "r", byTag("t"), false); return err })
		used("GET manifest by digest", 1, func() error { _, err := db.Manifest(ctx, "r", byDigest(n.Digest), true); return err })
		used("GET blob", 1, func() error { _, err := db.Blob(ctx, "r", blob); return err })
	}
	used("push of a blob", 0, func() error {
		return db.CommitBlob(ctx, NewBlob{Repository: "r", Digest: digestOf("new"), Size: 1, Key: newKey(), Now: at(1)})
	})
	used("mount of a blob", 0, func() error { return db.MountBlob(ctx, "s", "r", blob, at(1)) })
	blobs := []oci.Digest{blob}
	for i := range 9 {
		blobs = append(blobs, digestOf(i))
		commit(t, db, "r", digestOf(i), at(1))
	}
	m := document{seed: "ten", blobs: blobs}.build(t, "r", at(1), "ten")
	used("push of a manifest of ten blobs", 0, func() error { _, err := db.PutManifest(ctx, m); return err })
	used("push of a tag", 0, func() error { m.Tags = []oci.Tag{"again"}; _, err := db.PutManifest(ctx, m); return err })
	if n := xacts(); n != 0 {
		t.Errorf("%d transactions were left open", n)
	}
}

// Behind pgbouncer statements are not prepared by name, and settings last for a transaction.
func TestPostgresBehindPgBouncer(t *testing.T) {
	d := service.Postgres(t)
	for name, c := range map[string]struct {
		url    string
		pooled bool
		mode   pgx.QueryExecMode
	}{
		"direct":    {d.URL, false, pgx.QueryExecModeCacheStatement},
		"pgbouncer": {service.PgBouncer(t, d), true, pgx.QueryExecModeCacheDescribe},
		"as told":   {mustQuery(t, service.PgBouncer(t, d), "default_query_exec_mode", "exec"), true, pgx.QueryExecModeExec},
	} {
		db := mustOpen(t, c.url, Options{Timeout: 7 * time.Second})
		p := db.engine.(*postgres)
		if got := p.pool.Config().ConnConfig.DefaultQueryExecMode; got != c.mode {
			t.Errorf("%s: mode %s", name, got)
		}
		image(t, db, oci.Repository(strings.ReplaceAll(name, " ", "")), name, "t")
		var limit, idle string
		if err := db.update(t.Context(), func(x *tx) error {
			return x.queryRow(`SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')`).Scan(&limit, &idle)
		}); err != nil || limit != "7s" || idle != "7s" {
			t.Errorf("%s: %s, %s, %v", name, limit, idle, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	side, err := pgx.Connect(t.Context(), service.PgBouncer(t, d))
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close(context.Background())
	var limit string
	if err := side.QueryRow(t.Context(), `SELECT current_setting('statement_timeout')`, pgx.QueryExecModeExec).Scan(&limit); err != nil || limit != "0" {
		t.Errorf("a stranger's statements end after %s, %v", limit, err)
	}
}

// The pool has a limit. Who waits for long is told so.
func TestPostgresPoolIsBounded(t *testing.T) {
	db := mustOpen(t, service.Postgres(t).URL, Options{Connections: 2, Timeout: 300 * time.Millisecond})
	held := make(chan struct{})
	leave := make(chan struct{})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if err := db.update(t.Context(), func(x *tx) error {
				held <- struct{}{}
				<-leave
				return nil
			}); !errors.Is(err, ErrUnavailable) { // its time is over, too
				t.Error(err)
			}
		})
	}
	<-held
	<-held
	if err := db.Check(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a free connection: %v", err)
	}
	if s := db.Stats(); s.Limit != 2 || s.Open != 2 || s.InUse != 2 {
		t.Errorf("%+v", s)
	}
	close(leave)
	all.Wait()
	for i := 0; ; i++ {
		if err := db.Check(t.Context()); err == nil {
			break
		} else if i == 100 {
			t.Fatal(err)
		}
	}
	if s := db.Stats(); s.Waits == 0 || s.InUse != 0 {
		t.Errorf("%+v", s)
	}
}
