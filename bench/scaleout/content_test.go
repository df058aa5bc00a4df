//go:build bench && linux

package scaleout

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/test/service"
)

// Of each 100,000 repositories' content; the smaller registry has a hundredth.
const (
	repositories = 100_000
	tagsEach     = 100 // 10,000,000 tags
	imagesEach   = 10  // a manifest each
	blobsEach    = 300 // 30,000,000 links; each image needs 30
	repositorySh = 10  // repositories that share a blob: 3,000,000 blobs
)

// fill makes the content of n repositories by SQL, without looking at foreign keys: their indexes are what is
// measured, and they hold by construction.
func fill(t *testing.T, url string, n int) {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	start := time.Now()
	blobs := n / repositorySh * blobsEach
	for _, s := range []string{
		`SET session_replication_role = replica`,
		`SET synchronous_commit = off`,
		`SET maintenance_work_mem = '1GB'`,
		// Indexes are made faster at the end.
		`CREATE TEMP TABLE later AS SELECT indexname AS name, indexdef AS text FROM pg_indexes
			WHERE schemaname = current_schema() AND indexname NOT IN (SELECT conname FROM pg_constraint)`,
		`DO $$ DECLARE i RECORD; BEGIN FOR i IN SELECT * FROM later LOOP EXECUTE format('DROP INDEX %I', i.name); END LOOP; END $$`,
		fmt.Sprintf(`INSERT INTO repository (id, name, created_at, listed) SELECT i, 'org' || (i - 1) / %d %% 1000 || '/app' || i, 0, 1 FROM generate_series(1, %d) i`,
			repositorySh, n),
		fmt.Sprintf(`INSERT INTO blob (id, digest, size, storage_key, created_at)
			SELECT i, 'sha256:' || encode(sha256(i::text::bytea), 'hex'), 1000, '20260101/00/' || i, 0 FROM generate_series(1, %d) i`, blobs),
		// Repositories come in groups that share their blobs and their organization.
		fmt.Sprintf(`INSERT INTO repository_blob (repository_id, blob_id)
			SELECT r, (r - 1) / %[1]d * %[2]d + b FROM generate_series(1, %[3]d) r, generate_series(1, %[2]d) b`, repositorySh, blobsEach, n),
		fmt.Sprintf(`INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body)
			SELECT (r - 1) * %[1]d + m, r, 'sha256:' || encode(sha256((r || ' ' || m)::bytea), 'hex'), '%[2]s', 500, '', 0, convert_to(repeat('x', 500), 'UTF8')
			FROM generate_series(1, %[3]d) r, generate_series(1, %[1]d) m`, imagesEach, mediaImage, n),
		fmt.Sprintf(`INSERT INTO manifest_blob (manifest_id, blob_id, repository_id)
			SELECT (r - 1) * %[1]d + (b - 1) %% %[1]d + 1, (r - 1) / %[2]d * %[3]d + b, r FROM generate_series(1, %[4]d) r, generate_series(1, %[3]d) b`,
			imagesEach, repositorySh, blobsEach, n),
		fmt.Sprintf(`INSERT INTO tag (repository_id, name, manifest_id, updated_at)
			SELECT r, 'v' || x, (r - 1) * %[1]d + x %% %[1]d + 1, 0 FROM generate_series(1, %[2]d) r, generate_series(1, %[3]d) x`, imagesEach, n, tagsEach),
		fmt.Sprintf(`INSERT INTO organization_blob (organization, blob_id, links)
			SELECT 'org' || (i - 1) / %[1]d %% 1000, i, %[2]d FROM generate_series(1, %[3]d) i`, blobsEach, repositorySh, blobs),
		fmt.Sprintf(`INSERT INTO organization_usage (organization, shard, repositories, tags, bytes, deduplicated)
			SELECT 'org' || g %% 1000, 0, COUNT(*) * %[1]d, COUNT(*) * %[1]d * %[2]d, COUNT(*) * %[1]d * (%[3]d * 1000 + %[4]d * 500), COUNT(*) * (%[3]d * 1000 + %[1]d * %[4]d * 500)
			FROM generate_series(0, %[5]d - 1) g GROUP BY 1`, repositorySh, tagsEach, blobsEach, imagesEach, n/repositorySh),
		fmt.Sprintf(`UPDATE total SET blobs = %d, bytes = %d WHERE shard = 0`, blobs, blobs*1000),
		`SELECT setval(pg_get_serial_sequence('repository', 'id'), (SELECT MAX(id) FROM repository))`,
		`SELECT setval(pg_get_serial_sequence('blob', 'id'), (SELECT MAX(id) FROM blob))`,
		`SELECT setval(pg_get_serial_sequence('manifest', 'id'), (SELECT MAX(id) FROM manifest))`,
		`DO $$ DECLARE i RECORD; BEGIN FOR i IN SELECT * FROM later LOOP EXECUTE i.text; END LOOP; END $$`,
		`VACUUM ANALYZE`,
	} {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	t.Logf("%d repositories, %d tags, %d links in %v", n, n*tagsEach, n*blobsEach, time.Since(start).Round(time.Second))
}

// TestContent compares a registry of 100,000 repositories, 10,000,000 tags and 30,000,000 links with one of a hundredth.
func TestContent(t *testing.T) {
	type registry struct {
		node *node
		n    int
		db   *service.Database
	}
	var registries []registry
	// Memory as the manual of PostgreSQL advises for a server of its own with 16 GiB; it begins with 128 MiB, whatever the machine has.
	cluster := service.NewPostgres(t)
	for _, set := range []string{"shared_buffers = '4GB'", "max_wal_size = '16GB'"} {
		cluster.Exec(t, "postgres", "ALTER SYSTEM SET "+set)
	}
	cluster.Restart(t, "fast")
	for _, n := range []int{repositories / 100, repositories} {
		db, bucket := cluster.Database(t), service.S3(t)
		// The node makes the schema.
		node := startNode(t, db, bucket, "BERTH_COLLECTION_INTERVAL=2s", "BERTH_COLLECTION_GRACE=1s", "BERTH_SCRUB_INTERVAL=0s", "BERTH_STORAGE_S3_REDIRECT=off")
		fill(t, db.URL, n)
		registries = append(registries, registry{node, n, db})
	}
	// What was filled in is written first, so that nothing of that goes on meanwhile.
	cluster.Exec(t, "postgres", "CHECKPOINT")
	unix.Sync()
	pushed := 0
	name := func(r registry, i int) string { return fmt.Sprintf("org%d/app%d", (i-1)/repositorySh%1000, i) }
	pick := func(r registry, i int) int { return 1 + i*7919%r.n }
	operations := []struct {
		name string
		do   func(r registry, i, pass int)
	}{
		{"page of 100 tags", func(r registry, i, pass int) {
			drain(t, do(t, http.MethodGet, r.node.URL+"/v2/"+name(r, pick(r, i))+"/tags/list?n=100", nil, 0, http.StatusOK))
		}},
		{"page of 100 of the catalog", func(r registry, i, pass int) {
			drain(t, do(t, http.MethodGet, r.node.URL+"/v2/_catalog?n=100&last="+name(r, pick(r, i)), nil, 0, http.StatusOK))
		}},
		{"manifest GET by tag", func(r registry, i, pass int) {
			drain(t, do(t, http.MethodGet, r.node.URL+"/v2/"+name(r, pick(r, i))+"/manifests/v"+fmt.Sprint(1+i%tagsEach), nil, 0, http.StatusOK))
		}},
		{"manifest PUT with a new tag", func(r registry, i, pass int) {
			pushed++
			repo := pick(r, i)
			// It needs 30 blobs that the repository has.
			var layers []string
			for b := range 30 {
				id := (repo-1)/repositorySh*blobsEach + b*imagesEach + 1
				layers = append(layers, fmt.Sprintf(`{"mediaType":%q,"size":1000,"digest":%q}`, mediaLayer, digestOf(fmt.Append(nil, id))))
			}
			body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s],"annotations":{"n":"%d"}}`,
				mediaImage, strings.Replace(layers[0], mediaLayer, mediaConfig, 1), strings.Join(layers[1:], ","), pushed)
			drain(t, do(t, http.MethodPut, r.node.URL+"/v2/"+name(r, repo)+"/manifests/new-"+fmt.Sprint(pushed), bytes.NewReader(body), int64(len(body)), http.StatusCreated,
				"Content-Type", mediaImage))
		}},
		{"mount", func(r registry, i, pass int) {
			from := pick(r, i)
			id := (from-1)/repositorySh*blobsEach + 1 + (i+pass)%blobsEach
			drain(t, do(t, http.MethodPost, r.node.URL+"/v2/"+name(r, pick(r, i+1))+"/blobs/uploads/?mount="+digestOf(fmt.Append(nil, id))+"&from="+name(r, from),
				nil, 0, http.StatusCreated))
		}},
	}
	// At first, what is asked for is not in the memory of PostgreSQL; the second time, as what is in use, it is.
	tab := report.NewTable("content", "median of 300", "1 %, ms", "100 %, ms", "ratio", "1 %, KiB read from disks", "100 %, KiB read from disks")
	for _, op := range operations {
		for pass, how := range []string{" where nothing was asked for yet", " again"} {
			var medians, reads []float64
			for _, r := range registries {
				var ms []float64
				before := pagedIn(t)
				for i := range 350 {
					start := time.Now()
					op.do(r, i, pass)
					if i >= 50 {
						ms = append(ms, time.Since(start).Seconds()*1000)
					}
				}
				medians = append(medians, report.Median(ms))
				reads = append(reads, float64(pagedIn(t)-before)/350)
			}
			tab.Add(op.name+how, medians[0], medians[1], medians[1]/medians[0], reads[0], reads[1])
		}
	}
	// The mounts above left links without a manifest, as many in both.
	var passes []float64
	for _, r := range registries {
		passes = append(passes, collection(t, r.node))
	}
	tab.Add("pass of the collector that finds nothing", passes[0], passes[1], passes[1]/passes[0], "", "")
	show(t, tab)
}

// pagedIn returns how many KiB the machine has read from its disks.
func pagedIn(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^pgpgin (\d+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatal("no pgpgin")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// collection waits until nothing is left to collect and returns how long a pass then takes, in ms.
func collection(t *testing.T, n *node) float64 {
	t.Helper()
	const passes, seconds = "berth_collection_passes_total", "berth_collection_seconds_total"
	time.Sleep(10 * time.Second)
	before, took := n.metric(t, passes), n.metric(t, seconds)
	for n.metric(t, passes) < before+5 {
		time.Sleep(100 * time.Millisecond)
	}
	return (n.metric(t, seconds) - took) / (n.metric(t, passes) - before) * 1000
}
