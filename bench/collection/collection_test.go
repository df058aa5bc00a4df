//go:build bench && linux

// Package collection measures that the cost of a collection follows the garbage, and what pushes and pulls keep of their rate beside it:
//
//	go test -tags bench -timeout 3h -v ./bench/collection
//	go test -tags bench -v ./bench/collection -blobs 100000 -garbage 1000 -beside 5s
//
// The rows of blobs are made by SQL; they have no bytes. No time makes a test fail: it fails if something could not be measured, or was not collected.
package collection

import (
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

	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/test/harness"
)

var (
	blobs   = flag.Int("blobs", 10_000_000, "how many blobs there are")
	garbage = flag.Int("garbage", 10_000, "how many of them no manifest needs")
	beside  = flag.Duration("beside", 20*time.Second, "how long to measure pushes and pulls without a collection")
	clients = flag.Int("clients", 4, "how many clients push, and how many pull")
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// start serves the data in dir for the nth time, where nothing is collected unless somebody asks for it.
func start(t *testing.T, dir string, nth int) (s *harness.Server, metrics string) {
	t.Helper()
	s, err := harness.StartServer(harness.Binary(t), dir, harness.Settings{Env: []string{
		"BERTH_COLLECTION_INTERVAL=0s", "BERTH_COLLECTION_GRACE=1h", "BERTH_LOG_ACCESS=false", "BERTH_METRICS_LISTEN=127.0.0.1:0"}})
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

// fill makes the rows: a repository for every thousand blobs, whose only manifest needs those that are no garbage.
func fill(t *testing.T, file string, n, spare int) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	const each = 1000
	repositories := max(1, n/each)
	for _, text := range []string{
		`PRAGMA synchronous = OFF`,
		`PRAGMA foreign_keys = OFF`, // what refers to what is made right below
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
		`COMMIT`,
	} {
		if _, err := db.Exec(text); err != nil {
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
	s, _ := start(t, dir, 1)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	filled := time.Now()
	fill(t, filepath.Join(dir, "data", "berth.db"), *blobs, *garbage)
	t.Logf("%d blobs were made in %s", *blobs, time.Since(filled).Round(time.Second))
	s, metrics := start(t, dir, 2)
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	l := startLoad(s.URL)
	time.Sleep(time.Second)
	alonePushes, alonePulls := l.rates(func() { time.Sleep(*beside) })
	memory := value(t, metrics, "process_resident_memory_bytes")
	peak := memory
	var got status
	pushes, pulls := l.rates(func() {
		if err := call(s.URL+"/api/v1/collection/run", http.MethodPost, nil); err != nil {
			t.Fatal(err)
		}
		for got.Last == nil {
			time.Sleep(20 * time.Millisecond)
			peak = max(peak, value(t, metrics, "process_resident_memory_bytes"))
			if err := call(s.URL+"/api/v1/collection", http.MethodGet, &got); err != nil {
				t.Fatal(err)
			}
		}
	})
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
	t.Logf("pushes: %.0f/s alone, %.0f/s beside (%.2f); pulls: %.0f/s alone, %.0f/s beside (%.2f)",
		alonePushes, pushes, pushes/alonePushes, alonePulls, pulls, pulls/alonePulls)
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
