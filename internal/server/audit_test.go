package server

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/audit"
)

func TestSyslogURL(t *testing.T) {
	for text, want := range map[string]struct {
		transport audit.Transport
		address   string
	}{
		"":                          {},
		"tls://logs.example.com":    {audit.TLS, "logs.example.com:6514"},
		"tcp://logs.example.com:7/": {audit.TCP, "logs.example.com:7"},
		"udp://[::1]":               {audit.UDP, "[::1]:514"},
		"unix:///dev/log":           {audit.Unix, "/dev/log"},
	} {
		var s SyslogURL
		if err := s.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if transport, address := s.parts(); transport != want.transport || address != want.address {
			t.Errorf("%q is %s %s", text, transport, address)
		}
		again := s
		if err := again.UnmarshalText([]byte(s)); err != nil || again != s {
			t.Errorf("%q is printed as %q, which is %q, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"logs:514", "tcp://", "tcp://host/path", "unix://dev/log", "unix:///", "http://host", "tls://user@host", "udp://host?x", "tcp://a b"} {
		if err := new(SyslogURL).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// A server forwards its audit log to what is configured, is ready while a receiver is down, and tells how far behind it is.
func TestForwardAudit(t *testing.T) {
	t.Parallel()
	cfg := Default()
	dir := t.TempDir()
	cfg.Listen, cfg.Data, cfg.Metrics.Listen = "127.0.0.1:0", filepath.Join(dir, "data"), "127.0.0.1:0"
	file := filepath.Join(dir, "audit.jsonl")
	cfg.Auth.Enabled = true
	cfg.Auth.AuditForward.File = file
	cfg.Auth.AuditForward.Syslog = SyslogURL("unix://" + filepath.Join(dir, "nobody"))
	server, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	url, metrics := "http://"+server.Addr().String(), "http://"+server.MetricsAddr().String()+"/metrics"
	request, err := http.NewRequestWithContext(t.Context(), "GET", url+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("nobody", "a wrong guess")
	resp, err := client(t, false).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, "the entry is in the file", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.HasSuffix(string(b), "\n") && strings.Contains(string(b), `"action":"sign-in"`)
	})
	eventually(t, "the metrics tell of both", func() bool {
		_, text := call(t, "GET", metrics, "")
		return strings.Contains(text, `berth_audit_forward_lag_seconds{receiver="file"} 0`+"\n") &&
			strings.Contains(text, `berth_audit_forward_lag_seconds{receiver="syslog"} `) &&
			!strings.Contains(text, `berth_audit_forward_lag_seconds{receiver="syslog"} 0`+"\n") &&
			strings.Contains(text, `berth_job_last_failed{job="audit-syslog"} 1`)
	})
	if resp, text := call(t, "GET", url+"/readyz", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("not ready: %s", text)
	}
}
