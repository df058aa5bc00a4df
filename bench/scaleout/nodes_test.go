//go:build bench && linux

package scaleout

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/test/service"
)

const (
	mediaImage  = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig = "application/vnd.oci.image.config.v1+json"
	mediaLayer  = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// image is an image of a config and some layers.
type image struct {
	blobs    [][]byte
	manifest []byte
}

func newImage(seed string, layers, size int) image {
	content := func(part string, n int) []byte {
		b := []byte(seed + " " + part + " ")
		return append(b, bytes.Repeat([]byte{'x'}, max(n-len(b), 0))...)
	}
	var i image
	describe := func(mediaType string, b []byte) string {
		i.blobs = append(i.blobs, b)
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digestOf(b), len(b))
	}
	config := describe(mediaConfig, content("config", 2<<10))
	var parts []string
	for n := range layers {
		parts = append(parts, describe(mediaLayer, content(fmt.Sprint("layer ", n), size)))
	}
	i.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, mediaImage, config, strings.Join(parts, ","))
	return i
}

// push pushes as Docker does: HEAD, POST, PATCH with all bytes, PUT without any, then the manifest.
func (i image) push(t *testing.T, url, repository, tag string) {
	base := url + "/v2/" + repository
	for _, b := range i.blobs {
		drain(t, do(t, http.MethodHead, base+"/blobs/"+digestOf(b), nil, 0, http.StatusNotFound))
		at := do(t, http.MethodPost, base+"/blobs/uploads/", nil, 0, http.StatusAccepted)
		drain(t, at)
		at = do(t, http.MethodPatch, url+at.Header.Get("Location"), bytes.NewReader(b), int64(len(b)), http.StatusAccepted)
		drain(t, at)
		drain(t, do(t, http.MethodPut, url+at.Header.Get("Location")+"&digest="+digestOf(b), nil, 0, http.StatusCreated))
	}
	drain(t, do(t, http.MethodPut, base+"/manifests/"+tag, bytes.NewReader(i.manifest), int64(len(i.manifest)), http.StatusCreated, "Content-Type", mediaImage))
}

// TestStatements counts what PostgreSQL is asked for.
func TestStatements(t *testing.T) {
	n := startNode(t, service.Postgres(t), service.S3(t), "BERTH_COLLECTION_INTERVAL=0", "BERTH_STORAGE_S3_REDIRECT=off")
	tab := report.NewTable("statements", "operation", "statements")
	statements := func() float64 { return n.metric(t, "berth_database_statements_total") }
	count := func(what string, f func(i int)) {
		const times = 20
		before := statements()
		for i := range times {
			f(i)
		}
		after := statements()
		scrape := statements() - after // asking for metrics costs some, too
		tab.Add(what, int(math.Round((after-before-scrape)/times)))
	}
	const repository = "team/app"
	newImage("first", 0, 0).push(t, n.URL, repository, "first") // makes the repository
	images := make([]image, 20)
	for i := range images {
		images[i] = newImage(fmt.Sprint("image ", i), 3, 16<<10)
	}
	get := func(path string) {
		drain(t, do(t, http.MethodGet, n.URL+"/v2/"+repository+path, nil, 0, http.StatusOK))
	}
	count("push of an image with 3 layers, as Docker does it", func(i int) { images[i].push(t, n.URL, repository, fmt.Sprint(i)) })
	count("manifest GET by tag", func(i int) { get("/manifests/" + fmt.Sprint(i)) })
	count("manifest GET by digest", func(i int) { get("/manifests/" + digestOf(images[i].manifest)) })
	count("blob GET", func(i int) { get("/blobs/" + digestOf(images[i].blobs[1])) })
	count("blob HEAD", func(i int) {
		drain(t, do(t, http.MethodHead, n.URL+"/v2/"+repository+"/blobs/"+digestOf(images[i].blobs[1]), nil, 0, http.StatusOK))
	})
	count("mount", func(i int) {
		drain(t, do(t, http.MethodPost, n.URL+"/v2/team/other/blobs/uploads/?mount="+digestOf(images[i].blobs[1])+"&from="+repository, nil, 0, http.StatusCreated))
	})
	show(t, tab)
}

// TestTwoNodes compares two nodes with one, over the same database and bucket, by 16 clients.
func TestTwoNodes(t *testing.T) {
	db, bucket := service.Postgres(t), service.S3(t)
	nodes := []*node{startNode(t, db, bucket), startNode(t, db, bucket)}
	shared := newImage("shared", 3, 16<<10)
	shared.push(t, nodes[0].URL, "team/app", "1.0")

	var images atomic.Int64
	run := func(nodes []*node, do func(n *node, client int)) (rate float64) {
		const clients, length = 16, 8 * time.Second
		var done atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for c := range clients {
			wg.Go(func() {
				for time.Since(start) < length && !t.Failed() {
					do(nodes[c%len(nodes)], c)
					done.Add(1)
				}
			})
		}
		wg.Wait()
		return float64(done.Load()) / time.Since(start).Seconds()
	}
	tab := report.NewTable("nodes", "16 clients", "one node", "two nodes", "ratio", "processors used by one node, PostgreSQL and S3 aside")
	for _, s := range []struct {
		name string
		do   func(n *node, client int)
	}{
		{"small images pushed, images/s", func(n *node, c int) {
			newImage(fmt.Sprint("image ", images.Add(1)), 3, 16<<10).push(t, n.URL, fmt.Sprint("team/app-", c), "1.0")
		}},
		{"manifest GET by tag, requests/s", func(n *node, _ int) {
			drain(t, doQuietly(t, n.URL+"/v2/team/app/manifests/1.0"))
		}},
	} {
		var one, two, ratio, cores []float64
		for range 3 {
			before, start := nodes[0].cpu(t), time.Now()
			one = append(one, run(nodes[:1], s.do))
			cores = append(cores, (nodes[0].cpu(t)-before).Seconds()/time.Since(start).Seconds())
			two = append(two, run(nodes, s.do))
			ratio = append(ratio, two[len(two)-1]/one[len(one)-1])
		}
		tab.Add(s.name, report.Median(one), report.Median(two), report.Median(ratio), report.Median(cores))
	}
	show(t, tab)
}

func doQuietly(t *testing.T, url string) *http.Response {
	resp, err := http.Get(url)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Error(url, err)
		return &http.Response{Body: http.NoBody}
	}
	return resp
}
