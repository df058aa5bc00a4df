package move_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/move"
	"github.com/berthregistry/berth/test/service"
)

// generate fills a SQLite database with n images of two layers each, one of them shared, and a tag each.
func generate(b *testing.B, file string, n int) {
	b.Helper()
	db, err := sql.Open("sqlite", file+"?_pragma=foreign_keys(ON)&_pragma=synchronous(OFF)")
	must(b, err)
	defer db.Close()
	numbers := fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, n)
	for _, text := range []string{
		`INSERT INTO setting VALUES ('upload_key', x'00112233')`,
		numbers + `INSERT INTO repository (id, name, created_at, listed) SELECT i, printf('team%d/app%d', i % 100, i), 1700000000000, 1 FROM n WHERE i <= ` + fmt.Sprint(n/100),
		numbers + `INSERT INTO blob SELECT i, printf('sha256:%064x', i), 10000, printf('20260101/00/%032x', i), 1700000000000 FROM n`,
		numbers + `INSERT INTO repository_blob SELECT 1 + i % ` + fmt.Sprint(n/100) + `, i, NULL FROM n`,
		numbers + `INSERT OR IGNORE INTO repository_blob SELECT 1 + i % ` + fmt.Sprint(n/100) + `, 1 + i % 1000, NULL FROM n`,
		numbers + `INSERT INTO manifest SELECT i, 1 + i % ` + fmt.Sprint(n/100) + `, printf('sha256:%064x', i), 'application/vnd.oci.image.manifest.v1+json', 700, '',
			NULL, NULL, 1700000000000, CAST(printf('%700d', i) AS BLOB) FROM n`,
		numbers + `INSERT INTO manifest_blob SELECT i, i, 1 + i % ` + fmt.Sprint(n/100) + ` FROM n`,
		numbers + `INSERT OR IGNORE INTO manifest_blob SELECT i, 1 + i % 1000, 1 + i % ` + fmt.Sprint(n/100) + ` FROM n`,
		numbers + `INSERT INTO tag SELECT 1 + i % ` + fmt.Sprint(n/100) + `, printf('v%d', i), i, 1700000000000 FROM n`,
		numbers + `INSERT INTO tag_log SELECT i, 1 + i % ` + fmt.Sprint(n/100) + `, printf('team%d/app%d', i % 100, i), printf('v%d', i), NULL,
			printf('sha256:%064x', i), 1700000000000, '10.0.0.1', 'push' FROM n`,
	} {
		if _, err := db.Exec(text); err != nil {
			b.Fatalf("%s: %v", text, err)
		}
	}
}

// clock notes how long the steps took.
type clock struct {
	mu    sync.Mutex
	step  move.Step
	total int64
	since time.Time
	took  map[move.Step]time.Duration
	peak  uint64 // bytes of the heap in use
}

func (c *clock) Begin(step move.Step, _, total int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	c.step, c.since, c.total = step, time.Now(), total
}

func (c *clock) end() {
	if !c.since.IsZero() {
		c.took[c.step] += time.Since(c.since)
	}
}

func (c *clock) Add(int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.peak = max(c.peak, m.HeapAlloc)
}

// BenchmarkSwitch copies some 800,000 rows, without bytes, and says how good the estimate of it is.
func BenchmarkSwitch(b *testing.B) {
	const images = 100_000
	dir := b.TempDir()
	file := filepath.Join(dir, "berth.db")
	db, err := meta.Open(b.Context(), file, meta.Options{})
	must(b, err)
	must(b, db.Close())
	generate(b, file, images)
	store, err := fs.Open(filepath.Join(dir, "blobs"), fs.Options{})
	must(b, err)
	for _, to := range []struct {
		name string
		open func() string
	}{
		{"SQLite", func() string { return filepath.Join(b.TempDir(), "berth.db") }},
		{"PostgreSQL", func() string { return service.Postgres(b).URL }},
	} {
		b.Run(to.name, func(b *testing.B) {
			for b.Loop() {
				from, err := meta.OpenReadOnly(b.Context(), file, meta.Options{})
				must(b, err)
				target, err := meta.Open(b.Context(), to.open(), meta.Options{})
				must(b, err)
				c := &clock{took: make(map[move.Step]time.Duration)}
				opts := move.Options{
					From: move.End{DB: from, Blobs: store}, To: move.End{DB: target, Blobs: store}, SameStore: true, Parallel: 4, Progress: c,
				}
				guess, err := move.Copy(b.Context(), opts)
				must(b, err)
				done, err := move.Switch(b.Context(), opts)
				must(b, err)
				done.Release()
				c.end()
				rows := float64(done.Report.Rows)
				b.ReportMetric(rows/c.took[move.Rows].Seconds(), "copied-rows/s")
				b.ReportMetric(rows/c.took[move.Verify].Seconds(), "verified-rows/s")
				b.ReportMetric(guess.Frozen.Seconds()/done.Report.Frozen.Seconds(), "estimate/frozen")
				b.ReportMetric(float64(c.peak)/(1<<20), "heap-MiB")
				must(b, target.Close())
				must(b, from.Close())
			}
		})
	}
}
