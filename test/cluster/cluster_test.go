package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// options say what is special about a cluster.
type options struct {
	database *service.Database    // nil for one in the cluster of PostgreSQL that tests share
	bucket   *service.Bucket      // nil for one in the S3 server that tests share
	env      []string             // settings of every node, as variables
	binary   string               // of the nodes; empty for the usual one
	node     func(i int) []string // settings of one node
}

// cluster is three nodes behind nginx.
type cluster struct {
	t        *testing.T
	config   string // the file that all nodes and fsck read
	nodes    []*harness.Server
	balancer *harness.Balancer
}

const nodes = 3

// start starts a cluster with the configuration of deploy/compose. It ends with the test, which fails if a node did not stop in
// good order.
func start(t *testing.T, o options) *cluster {
	t.Helper()
	harness.Need(t, "nginx")
	if o.database == nil {
		o.database = service.Postgres(t)
	}
	if o.bucket == nil {
		o.bucket = service.S3(t)
	}
	if o.binary == "" {
		o.binary = harness.Binary(t)
	}
	c := &cluster{t: t, config: writeConfig(t, o.database, o.bucket)}
	var addrs []string
	for i := range nodes {
		settings := harness.Settings{Env: append([]string{"BERTH_METRICS_LISTEN=", "BERTH_TRUSTED_PROXIES=127.0.0.1"}, o.env...), Args: []string{"--config", c.config}}
		if o.node != nil {
			settings.Env = append(settings.Env, o.node(i)...)
		}
		dir := t.TempDir()
		n, err := harness.StartServer(o.binary, dir, settings)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Stop(); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
			if t.Failed() {
				t.Logf("the end of the log of node %d at %s:\n%s", i, n.Addr, n.LogTail())
			}
			if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
				t.Errorf("node %d has made a data folder", i)
			}
		})
		c.nodes = append(c.nodes, n)
		addrs = append(addrs, n.Addr)
	}
	c.balancer = harness.NewBalancer(t, addrs...)
	return c
}

// writeConfig fills in what is different here in the configuration of deploy/compose.
func writeConfig(t *testing.T, database *service.Database, bucket *service.Bucket) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "deploy", "compose", "berth.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text, dir := string(b), t.TempDir()
	for old, new := range map[string]string{
		"file:/run/secrets/database-url":  "file:" + filepath.Join(dir, "database-url"),
		"file:/run/secrets/s3-access-key": "file:" + filepath.Join(dir, "s3-access-key"),
		"file:/run/secrets/s3-secret-key": "file:" + filepath.Join(dir, "s3-secret-key"),
		"endpoint: http://s3:7070":        "endpoint: " + bucket.Endpoint,
		"bucket: registry":                "bucket: " + bucket.Name,
		"region: us-east-1":               "region: " + bucket.Region,
		"listen: :9090":                   `listen: ""`,
		"insecure_open: true":             "insecure_open: false", // everything is on the loopback address here
		"listen: :5000":                   "listen: 127.0.0.1:5000",
		"format: json":                    "format: text",
	} {
		if strings.Count(text, old) != 1 {
			t.Fatalf("deploy/compose/berth.yaml has %q %d times, expected 1", old, strings.Count(text, old))
		}
		text = strings.Replace(text, old, new, 1)
	}
	for name, content := range map[string]string{
		"database-url": database.URL, "s3-access-key": bucket.AccessKey, "s3-secret-key": bucket.SecretKey, "berth.yaml": text,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "berth.yaml")
}

// api speaks to the nodes through nginx. Each request has a connection of its own, because clients have to live with an
// idle connection that is closed when they use it, and that is not what is tested here.
func (c *cluster) api() *harness.API { return newAPI(c.t, c.balancer.URL) }

// at speaks to one node.
func (c *cluster) at(node int) *harness.API { return newAPI(c.t, c.nodes[node%len(c.nodes)].URL) }

func newAPI(t *testing.T, base string) *harness.API {
	return &harness.API{T: t, Base: base, Client: &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Timeout:       2 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// fsck compares database and bucket, and fails the test if content is damaged.
func (c *cluster) fsck(flags ...string) fsck.Report {
	c.t.Helper()
	args := append([]string{"fsck", "--json", "--config", c.config}, flags...)
	cmd := exec.Command(harness.Binary(c.t), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var report fsck.Report
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if e := json.Unmarshal(lines[len(lines)-1], &report); e != nil {
		c.t.Fatalf("berth %v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	if err != nil || report.Damaged != 0 {
		c.t.Errorf("berth %v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	return report
}

// restart starts a node that has ended.
func (c *cluster) restart(node int) {
	c.t.Helper()
	if err := c.nodes[node].Restart(); err != nil {
		c.t.Fatal(err)
	}
}

// notReady returns the checks that /readyz of a node names, nil if it is ready.
func (c *cluster) notReady(node int) []string {
	c.t.Helper()
	resp := c.at(node).Do("GET", "/readyz", nil)
	var answer struct{ Failed []struct{ Check string } }
	if err := json.Unmarshal(resp.Bytes, &answer); err != nil {
		c.t.Fatalf("/readyz: %v in %q", err, resp.Bytes)
	}
	if (resp.StatusCode == http.StatusOK) != (len(answer.Failed) == 0) {
		c.t.Errorf("/readyz is %d with %s", resp.StatusCode, resp.Bytes)
	}
	var names []string
	for _, f := range answer.Failed {
		names = append(names, f.Check)
	}
	return names
}

// wait asks until something is so.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute, not so: %s", what)
		}
	}
}

// unavailable fails the test unless an answer tells the client to try again.
func unavailable(t *testing.T, what string, resp *harness.Response) {
	t.Helper()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Code() == "" {
		t.Errorf("%s: status %d, Retry-After %q, %.300s; expected 503 with a time and an error", what, resp.StatusCode, resp.Header.Get("Retry-After"), resp.Bytes)
	}
}

// name returns a repository that no other test of a cluster has.
func name(format string, args ...any) string { return "cluster/" + fmt.Sprintf(format, args...) }
