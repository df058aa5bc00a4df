//go:build bench && linux

// Package retention measures what a plan of retention over many tags costs, and pages of the history of a tag that has moved often: time, rows that are read, and memory.
//
//	go test -tags bench -timeout 3h -v ./bench/retention -tags-kept 1000000 -moves 1000000
//	go test -tags bench -v ./bench/retention
//
// What is looked at is made by SQL. No time makes a test fail: it fails if the plan is wrong or something could not be measured.
package retention

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/retention"
	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

var (
	tags  = flag.Int("tags-kept", 20_000, "how many tags there are, half of which go")
	moves = flag.Int("moves", 20_000, "how often a tag has moved")
	only  = flag.String("database", "", "sqlite or postgres, both if empty")
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

const app = oci.Repository("team/app")

// database is an open database, and what runs statements on it beside.
type database struct {
	*meta.DB
	postgres bool
	exec     func(text string)
}

func onEach(t *testing.T, do func(*testing.T, *database)) {
	for _, name := range []string{"sqlite", "postgres"} {
		if *only != "" && *only != name {
			continue
		}
		t.Run(name, func(t *testing.T) {
			d := &database{postgres: name == "postgres"}
			source := filepath.Join(t.TempDir(), "berth.db")
			if d.postgres {
				source = service.Postgres(t).URL
			}
			db, err := meta.Open(t.Context(), source, meta.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			d.DB = db
			if d.postgres {
				conn, err := pgx.Connect(t.Context(), source)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close(context.Background()) })
				d.exec = func(text string) {
					if _, err := conn.Exec(t.Context(), text); err != nil {
						t.Fatalf("%.80s: %v", text, err)
					}
				}
			} else {
				beside, err := sql.Open("sqlite", "file:"+source+"?_pragma=synchronous(OFF)&_pragma=busy_timeout(10000)")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { beside.Close() })
				beside.SetMaxOpenConns(1)
				d.exec = func(text string) {
					if _, err := beside.Exec(text); err != nil {
						t.Fatalf("%.80s: %v", text, err)
					}
				}
			}
			do(t, d)
		})
	}
}

// each runs an INSERT for numbers n from 1 on.
func (d *database) each(count int, insert, values string) {
	if d.postgres {
		values = regexp.MustCompile(`DIGEST\((.*?)\)`).ReplaceAllString(values, `'sha256:' || encode(sha256(convert_to('$1' || n, 'UTF8')), 'hex')`)
		values = strings.ReplaceAll(values, "X'7B7D'", `'\x7b7d'::bytea`)
		const batch = 1000 // triggers count all in a few rows, each version of which is kept, and passed over, until the transaction ends
		for n := 1; n <= count; n += batch {
			d.exec(fmt.Sprintf(`INSERT INTO %s SELECT %s FROM generate_series(%d, %d) AS n`, insert, values, n, min(n+batch-1, count)))
		}
		return
	}
	values = regexp.MustCompile(`DIGEST\((.*?)\)`).ReplaceAllString(values, `'sha256:' || lower(hex(randomblob(32)))`)
	d.exec(fmt.Sprintf(`WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < %d) INSERT INTO %s SELECT %s FROM i`, count, insert, values))
}

// measure runs something and prints what it took.
func measure(t *testing.T, what string, db *database, do func(*meta.DB)) {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins anew
		t.Logf("the peak of memory is that of the process: %v", err)
	}
	before := memory(t, "VmRSS")
	var rows atomic.Int64
	began := time.Now()
	do(db.Counting(&rows))
	t.Logf("%s: %s, %d rows, memory %d MiB before and %d MiB at most", what, time.Since(began).Round(time.Millisecond), rows.Load(), before>>10, memory(t, "VmHWM")>>10)
}

// memory returns a line of the process's status, in KiB.
func memory(t *testing.T, name string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no %s", name)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPlan(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		began := time.Now()
		db.exec(`INSERT INTO repository (id, name, created_at) VALUES (1, '` + string(app) + `', 1)`)
		db.each(*tags+1, `blob (id, digest, size, storage_key, created_at)`, `n, DIGEST(blob), 1000, 'k' || n, 1`)
		db.each(*tags+1, `repository_blob (repository_id, blob_id)`, `1, n`)
		db.each(*tags, `manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body)`, `n, 1, DIGEST(manifest), '`+oci.MediaTypeImage+`', 2, '', 1, X'7B7D'`)
		db.each(*tags, `manifest_blob (manifest_id, blob_id, repository_id)`, `n, n, 1`)
		db.each(*tags, `manifest_blob (manifest_id, blob_id, repository_id)`, fmt.Sprintf(`n, %d, 1`, *tags+1)) // one that all share
		db.each(*tags, `tag (repository_id, name, manifest_id, updated_at)`, `1, 't' || n, n, n`)
		if db.postgres {
			db.exec(`ANALYZE`)
		}
		t.Logf("%d tags were made in %s", *tags, time.Since(began).Round(time.Second))
		if err := db.AddRetention(t.Context(), &meta.Retention{Retention: policy.Retention{Organization: "team", Rules: policy.Rules{Newest: *tags / 2}}}); err != nil {
			t.Fatal(err)
		}
		measure(t, fmt.Sprintf("a plan of %d tags", *tags), db, func(with *meta.DB) {
			lines, goes, bytes := 0, 0, int64(0)
			if err := retention.NewPlanner(with, time.Time{}).Plan(t.Context(), "team", func(i retention.Item) error {
				if lines++; i.Action == retention.Drop {
					goes++
					bytes += i.Bytes
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if n := *tags - *tags/2; lines != 2**tags || goes != 2*n || bytes != int64(n)*1002 {
				t.Errorf("%d lines, of which %d go and free %d bytes", lines, goes, bytes)
			}
		})
		const limit = 10_000
		measure(t, fmt.Sprintf("a run with a limit of %d", limit), db, func(with *meta.DB) {
			res, err := retention.Run(t.Context(), with, retention.Options{Limit: limit, Origin: meta.Origin{Actor: "retention", Method: "retention", Trash: true}})
			if err != nil {
				t.Fatal(err)
			}
			if n := int64(min(limit/2, *tags-*tags/2)); res.Tags != n || res.Manifests != n {
				t.Errorf("%+v", res)
			}
		})
	})
}

func TestHistoryOfOneTag(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		db.each(*moves, `tag_log (repository_id, repository, tag, new_digest, at, actor, credential, method)`, `1, '`+string(app)+`', 'latest', DIGEST(move), n, 'me', '', 'push'`)
		if db.postgres {
			db.exec(`ANALYZE`)
		}
		measure(t, fmt.Sprintf("all pages of %d moves", *moves), db, func(with *meta.DB) {
			var longest time.Duration
			var place meta.MovePlace
			total := 0
			for {
				began := time.Now()
				page, err := with.TagMoves(t.Context(), app, "latest", place, 100)
				if err != nil {
					t.Fatal(err)
				}
				longest = max(longest, time.Since(began))
				if len(page) == 0 {
					break
				}
				total += len(page)
				place = meta.MovePlace{At: page[len(page)-1].At, ID: page[len(page)-1].ID}
			}
			if total != *moves {
				t.Errorf("%d moves", total)
			}
			t.Logf("the longest page of 100 took %s", longest.Round(time.Microsecond))
		})
		measure(t, "what the tag was at a time in the middle", db, func(with *meta.DB) {
			if _, err := with.TagAt(t.Context(), app, "latest", time.UnixMilli(int64(*moves/2))); err != nil {
				t.Fatal(err)
			}
		})
	})
}
