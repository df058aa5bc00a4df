package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/berthregistry/berth/internal/egress"
)

const (
	dialTimeout = 15 * time.Second
	probeLimit  = 5 * time.Second // for a loopback host to show whether it speaks TLS
)

// tls returns the configuration of connections on which the client shows no certificate. If it is asked for one, it says so.
func (o *Options) tls(asked *atomic.Bool) *tls.Config {
	return &tls.Config{
		RootCAs:            o.CA,
		InsecureSkipVerify: o.Insecure,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked.Store(true)
			return new(tls.Certificate), nil
		},
	}
}

// newTransport stacks, from the outside in: credentials, retries, the check of where
// a request may go, and the connections, which are returned too: those to the registry, and those to others.
func newTransport(host, base string, tlsConfig *tls.Config, opt Options) (_ http.RoundTripper, conns, others *http.Transport, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, nil, nil, err
	}
	own := egress.HostPort(u)
	dial := egress.NewDialer(own, net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second})
	conns = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial.DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   dialTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Bytes are hashed and passed on as they come: nobody may compress them on the way.
		DisableCompression: true,
		WriteBufferSize:    64 << 10,
		ReadBufferSize:     64 << 10,
	}
	others = conns
	if opt.Certificate != nil {
		others = conns.Clone()
		conns.TLSClientConfig = tlsConfig.Clone()
		conns.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return opt.Certificate, nil // whatever authorities are named: an error tells more than silence
		}
	}
	policy := &retry.GenericPolicy{
		Retryable: retryable,
		Backoff:   retry.DefaultBackoff,
		MinWait:   200 * time.Millisecond,
		MaxWait:   longestWait,
		MaxRetry:  4,
	}
	inner := &retry.Transport{
		Base:   &egressTransport{base: conns, others: others, own: own, dialer: dial, proxy: conns.Proxy, userAgent: opt.UserAgent, inspect: opt.Inspect},
		Policy: func() retry.Policy { return policy },
	}
	return newAuthTransport(inner, u, host, opt.Credential), conns, others, nil
}

// longestWait is for how long a request that failed waits at most, also where the server asks to wait.
const longestWait = 5 * time.Minute

// retryable is the library's judgement less the failures of a server that last: it cannot do what was
// asked, its disk is full, or it asks to come back in hours.
func retryable(resp *http.Response, err error) (bool, error) {
	if resp != nil {
		if seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 64); err == nil && seconds > int64(longestWait/time.Second) {
			return false, nil
		}
		switch resp.StatusCode {
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
			return false, nil
		}
	}
	return retry.DefaultPredicate(resp, err)
}

// isLoopbackName tells whether host, with or without a port, names this machine
// without a lookup.
func isLoopbackName(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// speaksTLS tells whether host answers to a TLS handshake. A server that does but
// whose certificate is not trusted counts as one: the request that follows says so.
func speaksTLS(ctx context.Context, host string, config *tls.Config) (bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, errNoHandshake)
	defer cancel()
	addr := host
	_, _, err := net.SplitHostPort(host)
	hasPort := err == nil
	if !hasPort {
		addr = net.JoinHostPort(strings.Trim(host, "[]"), "443")
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err == nil {
		conn.Close()
		return true, nil
	}
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	switch {
	case errors.As(err, &cert), errors.As(err, &alert):
		return true, nil
	case errors.As(err, &op) && op.Op == "dial":
		if !hasPort {
			return false, nil // nothing at 443, so try 80
		}
		return false, &OpError{Host: host, Op: "dial", Err: op.Err}
	case ctx.Err() != nil && context.Cause(ctx) != errNoHandshake:
		return false, context.Cause(ctx)
	}
	return false, nil
}

var errNoHandshake = errors.New("no TLS handshake")
