package web

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func proxied(t testing.TB, proxies ...string) *Server {
	t.Helper()
	var opts Options
	for _, p := range proxies {
		opts.TrustedProxies = append(opts.TrustedProxies, netip.MustParsePrefix(p))
	}
	return NewServer(opts)
}

func TestClient(t *testing.T) {
	const proxy = "10.0.0.1:1234"
	for _, test := range []struct {
		peer, header, value, want string
	}{
		{"192.0.2.1:5", "", "", "192.0.2.1"},
		{"[::ffff:192.0.2.1]:5", "", "", "192.0.2.1"},
		{"[2001:db8::1]:5", "", "", "2001:db8::1"},
		{"@", "", "", "invalid IP"},                                     // a Unix socket
		{"192.0.2.1:5", "X-Forwarded-For", "198.51.100.7", "192.0.2.1"}, // not a trusted one

		{proxy, "", "", "10.0.0.1"},
		{proxy, "X-Forwarded-For", "198.51.100.7", "198.51.100.7"},
		{proxy, "X-Forwarded-For", " 198.51.100.7:99 ", "198.51.100.7"},
		{proxy, "X-Forwarded-For", "[2001:db8::7]:99", "2001:db8::7"},
		{proxy, "X-Forwarded-For", "2001:db8::7", "2001:db8::7"},
		{proxy, "X-Forwarded-For", "::ffff:198.51.100.7", "198.51.100.7"},
		{proxy, "X-Forwarded-For", "203.0.113.66, 198.51.100.7", "198.51.100.7"}, // what is left of it is invented
		{proxy, "X-Forwarded-For", "198.51.100.7, 10.9.9.9, 10.0.0.2", "198.51.100.7"},
		{proxy, "X-Forwarded-For", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{proxy, "X-Forwarded-For", "198.51.100.7, unknown", "10.0.0.1"},
		{proxy, "X-Forwarded-For", "unknown, 10.0.0.2", "10.0.0.2"},
		{proxy, "X-Forwarded-For", "", "10.0.0.1"},
		{proxy, "X-Forwarded-For", ",,", "10.0.0.1"},

		{proxy, "Forwarded", "for=198.51.100.7", "198.51.100.7"},
		{proxy, "Forwarded", `For="[2001:db8::7]:99";proto=https;by=10.0.0.1`, "2001:db8::7"},
		{proxy, "Forwarded", `for=203.0.113.66, proto=http;for="198.51.100.7:8080"`, "198.51.100.7"},
		{proxy, "Forwarded", "for=_hidden", "10.0.0.1"},
		{proxy, "Forwarded", "proto=https", "10.0.0.1"},
		{proxy, "Forwarded", "for", "10.0.0.1"},
	} {
		r := &http.Request{RemoteAddr: test.peer, Header: http.Header{}}
		if test.header != "" {
			r.Header.Set(test.header, test.value)
		}
		if got := proxied(t, "10.0.0.0/8").Client(r).String(); got != test.want {
			t.Errorf("peer %s, %s: %q: the client is %s, expected %s", test.peer, test.header, test.value, got, test.want)
		}
	}
	// Several lines of a header are one list.
	r := &http.Request{RemoteAddr: proxy, Header: http.Header{"X-Forwarded-For": {"203.0.113.66", "198.51.100.7", "10.0.0.2"}}}
	if got := proxied(t, "10.0.0.0/8").Client(r).String(); got != "198.51.100.7" {
		t.Errorf("of several lines the client is %s", got)
	}
}

// Whatever is in the header, the client is the peer or an address that stands in it, and without
// trust it is the peer.
func FuzzClient(f *testing.F) {
	f.Add("198.51.100.7, 10.0.0.2", "for=198.51.100.7")
	f.Add(`[2001:db8::7]:99`, `for="[2001:db8::7]:99";by=x`)
	f.Add(",,", `for=""`)
	trusting, distrusting := proxied(f, "10.0.0.0/8"), proxied(f)
	f.Fuzz(func(t *testing.T, forwardedFor, forwarded string) {
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {forwardedFor}, "Forwarded": {forwarded}}}
		if got := distrusting.Client(r); got.String() != "10.0.0.1" {
			t.Errorf("without trust the client is %s", got)
		}
		got := trusting.Client(r)
		if !got.IsValid() {
			t.Error("the client has no address")
		}
		if got.String() != "10.0.0.1" && !addressIn(forwardedFor+","+forwarded, got) {
			t.Errorf("the client %s comes from nowhere", got)
		}
	})
}

// addressIn tells whether an address stands somewhere in a text.
func addressIn(text string, want netip.Addr) bool {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(",;\"= \t\n\r\v\f\u0085\u00a0", r) }) {
		if a, ok := parseHop(word); ok && a == want {
			return true
		}
	}
	return false
}

func TestRequestID(t *testing.T) {
	for _, test := range []struct {
		peer, id string
		taken    bool
	}{
		{"10.0.0.1:1", "abc-123", true},
		{"10.0.0.1:1", "", false},
		{"10.0.0.1:1", strings.Repeat("x", 65), false},
		{"10.0.0.1:1", "a b", false},
		{"10.0.0.1:1", "a\x7f", false},
		{"192.0.2.1:1", "abc-123", false},
	} {
		r := &http.Request{RemoteAddr: test.peer, Header: http.Header{"X-Request-Id": {test.id}}}
		got := proxied(t, "10.0.0.0/8").requestID(r)
		if (got == test.id) != test.taken || len(got) == 0 || !printable(got) {
			t.Errorf("peer %s with the id %q: %q", test.peer, test.id, got)
		}
	}
}

// Only what this connection has verified counts.
func TestClientCertificate(t *testing.T) {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, NotAfter: time.Now().Add(time.Hour)}
	expired := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, NotAfter: time.Now().Add(-time.Second)}
	for name, test := range map[string]struct {
		state *tls.ConnectionState
		want  *x509.Certificate
	}{
		"without TLS":           {nil, nil},
		"without a certificate": {&tls.ConnectionState{}, nil},
		"shown, not verified":   {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, nil},
		"verified":              {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, {}}}}, leaf},
		"expired meanwhile":     {&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{expired, {}}}}, nil},
	} {
		r := httptest.NewRequest("GET", "/v2/", nil)
		r.RemoteAddr, r.TLS = "10.0.0.1:1", test.state
		for _, header := range []string{"X-Forwarded-Client-Cert", "X-Ssl-Client-Cert", "Client-Cert"} {
			r.Header.Set(header, "Subject=\"CN=mallory\"")
		}
		if got := proxied(t, "10.0.0.0/8").ClientCertificate(r); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAccessLogNamesTheCertificate(t *testing.T) {
	var log strings.Builder
	s := NewServer(Options{Log: slog.New(slog.NewTextHandler(&log, nil)), AccessLog: true})
	h := s.Handler(func(*Response, *http.Request) error { return nil })
	r := httptest.NewRequest("GET", "/v2/", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if strings.Contains(log.String(), "certificate") {
		t.Errorf("without one: %s", log.String())
	}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, NotAfter: time.Now().Add(time.Hour)}
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), ` certificate="CN=alice"`) {
		t.Errorf("with one: %s", log.String())
	}
}
