package admin

import (
	"bufio"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

// A change and its entry in the audit log are one: where the entry cannot be written, nothing changes, and what changes has one.
func TestChangesHaveEntries(t *testing.T) {
	for _, test := range routeTests {
		i := slices.IndexFunc(routes, func(r route) bool { return r.method == test.method && r.path == test.route })
		action := routes[i].action
		if action == "" || test.status >= 300 || len(test.may) == 0 || routes[i].right == rightContent || routes[i].right == rightDelete {
			continue // changes of content have entries of their own
		}
		t.Run(test.method+" "+test.route, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "berth.db")
			w := newNode(t, file)
			callers, replace := cast(w)
			by := callers[test.may[0]]
			w.want(200, by, "GET", "account", "", nil) // which notes the sign-in
			side, err := sql.Open("sqlite", file)
			if err != nil {
				t.Fatal(err)
			}
			defer side.Close()
			before := stored(t, side)
			execute(t, side, `CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no entry'); END`)
			path := Prefix + replace.Replace(test.path)
			if a := w.do(by, test.method, path, test.body); a.StatusCode != 500 {
				t.Errorf("without an entry: status %d: %s", a.StatusCode, a.body)
			}
			if after := stored(t, side); !slices.Equal(before, after) {
				t.Errorf("without an entry, this is changed:\n%q\n%q", before, after)
			}
			execute(t, side, `DROP TRIGGER refuse`)
			last := entries(t, w.db)
			if a := w.do(by, test.method, path, test.body); a.StatusCode != test.status {
				t.Fatalf("status %d: %s", a.StatusCode, a.body)
			}
			if after := stored(t, side); slices.Equal(before, after) {
				t.Error("nothing is changed")
			}
			added := entries(t, w.db)[len(last):]
			if len(added) != 1 || added[0].Action != action || !added[0].Allowed || added[0].Actor != by.name || added[0].Credential == "" {
				t.Errorf("the entries are %+v", added)
			}
			if len(added) == 1 && strings.Contains(added[0].Object, "/rotate") {
				t.Errorf("the object is %q, not that of the secret", added[0].Object)
			}
			if !slices.Contains(AuditActions(), action) {
				t.Errorf("%s is none of the actions that are completed", action)
			}
		})
	}
}

func execute(t *testing.T, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, db *meta.DB) []meta.AuditEntry {
	t.Helper()
	all, _, err := db.AuditAfter(t.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// stored returns all rows of a database, those of the audit log aside.
func stored(t *testing.T, db *sql.DB) []string {
	t.Helper()
	var all []string
	for _, table := range rowsOf(t, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('audit', 'sqlite_sequence') ORDER BY name`) {
		name := table[1 : len(table)-1]
		for _, row := range rowsOf(t, db, `SELECT * FROM `+name) {
			all = append(all, name+" "+row)
		}
	}
	return all
}

func rowsOf(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(values))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// The one-time secret makes one administrator, also if two nodes are asked at the same time.
func TestSetupOnceOfNodes(t *testing.T) {
	database := service.Postgres(t).URL
	nodes := []*world{newNode(t, database), newNode(t, database)}
	token, err := nodes[0].h.OfferSetup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	status := make([]int, 6)
	for i := range status {
		wg.Go(func() {
			body := fmt.Sprintf(`{"token":%q,"name":"root%d","password":"a good password"}`, token, i)
			status[i] = nodes[i%2].do(who{}, "POST", Prefix+"setup", body).StatusCode
		})
	}
	wg.Wait()
	slices.Sort(status)
	if !slices.Equal(status, []int{201, 403, 403, 403, 403, 403}) {
		t.Errorf("answers are %v", status)
	}
	if all, err := nodes[0].db.Accounts(t.Context(), false, "", 10); err != nil || len(all) != 1 {
		t.Errorf("%d administrators: %v", len(all), err)
	}
	if all := entries(t, nodes[0].db); len(all) != 1 || all[0].Action != "setup" {
		t.Errorf("entries are %+v", all)
	}
}

// Of two rotations at the same time, the secret of one is left: nobody has one that no later one takes the place of.
func TestRotationOfNodes(t *testing.T) {
	database := service.Postgres(t).URL
	nodes := []*world{newNode(t, database), newNode(t, database)}
	_, root := nodes[0].administrator("root")
	robot := nodes[0].robot("", "ci")
	for range 10 {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if a := nodes[i%2].do(root, "POST", Prefix+"robots/ci/secrets/rotate", `{"overlap":"0s"}`); a.StatusCode != 201 {
					t.Errorf("status %d: %s", a.StatusCode, a.body)
				}
			})
		}
		wg.Wait()
		all, err := nodes[0].db.Credentials(t.Context(), robot.ID)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if n := len(slices.DeleteFunc(all, func(c *meta.Credential) bool { return !c.Expires.IsZero() && c.Expires.Before(now.Add(time.Second)) })); n != 1 {
			t.Fatalf("%d secrets are left", n)
		}
	}
}

// On the data itself an export is as long as the log is, and is not held in memory: it is read while it is made, and ends with its reader.
func TestLocalExport(t *testing.T) {
	w := newWorld(t)
	var all []meta.AuditEntry
	const many = 3*maxPage + 5
	for i := range many {
		all = append(all, meta.AuditEntry{AuditPlace: meta.AuditPlace{At: time.Now()}, Action: "push", Object: fmt.Sprint(i)})
	}
	if err := w.db.AddAudit(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	export := func() io.ReadCloser {
		t.Helper()
		resp, err := (&http.Client{Transport: w.h.Local()}).Get("http://local" + Prefix + "audit/export")
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp.Body
	}
	statements := func() int64 { return w.db.Stats().Statements }
	began := statements()
	whole, err := io.ReadAll(export())
	if n := strings.Count(string(whole), "\n"); err != nil || n != many {
		t.Errorf("%d lines, %v", n, err)
	}
	pages := statements() - began
	began = statements()
	part := export()
	if _, err := bufio.NewReader(part).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if n := statements() - began; n > pages/2 {
		t.Errorf("for the first line, %d statements of %d were run", n, pages)
	}
	if err := part.Close(); err != nil {
		t.Error(err)
	}
	if n := statements() - began; n > pages/2 {
		t.Errorf("for an export that nobody reads, %d statements of %d were run", n, pages)
	}
}
