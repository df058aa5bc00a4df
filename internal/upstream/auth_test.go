package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

// guarded is the shared registry behind a token server, as in Docker's token protocol.
type guarded struct {
	*httptest.Server
	realm *httptest.Server
	life  int // seconds that tokens are said to last; 0 to say nothing

	mu     sync.Mutex
	valid  map[string]bool // tokens
	asked  []url.Values    // what the token server was asked, with "authorization" and "method"
	refuse func(r *http.Request) bool
}

func newGuarded(t testing.TB) *guarded {
	g := &guarded{valid: map[string]bool{}}
	g.realm = httptest.NewServer(http.HandlerFunc(g.token))
	t.Cleanup(g.realm.Close)
	g.Server = front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		g.mu.Lock()
		ok := g.valid[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		if ok && g.refuse != nil && g.refuse(r) {
			ok = false
			clear(g.valid)
		}
		g.mu.Unlock()
		if !ok {
			io.Copy(io.Discard, r.Body)
			name := strings.TrimPrefix(r.URL.Path, "/v2/")
			name, _, _ = strings.Cut(name, "/")
			w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="the service",scope="repository:%s:pull"`, g.realm.URL, name))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	return g
}

func (g *guarded) token(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	g.mu.Lock()
	defer g.mu.Unlock()
	q := r.Form
	q.Set("authorization", r.Header.Get("Authorization"))
	q.Set("method", r.Method)
	g.asked = append(g.asked, q)
	if user, _, ok := r.BasicAuth(); ok && user != "someone" {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}`, http.StatusUnauthorized)
		return
	}
	tok := fmt.Sprintf("token%d", len(g.asked))
	g.valid[tok] = true
	json.NewEncoder(w).Encode(map[string]any{"token": tok, "expires_in": g.life})
}

func (g *guarded) requests() []url.Values {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked)
}

func withCredential(c Credential) func(*Options) {
	return func(o *Options) {
		o.Credential = func(context.Context, string) (Credential, error) { return c, nil }
	}
}

func TestTokens(t *testing.T) {
	api(t).PushImage("tokens", "1", harness.NewImage("amd64", nil))
	for _, test := range []struct {
		name string
		cred Credential
		want url.Values
	}{
		{"password", Credential{Username: "someone", Password: "secret"}, url.Values{
			"method": {"GET"}, "authorization": {"Basic c29tZW9uZTpzZWNyZXQ="}, "service": {"the service"}, "scope": {"repository:tokens:pull"},
		}},
		{"anonymous", Credential{}, url.Values{
			"method": {"GET"}, "authorization": {""}, "service": {"the service"}, "scope": {"repository:tokens:pull"},
		}},
		{"identity token", Credential{Username: "someone", IdentityToken: "identity"}, url.Values{
			"method": {"POST"}, "authorization": {""}, "service": {"the service"}, "scope": {"repository:tokens:pull"},
			"grant_type": {"refresh_token"}, "refresh_token": {"identity"}, "client_id": {"berth"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuarded(t)
			repo := at(t, host(g.Server), "tokens", withCredential(test.cred))
			for range 3 {
				if _, err := repo.Resolve(t.Context(), tagRef("1")); err != nil {
					t.Fatal(err)
				}
			}
			asked := g.requests()
			if len(asked) != 1 {
				t.Fatalf("%d tokens were fetched for three requests, expected one", len(asked))
			}
			if got := asked[0].Encode(); got != test.want.Encode() {
				t.Errorf("the token server was asked %s, expected %s", got, test.want.Encode())
			}
		})
	}
}

func TestAccessTokenIsSentAsItIs(t *testing.T) {
	api(t).PushImage("accesstoken", "1", harness.NewImage("amd64", nil))
	g := newGuarded(t)
	g.valid["mine"] = true
	repo := at(t, host(g.Server), "accesstoken", withCredential(Credential{AccessToken: "mine"}))
	if _, err := repo.Resolve(t.Context(), tagRef("1")); err != nil {
		t.Fatal(err)
	}
	if n := len(g.requests()); n != 0 {
		t.Errorf("the token server was asked %d times", n)
	}
}

func TestWrongPassword(t *testing.T) {
	g := newGuarded(t)
	repo := at(t, host(g.Server), "wrongpassword", withCredential(Credential{Username: "nobody", Password: "secret"}))
	_, err := repo.Resolve(t.Context(), tagRef("1"))
	var answer *Error
	if !errors.As(err, &answer) || answer.Status != http.StatusUnauthorized || answer.Message != "wrong password" {
		t.Errorf("got %v, expected the token server's 401", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error has the password: %v", err)
	}
}

func TestConcurrentRequestsShareAToken(t *testing.T) {
	api(t).PushImage("share", "1", harness.NewImage("amd64", nil))
	g := newGuarded(t)
	repo := at(t, host(g.Server), "share")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := repo.Resolve(t.Context(), tagRef("1")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(g.requests()); n != 1 {
		t.Errorf("%d tokens were fetched, expected one", n)
	}
}

// A request that is refused after another has brought a token uses that.
func TestLateRefusalUsesTheTokenThatIsThere(t *testing.T) {
	api(t).PushImage("late", "1", harness.NewImage("amd64", nil))
	g := newGuarded(t)
	held, release := make(chan struct{}), make(chan struct{})
	first := true
	inner := g.Config.Handler
	g.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			close(held)
			<-release
		}
		inner.ServeHTTP(w, r)
	})
	repo := at(t, host(g.Server), "late")
	late := make(chan error)
	go func() {
		_, err := repo.Resolve(t.Context(), tagRef("1"))
		late <- err
	}()
	<-held
	_, err := repo.Resolve(t.Context(), tagRef("1"))
	close(release)
	if err := errors.Join(err, <-late); err != nil {
		t.Fatal(err)
	}
	if n := len(g.requests()); n != 1 {
		t.Errorf("%d tokens were fetched, expected one", n)
	}
}

// A token that someone waits for does not go away with whoever asked first.
func TestTokenOutlivesTheRequestThatAskedForIt(t *testing.T) {
	api(t).PushImage("outlive", "1", harness.NewImage("amd64", nil))
	g := newGuarded(t)
	ctx, cancel := context.WithCancel(t.Context())
	hold := make(chan struct{})
	inner := g.realm.Config.Handler
	g.realm.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-hold
		inner.ServeHTTP(w, r)
	})
	repo := at(t, host(g.Server), "outlive")
	if _, err := repo.Resolve(ctx, tagRef("1")); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, expected the cancelled request to end", err)
	}
	close(hold)
	if _, err := repo.Resolve(t.Context(), tagRef("1")); err != nil {
		t.Fatal(err)
	}
	if n := len(g.requests()); n != 1 {
		t.Errorf("%d tokens were fetched, expected one", n)
	}
}

// A token that ends while a body is on its way, which can't be sent again as it is.
func TestTokenRevokedDuringAnUpload(t *testing.T) {
	g := newGuarded(t)
	refused := false
	g.refuse = func(r *http.Request) bool {
		again := r.Method == http.MethodPatch && !refused
		refused = refused || again
		return again
	}
	repo := at(t, host(g.Server), "revoked", withCredential(Credential{Username: "someone", Password: "secret"}))
	b := harness.NewBlob("application/octet-stream", harness.Random(3<<20))
	if _, err := repo.PutBlob(t.Context(), Upload{Desc: desc(t, b), Open: bytesOf(b.Bytes)}); err != nil {
		t.Fatal(err)
	}
	if !refused || len(g.requests()) < 2 {
		t.Errorf("refused %t, %d tokens: the test does not test", refused, len(g.requests()))
	}
	got, err := repo.BlobBytes(t.Context(), desc(t, b), 4<<20)
	if err != nil || len(got) != len(b.Bytes) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
}

func TestBasic(t *testing.T) {
	api(t).PushImage("basic", "1", harness.NewImage("amd64", nil))
	refused := 0
	s := front(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "someone" || password != "secret" {
			refused++
			w.Header().Set("Www-Authenticate", `Basic realm="the registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	repo := at(t, host(s), "basic", withCredential(Credential{Username: "someone", Password: "secret"}))
	for range 3 {
		if _, err := repo.Resolve(t.Context(), tagRef("1")); err != nil {
			t.Fatal(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d requests came without credentials, expected the first only", refused)
	}
	var answer *Error
	_, err := at(t, host(s), "basic").Resolve(t.Context(), tagRef("1"))
	if !errors.As(err, &answer) || answer.Status != http.StatusUnauthorized {
		t.Errorf("without credentials: got %v, expected 401", err)
	}
	_, err = at(t, host(s), "basic", withCredential(Credential{Username: "someone", Password: "wrong"})).Resolve(t.Context(), tagRef("1"))
	if !errors.As(err, &answer) || answer.Status != http.StatusUnauthorized {
		t.Errorf("with a wrong password: got %v, expected 401", err)
	}
}
