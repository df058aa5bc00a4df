package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berthregistry/berth/test/harness"
)

// newSource returns a server without access control that has team/app:1 and team/app:2, which differ.
func newSource(t *testing.T) *harness.Server {
	t.Helper()
	s := harness.Start(t, harness.Settings{})
	a := &harness.API{T: t, Base: s.URL, Client: http.DefaultClient}
	for _, tag := range []string{"1", "2"} {
		a.PushImage("team/app", tag, harness.Pack(v1.Manifest{Annotations: map[string]string{"tag": tag}}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}"))))
	}
	return s
}

// TestOpenScripts runs the commands that manage a registry on one without access control. Each script has a server of its own:
// $SERVER is its host, $DATA its data folder. $SOURCE is a server that has team/app:1 and team/app:2.
func TestOpenScripts(t *testing.T) {
	t.Parallel()
	source := newSource(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/open",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			s := harness.Start(t, harness.Settings{})
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("SOURCE", source.Addr)
			env.Setenv("SERVER", s.Addr)
			env.Setenv("BERTH_REGISTRY", s.Addr)
			env.Setenv("DATA", filepath.Join(s.Dir, "data"))
			return os.MkdirAll(home, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": scriptExits, "get": scriptGet},
	})
}

// TestManagementScripts runs the commands that manage a registry. Each script has a server of its own with access control and without
// accounts: $SERVER is its host, $SECURE the same with TLS by the certificate in $CERT, $DATA its data folder, $LOG its log and $SETUP the
// one-time secret there. $OPEN is one of newSource.
func TestManagementScripts(t *testing.T) {
	t.Parallel()
	open := newSource(t)
	cert := harness.NewCert(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/management",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			s := harness.Start(t, harness.Settings{Env: []string{"BERTH_AUTH_ENABLED=true"}})
			setup, err := setupSecret(s)
			if err != nil {
				return err
			}
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or every command takes a second with -race
			env.Setenv("OPEN", open.Addr)
			env.Setenv("SERVER", s.Addr)
			env.Setenv("BERTH_REGISTRY", s.Addr)
			env.Setenv("SECURE", harness.TLSFront(t, s.Addr, cert))
			env.Setenv("CERT", cert.CertFile)
			env.Setenv("DATA", filepath.Join(s.Dir, "data"))
			env.Setenv("LOG", filepath.Join(s.Dir, "log"))
			env.Setenv("SETUP", setup)
			return os.MkdirAll(home, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": scriptExits,
			"get":   scriptGet,
			"keep":  scriptKeep,
			"login": scriptLogin,
		},
	})
}

// setupSecret returns the one-time secret of a server's log, which is written while the server starts to serve.
func setupSecret(s *harness.Server) (string, error) {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if found := regexp.MustCompile(`--setup ([A-Z0-9]+)`).FindStringSubmatch(s.Log()); found != nil {
			return found[1], nil
		}
	}
	return "", errors.New("the log offers no set-up:\n" + s.Log())
}

// scriptKeep is "keep NAME [PATTERN]": the variable becomes what the last command printed, or what the group of the pattern matches in it.
func scriptKeep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: keep NAME [PATTERN]")
	}
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 2 {
		found := regexp.MustCompile(args[1]).FindStringSubmatch(text)
		if found == nil {
			ts.Fatalf("%q does not match %s", text, args[1])
		}
		text = found[1]
	}
	ts.Setenv(args[0], text)
}

// scriptLogin is "login USER PASSWORD": it keeps them for $SERVER as docker login does.
func scriptLogin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: login USER PASSWORD")
	}
	dir := filepath.Join(ts.Getenv("HOME"), ".docker")
	ts.Check(os.MkdirAll(dir, 0o755))
	auth := base64.StdEncoding.EncodeToString([]byte(args[0] + ":" + args[1]))
	ts.Check(os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, ts.Getenv("SERVER"), auth), 0o600))
}
