package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
)

// CVE-2025-24976: keys come from the database only, and the algorithm is pinned.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice")
	w.organization("team", "alice", access.Owner)
	good := w.token(w.a, w.mustSignIn("alice", password), "repository:team/app:pull")
	if !w.may(w.a, "Bearer "+good, access.Pull, "team/app") {
		t.Fatal("the good token is not")
	}
	known := w.a.keys.keys[0]
	parts := strings.Split(good, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var good2 map[string]any
	if err := json.Unmarshal(body, &good2); err != nil {
		t.Fatal(err)
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	sign := func(alg jose.SignatureAlgorithm, key any, kid string, embed bool, claims map[string]any) string {
		opts := (&jose.SignerOptions{EmbedJWK: embed}).WithType("JWT")
		if embed {
			key = jose.JSONWebKey{Key: key, KeyID: kid}
		} else {
			opts = opts.WithHeader("kid", kid)
		}
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jwt.Signed(s).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	with := func(name string, value any) map[string]any {
		c := make(map[string]any)
		for k, v := range good2 {
			c[k] = v
		}
		if value == nil {
			delete(c, name)
		} else {
			c[name] = value
		}
		return c
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := []byte(known.private.Public().(ed25519.PublicKey))
	for name, token := range map[string]string{
		"alg none":             encode(map[string]any{"alg": "none", "kid": known.id}) + "." + parts[1] + ".",
		"alg none, signature":  encode(map[string]any{"alg": "none", "kid": known.id}) + "." + parts[1] + "." + parts[2],
		"public key as secret": sign(jose.HS256, public, known.id, false, good2),
		"another key":          sign(jose.EdDSA, other, known.id, false, good2),
		"another key, unknown": sign(jose.EdDSA, other, "other", false, good2),
		"embedded key":         sign(jose.EdDSA, other, known.id, true, good2),
		"body changed":         parts[0] + "." + encode(with("account", "1")) + "x." + parts[2],
		"other body":           parts[0] + "." + encode(with("access", []ResourceActions{{"repository", "team/app", []string{"pull", "push"}}})) + "." + parts[2],
		"no signature":         parts[0] + "." + parts[1] + ".",
		"wrong issuer":         sign(jose.EdDSA, known.private, known.id, false, with("iss", "else")),
		"wrong audience":       sign(jose.EdDSA, known.private, known.id, false, with("aud", "else")),
		"no audience":          sign(jose.EdDSA, known.private, known.id, false, with("aud", nil)),
		"no expiry":            sign(jose.EdDSA, known.private, known.id, false, with("exp", nil)),
		"long expired":         sign(jose.EdDSA, known.private, known.id, false, with("exp", w.now().Add(-25*time.Hour).Unix())),
		"not yet":              sign(jose.EdDSA, known.private, known.id, false, with("nbf", w.now().Add(time.Hour).Unix())),
		"account is no number": sign(jose.EdDSA, known.private, known.id, false, with("account", "1 OR 1")),
		"too long":             sign(jose.EdDSA, known.private, known.id, false, with("x", strings.Repeat("x", maxToken))),
		"JSON serialization":   `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
	} {
		if id, err := identify(t, w.a, "Bearer "+token); !errors.Is(err, ErrToken) || id.SignedIn() {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	if _, err := identify(t, w.a, "Bearer "+sign(jose.EdDSA, known.private, known.id, false, good2)); err != nil {
		t.Errorf("what this test signs with the right key is not accepted: %v", err)
	}
}

// CVE-2025-68944: a token never grants more than its scope, whoever holds it.
func TestTokenNeverGrantsMoreThanItsScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("root")
	if err := w.db.ChangeAccount(t.Context(), "root", func(a *meta.Account) error { a.Admin = true; return nil }); err != nil {
		t.Fatal(err)
	}
	root := w.mustSignIn("root", password)
	header := "Bearer " + w.token(w.a, root, "repository:team/app:pull repository:team/both:pull,push", "repository:team/all:*")
	for _, tt := range []struct {
		action     access.Actions
		repository string
		may        bool
	}{
		{access.Pull, "team/app", true}, {access.Push, "team/app", false}, {access.Delete, "team/app", false},
		{access.Push, "team/both", true}, {access.Overwrite, "team/both", true}, {access.Delete, "team/both", false},
		{access.Delete, "team/all", true}, {access.Pull, "team/other", false}, {access.Pull, "team/app/deeper", false},
	} {
		if w.may(w.a, header, tt.action, tt.repository) != tt.may {
			t.Errorf("%s %s: not %t", tt.action, tt.repository, tt.may)
		}
	}
	if id, err := identify(t, w.a, header); err != nil || id.Scope.AllowsCatalog() {
		t.Errorf("the list of repositories: %v", err)
	}
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	account := w.user("alice")
	w.organization("team", "alice", access.Writer)
	header := "Bearer " + w.token(w.a, w.mustSignIn("alice", password), "repository:team/app:pull,push")
	for range 2 { // the second time it is remembered
		if id, err := identify(t, w.a, header); err != nil || id.Expired {
			t.Fatalf("%+v, %v", id, err)
		}
	}
	w.pass(5 * time.Minute)
	if id, err := identify(t, w.a, header); err != nil || !id.Expired || id.Account != account {
		t.Errorf("just expired: %+v, %v", id, err)
	}
	w.pass(24 * time.Hour)
	if _, err := identify(t, w.a, header); !errors.Is(err, ErrToken) {
		t.Errorf("long expired: %v", err)
	}
}

// Keys change without a token that becomes invalid before its time, whichever node issued it.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice")
	nodes := []*Auth{w.node(), w.node(), w.node()}
	id := w.mustSignIn("alice", password)
	type issued struct {
		header string
		until  time.Time
	}
	var tokens []issued
	kids := make(map[string]bool)
	for step := range 400 { // a bit more than eight days
		node := nodes[step%3]
		tokens = append(tokens, issued{"Bearer " + w.token(node, id), w.now().Add(5 * time.Minute)})
		for i, other := range nodes {
			for _, token := range tokens {
				got, err := identify(t, other, token.header)
				if w.now().Before(token.until) && (err != nil || got.Expired) {
					t.Fatalf("step %d: node %d does not accept a token: %v", step, i, err)
				}
			}
		}
		set, err := nodes[(step+1)%3].KeySet(t.Context())
		if err != nil || len(set.Keys) > 5 {
			t.Fatalf("%d keys, %v", len(set.Keys), err)
		}
		for _, k := range set.Keys {
			kids[k.KeyID] = true
			if !k.IsPublic() {
				t.Fatal("a private key is shown")
			}
		}
		if step%2 == 0 {
			w.pass(time.Minute)
		} else {
			w.pass(59 * time.Minute)
		}
		if len(tokens) > 3 {
			tokens = tokens[1:]
		}
	}
	if len(kids) < 6 || len(kids) > 11 {
		t.Errorf("in eight days there were %d keys", len(kids))
	}
}

func TestParseScopes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		texts []string
		want  []ResourceActions
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{"repository:a/b:pull"}, []ResourceActions{{"repository", "a/b", []string{"pull"}}}},
		{[]string{"repository:a:pull,push repository:b:pull", "repository:a:delete,pull"},
			[]ResourceActions{{"repository", "a", []string{"pull", "push", "delete"}}, {"repository", "b", []string{"pull"}}}},
		{[]string{"registry:catalog:*"}, []ResourceActions{{"registry", "catalog", []string{"*"}}}},
		{[]string{"repository(plugin):a:pull"}, []ResourceActions{{"repository", "a", []string{"pull"}}}},
		{[]string{"repository:host:5000/a:pull", "repository:A:pull", "repository::pull", "x:y:z", "repository:a", "registry:else:*", "pull", ":", "::"}, nil},
		{[]string{"repository:a:fly"}, []ResourceActions{{"repository", "a", nil}}},
	} {
		if got := ParseScopes(tt.texts); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %v", tt.texts, got)
		}
	}
	if n := len(ParseScopes([]string{many(1000)})); n != maxScopes {
		t.Errorf("%d scopes", n)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(" repository:a/b" + strings.Repeat("x", i%200+1) + "/" + strings.Repeat("y", i/200+1) + ":pull")
	}
	return b.String()
}

func FuzzParseScopes(f *testing.F) {
	f.Add("repository:a/b:pull,push registry:catalog:*")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range ParseScopes([]string{s}) {
			if r.Name == "" || strings.ContainsAny(r.Name, " \t\"") {
				t.Errorf("%q: %+v", s, r)
			}
		}
	})
}
