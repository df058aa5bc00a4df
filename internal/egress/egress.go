// Package egress says which addresses may be dialled on behalf of somebody else.
//
// Whoever runs Berth, or a command of it, names a host: a registry, the issuer of tokens. That one may be anywhere. But it answers with the names of others, in
// redirects, challenges and discovery documents, and what holds true of those is: none is dialled at an address that is more private
// than the host's own, so that one on the internet cannot make Berth speak to the network that it runs in, nor one there to this machine; and
// none ever at addresses where clouds keep credentials. An address is judged after its name was looked up, when the connection
// is made, so that a name cannot change its address in between. Through a proxy, the connection is to the proxy, which decides what can be reached.
package egress

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

// reach says from how far away an address can be used.
type reach int32

const (
	reachPublic   reach = iota
	reachPrivate        // RFC 1918, RFC 4193, RFC 6598 and the like
	reachLoopback       // this machine
	reachNever          // link-local, metadata services, multicast, broadcast, unspecified
)

// reachOf judges an address. One that stands for another, which a gateway would translate it to, is judged as that.
func reachOf(ip netip.Addr) reach {
	ip = ip.Unmap().WithZone("")
	if inner, ok := carried(ip); ok {
		return reachOf(inner)
	}
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified(), !ip.IsValid(), in(ip, "0.0.0.0/8", "240.0.0.0/4", "64:ff9b:1::/48",
		"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128", "fd00:42::42/128"): // metadata services of clouds
		return reachNever
	case ip.IsLoopback():
		return reachLoopback
	case ip.IsPrivate(), in(ip, "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "fec0::/10"):
		return reachPrivate
	}
	return reachPublic
}

func in(ip netip.Addr, prefixes ...string) bool {
	for _, p := range prefixes {
		if netip.MustParsePrefix(p).Contains(ip) {
			return true
		}
	}
	return false
}

// carried returns the IPv4 address that an IPv6 address stands for: NAT64 (RFC 6052), 6to4 (RFC 3056), IPv4-compatible (RFC 4291 section 2.5.5.1).
func carried(ip netip.Addr) (netip.Addr, bool) {
	b := ip.As16()
	switch {
	case !ip.Is6():
	case in(ip, "64:ff9b::/96"), in(ip, "::/96") && !ip.IsLoopback() && !ip.IsUnspecified():
		return netip.AddrFrom4([4]byte(b[12:])), true
	case in(ip, "2002::/16"):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// Dialer connects to one host, and to those that it names. It may be used concurrently.
type Dialer struct {
	own    string // host:port
	dialer net.Dialer
	reach  atomic.Int32 // the host's, as of its last connection; public until then
}

// NewDialer returns a Dialer for the host and port of HostPort.
func NewDialer(own string, dialer net.Dialer) *Dialer { return &Dialer{own: own, dialer: dialer} }

// namedKey marks requests to a host that the Dialer's host named.
type namedKey struct{}

// Mark returns the context with which a request is to be sent over a transport that uses DialContext and this proxy.
func (d *Dialer) Mark(req *http.Request, proxy func(*http.Request) (*url.URL, error)) (context.Context, error) {
	ctx := req.Context()
	if HostPort(req.URL) == d.own {
		return ctx, nil
	}
	via, err := proxy(req)
	if err == nil && via == nil {
		ctx = context.WithValue(ctx, namedKey{}, true)
	}
	return ctx, err
}

// DialContext is for http.Transport.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := d.dialer
	switch {
	case strings.EqualFold(addr, d.own):
		conn, err := dialer.DialContext(ctx, network, addr)
		if err == nil {
			if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
				d.reach.Store(int32(reachOf(ap.Addr())))
			}
		}
		return conn, err
	case ctx.Value(namedKey{}) != nil:
		limit := reach(d.reach.Load())
		dialer.ControlContext = func(_ context.Context, _, addr string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(addr)
			if err != nil {
				return err
			}
			if r := reachOf(ap.Addr()); r == reachNever || r > limit {
				return fmt.Errorf("%s names a host at the address %s, which is more private than its own", d.own, ap.Addr())
			}
			return nil
		}
	}
	return dialer.DialContext(ctx, network, addr)
}

// HostPort returns the host, in lower case, and the port that a URL with the scheme http or https is served at.
func HostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
