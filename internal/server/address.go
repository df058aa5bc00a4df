package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is where a listener binds: HOST:PORT, :PORT or unix:PATH. Empty stands
// for no listener.
type Address string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(b []byte) error {
	s := string(b)
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		// The kernel takes 108 bytes with a final zero, some systems 104.
		if path == "" || len(path) > 103 {
			return fmt.Errorf("%q: the path of a Unix socket has 1 to 103 bytes", clip(b))
		}
		*a = Address(s)
		return nil
	}
	if s != "" {
		_, port, err := net.SplitHostPort(s)
		if err != nil || strings.Contains(s, "/") {
			return badAddress(b)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return badAddress(b)
		}
	}
	*a = Address(s)
	return nil
}

func badAddress(b []byte) error {
	return fmt.Errorf("%q is not an address: write HOST:PORT such as 127.0.0.1:5000 or [::1]:5000, :5000 for all addresses of this machine, or unix:PATH", clip(b))
}

// Unix returns the path of a Unix socket.
func (a Address) Unix() (path string, ok bool) { return strings.CutPrefix(string(a), "unix:") }

// literal returns the IP address that stands in a, the unspecified one for :PORT.
// It is false for a host name and a Unix socket.
func (a Address) literal() (netip.Addr, bool) {
	if _, ok := a.Unix(); ok || a == "" {
		return netip.Addr{}, false
	}
	host, _, err := net.SplitHostPort(string(a))
	if err != nil {
		return netip.Addr{}, false
	}
	if host == "" {
		return netip.IPv6Unspecified(), true
	}
	ip, err := netip.ParseAddr(host)
	return ip, err == nil
}

// exposed tells whether other machines can connect to a listener at ip.
func exposed(ip netip.Addr) bool { return !ip.Unmap().IsLoopback() }

// guarded tells whether something decides who may use the registry. This is the only place that knows.
func (c *Config) guarded() bool {
	if c.Auth.Enabled { // which is worth something only where nobody reads along: TLS ends here, or before
		return c.TLS.on() || strings.HasPrefix(string(c.ExternalURL), "https://")
	}
	return c.TLS.on() && c.TLS.ClientCA != "" && c.TLS.ClientCertificate == PresenceRequired
}

// checkExposure refuses to serve the registry at ip, which a stands for, when that would
// open it to everyone.
func (c *Config) checkExposure(a Address, ip netip.Addr) error {
	if c.InsecureOpen || c.guarded() || !exposed(ip) {
		return nil
	}
	_, port, _ := net.SplitHostPort(string(a))
	instead := "or set insecure_open: true (--insecure-open, BERTH_INSECURE_OPEN=true) to allow it"
	switch {
	case c.Auth.Enabled:
		return fmt.Errorf("%s can be reached from other machines, and there is no TLS: passwords and tokens would be read on the way. "+
			"Set tls (\"berth cert self-signed\" makes certificates), listen on 127.0.0.1:%s behind a proxy that does TLS, set external_url to the https address of a proxy "+
			"on another machine, %s", a, port, instead)
	case c.TLS.on():
		return fmt.Errorf("%s can be reached from other machines, and there is no access control: everyone there could pull, push and delete. "+
			"Set auth.enabled: true, listen on 127.0.0.1:%s behind a proxy that has access control, ask clients for certificates (tls.client_ca, tls.client_certificate: required), %s",
			a, port, instead)
	}
	return fmt.Errorf("%s can be reached from other machines, and there is neither access control nor TLS: everyone there could pull, push and delete. "+
		"Set auth.enabled: true and tls, listen on 127.0.0.1:%s behind a proxy that does both, %s", a, port, instead)
}

// checkMetricsExposure is checkExposure for the listener of the metrics.
func (c *Config) checkMetricsExposure(a Address, ip netip.Addr) error {
	if c.InsecureOpen || c.Metrics.Token.IsSet() || !exposed(ip) {
		return nil
	}
	return errors.New(string(a) + " can be reached from other machines: set metrics.token, listen on 127.0.0.1, " +
		"or set insecure_open: true to allow it")
}
