package meta

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
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

// BenchmarkCountedPush measures what it costs a push of a small image that usage is counted. Time on a processor is that of this process, or, with
// PostgreSQL, of the one that serves it.
func BenchmarkCountedPush(b *testing.B) {
	for _, c := range []struct {
		name string
		drop bool
	}{{"not counted", true}, {"counted", false}} {
		b.Run(c.name, func(b *testing.B) {
			var db *DB
			var triggers string
			onProcessor := func() time.Duration { return processorTime(b, os.Getpid()) }
			switch os.Getenv(databaseVariable) {
			case "postgres":
				db = openDB(b, service.Postgres(b).URL+"&pool_max_conns=1")
				var pid int
				must(b, db.queryRow(b.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
				onProcessor = func() time.Duration { return processorTime(b, pid) }
				triggers = `SELECT 'DROP TRIGGER ' || tgname || ' ON ' || CAST(CAST(tgrelid AS regclass) AS text) FROM pg_trigger WHERE tgname LIKE '%\_counted' AND tgname <> 'blob_counted'`
			default:
				db = newDB(b)
				triggers = `SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '%\_counted' ESCAPE '\'`
			}
			if c.drop {
				texts, err := db.names(b.Context(), triggers)
				if must(b, err); len(texts) < 5 {
					b.Fatal(texts)
				}
				for _, text := range texts {
					must(b, db.update(b.Context(), func(t *tx) error { _, err := t.exec(text); return err }))
				}
				defer func() { must(b, db.RecountUsage(context.Background())) }()
			}
			image(b, db, "team/app", "first")
			began := onProcessor()
			var next atomic.Int64
			each(b, 16, func() error {
				i := next.Add(1)
				commit(b, db, "team/app", digestOf(fmt.Sprint("config ", i)), at(0))
				image(b, db, "team/app", i, oci.Tag(fmt.Sprint("t", i)))
				return nil
			})
			b.ReportMetric(float64((onProcessor()-began).Microseconds())/float64(b.N), "processor-µs/op")
		})
	}
}

// processorTime returns how long a process has been on a processor.
func processorTime(b *testing.B, pid int) (sum time.Duration) {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		b.Skip("the system does not tell how long a process has run")
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}
