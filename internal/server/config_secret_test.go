package server

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsStayHidden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"BERTH_METRICS_LISTEN=127.0.0.1:0", "BERTH_METRICS_TOKEN=file:" + file}
	c := load(t, Places{Env: env})
	if got := c.Metrics.Token.Reveal(); got != "s3cret" {
		t.Fatalf("the token is %q", got)
	}
	var out, log bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	NewLogger(Log{Format: "json"}, &log).Info("x", "config", c, "token", c.Metrics.Token)
	NewLogger(Log{Format: "text"}, &log).Info("x", "config", c, "token", c.Metrics.Token)
	shown := out.String() + log.String() + fmt.Sprintf("%v %+v %#v %v %q %x", c, c, c, c.Metrics, c.Metrics.Token, c.Metrics.Token)
	if strings.Contains(shown, "s3cret") || strings.Contains(shown, fmt.Sprintf("%x", "s3cret")) {
		t.Errorf("the secret is shown: %s", shown)
	}
	if want := "# token: [hidden] # BERTH_METRICS_TOKEN\n"; !strings.Contains(out.String(), want) {
		t.Errorf("the output lacks %q", want)
	}

	for _, content := range []string{"", "\n", strings.Repeat("x", maxSecret+1)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Places{Env: env}); err == nil || !strings.Contains(err.Error(), "BERTH_METRICS_TOKEN: read the secret: "+file) {
			t.Errorf("a secret of %d bytes gives %v", len(content), err)
		}
	}
}

// Items of lists have secrets, too.
func TestSecretsOfProviders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const provider = "issuer: https://a.example, client_id: b"
	env := []string{"BERTH_EXTERNAL_URL=https://registry.example.com", "BERTH_AUTH_ENABLED=true", "BERTH_AUTH_OIDC=[{name: a, " + provider + ", client_secret: file:" + file + "}]"}
	c := load(t, Places{Env: env})
	if got := c.Auth.OIDC[0].ClientSecret.Reveal(); got != "s3cret" {
		t.Fatalf("the secret is %q", got)
	}
	var out, log bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	NewLogger(Log{Format: "json"}, &log).Info("x", "config", c)
	NewLogger(Log{Format: "text"}, &log).Info("x", "config", c)
	if shown := out.String() + log.String() + fmt.Sprintf("%+v %#v", c, c.Auth.OIDC); strings.Contains(shown, "s3cret") || strings.Contains(shown, fmt.Sprintf("%x", "s3cret")) {
		t.Errorf("the secret is shown: %s", shown)
	}
	if !strings.Contains(out.String(), "# client_secret: [hidden]\n") {
		t.Errorf("it is not said that there is a secret: %s", out.String())
	}
	printed := filepath.Join(t.TempDir(), "berth.yaml")
	if err := os.WriteFile(printed, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := load(t, Places{File: printed}); len(again.Auth.OIDC) != 1 || again.Auth.OIDC[0].ClientSecret.IsSet() {
		t.Errorf("printed and read: %+v", again.Auth.OIDC)
	}
	for value, want := range map[string]string{
		"[{name: a, " + provider + ", client_secret: file:/none}]":   "read the secret",
		"[{name: A, " + provider + "}]":                              "lower-case letters",
		"[{name: a-, " + provider + "}]":                             "lower-case letters",
		"[{name: a/b, " + provider + "}]":                            "lower-case letters",
		"[{name: a, " + provider + "}, {name: a, " + provider + "}]": "stands twice",
		"[{name: a, issuer: https://a.example}]":                     `"client_id" is missing`,
	} {
		env[2] = "BERTH_AUTH_OIDC=" + value
		if _, err := Load(Places{Env: env}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", value, err, want)
		}
	}
	if _, err := Load(Places{Env: []string{env[1], "BERTH_AUTH_OIDC=[{name: a, " + provider + "}]"}}); err == nil || !strings.Contains(err.Error(), "external_url") {
		t.Errorf("without external_url: %v", err)
	}
}
