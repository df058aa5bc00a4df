package upstream

import (
	"net/http"
	"net/url"

	"github.com/berthregistry/berth/internal/egress"
)

// egressTransport sends requests to the registry and to hosts that it named, as far as package egress allows.
type egressTransport struct {
	base      http.RoundTripper // to the registry
	others    http.RoundTripper // to hosts that it names
	own       string
	dialer    *egress.Dialer // of both
	proxy     func(*http.Request) (*url.URL, error)
	userAgent string
	inspect   bool
}

// RoundTrip implements http.RoundTripper.
func (t *egressTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	base := t.base
	if egress.HostPort(req.URL) != t.own {
		base = t.others
	}
	ctx, err := t.dialer.Mark(req, t.proxy)
	if err != nil {
		return nil, err
	}
	req = req.Clone(ctx)
	if t.userAgent != "" {
		req.Header.Set("User-Agent", t.userAgent)
	}
	if t.inspect {
		req.Header.Set("Berth-Inspect", "1")
	}
	return base.RoundTrip(req)
}
