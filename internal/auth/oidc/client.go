package oidc

import (
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
	"time"

	"github.com/berthregistry/berth/internal/egress"
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

// isLoopback tells whether a host names this machine, whatever a name server says. Names below localhost do so in browsers (RFC 6761 section 6.3), but
// not here, where they are looked up.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// isSafe tells whether people may be sent to an address that the issuer names, to enter their password there: one with TLS, unless the issuer has none.
func (i *Issuer) isSafe(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Hostname() != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http" && strings.HasPrefix(i.url, "http:") && isLoopback(u.Hostname()))
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
	dial := egress.NewDialer(egress.HostPort(issuer), net.Dialer{Timeout: dialTimeout})
	t := &transport{own: issuer, dialer: dial, conns: &http.Transport{
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
	if first := via[0].URL; req.URL.Scheme != first.Scheme || egress.HostPort(req.URL) != egress.HostPort(first) {
		return fmt.Errorf("%s redirects to another host, %s", first.Host, clip(req.URL.Host, 100))
	}
	if len(via) > maxRedirects {
		return errors.New("it redirects again and again")
	}
	return nil
}

// transport sends requests over TLS only, unless the issuer is on this machine, and bounds answers.
type transport struct {
	own    *url.URL
	dialer *egress.Dialer // of conns
	conns  *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && (t.own.Scheme != "http" || !isLoopback(req.URL.Hostname())) {
		return nil, fmt.Errorf("%s is not asked, because it would be without TLS", clip(req.URL.Host, 100))
	}
	ctx, err := t.dialer.Mark(req, t.conns.Proxy)
	if err != nil {
		return nil, err
	}
	resp, err := t.conns.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	return resp, nil
}
