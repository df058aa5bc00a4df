package upstream

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
)

// reach says from how far away an address can be used. A registry may send its
// client to hosts that can be reached from as far as itself, not to nearer ones: otherwise a
// registry on the internet could make the client speak to the network that it runs in.
type reach int32

const (
	reachPublic   reach = iota
	reachPrivate        // RFC 1918, RFC 4193, RFC 6598
	reachLoopback       // this machine
	reachNever          // link-local (where clouds keep credentials), multicast, unspecified
)

func reachOf(ip netip.Addr) reach {
	ip = ip.Unmap()
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified(), !ip.IsValid():
		return reachNever
	case ip.IsLoopback():
		return reachLoopback
	case ip.IsPrivate(), carrierGrade().Contains(ip):
		return reachPrivate
	}
	return reachPublic
}

func carrierGrade() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) }

// egressDialer connects. The address is judged after its name was looked up, when the
// connection is made, so that a name cannot change its address in between.
type egressDialer struct {
	own    string // host:port of the registry, which may be anywhere: the user named it
	dialer net.Dialer
	reach  atomic.Int32 // the registry's, as of its last connection; public until then
}

type namedKey struct{}

// DialContext is for http.Transport.
func (d *egressDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if strings.EqualFold(addr, d.own) {
		conn, err := d.dialer.DialContext(ctx, network, addr)
		if err == nil {
			if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
				d.reach.Store(int32(reachOf(ap.Addr())))
			}
		}
		return conn, err
	}
	dialer := d.dialer
	if ctx.Value(namedKey{}) != nil {
		limit := reach(d.reach.Load())
		dialer.ControlContext = func(_ context.Context, _, addr string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(addr)
			if err != nil {
				return err
			}
			if r := reachOf(ap.Addr()); r == reachNever || r > limit {
				return fmt.Errorf("the registry at %s names a host at the address %s, which is more private than its own", d.own, ap.Addr())
			}
			return nil
		}
	}
	return dialer.DialContext(ctx, network, addr)
}

// egressTransport marks the requests that go to a host that the registry named. A
// request through a proxy is not marked: the connection is to the proxy, and the
// proxy decides what can be reached.
type egressTransport struct {
	base      http.RoundTripper // to the registry
	others    http.RoundTripper // to hosts that it names
	own       string
	proxy     func(*http.Request) (*url.URL, error)
	userAgent string
}

// RoundTrip implements http.RoundTripper.
func (t *egressTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, base := req.Context(), t.base
	if hostPort(req.URL) != t.own {
		base = t.others
		if via, err := t.proxy(req); err != nil {
			return nil, err
		} else if via == nil {
			ctx = context.WithValue(ctx, namedKey{}, true)
		}
	}
	req = req.Clone(ctx)
	if t.userAgent != "" {
		req.Header.Set("User-Agent", t.userAgent)
	}
	return base.RoundTrip(req)
}
