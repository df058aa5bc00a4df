package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const audience = "registry.example.com"

// signer is a key of an issuer.
type signer struct {
	id  string
	alg jose.SignatureAlgorithm
	key crypto.Signer
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newSigner(id string) *signer {
	return &signer{id: id, alg: jose.ES256, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
}

func (s *signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: s.id, Key: s.key.Public(), Algorithm: string(s.alg), Use: "sig"}
}

func (s *signer) private() jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: s.id, Key: s.key, Algorithm: string(s.alg), Use: "sig"}
}

// sign makes a token, with changes to the header.
func (s *signer) sign(t testing.TB, claims any, header ...func(*jose.SignerOptions)) string {
	t.Helper()
	return signWith(t, jose.SigningKey{Algorithm: s.alg, Key: s.key}, s.id, claims, header...)
}

func signWith(t testing.TB, key jose.SigningKey, id string, claims any, header ...func(*jose.SignerOptions)) string {
	t.Helper()
	opt := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		opt.WithHeader("kid", id)
	}
	for _, h := range header {
		h(opt)
	}
	with, err := jose.NewSigner(key, opt)
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := claims.([]byte)
	if !ok {
		if payload, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
	}
	jws, err := with.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	return must(jws.CompactSerialize())
}

// world is an issuer that does as the test wants, and ours that verifies its tokens by a clock that stands still.
type world struct {
	*httptest.Server
	*Issuer
	t     testing.TB
	first *signer
	asked atomic.Int64 // requests for keys

	mu        sync.Mutex
	keys      []jose.JSONWebKey
	discovery map[string]any
	handle    map[string]http.HandlerFunc // by path, in place of the usual answer
	clock     time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, first: newSigner("first"), handle: map[string]http.HandlerFunc{}, clock: time.Now().Truncate(time.Second)}
	w.keys = []jose.JSONWebKey{w.first.public()}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Server.Close)
	w.discovery = map[string]any{"issuer": w.Server.URL, "jwks_uri": w.Server.URL + "/keys"}
	w.Issuer = must(NewIssuer(Options{Issuer: w.Server.URL}))
	w.Issuer.now = w.now
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) publish(keys ...*signer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = nil
	for _, k := range keys {
		w.keys = append(w.keys, k.public())
	}
}

func (w *world) on(path string, h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handle[path] = h
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/keys" {
		w.asked.Add(1)
	}
	w.mu.Lock()
	h := w.handle[r.URL.Path]
	keys, discovery := jose.JSONWebKeySet{Keys: w.keys}, maps.Clone(w.discovery)
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	switch {
	case h != nil:
		h(rw, r)
	case r.URL.Path == "/keys":
		json.NewEncoder(rw).Encode(keys)
	case r.URL.Path == "/.well-known/openid-configuration":
		json.NewEncoder(rw).Encode(discovery)
	default:
		http.NotFound(rw, r)
	}
}

// claims are those of a token that counts, with changes: a nil removes one.
func (w *world) claims(changes map[string]any) map[string]any {
	now := w.now().Unix()
	c := map[string]any{"iss": w.Server.URL, "aud": audience, "sub": "somebody", "iat": now, "exp": now + 300}
	for name, v := range changes {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

func (w *world) verify(raw string) (*Token, error) {
	w.t.Helper()
	token, err := w.Issuer.Verify(w.t.Context(), raw, audience)
	if token == nil && err == nil || token != nil && err != nil {
		w.t.Errorf("token %v and error %v", token, err)
	}
	return token, err
}

// refuses fails the test unless a token is refused for the given reason.
func (w *world) refuses(raw, reason string) {
	w.t.Helper()
	_, err := w.verify(raw)
	wantError(w.t, err, ErrToken, reason)
}

func wantError(t testing.TB, err, kind error, reason string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) || !strings.Contains(e.Reason, reason) {
		t.Errorf("got %v, expected %v with %q", err, kind, reason)
	}
}

func ed25519Signer(id string) *signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return &signer{id: id, alg: jose.EdDSA, key: key}
}
