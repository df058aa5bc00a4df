//go:build bench && linux

// Package access measures what access control costs, on the embedded database and on PostgreSQL:
//
//	go test -tags bench -timeout 1h -v ./bench/access            # everything, five minutes or so
//	go test -tags bench -timeout 1h -v -run Pulls ./bench/access
//
// With -write, the figures of docs/benchmarks.md are replaced. No time makes a test fail: it fails if something
// could not be measured, or if a right that was taken away was still there.
package access

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

var (
	write    = flag.Bool("write", false, "replace the figures of docs/benchmarks.md")
	rounds   = flag.Int("rounds", 20, "`number` of rounds that count; one more comes first, to warm up")
	duration = flag.Duration("duration", 500*time.Millisecond, "`time` of what is measured, in each round")
	changes  = flag.Int("changes", 1000, "`number` of times that a robot's secret is taken away; other rights less often")
)

func TestMain(m *testing.M) {
	flag.Parse()
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	os.Exit(harness.Main(m))
}

// databases are where Berth keeps its metadata.
var databases = []struct {
	name string
	url  func(t *testing.T) string // empty for SQLite
}{
	{"SQLite", func(*testing.T) string { return "" }},
	{"PostgreSQL", func(t *testing.T) string { return service.Postgres(t).URL }},
}

// registry is a running Berth.
type registry struct {
	*harness.Server
	t    *testing.T
	addr netip.AddrPort
	root string  // the Authorization header of an administrator; empty without access control
	db   *sql.DB // the database itself, with access control
	// secrets are personal access tokens by the name of their account.
	secrets map[string]string
}

// start starts a Berth over a database, or over SQLite if that is empty. Blobs are in a folder of its own.
func start(t *testing.T, database string, env ...string) *registry {
	t.Helper()
	return startIn(t, t.TempDir(), database, env...)
}

func startIn(t *testing.T, dir, database string, env ...string) *registry {
	t.Helper()
	env = append(env, "BERTH_LOG_ACCESS=false", "BERTH_COLLECTION_INTERVAL=0")
	if database != "" {
		env = append(env, "BERTH_DATABASE="+database)
	}
	s, err := harness.StartServer(harness.Binary(t), dir, harness.Settings{Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", s.LogTail())
		}
	})
	return &registry{Server: s, t: t, addr: netip.MustParseAddrPort(s.Addr)}
}

// startGuarded is start with access control. There are the private organization team, with the team readers, who may pull, and
// the robot team+ci, which is one of them and may pull by itself, too; and the public organization open.
func startGuarded(t *testing.T, database string) *registry {
	t.Helper()
	dir := t.TempDir()
	where := []string{"--data", filepath.Join(dir, "data")}
	if database != "" {
		where = []string{"--database", database}
	}
	const password = "a good password"
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"user", "add", "root", "--admin", "--password-stdin"}, where...)...)
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := startIn(t, dir, database, "BERTH_AUTH_ENABLED=true")
	driver, source := "pgx", database
	if database == "" {
		driver, source = "sqlite", "file:"+filepath.Join(dir, "data", "berth.db")+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r.db = db
	r.root = basic("root", password)
	r.root = basic("root", r.manage("POST", "account/tokens", `{"name":"bench"}`).Secret)
	r.manage("POST", "organizations", `{"name":"open","public":true}`)
	r.manage("POST", "organizations", `{"name":"team"}`)
	r.manage("POST", "organizations/team/teams", `{"name":"readers"}`)
	r.manage("POST", "organizations/team/grants", `{"team":"readers","role":"reader"}`)
	r.manage("POST", "organizations/team/robots", `{"name":"ci"}`)
	r.manage("PUT", "organizations/team/teams/readers/members/team+ci", "")
	r.manage("POST", "organizations/team/grants", `{"account":"team+ci","role":"writer"}`)
	return r
}

// made is what is read of an answer of the management API.
type made struct {
	ID     int64  `json:"id"`
	Secret string `json:"secret"`
}

// manage makes a change as an administrator.
func (r *registry) manage(method, path, body string) made {
	r.t.Helper()
	status, answer := r.send(method, "/api/v1/"+path, r.root, "application/json", body)
	if status >= 300 {
		r.t.Fatalf("%s %s: %d: %s", method, path, status, answer)
	}
	var m made
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &m); err != nil {
			r.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return m
}

// forgive forgets who has failed to sign in, in the place of time: clients that go on with an old password lock its account and their network.
func (r *registry) forgive() {
	r.t.Helper()
	if _, err := r.db.ExecContext(r.t.Context(), "DELETE FROM sign_in_failure"); err != nil {
		r.t.Fatal(err)
	}
}

// send makes a request and returns the answer.
func (r *registry) send(method, path, authorization, mediaType, body string) (status int, answer []byte) {
	r.t.Helper()
	status, answer, err := r.try(method, path, authorization, mediaType, body)
	if err != nil {
		r.t.Fatal(err)
	}
	return status, answer
}

// try is send where the test cannot be ended.
func (r *registry) try(method, path, authorization, mediaType, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for name, value := range map[string]string{"Authorization": authorization, "Content-Type": mediaType} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// basic and bearer return Authorization headers.
func basic(name, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+secret))
}

func bearer(token string) string { return "Bearer " + token }

// tokenPath asks for a token to pull from a repository.
func tokenPath(repository string) string {
	return "/token?service=berth&scope=repository:" + repository + ":pull"
}

// token returns a bearer token to pull from a repository.
func (r *registry) token(authorization, repository string) string {
	r.t.Helper()
	status, answer := r.send("GET", tokenPath(repository), authorization, "", "")
	var body struct{ Token string }
	if err := json.Unmarshal(answer, &body); status != http.StatusOK || err != nil {
		r.t.Fatalf("token: %d, %v: %s", status, err, answer)
	}
	return body.Token
}

// signed sends each request with a header.
type signed string

// RoundTrip implements http.RoundTripper.
func (s signed) RoundTrip(r *http.Request) (*http.Response, error) {
	if s != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", string(s))
	}
	return http.DefaultTransport.RoundTrip(r)
}

const tags = 10

// manifestPath is that of one of the tags of a repository.
func manifestPath(repository string, i int) string {
	return fmt.Sprintf("/v2/%s/manifests/v%d", repository, i%tags)
}

// fill pushes a small image under each tag to a repository. It returns the length of a manifest, which is the same for all.
func (r *registry) fill(repository string) int64 {
	api := &harness.API{T: r.t, Base: r.URL, Client: &http.Client{Transport: signed(r.root)}}
	length := 0
	for i := range tags {
		layer := map[string][]byte{"file": bytes.Repeat([]byte{'a' + byte(i)}, 16<<10)}
		image := harness.NewImage("amd64", []string{"/bin/true"}, layer, layer, layer)
		api.PushImage(repository, fmt.Sprintf("v%d", i), image)
		if length = len(image.Manifest.Bytes); i > 0 && length != len(image.Manifest.Bytes) {
			r.t.Fatal("manifests differ in length")
		}
	}
	return int64(length)
}

// cpu returns the processor time that the server has used.
func (r *registry) cpu() time.Duration {
	r.t.Helper()
	d, err := peer.CPU(r.PID())
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// show prints a table, and puts it into the page with -write.
func show(t *testing.T, tab *report.Table) {
	t.Helper()
	var err error
	if tab.Note, err = report.Note(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", tab.Markdown())
	if !*write || t.Failed() {
		return
	}
	if err := tab.Update(filepath.Join(harness.Root(), "docs", "benchmarks.md")); err != nil {
		t.Fatal(err)
	}
}
