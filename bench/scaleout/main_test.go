//go:build bench && linux

// Package scaleout measures Berth on PostgreSQL and an S3 server:
//
//	go test -tags bench -timeout 3h -v ./bench/scaleout          # everything
//	go test -tags bench -timeout 3h -v -run Bucket ./bench/scaleout
//
// With -write, the figures of docs/scale-out.md are replaced. No time makes a test fail: it fails if something
// could not be measured.
package scaleout

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

var write = flag.Bool("write", false, "replace the figures of docs/scale-out.md")

func TestMain(m *testing.M) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	os.Exit(harness.Main(m))
}

// node is a running Berth on a database and a bucket.
type node struct {
	*harness.Server
	addr    netip.AddrPort
	metrics string // URL
}

func startNode(t *testing.T, db *service.Database, bucket *service.Bucket, env ...string) *node {
	t.Helper()
	s := harness.Start(t, harness.Settings{Env: slices.Concat(bucket.Env(), []string{
		"BERTH_DATABASE=" + db.URL, "BERTH_METRICS_LISTEN=127.0.0.1:0", "BERTH_LOG_ACCESS=false",
	}, env)})
	address := regexp.MustCompile(`msg="serving metrics" address=(\S+)`)
	m := address.FindStringSubmatch(s.Log())
	for range 500 { // the log is written beside the requests
		if m != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
		m = address.FindStringSubmatch(s.Log())
	}
	if m == nil {
		t.Fatalf("no address of metrics in\n%s", s.LogTail())
	}
	return &node{s, netip.MustParseAddrPort(s.Addr), "http://" + m[1] + "/metrics"}
}

// metric returns the sum of the series of a name.
func (n *node) metric(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get(n.metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if base, _, _ := strings.Cut(series, "{"); !ok || base != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum, found = sum+v, true
	}
	if !found {
		t.Fatalf("there is no metric %s", name)
	}
	return sum
}

// cpu returns the processor time that the node has used.
func (n *node) cpu(t *testing.T) time.Duration {
	t.Helper()
	return time.Duration(n.metric(t, "process_cpu_seconds_total") * float64(time.Second))
}

// peak returns the most memory that the node has held since it was last reset, in MiB.
func (n *node) peak(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	kib, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}

func (n *node) resetPeak(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", n.PID()), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// do makes a request and wants a status.
func do(t *testing.T, method, url string, body io.Reader, length int64, status int, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.ContentLength = length
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		t.Fatalf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return resp
}

func drain(t *testing.T, resp *http.Response) int64 {
	t.Helper()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return n
}

// show prints a table, and puts it into the page with -write.
func show(t *testing.T, tab *report.Table) {
	t.Helper()
	t.Logf("\n%s", tab.Markdown())
	if !*write {
		return
	}
	if err := tab.Update(filepath.Join(harness.Root(), "docs", "scale-out.md")); err != nil {
		t.Fatal(err)
	}
}
