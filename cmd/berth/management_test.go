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

// TestManagementScripts runs the commands that manage a registry. Each script has a server of its own with access control and without
// accounts: $SERVER is its host, $SECURE the same with TLS by the certificate in $CERT, $DATA its data folder, $LOG its log and $SETUP the
// one-time secret there. $OPEN is a server without access control that has team/app:1.
func TestManagementScripts(t *testing.T) {
	open := harness.Start(t, harness.Settings{})
	cert := harness.NewCert(t)
	a := &harness.API{T: t, Base: open.URL, Client: http.DefaultClient}
	a.PushImage("team/app", "1", harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}"))))
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
