package oidc

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestEveryAlgorithm(t *testing.T) {
	w := newWorld(t)
	var keys []*signer
	for _, alg := range algorithms() {
		s := &signer{id: "key-" + string(alg), alg: alg, key: rsaKey()}
		switch alg {
		case jose.ES256, jose.ES384, jose.ES512:
			s.key = ecKey(alg)
		case jose.EdDSA:
			s = ed25519Signer(s.id)
		}
		keys = append(keys, s)
	}
	w.publish(keys...)
	for _, s := range keys {
		token, err := w.verify(s.sign(t, w.claims(nil)))
		if err != nil {
			t.Errorf("%s: %v", s.alg, err)
		} else if token.Subject != "somebody" || !token.Expiry.Equal(w.now().Add(300*time.Second)) || !token.Issued.Equal(w.now()) {
			t.Errorf("%s: got %+v", s.alg, token)
		}
	}
	if n := w.asked.Load(); n != 1 {
		t.Errorf("keys were asked for %d times, expected once", n)
	}
}

// CVE-2025-24976: keys come from the issuer only, whatever a token says.
func TestKeysInsideATokenDoNotCount(t *testing.T) {
	w := newWorld(t)
	forger := newSigner("first") // the same id
	public := forger.public()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("an address in a token was asked") }))
	defer elsewhere.Close()
	w.refuses(forger.sign(t, w.claims(nil)), "signature is wrong")
	for name, header := range map[string]func(*jose.SignerOptions){
		"jwk": func(o *jose.SignerOptions) { o.WithHeader("jwk", public) },
		"jku": func(o *jose.SignerOptions) { o.WithHeader("jku", elsewhere.URL) },
		"x5u": func(o *jose.SignerOptions) { o.WithHeader("x5u", elsewhere.URL) },
		"x5c": func(o *jose.SignerOptions) { o.WithHeader("x5c", []string{certificate(t)}) },
	} {
		_, err := w.verify(forger.sign(t, w.claims(nil), header))
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.verify(w.first.sign(t, w.claims(nil), header)); err != nil && name != "jwk" {
			t.Errorf("%s beside a good signature: %v", name, err)
		}
	}
}

func TestForgedTokens(t *testing.T) {
	w := newWorld(t)
	good := w.first.sign(t, w.claims(nil))
	if _, err := w.verify(good); err != nil {
		t.Fatal(err)
	}
	part := strings.Split(good, ".")
	none := encode(`{"alg":"none","kid":"first"}`)
	w.refuses(none+"."+part[1]+".", `algorithm "none"`)
	w.refuses(none+"."+part[1]+"."+part[2], `algorithm "none"`)
	w.refuses(encode(`{"alg":"NONE"}`)+"."+part[1]+"."+part[2], `algorithm "NONE"`)

	// The public key as a secret, in the forms that libraries have taken it in.
	der := must(json.Marshal(w.first.public().Key))
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), must(w.first.public().MarshalJSON())} {
		for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
			for len(secret) < 64 {
				secret = append(secret, 0)
			}
			w.refuses(signWith(t, jose.SigningKey{Algorithm: alg, Key: secret}, "first", w.claims(nil)), "algorithm")
		}
	}

	other := strings.Split(w.first.sign(t, w.claims(map[string]any{"sub": "root"})), ".")
	w.refuses(part[0]+"."+other[1]+"."+part[2], "signature is wrong")
	w.refuses(part[0]+"."+part[1]+"."+encode(strings.Repeat("\x00", 64)), "signature is wrong")
	w.refuses(part[0]+"."+part[1]+".", "")
	for _, raw := range []string{"", ".", "..", "a.b.c", good + ".x", " " + good, good + "\n", part[0] + "." + part[1], "{}", "password",
		must(must(jose.ParseSignedCompact(good, algorithms())).FullSerialize(), nil)} {
		w.refuses(raw, "not a signed JSON Web Token")
		if _, err := IssuerOf(raw); !errors.Is(err, ErrToken) {
			t.Errorf("IssuerOf(%q): %v", raw, err)
		}
	}
	w.refuses(good+strings.Repeat("A", maxToken), "bytes, at most")
	w.refuses(w.first.sign(t, w.claims(nil), func(o *jose.SignerOptions) { o.WithHeader("crit", []string{"exp"}).WithHeader("exp", 1) }), "")
	if n := w.asked.Load(); n != 1 {
		t.Errorf("keys were asked for %d times, expected once", n)
	}
}

// A key is for what its issuer says: the id and the algorithm that are published with it.
func TestKeysAreForWhatTheyArePublishedFor(t *testing.T) {
	w := newWorld(t)
	second := newSigner("second")
	rs := &signer{id: "rsa", alg: jose.RS256, key: rsaKey()}
	w.publish(w.first, second, rs)
	w.refuses(signWith(t, jose.SigningKey{Algorithm: second.alg, Key: second.key}, "first", w.claims(nil)), "signature is wrong")
	w.refuses(signWith(t, jose.SigningKey{Algorithm: jose.PS256, Key: rs.key}, "rsa", w.claims(nil)), "signature is wrong")
	if _, err := w.verify(rs.sign(t, w.claims(nil))); err != nil {
		t.Error(err)
	}
	encryption := second.public()
	encryption.Use = "enc"
	w.keys = []jose.JSONWebKey{w.first.public(), encryption}
	w.pass(retryAfter)
	w.Issuer.known = nil
	w.refuses(second.sign(t, w.claims(nil)), "does not publish")
}

func TestClaims(t *testing.T) {
	w := newWorld(t)
	now := w.now().Unix()
	for _, test := range []struct {
		changes map[string]any
		reason  string // "" if the token counts
	}{
		{nil, ""},
		{map[string]any{"exp": now - 30}, ""},
		{map[string]any{"exp": now - 61}, "expired at"},
		{map[string]any{"exp": 0}, "expired at"},
		{map[string]any{"exp": nil}, "never expires"},
		{map[string]any{"exp": "soon"}, "malformed"},
		{map[string]any{"nbf": now + 30, "iat": now + 30}, ""},
		{map[string]any{"nbf": now + 61}, "does not count before"},
		{map[string]any{"iat": now + 61}, "issued in the future"},
		{map[string]any{"iat": nil}, ""},
		{map[string]any{"aud": "other"}, `for the audience "other", not for "registry.example.com"`},
		{map[string]any{"aud": []string{"other", audience}}, ""},
		{map[string]any{"aud": []string{}}, "for the audience nobody"},
		{map[string]any{"aud": nil}, "for the audience nobody"},
		{map[string]any{"aud": audience + ".evil"}, "for the audience"},
		{map[string]any{"aud": strings.ToUpper(audience)}, "for the audience"},
		{map[string]any{"aud": map[string]any{"a": audience}}, "malformed"},
		{map[string]any{"iss": w.Server.URL + "/"}, "of the issuer"},
		{map[string]any{"iss": "https://evil.example"}, `of the issuer "https://evil.example"`},
		{map[string]any{"iss": nil}, "of the issuer"},
		{map[string]any{"sub": nil}, "no subject"},
		{map[string]any{"aud": "\x1b[2J\u202e"}, "for the audience"},
	} {
		_, err := w.verify(w.first.sign(t, w.claims(test.changes)))
		if test.reason == "" {
			if err != nil {
				t.Errorf("%v: %v", test.changes, err)
			}
			continue
		}
		wantError(t, err, ErrToken, test.reason)
		if strings.ContainsAny(err.Error(), "\x1b\u202e") {
			t.Errorf("the error has what a terminal takes for a command: %q", err)
		}
	}
	for _, payload := range []string{"null", "[]", "1", "", "{", `{} {}`, fmt.Sprintf(`{"iss":"evil","iss":%q,"aud":%q,"sub":"x","exp":%d}`, w.Server.URL, audience, now+60)} {
		w.refuses(w.first.sign(t, []byte(payload)), "malformed")
	}
	w.refuses(w.first.sign(t, []byte(fmt.Sprintf(`{"ISS":%q,"AUD":%q,"SUB":"x","EXP":%d}`, w.Server.URL, audience, now+60))), "of the issuer")
	if _, err := w.Issuer.Verify(t.Context(), w.first.sign(t, w.claims(nil))); err == nil {
		t.Error("a token was verified for no audience")
	}
}

func TestTokenID(t *testing.T) {
	w := newWorld(t)
	id := func(changes map[string]any) string {
		t.Helper()
		token, err := w.verify(w.first.sign(t, w.claims(changes)))
		if err != nil {
			t.Fatal(err)
		}
		if len(token.ID) != 64 {
			t.Errorf("id %q", token.ID)
		}
		return token.ID
	}
	// ECDSA signs the same differently each time, and it is the same token.
	first := id(nil)
	if again := id(nil); again != first {
		t.Error("the same claims are two tokens")
	}
	if first == id(map[string]any{"iat": w.now().Unix() - 1}) {
		t.Error("two tokens are one")
	}
	if id(map[string]any{"jti": "a"}) != id(map[string]any{"jti": "a", "sub": "other"}) || id(map[string]any{"jti": "a"}) == id(map[string]any{"jti": "b"}) {
		t.Error("jti does not decide")
	}
	if got, err := IssuerOf(w.first.sign(t, w.claims(nil))); err != nil || got != w.Server.URL {
		t.Errorf("IssuerOf: %q, %v", got, err)
	}
	if tokenID("a", "", []byte("x")) == tokenID("b", "", []byte("x")) {
		t.Error("tokens of two issuers are one")
	}
}

func TestKeyRotation(t *testing.T) {
	w := newWorld(t)
	second := newSigner("second")
	old := w.first.sign(t, w.claims(nil))
	if _, err := w.verify(old); err != nil {
		t.Fatal(err)
	}
	w.publish(w.first, second)
	w.pass(retryAfter)
	if _, err := w.verify(second.sign(t, w.claims(nil))); err != nil {
		t.Errorf("a new key: %v", err)
	}
	w.publish(second)
	if _, err := w.verify(old); err != nil {
		t.Errorf("before the keys are asked for again: %v", err)
	}
	// Nobody waits for keys that are only old: they are exchanged beside the requests.
	w.pass(refreshAfter + time.Second)
	old = w.first.sign(t, w.claims(nil))
	for range 3000 {
		_, err := w.verify(old)
		if err != nil {
			wantError(t, err, ErrToken, `key "first", which its issuer does not publish`)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a key that was withdrawn still counts")
}

func TestForgedKeyIDsDoNotHammerTheIssuer(t *testing.T) {
	w := newWorld(t)
	forger := newSigner("")
	for i := range 200 {
		forger.id = fmt.Sprint("forged-", i)
		w.refuses(forger.sign(t, w.claims(nil)), "does not publish")
	}
	forger.id = ""
	w.refuses(forger.sign(t, w.claims(nil)), "none of its issuer's keys")
	if n := w.asked.Load(); n != 1 {
		t.Errorf("keys were asked for %d times, expected once", n)
	}
	w.pass(retryAfter)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			s := &signer{id: fmt.Sprint("more-", i), alg: forger.alg, key: forger.key}
			w.refuses(s.sign(t, w.claims(nil)), "does not publish")
		})
	}
	wg.Wait()
	if n := w.asked.Load(); n != 2 {
		t.Errorf("keys were asked for %d times, expected twice", n)
	}
	if _, err := w.verify(signWith(t, jose.SigningKey{Algorithm: w.first.alg, Key: w.first.key}, "", w.claims(nil))); err != nil {
		t.Errorf("a token that names no key: %v", err)
	}
}

func TestIssuerDown(t *testing.T) {
	w := newWorld(t)
	if _, err := w.verify(w.first.sign(t, w.claims(nil))); err != nil {
		t.Fatal(err)
	}
	w.Server.Close()
	w.pass(staleAfter - time.Second)
	if _, err := w.verify(w.first.sign(t, w.claims(nil))); err != nil {
		t.Errorf("with known keys: %v", err)
	}
	forger := newSigner("unknown")
	_, err := w.verify(forger.sign(t, w.claims(nil)))
	wantError(t, err, ErrUnavailable, "cannot be fetched")
	w.pass(2 * time.Second)
	_, err = w.verify(w.first.sign(t, w.claims(nil)))
	wantError(t, err, ErrUnavailable, "cannot be fetched")
}

func TestIssuerComesBack(t *testing.T) {
	w := newWorld(t)
	w.on("/keys", func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "not now", http.StatusBadGateway) })
	raw := w.first.sign(t, w.claims(nil))
	for range 10 {
		_, err := w.verify(raw)
		wantError(t, err, ErrUnavailable, "keys cannot be fetched")
	}
	if n := w.asked.Load(); n != 1 {
		t.Errorf("keys were asked for %d times, expected once", n)
	}
	w.on("/keys", nil)
	w.pass(retryAfter)
	if _, err := w.verify(raw); err != nil {
		t.Error(err)
	}
}

func TestLyingIssuer(t *testing.T) {
	const discovery = "/.well-known/openid-configuration"
	raw := func(s string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, s) }
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another host was asked") }))
	defer elsewhere.Close()
	endless := func(rw http.ResponseWriter, r *http.Request) {
		line := []byte(strings.Repeat(" ", 64<<10))
		fmt.Fprint(rw, `{"keys":[`)
		for r.Context().Err() == nil {
			if _, err := rw.Write(line); err != nil {
				return
			}
		}
	}
	secret := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "first", Key: []byte(strings.Repeat("s", 64))}}}))
	good := string(must(newSigner("first").public().MarshalJSON()))
	small := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "first", Key: &smallKey(t).PublicKey}}}))
	for name, test := range map[string]struct {
		path   string
		handle http.HandlerFunc
	}{
		"discovery is a page":      {discovery, raw("<html>hello")},
		"discovery is empty":       {discovery, raw("{}")},
		"discovery is null":        {discovery, raw("null")},
		"discovery is a list":      {discovery, raw("[]")},
		"discovery is endless":     {discovery, endless},
		"discovery is elsewhere":   {discovery, redirect(elsewhere.URL)},
		"discovery redirects ever": {discovery, redirect(discovery)},
		"discovery fails":          {discovery, func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, strings.Repeat("x", 1<<19), 500) }},
		"keys are a page":          {"/keys", raw("<html>hello")},
		"keys are null":            {"/keys", raw("null")},
		"keys are a number":        {"/keys", raw(`{"keys":1}`)},
		"keys are none":            {"/keys", raw(`{"keys":[]}`)},
		"keys are odd":             {"/keys", raw(`{"keys":[null,1,"x",{},{"kty":"RSA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`)},
		"keys are too many":        {"/keys", raw(`{"keys":[` + strings.Repeat(good+",", maxKeys) + good + `]}`)},
		"keys are endless":         {"/keys", endless},
		"keys are elsewhere":       {"/keys", redirect(elsewhere.URL)},
		"keys are secrets":         {"/keys", raw(string(secret))},
		"keys are small":           {"/keys", raw(string(small))},
		"keys break off": {"/keys", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			fmt.Fprint(rw, `{"keys`)
		}},
		"keys come as another error": {"/keys", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) }},
		"keys with a huge header":    {"/keys", func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X", strings.Repeat("x", 1<<20)) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.on(test.path, test.handle)
			_, err := w.verify(w.first.sign(t, w.claims(nil)))
			wantError(t, err, ErrUnavailable, "")
			if strings.Contains(name, "endless") && !strings.Contains(err.Error(), "too large") {
				t.Errorf("got %v, expected that it is too large", err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
	for name, change := range map[string]map[string]any{
		"another issuer":   {"issuer": "https://login.example/{tenantid}"},
		"no keys":          {"jwks_uri": nil},
		"keys without TLS": {"jwks_uri": "http://keys.example/keys"},
		"keys in a file":   {"jwks_uri": "file:///etc/passwd"},
		"metadata service": {"jwks_uri": "http://169.254.169.254/latest/meta-data"},
		"link-local":       {"jwks_uri": "https://169.254.169.254/keys"},
		"with a password":  {"jwks_uri": "https://user:secret@keys.example/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for k, v := range change {
				w.discovery[k] = v
			}
			_, err := w.verify(w.first.sign(t, w.claims(nil)))
			wantError(t, err, ErrUnavailable, "")
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has a password: %v", err)
			}
		})
	}
}

// A caller that gives up does not wait for an issuer that hangs, and does not take the answer from those who wait.
func TestHangingIssuer(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.on("/keys", func(rw http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{w.first.public()}})
	})
	raw := w.first.sign(t, w.claims(nil))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := w.Issuer.Verify(ctx, raw, audience)
	wantError(t, err, ErrUnavailable, "not answered")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, expected that it was cancelled", err)
	}
	patient := make(chan error)
	go func() {
		_, err := w.Issuer.Verify(t.Context(), raw, audience)
		patient <- err
	}()
	close(release)
	if err := <-patient; err != nil {
		t.Error(err)
	}
}

// The limit itself is long, so the test shortens it.
func TestIssuerThatNeverAnswers(t *testing.T) {
	w := newWorld(t)
	w.Issuer.client.Timeout = 100 * time.Millisecond
	ended := make(chan struct{})
	w.on("/keys", func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(ended)
	})
	_, err := w.verify(w.first.sign(t, w.claims(nil)))
	wantError(t, err, ErrUnavailable, "keys cannot be fetched")
	<-ended
}

func TestCAFile(t *testing.T) {
	w := newWorld(t)
	s := httptest.NewUnstartedServer(w)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of a handshake that is to fail
	s.StartTLS()
	defer s.Close()
	w.discovery = map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys"}
	raw := w.first.sign(t, w.claims(map[string]any{"iss": s.URL}))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := NewIssuer(Options{Issuer: s.URL, CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(t.Context(), raw, audience); err != nil {
		t.Error(err)
	}
	unknown := must(NewIssuer(Options{Issuer: s.URL}))
	if _, err = unknown.Verify(t.Context(), raw, audience); !errors.Is(err, ErrUnavailable) {
		t.Errorf("with a certificate that is not trusted: %v", err)
	}
	// One that names keys without TLS is not believed.
	w.discovery["jwks_uri"] = w.Server.URL + "/keys"
	i = must(NewIssuer(Options{Issuer: s.URL, CAFile: ca}))
	if _, err = i.Verify(t.Context(), raw, audience); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("keys without TLS: %v", err)
	}
	for _, file := range []string{filepath.Join(t.TempDir(), "none"), "issuer_test.go"} {
		if _, err := NewIssuer(Options{Issuer: s.URL, CAFile: file}); err == nil {
			t.Errorf("%s holds no certificates, and is accepted", file)
		}
	}
}

func TestJWKSFile(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "keys.json")
	write := func(keys ...*signer) {
		t.Helper()
		set := jose.JSONWebKeySet{}
		for _, k := range keys {
			set.Keys = append(set.Keys, k.public())
		}
		if err := os.WriteFile(file, must(json.Marshal(set)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewIssuer(Options{Issuer: "https://ci.example", JWKSFile: file}); err == nil {
		t.Error("a file that is not there is accepted")
	}
	write(w.first)
	w.Issuer = must(NewIssuer(Options{Issuer: "https://ci.example", JWKSFile: file}))
	w.Issuer.now = w.now
	second := newSigner("second")
	of := func(s *signer) string { return s.sign(t, w.claims(map[string]any{"iss": "https://ci.example"})) }
	if _, err := w.verify(of(w.first)); err != nil {
		t.Error(err)
	}
	w.refuses(of(second), "does not publish")
	write(second)
	w.pass(retryAfter)
	if _, err := w.verify(of(second)); err != nil {
		t.Errorf("after the file was replaced: %v", err)
	}
	w.refuses(of(w.first), "does not publish")
	if n := w.asked.Load(); n != 0 {
		t.Error("the issuer was asked")
	}
	if _, err := NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "x", RedirectURL: "https://registry.example/back"}); err == nil {
		t.Error("people cannot sign in at a file")
	}
	if _, err := DeviceLogin(t.Context(), w.Issuer, "x", nil, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("device flow of a file: %v", err)
	}
}

func TestIssuerURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://accounts.example.com": true, "https://gitlab.example/": true, "https://kubernetes.default.svc.cluster.local": true,
		"https://[fd00::1]:6443": true, "http://127.0.0.1:5556/dex": true, "http://localhost": true, "http://[::1]:80": true,
		"http://accounts.example.com": false, "http://10.0.0.1": false, "http://dex.localhost": false, "accounts.example.com": false, "": false, "https://": false, "ftp://a": false,
		"https://user:secret@a.example": false, "https://a.example?x": false, "https://a.example?": false, "https://a.example#x": false, "https://a.example/\n": false,
	} {
		if _, err := NewIssuer(Options{Issuer: url}); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		} else if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error has a password: %v", err)
		}
	}
}

func redirect(to string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusTemporaryRedirect) }
}

// smallKey returns one that is too small to be safe, which the library makes only when told to.
func smallKey(t *testing.T) *rsa.PrivateKey {
	t.Setenv("GODEBUG", "rsa1024min=0")
	return must(rsa.GenerateKey(rand.Reader, 1024))
}
