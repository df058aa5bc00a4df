// Package certificate keeps the certificates of the server: those that are read from files, and those that an authority
// issues by ACME (RFC 8555). It makes certificates of an authority of one's own, too.
//
// What holds true: each handshake uses what was read or issued last, and a pair of certificate and key always as a whole;
// what cannot be used never replaces what can; several nodes that share a database share accounts, certificates and
// challenges, and one of them orders at a time; private keys go to the database and to files that only
// their owner reads, and neither to the log nor into an error.
package certificate

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
)

// Options say which files there are.
type Options struct {
	Log *slog.Logger
	// Pairs are certificates with their keys. The first one is for clients that ask for no name, or for one that is in none.
	Pairs []Pair
	// ClientCA is a file of certificates, in PEM, with which those of clients are verified; empty to ask clients for none.
	ClientCA string
	// RequireClient refuses clients that have no certificate.
	RequireClient bool
	// Every is the time between two looks at the files; 0 stands for 10 seconds.
	Every time.Duration
}

// Pair is the files of a certificate with its chain, and of its key, in PEM.
type Pair struct{ Certificate, Key string }

// Store has the certificates that are in use. Its methods may be called concurrently.
type Store struct {
	opts Options
	acme *ACME // nil if there is none

	mu        sync.Mutex // held while what follows changes
	pairs     []*files[*tls.Certificate]
	clientCAs *files[*x509.CertPool] // nil if clients are asked for none
	ordered   []*tls.Certificate

	config atomic.Pointer[tls.Config] // made of the above, never changed
}

// Open reads the files. The error names the file that cannot be used.
func Open(opts Options) (*Store, error) {
	s := &Store{opts: opts}
	for _, p := range opts.Pairs {
		s.pairs = append(s.pairs, &files[*tls.Certificate]{paths: []string{p.Certificate, p.Key}, parse: parsePair})
	}
	if opts.ClientCA != "" {
		s.clientCAs = &files[*x509.CertPool]{paths: []string{opts.ClientCA}, parse: parsePool}
	}
	if _, err := s.read(); err != nil {
		return nil, err
	}
	s.rebuild()
	return s, nil
}

func parsePair(contents [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	return &pair, err
}

func parsePool(contents [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(contents[0]) {
		return nil, errors.New("there is no certificate in PEM")
	}
	return pool, nil
}

// Watch reads files again when they change, until ctx ends. It looks at what is in them, which neither a rename nor a
// link nor a network file system can hide.
func (s *Store) Watch(ctx context.Context) {
	ticker := time.NewTicker(cmp.Or(s.opts.Every, 10*time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		changed, err := s.read()
		if err != nil {
			s.opts.Log.Error("certificate cannot be used, the one before stays", "error", err)
		}
		if changed {
			s.rebuild()
		}
	}
}

// read looks at all files. The error is about files that are worse than when they were last looked at.
func (s *Store) read() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pairs {
		read, failed := p.read()
		if read {
			changed = true
			s.opts.Log.Info("certificate read", "file", p.paths[0], "not_after", p.value.Leaf.NotAfter)
		}
		err = errors.Join(err, failed)
	}
	if s.clientCAs != nil {
		read, failed := s.clientCAs.read()
		if read {
			changed = true
			s.opts.Log.Info("authorities of clients read", "file", s.clientCAs.paths[0])
		}
		err = errors.Join(err, failed)
	}
	return changed, err
}

// setOrdered replaces the certificates that were issued by ACME.
func (s *Store) setOrdered(certs []*tls.Certificate) {
	s.mu.Lock()
	s.ordered = certs
	s.mu.Unlock()
	s.rebuild()
}

// rebuild makes the configuration of the next handshakes.
func (s *Store) rebuild() {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newConfig()
	for _, p := range s.pairs {
		c.Certificates = append(c.Certificates, *p.value)
	}
	for _, o := range s.ordered {
		c.Certificates = append(c.Certificates, *o)
	}
	if s.clientCAs != nil {
		c.ClientCAs, c.ClientAuth = s.clientCAs.value, tls.VerifyClientCertIfGiven
		if s.opts.RequireClient {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	s.config.Store(c)
}

// newConfig returns what all handshakes have in common. Of the suites of TLS 1.2, those with forward secrecy and
// authenticated encryption are left (RFC 9325 section 4.2); those of TLS 1.3 are all good.
func newConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: []string{"h2", "http/1.1"},
	}
}

// Config returns the configuration of a server. It chooses among certificates by the name that the client asks for, and
// always among the latest. A connection whose negotiated protocol is ChallengeProtocol must end with the handshake, as net/http
// sees to.
func (s *Store) Config() *tls.Config {
	c := newConfig()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s.acme != nil && slices.Contains(hello.SupportedProtos, ChallengeProtocol) {
			return s.acme.challengeConfig(hello)
		}
		return s.config.Load(), nil
	}
	return c
}

// ChallengeProtocol is the protocol of connections by which an authority validates a name (RFC 8737). They end with the
// handshake, for which no certificate of a client is asked.
const ChallengeProtocol = acme.ALPNProto

// InUse is a certificate that handshakes are made with.
type InUse struct {
	Name     string    // the file, or the host that it was ordered for
	NotAfter time.Time // zero if none has been issued for the host yet
	Stale    bool      // the file holds something now that cannot be used
}

// InUse lists the certificates, and the hosts that wait for one.
func (s *Store) InUse() []InUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []InUse
	for _, p := range s.pairs {
		list = append(list, InUse{p.paths[0], p.value.Leaf.NotAfter, p.failed})
	}
	if s.acme == nil {
		return list
	}
	for _, host := range s.acme.opts.Hosts {
		u := InUse{Name: host}
		for _, o := range s.ordered {
			if o.Leaf.VerifyHostname(host) == nil {
				u.NotAfter = o.Leaf.NotAfter
			}
		}
		list = append(list, u)
	}
	return list
}

// HTTPChallenge returns what GET http://HOST/.well-known/acme-challenge/TOKEN is answered with (RFC 8555 section 8.3), or
// false if nothing is expected there.
func (s *Store) HTTPChallenge(ctx context.Context, host, token string) (answer string, ok bool) {
	if s.acme == nil {
		return "", false
	}
	c, err := s.acme.challenge(ctx, host)
	if err != nil || c.Type != challengeHTTP || c.Token != token {
		return "", false
	}
	return c.Answer, true
}

// describe puts the paths before an error.
func describe(paths []string, err error) error {
	if len(paths) == 2 {
		return fmt.Errorf("certificate %s with key %s: %w", paths[0], paths[1], err)
	}
	return fmt.Errorf("certificates %s: %w", paths[0], err)
}
