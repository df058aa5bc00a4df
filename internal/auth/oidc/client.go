package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	answerTimeout = 10 * time.Second // for one request, its answer included
	dialTimeout   = 5 * time.Second
	maxAnswer     = 1 << 20 // bytes of a body
	maxHeader     = 64 << 10
	maxRedirects  = 3
)

// parseIssuer checks the URL of an issuer (openid-connect-core-1_0#IDToken, iss). Without TLS anyone on the way could
// be the issuer, so plain HTTP is for this machine only.
func parseIssuer(issuer string) (*url.URL, error) {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("issuer %s: it must be a URL such as https://accounts.example.com, exactly as it stands in the claim iss of tokens", shown(issuer))
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(issuer, "#"):
		return nil, fmt.Errorf("issuer %s: a user, a query or a fragment has no place in it", shown(u.Redacted()))
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("issuer %s: it must begin with https://, because whoever can change what it answers on the way could sign tokens", shown(issuer))
	}
	return u, nil
}

// isLoopback tells whether a host names this machine without a lookup.
func isLoopback(host string) bool {
	host = strings.ToLower(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// newClient returns a client that speaks to one issuer and to what its discovery names.
func newClient(issuer *url.URL, caFile string) (*http.Client, error) {
	var roots *x509.CertPool // nil for the system's
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("certificates of the issuer %s: %w", issuer, err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates of the issuer %s: %s holds no certificate in PEM form", issuer, caFile)
		}
	}
	dial := &dialer{own: hostPort(issuer), dialer: net.Dialer{Timeout: dialTimeout}}
	t := &transport{own: issuer, conns: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
	}}
	return &http.Client{Transport: t, CheckRedirect: stay, Timeout: answerTimeout}, nil
}

// stay lets a request be redirected within its host only.
func stay(req *http.Request, via []*http.Request) error {
	if first := via[0].URL; req.URL.Scheme != first.Scheme || hostPort(req.URL) != hostPort(first) {
		return fmt.Errorf("%s redirects to another host, %s", first.Host, clip(req.URL.Host, 100))
	}
	if len(via) > maxRedirects {
		return errors.New("it redirects again and again")
	}
	return nil
}

// transport sends requests over TLS only, unless the issuer is on this machine, and bounds answers.
type transport struct {
	own   *url.URL
	conns *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && (t.own.Scheme != "http" || !isLoopback(req.URL.Hostname())) {
		return nil, fmt.Errorf("%s is not asked, because it would be without TLS", clip(req.URL.Host, 100))
	}
	if via, err := t.conns.Proxy(req); err != nil {
		return nil, err
	} else if via == nil && hostPort(req.URL) != hostPort(t.own) {
		// Through a proxy, the connection is to the proxy, which decides what can be reached.
		req = req.WithContext(context.WithValue(req.Context(), namedKey{}, true))
	}
	resp, err := t.conns.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	return resp, nil
}

// namedKey marks requests to a host that the issuer named.
type namedKey struct{}

// reach says from how far away an address can be used. The operator chose the issuer, so it may be anywhere. What the issuer
// names may not be nearer than itself: a public one could otherwise make Berth speak to the network that it runs in.
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
	case ip.IsPrivate(), netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10).Contains(ip):
		return reachPrivate
	}
	return reachPublic
}

// dialer connects. An address is judged after its name was looked up, when the connection is made, so that a name
// cannot change its address in between.
type dialer struct {
	own    string // host:port of the issuer
	dialer net.Dialer
	reach  atomic.Int32 // the issuer's, as of its last connection; public until then
}

// DialContext is for http.Transport.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := d.dialer
	switch {
	case strings.EqualFold(addr, d.own):
		conn, err := dial.DialContext(ctx, network, addr)
		if err == nil {
			if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
				d.reach.Store(int32(reachOf(ap.Addr())))
			}
		}
		return conn, err
	case ctx.Value(namedKey{}) != nil:
		limit := reach(d.reach.Load())
		dial.Control = func(_, addr string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(addr)
			if err != nil {
				return err
			}
			if r := reachOf(ap.Addr()); r == reachNever || r > limit {
				return fmt.Errorf("the issuer at %s names a host at the address %s, which is more private than its own", d.own, ap.Addr())
			}
			return nil
		}
	}
	return dial.DialContext(ctx, network, addr)
}

// hostPort returns the host and port that u is served at.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
