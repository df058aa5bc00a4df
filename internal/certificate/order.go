package certificate

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/berthregistry/berth/internal/meta"
)

// orderTimeout is how long the order of one certificate may take.
const orderTimeout = 3 * time.Minute

// order gets the certificates that are due. It runs under the lease, so what was due may have been done by another node.
func (a *ACME) order(ctx context.Context) (result string, err error) {
	if err := a.load(ctx); err != nil {
		return "", err
	}
	hosts, err := a.due(ctx)
	if err != nil || len(hosts) == 0 {
		return "nothing is due", err
	}
	var failed error
	for _, host := range hosts {
		if err := a.orderOne(ctx, host); err != nil {
			failed = errors.Join(failed, fmt.Errorf("certificate of %s: %w", host, err))
		}
	}
	return "ordered " + strings.Join(hosts, ", "), failed
}

// orderOne gets the certificate of one host and stores it, or stores that it failed.
func (a *ACME) orderOne(ctx context.Context, host string) error {
	f, err := a.failure(ctx, host)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	kind := a.challengeKind(f.Count)
	text, err := a.obtain(bounded, host, kind)
	if err == nil {
		if err = a.db.SetSetting(ctx, a.certificateName(host), text); err == nil {
			a.opts.Log.Info("certificate ordered", "host", host, "challenge", kind)
			return a.db.DeleteSetting(ctx, a.failureName(host))
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // the server stops, or the lease is lost: that says nothing about the host
	}
	f.Count++
	f.Until = time.Now().Add(pause(f.Count, err))
	a.opts.Log.Error("certificate cannot be had", "host", host, "directory", a.opts.Directory, "challenge", kind, "error", err, "next", f.Until)
	b, noted := json.Marshal(f)
	if noted == nil {
		noted = a.db.SetSetting(ctx, a.failureName(host), b)
	}
	return errors.Join(err, noted)
}

// The kinds of challenges, as RFC 8555 section 8.3 and RFC 8737 name them.
const (
	challengeHTTP = "http-01"
	challengeALPN = "tls-alpn-01"
)

// challengeKind is the kind of an attempt after so many failures. Where both can be used they take turns, since a
// firewall or a balancer may let only one port through.
func (a *ACME) challengeKind(failures int) string {
	if a.opts.HTTP && failures%2 == 0 {
		return challengeHTTP
	}
	return challengeALPN
}

// maxAnswer bounds what an authority answers, in bytes. A chain of certificates has a few KiB.
const maxAnswer = 1 << 20

// bounded ends answers that are too long, which the library would read as a whole.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, err
}

// client returns a client of the authority, with an account there.
func (a *ACME) client(ctx context.Context) (*acme.Client, error) {
	key, err := a.accountKey(ctx)
	if err != nil {
		return nil, err
	}
	client := &acme.Client{
		Key:          key,
		DirectoryURL: a.opts.Directory,
		UserAgent:    "berth",
		HTTPClient: &http.Client{
			Timeout: 30 * time.Second,
			Transport: bounded{&http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				TLSClientConfig:        &tls.Config{RootCAs: a.opts.Roots},
				ForceAttemptHTTP2:      true,
				IdleConnTimeout:        10 * time.Second,
				MaxResponseHeaderBytes: maxAnswer,
			}},
		},
	}
	account := &acme.Account{}
	if a.opts.Email != "" {
		account.Contact = []string{"mailto:" + a.opts.Email}
	}
	if a.opts.KeyID != "" {
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: a.opts.KeyID, Key: a.opts.Key}
	}
	if _, err := client.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, fmt.Errorf("register an account: %w", err)
	}
	return client, nil
}

// obtain orders one certificate (RFC 8555 section 7.4) and returns its key and chain in PEM.
func (a *ACME) obtain(ctx context.Context, host, kind string) ([]byte, error) {
	client, err := a.client(ctx)
	if err != nil {
		return nil, err
	}
	defer client.HTTPClient.CloseIdleConnections()
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs(host))
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	for _, url := range order.AuthzURLs {
		if err := a.authorize(ctx, client, host, kind, url); err != nil {
			return nil, err
		}
	}
	ready, err := client.WaitOrder(ctx, order.URI)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	key, keyText, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{host}}, key)
	if err != nil {
		return nil, err
	}
	chain, _, err := client.CreateCertFromOrder(ctx, ready, csr, true)
	if err != nil {
		return nil, fmt.Errorf("finalize: %w", err)
	}
	text := append(keyText, certificatePEM(chain...)...)
	_, err = parseIssued(host, text)
	return text, err
}

// authorize proves that the host is ours (RFC 8555 section 7.5).
func (a *ACME) authorize(ctx context.Context, client *acme.Client, host, kind, url string) error {
	z, err := client.GetAuthorization(ctx, url)
	if err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	if z.Status == acme.StatusValid {
		return nil // of an order not long ago
	}
	var offered *acme.Challenge
	for _, c := range z.Challenges {
		if c.Type == kind {
			offered = c
		}
	}
	if offered == nil {
		return fmt.Errorf("the authority does not offer the challenge %s", kind)
	}
	c, err := newChallenge(client, host, offered)
	if err != nil {
		return err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := a.db.SetSetting(ctx, challengeName(host), b); err != nil {
		return err
	}
	defer func() {
		// What is left by a node that dies is replaced by the next attempt.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = a.db.DeleteSetting(ctx, challengeName(host))
	}()
	if _, err := client.Accept(ctx, offered); err != nil {
		return fmt.Errorf("challenge %s: %w", kind, err)
	}
	if _, err := client.WaitAuthorization(ctx, cmp.Or(z.URI, url)); err != nil {
		return fmt.Errorf("challenge %s: %w", kind, err)
	}
	return nil
}

// challenge is what the authority is answered while it validates a host.
type challenge struct {
	Type   string `json:"type"`
	Token  string `json:"token"`  // of the URL that is asked for, with HTTP-01
	Answer string `json:"answer"` // the body there; with TLS-ALPN-01, key and certificate in PEM
}

func newChallenge(client *acme.Client, host string, offered *acme.Challenge) (c challenge, err error) {
	c = challenge{Type: offered.Type, Token: offered.Token}
	if c.Type == challengeHTTP {
		c.Answer, err = client.HTTP01ChallengeResponse(offered.Token)
		return c, err
	}
	key, text, err := newKey()
	if err != nil {
		return c, err
	}
	cert, err := client.TLSALPN01ChallengeCert(offered.Token, host, acme.WithKey(key))
	if err != nil {
		return c, err
	}
	c.Answer = string(append(text, certificatePEM(cert.Certificate...)...))
	return c, nil
}

// challenge returns the one that is being answered for a host, whichever node has ordered.
func (a *ACME) challenge(ctx context.Context, host string) (c challenge, err error) {
	host = strings.ToLower(host)
	if !a.serves(host) {
		return c, meta.ErrNotFound
	}
	b, err := a.db.Setting(ctx, challengeName(host))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	return c, err
}

// challengeConfig answers TLS-ALPN-01 (RFC 8737 section 3), or refuses the handshake.
func (a *ACME) challengeConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, err := a.challenge(hello.Context(), hello.ServerName)
	if err != nil {
		return nil, err
	}
	if c.Type != challengeALPN {
		return nil, meta.ErrNotFound
	}
	cert, err := tls.X509KeyPair([]byte(c.Answer), []byte(c.Answer))
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{cert},
		NextProtos:             []string{ChallengeProtocol},
		SessionTicketsDisabled: true, // or one could be used where a client's certificate is asked for
	}, nil
}
