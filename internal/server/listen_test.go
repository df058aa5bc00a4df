package server

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func allow(Address, netip.Addr) error { return nil }

func TestListenBindsWhatWasChecked(t *testing.T) {
	refused := errors.New("refused")
	for _, tt := range []struct {
		address  Address
		loopback bool
	}{
		{"127.0.0.1:0", true}, {"localhost:0", true}, {":0", false}, {"0.0.0.0:0", false}, {"[::1]:0", true}, {"[::]:0", false},
	} {
		var asked netip.Addr
		l, err := listen(t.Context(), tt.address, func(_ Address, ip netip.Addr) error { asked = ip; return nil })
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Logf("%s: this machine has no IPv6", tt.address)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		bound := l.Addr().(*net.TCPAddr).AddrPort().Addr()
		if exposed(asked) == tt.loopback || exposed(bound) == tt.loopback {
			t.Errorf("%s: asked about %s, bound to %s", tt.address, asked, bound)
		}
		l.Close()
		if _, err := listen(t.Context(), tt.address, func(Address, netip.Addr) error { return refused }); err != refused {
			t.Errorf("%s: a refusal gives %v", tt.address, err)
		}
	}
	if _, err := listen(t.Context(), "no-such-host.invalid:0", allow); err == nil || !strings.Contains(err.Error(), "listen on no-such-host.invalid:0") {
		t.Errorf("a name that does not resolve gives %v", err)
	}
}

// The configuration cannot know what a name means; the start does.
func TestNameBeyondThisMachineIsRefused(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", name)
	if err != nil || !exposed(preferIPv4(ips)) {
		t.Skipf("the name of this machine, %s, stands for %v, %v", name, ips, err)
	}
	cfg := load(t, Places{Flags: map[string]string{"listen": name + ":0", "data": t.TempDir()}})
	_, err = New(t.Context(), cfg, NewLogger(cfg.Log, new(logBuffer)))
	if e, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(e.Error(), "--listen: "+name) || !strings.Contains(e.Error(), "insecure_open") {
		t.Errorf("listen on %s: %v", name, err)
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "berth") // short: the path of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	s := start(t, newGate(), func(c *Config) { c.Listen = Address("unix:" + path) })
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer c.CloseIdleConnections()
	if a := get(c, "http://unix/"); a.err != nil || a.body != "HTTP/1.1" {
		t.Errorf("the answer is %+v", a)
	}
	if _, err := listen(t.Context(), Address("unix:"+path), allow); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a socket in use gives %v", err)
	}
	s.stop()
	await(t, s.result, "the end")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}

	// What a killed process leaves is replaced.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	l, err := listen(t.Context(), Address("unix:"+path), allow)
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	l.Close()

	// Anything else is not touched.
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), Address("unix:"+path), allow); err == nil {
		t.Error("a file is taken for a socket")
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, []byte("precious")) {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	read := func() string {
		b := make([]byte, 64)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	s := start(t, newGate(), nil)
	if got := read(); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	s.stop()
	if got := read(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
}
