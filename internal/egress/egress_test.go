package egress

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestReachOf(t *testing.T) {
	for ip, want := range map[string]reach{
		"8.8.8.8":                  reachPublic,
		"2001:4860:4860::8888":     reachPublic,
		"2001:db8::1":              reachPublic,
		"10.1.2.3":                 reachPrivate,
		"172.16.0.1":               reachPrivate,
		"172.32.0.1":               reachPublic,
		"192.168.0.1":              reachPrivate,
		"100.64.0.1":               reachPrivate,
		"100.128.0.1":              reachPublic,
		"198.19.0.1":               reachPrivate,
		"fd00::1":                  reachPrivate,
		"fec0::1":                  reachPrivate,
		"::ffff:10.0.0.1":          reachPrivate,
		"127.0.0.1":                reachLoopback,
		"127.9.9.9":                reachLoopback,
		"::1":                      reachLoopback,
		"::ffff:127.0.0.1":         reachLoopback,
		"169.254.169.254":          reachNever,
		"::ffff:169.254.169.254":   reachNever,
		"fe80::1":                  reachNever,
		"fe80::1%eth0":             reachNever,
		"0.0.0.0":                  reachNever,
		"0.1.2.3":                  reachNever,
		"::":                       reachNever,
		"224.0.0.1":                reachNever,
		"255.255.255.255":          reachNever,
		"100.100.100.200":          reachNever,
		"168.63.129.16":            reachNever,
		"fd00:ec2::254":            reachNever,
		"64:ff9b::8.8.8.8":         reachPublic,
		"64:ff9b::10.0.0.1":        reachPrivate,
		"64:ff9b::127.0.0.1":       reachLoopback,
		"64:ff9b::169.254.169.254": reachNever,
		"64:ff9b:1::10.0.0.1":      reachNever,
		"2002:808:808::1":          reachPublic,
		"2002:a00:1::1":            reachPrivate,
		"2002:a9fe:a9fe::1":        reachNever,
		"::10.0.0.1":               reachPrivate,
	} {
		if got := reachOf(netip.MustParseAddr(ip)); got != want {
			t.Errorf("reachOf(%s) = %d, expected %d", ip, got, want)
		}
	}
	if got := reachOf(netip.Addr{}); got != reachNever {
		t.Errorf("no address: %d", got)
	}
}

// A host on the internet must not make Berth speak to the machine that it runs on, by whatever name.
func TestNamedHostMayNotBeMorePrivate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	named := context.WithValue(t.Context(), namedKey{}, true)
	for _, test := range []struct {
		own     reach
		ctx     context.Context
		allowed bool
	}{
		{reachPublic, named, false},
		{reachPrivate, named, false},
		{reachLoopback, named, true},
		{reachPublic, t.Context(), true}, // a proxy, which the user chose
	} {
		for _, name := range []string{"127.0.0.1", "localhost"} {
			d := NewDialer("registry.example.com:443", net.Dialer{})
			d.reach.Store(int32(test.own))
			conn, err := d.DialContext(test.ctx, "tcp", net.JoinHostPort(name, port))
			if err == nil {
				conn.Close()
			}
			if (err == nil) != test.allowed {
				t.Errorf("own at %d, %s, named %t: %v", test.own, name, test.ctx == named, err)
			}
			if !test.allowed && err != nil && !strings.Contains(err.Error(), "more private") {
				t.Errorf("failed for another reason: %v", err)
			}
		}
	}
	d := NewDialer("registry.example.com:443", net.Dialer{})
	d.reach.Store(int32(reachNever)) // one that is link-local itself may not point to others
	if conn, err := d.DialContext(named, "tcp", "169.254.0.1:443"); err == nil {
		conn.Close()
		t.Error("link-local: connected")
	} else if !strings.Contains(err.Error(), "more private") {
		t.Errorf("link-local: %v", err)
	}
}

// How near the host itself is shows when it is connected to; what goes to it, or through a proxy, is not held back.
func TestMark(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	own, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := NewDialer(HostPort(own), net.Dialer{})
	none := func(*http.Request) (*url.URL, error) { return nil, nil }
	proxy := func(*http.Request) (*url.URL, error) { return own, nil }
	for _, test := range []struct {
		address string
		proxy   func(*http.Request) (*url.URL, error)
		marked  bool
	}{{s.URL + "/x", none, false}, {"http://other.example/", none, true}, {"http://other.example/", proxy, false}} {
		ctx, err := d.Mark(httptest.NewRequest(http.MethodGet, test.address, nil), test.proxy)
		if err != nil || (ctx.Value(namedKey{}) != nil) != test.marked {
			t.Errorf("%s: %v, %v", test.address, ctx.Value(namedKey{}), err)
		}
	}
	conn, err := d.DialContext(t.Context(), "tcp", HostPort(own))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if got := reach(d.reach.Load()); got != reachLoopback {
		t.Errorf("a server on this machine is at %d", got)
	}
}

func TestHostPort(t *testing.T) {
	for address, want := range map[string]string{"https://A.example/x": "a.example:443", "http://a.example": "a.example:80", "https://[::1]:5000": "[::1]:5000"} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := HostPort(u); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}
