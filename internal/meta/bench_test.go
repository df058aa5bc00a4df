package meta

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

const manyTags = 10_000

// largeDB has a repository of many tags, and many repositories of one.
func largeDB(b *testing.B) (db *DB, n NewManifest) {
	b.Helper()
	db = newDB(b)
	n = image(b, db, "team/app", "many")
	for i := range manyTags {
		n.Tags = append(n.Tags, oci.Tag(fmt.Sprintf("v1.%d.%d-build", i/100, i%100)))
	}
	put(b, db, n)
	n.Tags = nil
	return db, n
}

// uncached returns the same database without a cache.
func uncached(b *testing.B, db *DB) *DB {
	b.Helper()
	db, err := OpenReadOnly(b.Context(), pathOf(b, db), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

// BenchmarkPointReads measures what a HEAD or GET of a manifest or blob costs.
func BenchmarkPointReads(b *testing.B) {
	db, n := largeDB(b)
	blob := n.Parsed.Blobs[0].Digest
	for name, db := range map[string]*DB{"cached": db, "uncached": uncached(b, db)} {
		for what, read := range map[string]func(i int64) error{
			"ManifestByTag": func(i int64) error {
				i %= 1000
				_, err := db.Manifest(b.Context(), "team/app", byTag(oci.Tag(fmt.Sprintf("v1.%d.%d-build", i/100, i%100))), true)
				return err
			},
			"ManifestByDigest": func(int64) error {
				_, err := db.Manifest(b.Context(), "team/app", byDigest(n.Digest), true)
				return err
			},
			"Blob": func(int64) error { _, err := db.Blob(b.Context(), "team/app", blob); return err },
		} {
			b.Run(what+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				var i atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := read(i.Add(1)); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}

// BenchmarkGroupCommit measures durable changes of many clients at once.
func BenchmarkGroupCommit(b *testing.B) {
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("CommitBlob/%d", clients), func(b *testing.B) {
			db := newDB(b)
			var i atomic.Int64
			each(b, clients, func() error {
				n := i.Add(1)
				return db.CommitBlob(b.Context(), NewBlob{Repository: "team/app", Digest: digestOf(n), Size: 1, Key: newKey(), Now: at(n)})
			})
		})
		b.Run(fmt.Sprintf("MountBlob/%d", clients), func(b *testing.B) {
			db := newDB(b)
			commit(b, db, "from", digestOf(0), at(0))
			var i atomic.Int64
			each(b, clients, func() error {
				n := i.Add(1)
				return db.MountBlob(b.Context(), oci.Repository(fmt.Sprint("into/", n%1000)), "from", digestOf(0), at(n))
			})
		})
		b.Run(fmt.Sprintf("PutManifestNewTag/%d", clients), func(b *testing.B) {
			db, n := largeDB(b)
			var i atomic.Int64
			each(b, clients, func() error {
				m := document{seed: i.Add(1), blobs: digests(n)}.build(b, "team/app", at(0), oci.Tag(fmt.Sprint("new", i.Load())))
				_, err := db.PutManifest(b.Context(), m)
				return err
			})
		})
		b.Run(fmt.Sprintf("PutTag/%d", clients), func(b *testing.B) { // of a manifest that is there
			db, n := largeDB(b)
			var i atomic.Int64
			each(b, clients, func() error {
				m := n
				m.Tags = []oci.Tag{oci.Tag(fmt.Sprint("new", i.Add(1)))}
				_, err := db.PutManifest(b.Context(), m)
				return err
			})
		})
	}
}

// each runs do b.N times, by so many clients at once.
func each(b *testing.B, clients int, do func() error) {
	b.Helper()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error)
	for range clients {
		go func() {
			for left.Add(-1) >= 0 {
				if err := do(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
}

// BenchmarkLists measures pages of names.
func BenchmarkLists(b *testing.B) {
	db, _ := largeDB(b)
	for i := range 5000 {
		image(b, db, oci.Repository(fmt.Sprintf("team%d/app%d", i/100, i%100)), i)
	}
	tags := func(after string, n int) ([]string, error) { return db.Tags(b.Context(), "team/app", after, n) }
	repositories := func(after string, n int) ([]string, error) { return db.Repositories(b.Context(), after, n) }
	for _, c := range []struct {
		name        string
		read        func(after string, n int) ([]string, error)
		page, total int
	}{
		{"Tags/page of 100", tags, 100, 100},
		{"Tags/page of 2000", tags, 2000, 2000},
		{"Tags/10000 by 2000", tags, 2000, manyTags},
		{"Tags/10000 at once", tags, manyTags, manyTags},
		{"Repositories/page of 100", repositories, 100, 100},
		{"Repositories/5000 by 2000", repositories, 2000, 5001},
		{"Repositories/5000 by 100", repositories, 100, 5001},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				after, total := "", 0
				for total < c.total {
					names, err := c.read(after, c.page)
					if err != nil || len(names) == 0 {
						b.Fatalf("%d names after %q: %v", len(names), after, err)
					}
					total += len(names)
					after = names[len(names)-1]
				}
				if total != c.total {
					b.Fatalf("%d names, want %d", total, c.total)
				}
			}
		})
	}
}

// BenchmarkFacts measures what a decision costs that no cache knows, with 100,000 users, 10,000 robots and 1,000,000
// grants, and beside it with a hundredth of them: with indexes there is hardly a difference.
func BenchmarkFacts(b *testing.B) {
	for _, c := range []struct {
		name string
		of   int // how many times less there is
	}{{"1%", 100}, {"100%", 1}} {
		db := newDB(b)
		users, robots, organizations, teams, grants := 100_000/c.of, 10_000/c.of, 1000/c.of, 5000/c.of, 1_000_000/c.of
		accounts := users + robots
		for _, s := range []struct {
			rows int
			text string
			args []any
		}{
			{organizations, `INSERT INTO organization (id, name, public, creation, created_at) SELECT i, 'org' || i, 0, 'push', 0 FROM n`, nil},
			{accounts, `INSERT INTO account (id, name, robot, source, display_name, mail, admin, disabled, networks, created_at)
				SELECT i, 'account' || i, CASE WHEN i > CAST($3 AS BIGINT) THEN 1 ELSE 0 END, 'local', '', '', 0, 0, '', 0 FROM n`, []any{users}},
			{teams, `INSERT INTO team (id, organization_id, name, created_at) SELECT i, 1 + i % CAST($3 AS BIGINT), 'team' || i, 0 FROM n`, []any{organizations}},
			{accounts, `INSERT INTO team_member (account_id, team_id) SELECT i, 1 + i % CAST($3 AS BIGINT) FROM n`, []any{teams}},
			{teams, `INSERT INTO access_grant (organization_id, team_id, repositories, tags, role, actions, created_at)
				SELECT 1 + i % CAST($3 AS BIGINT), i, '', '', 'reader', 1, 0 FROM n`, []any{organizations}},
			{grants - teams, `INSERT INTO access_grant (organization_id, account_id, repositories, tags, role, actions, created_at)
				SELECT 1 + i % CAST($3 AS BIGINT), 1 + i % CAST($4 AS BIGINT), 'org*/app' || i, '', 'writer', 7, 0 FROM n`, []any{organizations, accounts}},
		} {
			for from := 1; from <= s.rows; from += 20_000 {
				must(b, db.update(b.Context(), func(t *tx) error {
					_, err := t.exec(`WITH RECURSIVE n (i) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < CAST($2 AS BIGINT)) `+s.text,
						append([]any{from, min(from+19_999, s.rows)}, s.args...)...)
					return err
				}))
			}
		}
		must(b, db.Analyze(b.Context()))
		plain := &DB{engine: db.engine, statements: new(atomic.Int64), rows: new(atomic.Int64), dialect: db.dialect, read: db.read}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := int(next.Add(1)) * 7919
					r := oci.Repository(fmt.Sprintf("org%d/app%d", 1+i%organizations, i))
					if _, err := plain.Facts(b.Context(), int64(1+i%accounts), 0, r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
