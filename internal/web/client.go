package web

import (
	"crypto/x509"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Client returns the address of who made the request: the peer's, or what trusted
// proxies say. Addresses are read from the right, since everything left of the first
// that is not trusted can be invented. The zero Addr stands for a peer without one.
func (s *Server) Client(r *http.Request) netip.Addr {
	addr := peer(r)
	if len(s.opts.TrustedProxies) == 0 || !s.trusted(addr) {
		return addr
	}
	hops := forwardedFor(r.Header)
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseHop(hops[i])
		if !ok {
			return addr
		}
		addr = hop
		if !s.trusted(addr) {
			return addr
		}
	}
	return addr
}

// Origin returns the scheme and host by which the client reaches this server, such as https://registry.example.com: its own
// words, or those of trusted proxies. A host with characters that no host has is left out.
func (s *Server) Origin(r *http.Request) string {
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if len(s.opts.TrustedProxies) > 0 && s.trusted(peer(r)) {
		if p := last(r.Header.Get("X-Forwarded-Proto")); p == "http" || p == "https" {
			scheme = p
		}
		if h := last(r.Header.Get("X-Forwarded-Host")); h != "" {
			host = h
		}
	}
	for i := range len(host) {
		if c := host[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(".-:[]_", c) < 0 {
			host = ""
			break
		}
	}
	return scheme + "://" + host
}

// last returns what the nearest proxy has said, which comes last.
func last(list string) string { return strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:]) }

// ClientCertificate returns the certificate by which the client has proved who it is, or nil. It has been verified with the
// authorities of the setting tls.client_ca, by this connection's handshake or by that of the session that it goes on with, and
// has not expired since. Its subject's common name, or a URI or e-mail address among its subject alternative names, says who
// the client is. What a proxy says about certificates is never believed.
func (s *Server) ClientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if time.Now().After(leaf.NotAfter) {
		return nil // a connection may last longer than a certificate
	}
	return leaf
}

func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// trusted tells whether a peer may say who the client is. One without an address is at the other end of a
// Unix socket, which only the proxy is given access to.
func (s *Server) trusted(a netip.Addr) bool {
	if !a.IsValid() {
		return true
	}
	for _, p := range s.opts.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// forwardedFor lists the hops of X-Forwarded-For, or else of Forwarded (RFC 7239).
func forwardedFor(h http.Header) []string {
	var hops []string
	for _, v := range h.Values("X-Forwarded-For") {
		hops = append(hops, strings.Split(v, ",")...)
	}
	if hops != nil {
		return hops
	}
	for _, v := range h.Values("Forwarded") {
		for element := range strings.SplitSeq(v, ",") {
			for pair := range strings.SplitSeq(element, ";") {
				k, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
				if strings.EqualFold(k, "for") {
					hops = append(hops, strings.Trim(v, `"`))
				}
			}
		}
	}
	return hops
}

// parseHop reads an address with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), true
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return a.Unmap(), err == nil
}
