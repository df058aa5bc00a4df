package certificates

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

const name = "registry.example.com"

// acmeEnv returns the settings of a server that orders certificates.
func acmeEnv(a *service.Authority, more ...string) []string {
	return append([]string{"BERTH_TLS_ACME_HOSTS=" + name, "BERTH_TLS_ACME_ACCEPT_TERMS=true", "BERTH_TLS_ACME_DIRECTORY=" + a.Directory,
		"BERTH_TLS_ACME_CA_FILE=" + a.CAFile, "BERTH_TLS_ACME_EMAIL=me@example.com"}, more...)
}

// wait waits until a server shows a certificate of the authority.
func wait(t *testing.T, addr string, roots *x509.CertPool) (cert *x509.Certificate) {
	t.Helper()
	eventually(t, "there is a certificate", func() bool {
		var err error
		cert, err = service.Handshake(addr, name, roots)
		return err == nil
	})
	return cert
}

// Two nodes of one registry: the authority finds the redirect of one of them. Both serve with the same certificate, before and
// after it is renewed, and one that is started anew has it at once.
func TestNodesShareCertificates(t *testing.T) {
	t.Parallel()
	url := service.Postgres(t).URL
	redirect, port := freeAddr(t)
	_, tlsPort := freeAddr(t)
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: port, TLSPort: tlsPort, Validity: time.Minute})
	// Both may answer HTTP-01, though what is sent to port 80 arrives at the first.
	env := acmeEnv(a, "BERTH_DATABASE="+url)
	first := start(t, append(env, "BERTH_TLS_REDIRECT_LISTEN="+redirect))
	second := start(t, append(env, "BERTH_TLS_REDIRECT_LISTEN=127.0.0.1:0"))
	roots := a.Roots(t)
	before := wait(t, first.Addr, roots)
	if wait(t, second.Addr, roots); metric(t, second, `berth_tls_certificate_expiry_timestamp_seconds{certificate="`+name+`"}`) == 0 {
		t.Error("the metric does not tell of the certificate")
	}
	eventually(t, "both nodes show the same new certificate", func() bool {
		one, err := service.Handshake(first.Addr, name, roots)
		if err != nil {
			return false
		}
		other, err := service.Handshake(second.Addr, name, roots)
		return err == nil && one.Equal(other) && !one.Equal(before)
	})

	second.Kill()
	started := len(second.Log())
	if err := second.Restart(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(second.Log()[started:], `msg="certificate taken from the database"`) {
		t.Error("after a restart there is no certificate at once")
	}
	if strings.Contains(first.Log()+second.Log(), "PRIVATE") {
		t.Error("a key is in the log")
	}

	// The redirect leads to the registry.
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { // every name is at this machine
			_, port, _ := net.SplitHostPort(addr)
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + strings.Replace(redirect, "127.0.0.1", name, 1) + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Scheme != "https" {
		t.Errorf("GET %s: status %d", resp.Request.URL, resp.StatusCode)
	}
}

// A server on its own, with the challenge at its only port; clients need certificates, authorities do not.
func TestChallengeBesideClientCertificates(t *testing.T) {
	t.Parallel()
	own := newAuthority(t, "127.0.0.1")
	listen, tlsPort := freeAddr(t)
	_, httpPort := freeAddr(t)
	a := service.NewAuthority(t, service.AuthoritySettings{HTTPPort: httpPort, TLSPort: tlsPort})
	s := start(t, acmeEnv(a, "BERTH_TLS_CLIENT_CA="+own.file("ca.crt"), "BERTH_TLS_CLIENT_CERTIFICATE=required"), "--listen", listen)
	eventually(t, "there is a certificate", func() bool { return strings.Contains(s.Log(), `msg="certificate taken from the database"`) })

	berth(t, "cert", "client", "--out", own.dir, "alice")
	pair, err := tls.LoadX509KeyPair(own.file("alice.crt"), own.file("alice.key"))
	if err != nil {
		t.Fatal(err)
	}
	get := func(certs ...tls.Certificate) error {
		config := &tls.Config{RootCAs: a.Roots(t), ServerName: name, Certificates: certs}
		client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		api := &harness.API{T: t, Base: "https://" + listen, Client: client}
		resp, err := api.Try(t.Context(), "GET", "/v2/", nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			t.Errorf("status %d", resp.StatusCode)
		}
		return err
	}
	if err := get(pair); err != nil {
		t.Error(err)
	}
	if err := get(); err == nil {
		t.Error("who has no certificate is served")
	}
}
