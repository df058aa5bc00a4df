package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berthregistry/berth/test/harness"
)

func TestMain(m *testing.M) { testscript.Main(testMain{m}, map[string]func(){"berth": main}) }

// testMain runs the tests in the harness's environment.
type testMain struct{ *testing.M }

func (m testMain) Run() int {
	if text := os.Getenv("BERTH_RECOVERY_ROUNDS"); text != "" { // before it is taken for a setting
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "BERTH_RECOVERY_ROUNDS is %q, it must be a number from 1 on\n", text)
			return 2
		}
		recoveryRounds = n
	}
	return harness.Main(m.M)
}

// TestScripts runs the command line as people do. Scripts find these registries:
// $BERTH_REGISTRY and $OTHER are servers, $SECURE is one with TLS whose certificate is in
// $CERT, $GUARDED is the first behind a password, $MUTUAL wants certificates of clients, which are in $CERTS as those of alice.
func TestScripts(t *testing.T) {
	t.Parallel()
	first := harness.Start(t, harness.Settings{})
	other := harness.Start(t, harness.Settings{})
	cert := harness.NewCert(t)
	secure := harness.TLSFront(t, harness.Start(t, harness.Settings{}).Addr, cert)
	guarded := newGuarded(t, first)
	mutual, certs := newMutual(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second with -race
			env.Setenv("BERTH_REGISTRY", first.Addr)
			env.Setenv("OTHER", other.Addr)
			env.Setenv("SECURE", secure)
			env.Setenv("GUARDED", guarded)
			env.Setenv("CERT", cert.CertFile)
			env.Setenv("MUTUAL", mutual)
			env.Setenv("CERTS", certs)
			return os.MkdirAll(home, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  scriptExits,
			"image":  scriptImage,
			"index":  scriptIndex,
			"attach": scriptAttach,
			"get":    scriptGet,
			"delete": scriptDelete,
			"moment": scriptMoment,
		},
	})
}

// newGuarded returns the address of s behind the user "someone" with the password "secret".
func newGuarded(t *testing.T, s *harness.Server) string {
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "someone" || password != "secret" {
			w.Header().Set("Www-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://")
}

// newMutual returns the address of a server that wants certificates of clients, and the folder of its authority.
func newMutual(t *testing.T) (addr, certs string) {
	certs = filepath.Join(t.TempDir(), "certs")
	for _, args := range [][]string{{"self-signed", "127.0.0.1"}, {"client", "alice"}} {
		if out, err := exec.Command(harness.Binary(t), append([]string{"cert"}, append(args, "--out", certs)...)...).CombinedOutput(); err != nil {
			t.Fatalf("berth cert: %v\n%s", err, out)
		}
	}
	s := harness.Start(t, harness.Settings{TLS: true, Env: []string{
		"BERTH_TLS_CERTIFICATE=" + filepath.Join(certs, "server.crt"), "BERTH_TLS_KEY=" + filepath.Join(certs, "server.key"),
		"BERTH_TLS_CLIENT_CA=" + filepath.Join(certs, "ca.crt"), "BERTH_TLS_CLIENT_CERTIFICATE=required",
	}})
	return s.Addr, certs
}

// scriptExits is "exits CODE program args...": the program must end with the code.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, expected %d", got, want)
	}
}

// scriptAPI speaks to the registry that the first script argument names, which is removed if
// it does: -to HOST.
func scriptAPI(ts *testscript.TestScript, args []string) (*harness.API, []string) {
	host := ts.Getenv("BERTH_REGISTRY")
	if len(args) > 1 && args[0] == "-to" {
		host, args = args[1], args[2:]
	}
	t := scriptTB{ts: ts}
	return &harness.API{T: t, Base: "http://" + host, Client: http.DefaultClient}, args
}

// scriptTB makes a script fail where a test would. Nothing else of it is used.
type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (t scriptTB) Helper()                           {}
func (t scriptTB) Context() context.Context          { return context.Background() }
func (t scriptTB) Fatal(args ...any)                 { t.ts.Fatalf("%s", fmt.Sprint(args...)) }
func (t scriptTB) Fatalf(format string, args ...any) { t.ts.Fatalf(format, args...) }

// scriptImage is "image [-to HOST] REPO TAG PLATFORM [LAYER...]": it pushes an image whose layers are the
// given texts, made three days ago unless a LAYER is "undated". $digest becomes its digest.
func scriptImage(ts *testscript.TestScript, neg bool, args []string) {
	a, args := scriptAPI(ts, args)
	if neg || len(args) < 3 {
		ts.Fatalf("usage: image [-to HOST] REPO TAG PLATFORM [LAYER...]")
	}
	os, arch, _ := strings.Cut(args[2], "/")
	made := time.Now().Add(-3 * 24 * time.Hour).Truncate(time.Second)
	config := v1.Image{Created: &made, Platform: v1.Platform{OS: os, Architecture: arch}}
	config.Config.Cmd = []string{"/app", "--serve"}
	config.Config.Env = []string{"PATH=/bin", "MODE=test"}
	config.Config.Labels = map[string]string{"color": "\x1b[31mred"}
	var layers []harness.Blob
	for _, text := range args[3:] {
		switch text {
		case "undated":
			config.Created = nil
		case "foreign":
			b := harness.NewBlob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []byte(text))
			b.URLs = []string{"https://example.com/layer"}
			layers = append(layers, b)
		default:
			layers = append(layers, harness.NewBlob(v1.MediaTypeImageLayerGzip, []byte(text)))
		}
	}
	image := harness.Pack(v1.Manifest{}, append([]harness.Blob{harness.NewBlob(v1.MediaTypeImageConfig, harness.JSON(config))}, layers...)...)
	for _, b := range image.Blobs {
		if len(b.URLs) == 0 {
			a.PushBlob(args[0], b)
		}
	}
	a.PushManifest(args[0], args[1], image.Manifest)
	ts.Setenv("digest", image.Manifest.Digest.String())
}

// scriptIndex is "index REPO TAG PLATFORM=TAG...": it pushes an index of images that are there.
func scriptIndex(ts *testscript.TestScript, neg bool, args []string) {
	a, args := scriptAPI(ts, args)
	if neg || len(args) < 2 {
		ts.Fatalf("usage: index [-to HOST] REPO TAG PLATFORM=TAG...")
	}
	var children []v1.Descriptor
	for _, arg := range args[2:] {
		platform, tag, _ := strings.Cut(arg, "=")
		os, arch, _ := strings.Cut(platform, "/")
		d := resolve(a, args[0], tag)
		d.Platform = &v1.Platform{OS: os, Architecture: arch}
		children = append(children, d)
	}
	index := harness.NewIndex(children...)
	a.PushManifest(args[0], args[1], index)
	ts.Setenv("digest", index.Digest.String())
}

// scriptAttach is "attach REPO TAG TYPE": it pushes an artifact of the type whose subject has the tag.
func scriptAttach(ts *testscript.TestScript, neg bool, args []string) {
	a, args := scriptAPI(ts, args)
	if neg || len(args) != 3 {
		ts.Fatalf("usage: attach [-to HOST] REPO TAG TYPE")
	}
	subject := resolve(a, args[0], args[1])
	artifact := harness.Pack(v1.Manifest{ArtifactType: args[2], Subject: &subject},
		harness.NewBlob(v1.MediaTypeEmptyJSON, []byte("{}")), harness.NewBlob("text/plain", []byte(args[2])))
	a.PushImage(args[0], "", artifact)
	ts.Setenv("digest", artifact.Manifest.Digest.String())
}

func resolve(a *harness.API, repo, tag string) v1.Descriptor {
	resp := a.Expect(http.StatusOK, "GET", "/v2/"+repo+"/manifests/"+tag, nil)
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(resp.Bytes, &m); err != nil {
		a.T.Fatal(err)
	}
	b := harness.NewBlob(m.MediaType, resp.Bytes)
	return b.Descriptor
}

// scriptGet is "get [-to HOST] STATUS PATH [FILE]": the answer to a GET must have the status.
func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	a, args := scriptAPI(ts, args)
	if neg || len(args) < 2 {
		ts.Fatalf("usage: get [-to HOST] STATUS PATH [FILE]")
	}
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	resp := a.Expect(status, "GET", args[1], nil)
	if len(args) == 3 {
		ts.Check(os.WriteFile(ts.MkAbs(args[2]), resp.Bytes, 0o644))
	}
}

// scriptDelete is "delete [-to HOST] PATH": a manifest or a tag goes.
func scriptDelete(ts *testscript.TestScript, neg bool, args []string) {
	a, args := scriptAPI(ts, args)
	if neg || len(args) != 1 {
		ts.Fatalf("usage: delete [-to HOST] PATH")
	}
	a.Expect(http.StatusAccepted, "DELETE", args[0], nil)
}

// scriptMoment is "moment REPO TAG DIGEST": $moment becomes the time at which the tag began to point to the digest.
func scriptMoment(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: moment REPO TAG DIGEST")
	}
	a, _ := scriptAPI(ts, nil)
	resp := a.Expect(http.StatusOK, "GET", "/api/v1/history/moves?repository="+args[0]+"&tag="+args[1], nil)
	var page struct {
		Items []struct{ At, New string }
	}
	ts.Check(json.Unmarshal(resp.Bytes, &page))
	for _, m := range page.Items {
		if m.New == args[2] {
			ts.Setenv("moment", m.At)
		}
	}
}
