package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	// retryAfter is the least time between two times that an issuer is asked. A key that an issuer begins to use without
	// having published it before may stay unknown for this long.
	retryAfter = 10 * time.Second

	// refreshAfter is the age from which keys are asked for anew, beside the requests that use them, so that a key
	// that the issuer has withdrawn does not count for ever.
	refreshAfter = time.Hour

	// staleAfter is the age from which keys do not count any more, if the issuer could not be asked all the time.
	staleAfter = 24 * time.Hour

	maxKeys    = 100
	minRSABits = 2048
	maxRSABits = 8192 // what crypto/tls allows: the time to verify grows with the square
)

// Options say who an issuer is.
type Options struct {
	// The URL of the issuer, exactly as in the claim iss of its tokens.
	Issuer string

	// If set, a file of PEM certificates that are trusted in place of the system's.
	CAFile string

	// If set, a file with the issuer's keys (a JWK Set, RFC 7517 section 5). The issuer is never asked then. The file is
	// read again when it may have changed.
	JWKSFile string
}

// Issuer verifies the tokens of one issuer. What it publishes is fetched when it is first needed, and kept.
type Issuer struct {
	url      string
	jwksFile string
	client   *http.Client
	now      func() time.Time

	fetches singleflight.Group

	mu      sync.Mutex
	known   *published // nil until a fetch succeeds
	tried   time.Time  // when the last fetch began
	failure error      // of the last fetch
}

// published is what an issuer tells everyone. It does not change.
type published struct {
	provider *goidc.Provider // nil if keys come from a file
	returns  bool            // whether answers to a browser name the issuer (RFC 9207)
	basic    bool            // whether a client may send its secret in a header
	keys     []jose.JSONWebKey
	at       time.Time
}

// NewIssuer checks opt and reads its files. It asks nobody.
func NewIssuer(opt Options) (*Issuer, error) {
	u, err := parseIssuer(opt.Issuer)
	if err != nil {
		return nil, err
	}
	client, err := newClient(u, opt.CAFile)
	if err != nil {
		return nil, err
	}
	i := &Issuer{url: opt.Issuer, jwksFile: opt.JWKSFile, client: client, now: time.Now}
	if opt.JWKSFile != "" {
		if i.known, err = i.readFile(); err != nil {
			return nil, fmt.Errorf("keys of the issuer %s: %w", opt.Issuer, err)
		}
	}
	return i, nil
}

// URL returns the issuer as it stands in the claim iss.
func (i *Issuer) URL() string { return i.url }

// current returns what the issuer publishes, as of at most staleAfter ago. The error is an *Error.
func (i *Issuer) current(ctx context.Context) (*published, error) {
	i.mu.Lock()
	known := i.known
	i.mu.Unlock()
	if known == nil || i.now().Sub(known.at) > staleAfter {
		return i.refresh(ctx)
	}
	if i.now().Sub(known.at) > refreshAfter {
		i.fetch() // nobody waits for it
	}
	return known, nil
}

// refresh asks the issuer, unless that was done less than retryAfter ago: it returns what came of it then.
// Callers share one fetch, which goes on when one of them gives up. The error is an *Error.
func (i *Issuer) refresh(ctx context.Context) (*published, error) {
	select {
	case <-ctx.Done():
		return nil, unavailable(context.Cause(ctx), "it has not answered so far")
	case r := <-i.fetch():
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*published), nil
	}
}

func (i *Issuer) fetch() <-chan singleflight.Result {
	return i.fetches.DoChan("", func() (any, error) {
		i.mu.Lock()
		known, failure, now := i.known, i.failure, i.now()
		early := !i.tried.IsZero() && now.Sub(i.tried) < retryAfter
		if !early {
			i.tried = now
		}
		i.mu.Unlock()
		if early {
			return known, failure
		}

		var fresh *published
		var err error
		if i.jwksFile != "" {
			fresh, err = i.readFile()
		} else {
			fresh, err = i.ask()
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.failure = err
		if err != nil {
			return nil, err
		}
		i.known = fresh
		return fresh, nil
	})
}

// readFile reads the keys that the operator provided.
func (i *Issuer) readFile() (*published, error) {
	at := i.now()
	f, err := os.Open(i.jwksFile)
	if err != nil {
		return nil, unavailable(err, "the file with its keys cannot be read")
	}
	defer f.Close()
	b, err := io.ReadAll(http.MaxBytesReader(nil, f, maxAnswer))
	if err != nil {
		return nil, unavailable(err, "the file with its keys cannot be read")
	}
	keys, err := parseKeys(b)
	if err != nil {
		return nil, unavailable(err, "the file with its keys is not a JWK Set")
	}
	return &published{keys: keys, at: at}, nil
}

// ask fetches discovery (openid-connect-discovery-1_0#ProviderConfig) and the keys that it points to.
func (i *Issuer) ask() (*published, error) {
	// Of no request: others may wait for the answer, too.
	ctx, cancel := context.WithTimeout(goidc.ClientContext(context.Background(), i.client), 2*answerTimeout)
	defer cancel()
	at := i.now()
	provider, err := goidc.NewProvider(ctx, i.url)
	var other *goidc.IssuerMismatchError
	switch {
	case errors.As(err, &other):
		return nil, unavailable(nil, "it calls itself %s and is configured as %s, which must be equal to the letter", shown(other.Discovered), shown(i.url))
	case err != nil:
		return nil, unavailable(err, "its discovery document cannot be fetched")
	}
	var more struct {
		JWKS    string   `json:"jwks_uri"`
		Returns bool     `json:"authorization_response_iss_parameter_supported"`
		Auth    []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := provider.Claims(&more); err != nil {
		return nil, unavailable(err, "its discovery document is malformed")
	}
	keys, err := i.fetchKeys(ctx, more.JWKS)
	if err != nil {
		return nil, unavailable(err, "its keys cannot be fetched")
	}
	return &published{
		provider: provider,
		returns:  more.Returns,
		basic:    len(more.Auth) == 0 || slices.Contains(more.Auth, "client_secret_basic"), // which is the default
		keys:     keys,
		at:       at,
	}, nil
}

func (i *Issuer) fetchKeys(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("jwks_uri is not a URL, or has a password in it")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u.Host, clip(resp.Status, 100))
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseKeys(b)
}

// parseKeys reads a JWK Set. Keys of kinds that are not used here are passed over, as RFC 7517 section 5 wants.
func parseKeys(b []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("it is not a JWK Set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it holds %d keys, at most %d are read", len(set.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) == nil && usable(&k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of its %d keys is a public RSA, EC or Ed25519 key for signatures", len(set.Keys))
	}
	return keys, nil
}

// usable tells whether signatures can be verified with a key. A secret that the issuer published by mistake is not.
func usable(k *jose.JSONWebKey) bool {
	if k.Use != "" && k.Use != "sig" {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSABits && key.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return k.Valid()
	}
	return false
}

// verify returns what was signed, if one of the keys did it.
func (p *published) verify(jws *jose.JSONWebSignature) (payload []byte, ok bool) {
	header := jws.Signatures[0].Protected
	for i := range p.keys {
		k := &p.keys[i]
		if header.KeyID != "" && k.KeyID != header.KeyID || k.Algorithm != "" && k.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// knows tells whether a key of the given id is published. Without an id that cannot be told.
func (p *published) knows(id string) bool {
	return id != "" && slices.ContainsFunc(p.keys, func(k jose.JSONWebKey) bool { return k.KeyID == id })
}
