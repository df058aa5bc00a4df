package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berthregistry/berth/test/harness"
)

// OIDCProvider is an OpenID Connect provider: the npm package oidc-provider, with forms on which any password is right.
type OIDCProvider struct {
	Issuer string // http://127.0.0.1:PORT

	dir     string
	node    string
	config  OIDCConfig
	process *exec.Cmd
	end     func()
}

// OIDCConfig is what a provider knows.
type OIDCConfig struct {
	Issuer   string                    `json:"issuer"` // set by NewOIDCProvider
	Clients  []map[string]any          `json:"clients"`
	Accounts map[string]map[string]any `json:"accounts"` // claims by subject, which is also the name to sign in with
	Keys     jose.JSONWebKeySet        `json:"jwks"`     // private keys
	Thin     bool                      `json:"thin"`     // claims at the userinfo endpoint only
}

// NewOIDCProvider starts a provider, which ends with the test. Without node 20 or newer or the package the test is skipped, or
// fails if CI=true.
func NewOIDCProvider(t testing.TB, config OIDCConfig) *OIDCProvider {
	t.Helper()
	p := &OIDCProvider{node: need(t, "node"), config: config}
	version, err := exec.Command(p.node, "--version").Output()
	var major int
	if _, scanned := fmt.Sscanf(string(version), "v%d.", &major); err != nil || scanned != nil || major < 20 {
		harness.Missing(t, "node is %s, but must be 20 or newer", bytes.TrimSpace(version))
	}
	if _, err := os.Stat(filepath.Join(oidcModules(), "node_modules", "oidc-provider")); err != nil {
		harness.Missing(t, "the npm package oidc-provider is not installed; ./scripts/install-tools installs it")
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	p.Issuer = fmt.Sprint("http://127.0.0.1:", port)
	if p.dir, err = os.MkdirTemp("", "berth-oidc-"); err != nil {
		t.Fatal(err)
	}
	if p.end, err = guard(nil, `[ -e "$1/pid" ] && kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, p.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
			t.Logf("the provider's log:\n%s", log)
		}
		p.Stop()
		p.end()
	})
	p.Start(t, config.Keys)
	return p
}

func oidcModules() string { return filepath.Join(harness.Root(), ".cache", "oidc-provider") }

// Start starts a provider that was stopped, at the same address. It has forgotten who is signed in, and signs with keys.
func (p *OIDCProvider) Start(t testing.TB, keys jose.JSONWebKeySet) {
	t.Helper()
	config := p.config
	config.Issuer, config.Keys = p.Issuer, keys
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "config"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.node, filepath.Join(harness.Root(), "test", "service", "oidcprovider", "provider.mjs"), oidcModules(), filepath.Join(p.dir, "config"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.process = cmd
	if err := os.WriteFile(filepath.Join(p.dir, "pid"), fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(p.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	for range 6000 { // a minute: the machine may be busy
		conn, err := net.DialTimeout("tcp", u.Host, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	text, _ = os.ReadFile(filepath.Join(p.dir, "log"))
	t.Fatalf("the provider does not listen:\n%s", text)
}

// Stop kills the provider.
func (p *OIDCProvider) Stop() {
	if p.process == nil {
		return
	}
	_ = p.process.Process.Kill()
	_ = p.process.Wait()
	_ = os.Remove(filepath.Join(p.dir, "pid"))
	p.process = nil
}
