// Package hostile treats the real server badly: input outside of every grammar, clients that
// lie, stall, leave or want too much, disks that are full or broken. It must answer with the
// specification's errors, keep its memory, and go on serving everyone else.
package hostile

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(m, shared.Close, plain.Close))
}

// shared is the server of all tests that need no settings of their own.
var shared = harness.Shared[*harness.Server]{Start: func(t testing.TB) (*harness.Server, func() error) {
	dir, err := os.MkdirTemp("", "berth-hostile-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := harness.StartServer(harness.Binary(t), dir, harness.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return s, func() error {
		defer os.RemoveAll(dir)
		return s.Stop()
	}
}}

func sharedAPI(t *testing.T) *harness.API {
	t.Helper()
	return harness.NewAPI(t, shared.Get(t))
}

// plain is the program as users run it: the race detector multiplies memory, so tests of
// memory do without.
var plain = harness.Shared[string]{Start: func(t testing.TB) (string, func() error) {
	dir, err := os.MkdirTemp("", "berth-plain-")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "berth")
	cmd := exec.Command("go", "build", "-o", out, "./cmd/berth")
	cmd.Dir = harness.Root()
	if text, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		t.Fatalf("go build: %v\n%s", err, text)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for servers that run as another user
		t.Fatal(err)
	}
	return out, func() error { return os.RemoveAll(dir) }
}}

// start starts a server without the race detector that ends with the test.
func start(t *testing.T, env ...string) *harness.Server {
	t.Helper()
	return startIn(t, t.TempDir(), env...)
}

func startIn(t *testing.T, dir string, env ...string) *harness.Server {
	t.Helper()
	s, err := harness.StartServer(plain.Get(t), dir, harness.Settings{Env: env})
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
	return s
}

// process returns the folder of a running server in /proc. The server notes its number in
// the lock of its data folder.
func process(t testing.TB, s *harness.Server) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "data", "berth.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(string(b), "process %d", &pid); err != nil {
		t.Fatalf("the lock says %q: %v", b, err)
	}
	return filepath.Join("/proc", strconv.Itoa(pid))
}

// peak returns the most memory that the server has had resident, in bytes.
func peak(t testing.TB, s *harness.Server) int64 { return status(t, s, "VmHWM") << 10 }

// resident returns the memory that it has resident now, in bytes.
func resident(t testing.TB, s *harness.Server) int64 { return status(t, s, "VmRSS") << 10 }

func status(t testing.TB, s *harness.Server, field string) (n int64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(process(t, s), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
	}
	return n
}

// wantPeak fails the test if the server has ever had more memory than limit MiB.
func wantPeak(t testing.TB, s *harness.Server, limit int64) {
	t.Helper()
	got := peak(t, s) >> 20
	t.Logf("peak memory: %d MiB", got)
	if got > limit {
		t.Errorf("peak memory: %d MiB, expected at most %d", got, limit)
	}
}

// files returns how many files and sockets the server has open.
func files(t testing.TB, s *harness.Server) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(process(t, s), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

var metricsAddress = regexp.MustCompile(`serving metrics.* address=(\S+)`)

// metric returns a measurement of a server that was started with BERTH_METRICS_LISTEN.
func metric(t testing.TB, s *harness.Server, name string) float64 {
	t.Helper()
	var m [][]string
	if !eventually(func() bool { // the log is written a moment later
		m = metricsAddress.FindAllStringSubmatch(s.Log(), -1)
		return m != nil
	}) {
		t.Fatalf("the server serves no metrics:\n%s", s.Log())
	}
	resp, err := http.Get("http://" + m[len(m)-1][1] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no measurement %s", name)
	return 0
}

// objects returns the files of the blob store in a data folder.
func objects(t testing.TB, dir string) (paths []string) {
	t.Helper()
	root := filepath.Join(dir, "data", "blobs")
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && path == filepath.Join(root, "journal") {
			return filepath.SkipDir
		}
		if err == nil && e.Type().IsRegular() && e.Name()[0] != '.' {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// patience is after how long a test gives up waiting for what must come.
const patience = 30 * time.Second

// eventually waits until ok, and tells whether that came about.
func eventually(ok func() bool) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// dial opens a connection to the server on which every wait ends.
func dial(t testing.TB, s *harness.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// answer reads one answer from a connection.
func answer(t testing.TB, c net.Conn) (*http.Response, []byte) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// raw sends text as it is and reads the answer.
func raw(t testing.TB, s *harness.Server, text string) (*http.Response, []byte) {
	t.Helper()
	c := dial(t, s)
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return answer(t, c)
}

// wantError fails the test unless the answer is an error in the form of spec.md#error-codes.
// An empty code stands for any.
func wantError(t testing.TB, resp *http.Response, body []byte, status int, code string) {
	t.Helper()
	what := "the answer"
	if r := resp.Request; r != nil {
		what = fmt.Sprintf("%s %.100s", r.Method, r.URL.Path)
	}
	var form struct {
		Errors []struct{ Code, Message string }
	}
	err := json.Unmarshal(body, &form)
	switch {
	case resp.StatusCode != status:
		t.Errorf("%s: status %d, expected %d: %.300s", what, resp.StatusCode, status, body)
	case err != nil || len(form.Errors) == 0 || form.Errors[0].Code == "" || form.Errors[0].Message == "":
		t.Errorf("%s: the error has another form: %.300s", what, body)
	case code != "" && form.Errors[0].Code != code:
		t.Errorf("%s: the code is %s, expected %s: %.300s", what, form.Errors[0].Code, code, body)
	case resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0":
		t.Errorf("%s: the error has the headers %v", what, resp.Header)
	case len(body) > 10_000:
		t.Errorf("%s: the error has %d bytes", what, len(body))
	}
}

// wantFailure is wantError for an answer of the API.
func wantFailure(t testing.TB, resp *harness.Response, status int, code string) {
	t.Helper()
	wantError(t, resp.Response, resp.Bytes, status, code)
}

// works fails the test unless the server takes and gives content.
func works(t testing.TB, api *harness.API, repo string) {
	t.Helper()
	image := harness.NewImage("amd64", nil, map[string][]byte{"x": harness.Random(100)})
	api.PushImage(repo, "works", image)
	if got := api.Expect(200, "GET", "/v2/"+repo+"/manifests/works", nil).Bytes; string(got) != string(image.Manifest.Bytes) {
		t.Errorf("pulled %q", got)
	}
}
