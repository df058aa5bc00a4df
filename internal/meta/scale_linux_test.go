package meta

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// rightsScale says how much there is that rights rest on.
type rightsScale struct{ users, robots, organizations, teams, grants int }

// fullRights is what a large company may have.
var fullRights = rightsScale{users: 100_000, robots: 10_000, organizations: 1000, teams: 5000, grants: 1_000_000}

// part returns so many times less.
func (s rightsScale) part(of int) rightsScale {
	return rightsScale{s.users / of, s.robots / of, s.organizations / of, s.teams / of, s.grants / of}
}

func (s rightsScale) accounts() int { return s.users + s.robots }

// question is what a decision is about.
type question struct {
	account, credential int64
	repository          oci.Repository
}

// question returns that of a number. All accounts have their turn, in no order. Each has a repository, its team has a grant there, and
// of its own grants, which are nine or so, one is for that repository.
func (s rightsScale) question(i int) question {
	account := 1 + i*7919%s.accounts()
	return question{int64(account), int64(account), oci.Repository(fmt.Sprintf("org%d/app%d", 1+(account-1)%s.organizations, account))}
}

// fill makes the rows, each account's with one credential and one repository.
func (s rightsScale) fill(tb testing.TB, db *DB) {
	tb.Helper()
	bytes := "BLOB"
	if db.postgres {
		bytes = "BYTEA"
	}
	for _, table := range []struct {
		rows int
		text string
		args []any
	}{
		{s.organizations, `INSERT INTO organization (id, name, public, creation, created_at) SELECT i, 'org' || i, 0, 'push', 0 FROM n`, nil},
		{s.accounts(), `INSERT INTO repository (name, created_at, listed) SELECT 'org' || (1 + (i - 1) % CAST($3 AS BIGINT)) || '/app' || i, 0, 1 FROM n`, []any{s.organizations}},
		{s.accounts(), `INSERT INTO account (id, name, robot, source, display_name, mail, admin, disabled, networks, created_at)
			SELECT i, 'account' || i, CASE WHEN i > CAST($3 AS BIGINT) THEN 1 ELSE 0 END, 'local', '', '', 0, 0, '', 0 FROM n`, []any{s.users}},
		{s.accounts(), `INSERT INTO credential (id, account_id, kind, name, hash, actions, repositories, networks, created_at, used_from)
			SELECT i, i, 'token', '', CAST('hash' || i AS ` + bytes + `), 15, '', '', 0, '' FROM n`, nil},
		{s.teams, `INSERT INTO team (id, organization_id, name, created_at) SELECT i, 1 + (i - 1) % CAST($3 AS BIGINT), 'team' || i, 0 FROM n`, []any{s.organizations}},
		{s.accounts(), `INSERT INTO team_member (account_id, team_id) SELECT i, 1 + (i - 1) % CAST($3 AS BIGINT) FROM n`, []any{s.teams}},
		{s.teams, `INSERT INTO access_grant (organization_id, team_id, repositories, tags, role, actions, created_at)
			SELECT 1 + (i - 1) % CAST($3 AS BIGINT), i, '', '', 'reader', 1, 0 FROM n`, []any{s.organizations}},
		{s.grants - s.teams, `INSERT INTO access_grant (organization_id, account_id, repositories, tags, role, actions, created_at)
			SELECT 1 + (i - 1) % CAST($3 AS BIGINT), 1 + (i - 1) % CAST($4 AS BIGINT), 'org*/app' || i, '', 'writer', 7, 0 FROM n`, []any{s.organizations, s.accounts()}},
	} {
		const batch = 20_000
		for from := 1; from <= table.rows; from += batch {
			must(tb, db.update(tb.Context(), func(t *tx) error {
				_, err := t.exec(`WITH RECURSIVE n (i) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < CAST($2 AS BIGINT)) `+table.text,
					append([]any{from, min(from+batch-1, table.rows)}, table.args...)...)
				return err
			}))
		}
	}
	must(tb, db.Analyze(tb.Context()))
}

// rightsDB is a database with rights in it, without the lookup cache and with one connection to read.
type rightsDB struct {
	*DB
	rightsScale
}

// newRightsDB makes one: of PostgreSQL, or of SQLite if the source is empty.
func newRightsDB(tb testing.TB, source string, scale rightsScale) rightsDB {
	tb.Helper()
	if source == "" {
		source = filepath.Join(tb.TempDir(), "berth.db")
	} else {
		source = mustQuery(tb, source, "pool_max_conns", "1")
	}
	db, err := Open(tb.Context(), source, Options{})
	must(tb, err)
	tb.Cleanup(func() { db.Close() })
	scale.fill(tb, db)
	if db.embedded() {
		db.read.SetMaxOpenConns(1)
	}
	return rightsDB{&DB{engine: db.engine, statements: new(atomic.Int64), rows: new(atomic.Int64), dialect: db.dialect, read: db.read}, scale}
}

// lookups are the statements that rights are read by.
var lookups = []struct {
	name string
	ask  func(ctx context.Context, db *DB, q question) (*access.Facts, error)
}{
	{"rights", func(ctx context.Context, db *DB, q question) (*access.Facts, error) {
		return db.Facts(ctx, q.account, q.credential, q.repository)
	}},
	{"rights and manifest", func(ctx context.Context, db *DB, q question) (*access.Facts, error) {
		f, _, err := db.FactsAndManifest(ctx, q.account, q.credential, q.repository, byTag("latest"))
		return f, err
	}},
}

// reads answers so many questions, and returns how much of the database was looked at for each: rows with PostgreSQL, pages with SQLite. It
// fails if it took another number of statements than one.
func (db rightsDB) reads(t *testing.T, lookup int, questions int) float64 {
	t.Helper()
	total := 0
	for i := range questions {
		q := db.question(i)
		ask := func() {
			before := db.statements.Load()
			f, err := lookups[lookup].ask(t.Context(), db.DB, q)
			must(t, err)
			if n := db.statements.Load() - before; n != 1 {
				t.Fatalf("%d statements", n)
			}
			if d := f.Decide(access.Question{Action: access.Push}); !d.Allowed || len(f.Grants) < 8 || len(f.Grants) > 12 {
				t.Fatalf("%+v: %s, with %d grants", q, d.Rule(), len(f.Grants))
			}
		}
		if db.embedded() {
			total += db.pages(t, ask)
			continue
		}
		if i == 0 {
			for range 10 { // PostgreSQL plans the first ones anew each time
				ask()
			}
		}
		total += db.rows(t, lookups[lookup].name == "rights", q)
	}
	return float64(total) / float64(questions)
}

// pages returns how many pages SQLite reads while do runs, with none remembered.
func (db rightsDB) pages(t *testing.T, do func()) int {
	t.Helper()
	runtime.LockOSThread() // whose reads are counted; the driver makes them in the goroutine that asks
	defer runtime.UnlockOSThread()
	do() // prepares the statement
	if _, err := db.read.Exec(`PRAGMA shrink_memory`); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		text, err := os.ReadFile("/proc/thread-self/io")
		if err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		_, rest, _ := strings.Cut(string(text), "syscr: ")
		n, _, _ := strings.Cut(rest, "\n")
		reads, err := strconv.Atoi(n)
		must(t, err)
		return reads
	}
	first := count()
	second := count() // reading the counts counts
	do()
	return count() - second - (second - first)
}

// rows returns how many rows PostgreSQL looks at to answer a question.
func (db rightsDB) rows(t *testing.T, alone bool, q question) int {
	t.Helper()
	var name string
	must(t, db.read.QueryRow(`SELECT name FROM pg_prepared_statements WHERE statement LIKE '%LEFT JOIN credential c%' AND (statement LIKE '%LEFT JOIN manifest%') <> $1
		AND statement NOT LIKE '%pg_prepared_statements%'`, alone).Scan(&name))
	args := fmt.Sprintf("%d, %d, '%s', '%s'", q.account, q.credential, access.Organization(q.repository), q.repository)
	if !alone {
		args += ", 'latest', 65536"
	}
	var plan []byte
	must(t, db.read.QueryRow(`EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE "`+name+`" (`+args+`)`).Scan(&plan))
	type node struct {
		Kind    string  `json:"Node Type"`
		Rows    float64 `json:"Actual Rows"`
		Removed float64 `json:"Rows Removed by Filter"`
		Loops   float64 `json:"Actual Loops"`
		Plans   []node
	}
	var plans []struct{ Plan node }
	must(t, json.Unmarshal(plan, &plans))
	rows := 0.0
	var walk func(n node)
	walk = func(n node) {
		if strings.HasSuffix(n.Kind, "Scan") && n.Kind != "Bitmap Index Scan" { // whose rows the scan above it has, too
			rows += (n.Rows + n.Removed) * n.Loops
		}
		for _, p := range n.Plans {
			walk(p)
		}
	}
	walk(plans[0].Plan)
	return int(rows)
}

// What is read for a decision depends on what the account has, and not on how much there is of anything.
func testReadsAreBounded(t *testing.T, source func() string, of int) {
	small, large := newRightsDB(t, source(), fullRights.part(10*of)), newRightsDB(t, source(), fullRights.part(of))
	for i, l := range lookups {
		few, many := small.reads(t, i, 20), large.reads(t, i, 20)
		t.Logf("%s: %.1f reads of a small database, %.1f of one ten times as large", l.name, few, many)
		// PostgreSQL goes through tables that are as short as that of organizations, and trees grow a little.
		if few < 5 || many > 3*few {
			t.Errorf("%s: %.1f reads of a small database, %.1f of one ten times as large", l.name, few, many)
		}
	}
}

func TestSQLiteReadsOfRightsAreBounded(t *testing.T) {
	testReadsAreBounded(t, func() string { return "" }, 50)
}

func TestPostgresReadsOfRightsAreBounded(t *testing.T) {
	testReadsAreBounded(t, func() string { return service.Postgres(t).URL }, 10)
}
