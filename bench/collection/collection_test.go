//go:build bench && linux

// Package collection measures that the cost of a collection follows the garbage, and what pushes and pulls keep of their rate beside it. After it, the reference registry
// collects the same garbage of a store that it can bear, where pushes must wait until it has ended:
//
//	go test -tags bench -v ./bench/collection                 # small, in a few minutes
//	go test -tags bench -v ./bench/collection -postgres       # the same on PostgreSQL and an S3 server
//	go test -tags bench -timeout 6h -v ./bench/collection -blobs 10000000 -garbage 10000 -beside 20s -peer-blobs 1000000
//
// Berth's rows are made by SQL; the blobs have no bytes. No time makes a test fail: it fails if something could not be measured, or was not collected.
package collection

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

var (
	blobs    = flag.Int("blobs", 200_000, "how many blobs there are")
	garbage  = flag.Int("garbage", 2_000, "how many of them no manifest needs")
	beside   = flag.Duration("beside", 5*time.Second, "how long to measure pushes and pulls without a collection")
	clients  = flag.Int("clients", 4, "how many clients push, and how many pull")
	postgres = flag.Bool("postgres", false, "measure PostgreSQL and an S3 server, not SQLite and a folder")
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// start serves the data in dir, or the storage that env names, for the nth time. Nothing is collected unless somebody asks for it.
func start(t *testing.T, dir string, nth int, env ...string) (s *harness.Server, metrics string) {
	t.Helper()
	s, err := harness.StartServer(harness.Binary(t), dir, harness.Settings{Env: append([]string{"BERTH_COLLECTION_INTERVAL=0s", "BERTH_COLLECTION_GRACE=1h",
		"BERTH_SCRUB_INTERVAL=0s", "BERTH_LOG_ACCESS=false", "BERTH_METRICS_LISTEN=127.0.0.1:0"}, env...)})
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`msg="serving metrics" address=(\S+)`).FindAllStringSubmatch(s.Log(), -1)
	for range 500 {
		if len(all) >= nth {
			break
		}
		time.Sleep(10 * time.Millisecond)
		all = regexp.MustCompile(`msg="serving metrics" address=(\S+)`).FindAllStringSubmatch(s.Log(), -1)
	}
	if len(all) < nth {
		t.Fatal("the server says nothing of its metrics")
	}
	return s, "http://" + all[len(all)-1][1] + "/metrics"
}

// each is how many blobs a repository has. Its only manifest needs those that are no garbage.
const each = 1000

// fillSQLite makes the rows.
func fillSQLite(t *testing.T, file string, n, spare int) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	repositories := max(1, n/each)
	for _, text := range []string{
		`PRAGMA synchronous = OFF`,
		`PRAGMA foreign_keys = OFF`,    // what refers to what is made right below
		`PRAGMA cache_size = -4000000`, // KiB: digests come in any order, and what leaves the cache is written once for each of them
		`BEGIN`,
		fmt.Sprintf(`WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < %d)
			INSERT INTO repository (id, name, created_at) SELECT n, 'fill/' || n, 1 FROM i`, repositories),
		fmt.Sprintf(`WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < %d)
			INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body)
			SELECT n, n, 'sha256:' || lower(hex(randomblob(32))), 'application/vnd.oci.image.manifest.v1+json', 2, '', 1, X'7B7D' FROM i`, repositories),
		fmt.Sprintf(`WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < %d)
			INSERT INTO blob (id, digest, size, storage_key, created_at)
			SELECT n, 'sha256:' || lower(hex(randomblob(32))), 1000, '20200101/00/' || hex(randomblob(13)), 1 FROM i`, n),
		fmt.Sprintf(`INSERT INTO repository_blob (repository_id, blob_id, unreferenced_since)
			SELECT 1 + id %% %d, id, CASE WHEN id <= %d THEN 1 END FROM blob`, repositories, spare),
		fmt.Sprintf(`INSERT INTO manifest_blob (manifest_id, blob_id, repository_id)
			SELECT 1 + id %% %[1]d, id, 1 + id %% %[1]d FROM blob WHERE id > %d`, repositories, spare),
		`DELETE FROM journal`, // else it is written while the collection is measured
		`COMMIT`,
		`PRAGMA wal_checkpoint(TRUNCATE)`,
	} {
		if _, err := db.Exec(text); err != nil {
			t.Fatalf("%.60s: %v", text, err)
		}
	}
}

// fillPostgres does that in PostgreSQL, without its triggers.
func fillPostgres(t *testing.T, url string, n, spare int) {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	repositories := max(1, n/each)
	for _, text := range []string{
		`SET session_replication_role = replica`,
		`SET synchronous_commit = off`,
		fmt.Sprintf(`INSERT INTO repository (id, name, created_at, listed) SELECT i, 'fill/' || i, 1, 1 FROM generate_series(1, %d) i`, repositories),
		fmt.Sprintf(`INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body)
			SELECT i, i, 'sha256:' || encode(sha256(('m' || i)::bytea), 'hex'), 'application/vnd.oci.image.manifest.v1+json', 2, '', 1, convert_to('{}', 'UTF8')
			FROM generate_series(1, %d) i`, repositories),
		fmt.Sprintf(`INSERT INTO blob (id, digest, size, storage_key, created_at)
			SELECT i, 'sha256:' || encode(sha256(i::text::bytea), 'hex'), 1000, '20200101/00/' || i, 1 FROM generate_series(1, %d) i`, n),
		fmt.Sprintf(`INSERT INTO repository_blob (repository_id, blob_id, unreferenced_since)
			SELECT 1 + i %% %d, i, CASE WHEN i <= %d THEN 1 END FROM generate_series(1, %d) i`, repositories, spare, n),
		fmt.Sprintf(`INSERT INTO manifest_blob (manifest_id, blob_id, repository_id)
			SELECT 1 + i %% %[1]d, i, 1 + i %% %[1]d FROM generate_series(%[2]d, %[3]d) i`, repositories, spare+1, n),
		fmt.Sprintf(`INSERT INTO organization_blob (organization, blob_id, links) SELECT 'fill', i, 1 FROM generate_series(1, %d) i`, n),
		fmt.Sprintf(`INSERT INTO organization_usage (organization, shard, repositories, tags, bytes, deduplicated) VALUES ('fill', 0, %[1]d, 0, %[2]d, %[2]d)`,
			repositories, n*1000+repositories*2),
		fmt.Sprintf(`UPDATE total SET blobs = %d, bytes = %d WHERE shard = 0`, n, n*1000),
		`SELECT setval(pg_get_serial_sequence('repository', 'id'), (SELECT MAX(id) FROM repository))`,
		`SELECT setval(pg_get_serial_sequence('blob', 'id'), (SELECT MAX(id) FROM blob))`,
		`SELECT setval(pg_get_serial_sequence('manifest', 'id'), (SELECT MAX(id) FROM manifest))`,
		`VACUUM ANALYZE`,
	} {
		if _, err := conn.Exec(ctx, text); err != nil {
			t.Fatalf("%.60s: %v", text, err)
		}
	}
}

// value reads a metric without labels.
func value(t *testing.T, metrics, name string) float64 {
	t.Helper()
	resp, err := http.Get(metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// load pushes and pulls small blobs until it is stopped, and counts them.
type load struct {
	pushes, pulls atomic.Int64
	failed        atomic.Pointer[error]
	end           chan struct{}
	all           sync.WaitGroup
}

func startLoad(url string) *load {
	l := &load{end: make(chan struct{})}
	repeat := func(count *atomic.Int64, do func(i int) error) {
		l.all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.end:
					return
				default:
				}
				if err := do(i); err != nil {
					l.failed.Store(&err)
					return
				}
				count.Add(1)
			}
		})
	}
	began := time.Now().UnixNano()
	for c := range *clients {
		repeat(&l.pushes, func(i int) error { return push(url, fmt.Sprintf("%d %d %d", began, c, i)) })
		body := fmt.Sprint("pulled ", c)
		repeat(&l.pulls, func(i int) error {
			if i == 0 {
				if err := push(url, body); err != nil {
					return err
				}
			}
			return ask(http.MethodGet, url+"/v2/load/app/blobs/"+digestOf(body), "", http.StatusOK)
		})
	}
	return l
}

func digestOf(body string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(body))) }

func push(url, body string) error {
	return ask(http.MethodPost, url+"/v2/load/app/blobs/uploads/?digest="+digestOf(body), body, http.StatusCreated)
}

func ask(method, url, body string, status int) error {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return nil
}

// rates returns pushes and pulls in a second while something lasts.
func (l *load) rates(during func()) (pushes, pulls float64) {
	a, b, start := l.pushes.Load(), l.pulls.Load(), time.Now()
	during()
	took := time.Since(start).Seconds()
	return float64(l.pushes.Load()-a) / took, float64(l.pulls.Load()-b) / took
}

type status struct {
	Last *struct {
		Began, Ended         time.Time
		Blobs, Objects, Rows int64
	}
}

func TestCollectionFollowsGarbage(t *testing.T) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 4 * *clients
	dir := t.TempDir()
	var env []string
	fill := func() { fillSQLite(t, filepath.Join(dir, "data", "berth.db"), *blobs, *garbage) }
	if *postgres {
		db, bucket := service.Postgres(t), service.S3(t)
		env = append(bucket.Env(), "BERTH_DATABASE="+db.URL, "BERTH_STORAGE_S3_REDIRECT=off")
		fill = func() { fillPostgres(t, db.URL, *blobs, *garbage) }
	}
	s, _ := start(t, dir, 1, env...)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	filled := time.Now()
	fill()
	unix.Sync() // what was filled in is written before anything is measured
	t.Logf("%d blobs were made in %s", *blobs, time.Since(filled).Round(time.Second))
	s, metrics := start(t, dir, 2, env...)
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	l := startLoad(s.URL)
	time.Sleep(2 * *beside) // what is used is in caches then
	alonePushes, alonePulls := l.rates(func() { time.Sleep(*beside) })
	memory := value(t, metrics, "process_resident_memory_bytes")
	peak := memory
	var got status
	pushes, pulls := l.rates(func() {
		if err := call(s.URL+"/api/v1/collection/run", http.MethodPost, nil); err != nil {
			t.Fatal(err)
		}
		for got.Last == nil {
			time.Sleep(250 * time.Millisecond) // to be asked costs something, too
			peak = max(peak, value(t, metrics, "process_resident_memory_bytes"))
			if err := call(s.URL+"/api/v1/collection", http.MethodGet, &got); err != nil {
				t.Fatal(err)
			}
		}
	})
	laterPushes, laterPulls := l.rates(func() { time.Sleep(*beside) })
	close(l.end)
	l.all.Wait()
	if err := l.failed.Load(); err != nil {
		t.Fatal(*err)
	}
	if got.Last.Blobs != int64(*garbage) || got.Last.Objects != int64(*garbage) {
		t.Errorf("%d blobs and %d objects were collected, expected %d", got.Last.Blobs, got.Last.Objects, *garbage)
	}
	t.Logf("%d of %d blobs collected in %s: %d rows read, %.1f for each", got.Last.Blobs, *blobs, got.Last.Ended.Sub(got.Last.Began), got.Last.Rows,
		float64(got.Last.Rows)/float64(got.Last.Blobs))
	t.Logf("memory: %.1f MiB before, %.1f MiB at most", memory/(1<<20), peak/(1<<20))
	rates := func(what string, before, beside, after float64) {
		t.Logf("%s: %.0f/s before, %.0f/s beside, %.0f/s after it (%.2f)", what, before, beside, after, 2*beside/(before+after))
	}
	rates("pushes", alonePushes, pushes, laterPushes)
	rates("pulls", alonePulls, pulls, laterPulls)
}

// call asks the management API.
func call(url, method string, answer any) error {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}
