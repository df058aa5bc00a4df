package upstream

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berthregistry/berth/internal/egress"
)

// authTransport adds credentials to the requests that go to the registry's own
// origin, and answers its challenges (RFC 9110 section 11, and the token
// protocol of Docker Registry). Because it works below http.Client, a request that was
// redirected elsewhere never carries them.
type authTransport struct {
	base       http.RoundTripper
	origin     *url.URL // scheme and host of the registry
	host       string   // as credentials are stored for
	credential CredentialFunc

	fetches singleflight.Group // of tokens, by scopes

	mu        sync.Mutex
	challenge *challenge       // the last one; nil until there was one
	basic     string           // the last Basic header; "" if there is none
	tokens    map[string]token // by scopes
}

type token struct {
	value   string
	expires time.Time
}

func newAuthTransport(base http.RoundTripper, origin *url.URL, host string, credential CredentialFunc) *authTransport {
	if credential == nil {
		credential = func(context.Context, string) (Credential, error) { return Credential{}, nil }
	}
	return &authTransport{
		base:       base,
		origin:     origin,
		host:       host,
		credential: credential,
		tokens:     map[string]token{},
	}
}

// RoundTrip implements http.RoundTripper. A request whose body can't be read twice
// (GetBody is nil) and that is answered 401 is not repeated; what is needed to
// repeat it is kept for the next one.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.own(req.URL) {
		return t.base.RoundTrip(req)
	}
	ctx := req.Context()
	scopes := auth.GetAllScopesForHost(ctx, t.origin.Host)

	header := t.anticipate(ctx, scopes)
	resp, err := t.send(req, header)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	ch := pickChallenge(resp.Header.Values("Www-Authenticate"))
	if ch == nil {
		return resp, nil
	}
	again, err := t.answer(ctx, ch, scopes, header)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if again == "" || again == header {
		return resp, nil
	}
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			return resp, nil
		}
		body, err := req.GetBody()
		if err != nil {
			resp.Body.Close()
			return nil, err
		}
		req = req.Clone(ctx)
		req.Body = body
	}
	resp.Body.Close()
	return t.send(req, again)
}

func (t *authTransport) own(u *url.URL) bool {
	return u.Scheme == t.origin.Scheme && egress.HostPort(u) == egress.HostPort(t.origin)
}

func (t *authTransport) send(req *http.Request, header string) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("Authorization")
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	return t.base.RoundTrip(req)
}

// anticipate returns the Authorization header that the registry is expected to ask for, or
// "" if that is not known. A failure shows when the registry does ask.
func (t *authTransport) anticipate(ctx context.Context, scopes []string) string {
	t.mu.Lock()
	ch, basic := t.challenge, t.basic
	t.mu.Unlock()
	if ch == nil || ch.scheme == "basic" {
		return basic
	}
	if kept, ok := t.kept(scopes); ok {
		return "Bearer " + kept
	}
	value, err := t.token(ctx, ch, scopes, scopes, "")
	if err != nil {
		return ""
	}
	return "Bearer " + value
}

// answer returns the Authorization header that answers ch, which came when sent was
// not good enough; "" if there is no credential for it.
func (t *authTransport) answer(ctx context.Context, ch *challenge, scopes []string, sent string) (string, error) {
	t.mu.Lock()
	t.challenge = ch
	t.mu.Unlock()
	if ch.scheme == "bearer" {
		want := auth.CleanScopes(slices.Concat(scopes, strings.Fields(ch.params["scope"])))
		value, err := t.token(ctx, ch, scopes, want, sent)
		if err != nil {
			return "", err
		}
		return "Bearer " + value, nil
	}
	cred, err := t.lookup(ctx)
	if err != nil {
		return "", err
	}
	header := ""
	if cred.Username != "" || cred.Password != "" {
		header = "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.Username+":"+cred.Password))
	}
	t.mu.Lock()
	t.basic = header
	t.mu.Unlock()
	return header, nil
}

func (t *authTransport) lookup(ctx context.Context) (Credential, error) {
	cred, err := t.credential(ctx, t.host)
	if err != nil {
		return cred, fmt.Errorf("credentials for %s: %w", t.host, err)
	}
	return cred, nil
}

// kept returns the token for requests of these scopes that has not expired.
func (t *authTransport) kept(scopes []string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tok, ok := t.tokens[strings.Join(scopes, " ")]
	return tok.value, ok && time.Now().Before(tok.expires)
}

// token fetches a token that covers want and keeps it for requests of scopes, unless
// another request brought one that is not the refused header's. Callers that need the same one at
// the same time share one fetch, which goes on when one of them gives up.
func (t *authTransport) token(ctx context.Context, ch *challenge, scopes, want []string, refused string) (string, error) {
	key := strings.Join(scopes, " ")
	fetched := t.fetches.DoChan(key+"\n"+strings.Join(want, " "), func() (any, error) {
		if kept, ok := t.kept(scopes); ok && "Bearer "+kept != refused {
			return kept, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		cred, err := t.lookup(ctx)
		if err != nil {
			return nil, err
		}
		tok, err := t.fetchToken(ctx, ch, want, cred)
		if err != nil {
			return nil, err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.tokens) >= maxTokens {
			clear(t.tokens)
		}
		t.tokens[key] = tok
		return tok.value, nil
	})
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case r := <-fetched:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	}
}
