package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
)

// limitedServer is a registry whose clients are limited.
type limitedServer struct {
	*testing.T
	url, metrics string
	addr         string
	log          *logBuffer
}

func startLimited(t *testing.T, set func(*Config)) *limitedServer {
	t.Helper()
	cfg := Default()
	cfg.Listen, cfg.Data, cfg.Metrics.Listen = "127.0.0.1:0", filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	set(cfg)
	if problems := cfg.check(); len(problems) > 0 {
		t.Fatal(problems)
	}
	log := new(logBuffer)
	server, err := New(t.Context(), cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log)
		}
	})
	return &limitedServer{t, "http://" + server.Addr().String(), "http://" + server.MetricsAddr().String(), server.Addr().String(), log}
}

// want makes a request, whose answer must have the status.
func (s *limitedServer) want(status int, method, path, body string, header ...string) *http.Response {
	s.Helper()
	resp, text := call(s.T, method, s.url+path, body, header...)
	if resp.StatusCode != status {
		s.Fatalf("%s %s: status %d, expected %d: %s", method, path, resp.StatusCode, status, text)
	}
	if status == http.StatusTooManyRequests {
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
			s.Errorf("%s %s: Retry-After is %q", method, path, resp.Header.Get("Retry-After"))
		}
		if method != "HEAD" && !strings.Contains(text, `{"errors":[{"code":"TOOMANYREQUESTS","message":`) {
			s.Errorf("%s %s: the answer is %s", method, path, text)
		}
		for _, k := range []string{"Www-Authenticate", "Etag", "Docker-Content-Digest"} {
			if resp.Header.Get(k) != "" {
				s.Errorf("%s %s: a refusal with %s", method, path, k)
			}
		}
	}
	return resp
}

const (
	layer    = "the bytes of a layer"
	manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%[1]s","size":20},"layers":[]}`
)

var layerDigest = oci.DigestBytes(oci.SHA256, []byte(layer)).String()

func image() string { return fmt.Sprintf(manifest, layerDigest) }

// push sends an image with a blob, from a client.
func (s *limitedServer) push(repo, tag string, header ...string) {
	s.Helper()
	s.want(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+layerDigest, layer, header...)
	s.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, image(), append(header, "Content-Type", "application/vnd.oci.image.manifest.v1+json")...)
}

func rateOf(n int) Rate { return Rate{ratelimit.Rate{Count: n, Period: 30 * 24 * time.Hour}} }

func (s *limitedServer) refusals(limit, by string) float64 {
	s.Helper()
	return sample(s.T, scrape(s.T, s.metrics), "berth_rate_limited_requests_total", "by="+by, "limit="+limit).GetCounter().GetValue()
}

// The limit holds for requests that are served beside net/http, too: on one connection, in all forms.
func TestPullsAreLimited(t *testing.T) {
	s := startLimited(t, func(c *Config) { c.RateLimits.Anonymous.Pulls = rateOf(3) })
	s.push("app", "1")
	conn := dial(t, strAddr(s.addr), "")
	r := bufio.NewReader(conn)
	plain := func(method string) *http.Response {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "%s /v2/app/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n", method); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for left := 2; left >= 1; left-- {
		resp := plain("GET")
		if got, want := resp.Header.Get("RateLimit-Remaining"), fmt.Sprintf("%d;w=2592000", left); resp.StatusCode != 200 || got != want {
			t.Errorf("status %d, RateLimit-Remaining %q, expected 200 and %q", resp.StatusCode, got, want)
		}
		if resp = plain("HEAD"); resp.StatusCode != 200 || resp.Header.Get("RateLimit-Limit") != "3;w=2592000" {
			t.Errorf("HEAD, which costs nothing: %d %v", resp.StatusCode, resp.Header)
		}
	}
	resp, err := client(t, true).Get(s.url + "/v2/app/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("the third pull, by %s: %d", resp.Proto, resp.StatusCode)
	}
	if resp := plain("GET"); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("the fourth pull: %d %v", resp.StatusCode, resp.Header)
	}
	s.want(429, "GET", "/v2/app/manifests/1", "")
	if resp := plain("HEAD"); resp.StatusCode != 200 {
		t.Errorf("HEAD on the same connection, after that: %d", resp.StatusCode)
	}
	s.want(200, "GET", "/v2/app/blobs/"+layerDigest, "")
	s.want(404, "GET", "/v2/app/manifests/missing", "")
	s.push("app", "2") // pushes are not limited here
	if n := s.refusals("pulls", "network"); n != 2 {
		t.Errorf("%v refusals were counted, expected 2", n)
	}
	if n := sample(t, scrape(t, s.metrics), "berth_rate_limit_subjects").GetGauge().GetValue(); n != 1 {
		t.Errorf("%v subjects are remembered", n)
	}
	if log := s.log.String(); !strings.Contains(log, `limited="pulls of network 127.0.0.1/32"`) || strings.Count(log, "limited=") != 2 {
		t.Errorf("the access log does not tell who was refused, or too often:\n%s", log)
	}
}

// What was begun ends, whatever else the client may not do any more.
func TestWhatWasBegunEnds(t *testing.T) {
	s := startLimited(t, func(c *Config) { c.RateLimits.Anonymous = ClientRates{Requests: rateOf(10), Pushes: rateOf(2)} })
	s.push("app", "1") // 2 requests
	location := s.want(202, "POST", "/v2/new/blobs/uploads/", "").Header.Get("Location")
	for range 7 {
		s.want(200, "HEAD", "/v2/app/manifests/1", "")
	}
	s.want(429, "HEAD", "/v2/app/manifests/1", "")
	s.want(429, "POST", "/v2/app/blobs/uploads/", "")
	resp := s.want(202, "PATCH", location, layer[:10], "Content-Type", "application/octet-stream")
	s.want(204, "GET", resp.Header.Get("Location"), "")
	resp = s.want(202, "PATCH", resp.Header.Get("Location"), layer[10:], "Content-Type", "application/octet-stream")
	s.want(201, "PUT", resp.Header.Get("Location")+"&digest="+layerDigest, "")
	s.want(200, "HEAD", "/v2/new/blobs/"+layerDigest, "")
	s.want(202, "POST", "/v2/new/blobs/uploads/", "")
	s.want(201, "PUT", "/v2/new/manifests/1", image(), "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	s.want(200, "GET", "/v2/app/blobs/"+layerDigest, "")
	s.want(429, "HEAD", "/v2/new/manifests/1", "") // with the tag, the push has ended
	// What costs next to nothing, or comes in thousands, is not counted.
	for range 30 {
		s.want(206, "GET", "/v2/app/blobs/"+layerDigest, "", "Range", "bytes=0-3")
		s.want(200, "GET", "/v2/", "")
		s.want(200, "GET", "/livez", "")
		s.want(200, "GET", "/readyz", "")
		s.want(404, "GET", "/nothing", "")
	}
	if n := s.refusals("requests", "network"); n != 3 {
		t.Errorf("%v refusals were counted, expected 3", n)
	}
}

func TestPushesAreLimited(t *testing.T) {
	s := startLimited(t, func(c *Config) { c.RateLimits.Anonymous.Pushes = rateOf(2) })
	s.push("app", "1")
	mount := "?mount=" + layerDigest + "&from=app"
	s.want(201, "POST", "/v2/other/blobs/uploads/"+mount, "") // a second push begins
	s.want(429, "POST", "/v2/app/blobs/uploads/", "")
	s.want(429, "POST", "/v2/third/blobs/uploads/"+mount, "")
	s.want(202, "POST", "/v2/other/blobs/uploads/", "")
	s.want(201, "PUT", "/v2/other/manifests/"+oci.DigestBytes(oci.SHA256, []byte(image())).String()+"?tag=a&tag=b", image(), "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	s.want(429, "POST", "/v2/other/blobs/uploads/", "") // with its tags, the push has ended
	s.want(200, "GET", "/v2/app/manifests/1", "")
	// Manifests alone may overdraw, because their push may have begun elsewhere, but not for ever.
	for i, status := range []int{201, 201, 429, 429} {
		s.want(status, "PUT", fmt.Sprint("/v2/app/manifests/tag", i), image(), "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	if n := s.refusals("pushes", "network"); n != 5 {
		t.Errorf("%v refusals were counted, expected 5", n)
	}
}

// Clients behind a proxy are told apart by the word of the proxy, if it is trusted, and by nobody else's.
func TestLimitsBehindProxies(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		s := startLimited(t, func(c *Config) {
			c.RateLimits.Anonymous.Pulls = rateOf(1)
			c.RateLimits.ExemptNetworks = []Network{network(t, "2001:db8:ffff::/48")}
			if trusted {
				c.TrustedProxies = []Network{network(t, "127.0.0.1")}
			}
		})
		s.push("app", "1")
		second := 429
		if trusted {
			second = 200
		}
		s.want(200, "GET", "/v2/app/manifests/1", "", "X-Forwarded-For", "192.0.2.1")
		s.want(429, "GET", "/v2/app/manifests/1", "", "X-Forwarded-For", "192.0.2.1")
		s.want(second, "GET", "/v2/app/manifests/1", "", "X-Forwarded-For", "192.0.2.1, 192.0.2.2")
		s.want(429, "GET", "/v2/app/manifests/1", "", "X-Forwarded-For", "192.0.2.77, 192.0.2.2")
		s.want(second, "GET", "/v2/app/manifests/1", "", "Forwarded", `for="[2001:db8::1]:4711"`)
		s.want(429, "GET", "/v2/app/manifests/1", "", "Forwarded", `for="[2001:db8::2]:4711"`)
		for range 3 {
			s.want(second, "GET", "/v2/app/manifests/1", "", "X-Forwarded-For", "2001:db8:ffff::1")
		}
	}
}

func network(t *testing.T, text string) (n Network) {
	t.Helper()
	if err := n.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return n
}

// strAddr is an address to dial.
type strAddr string

func (a strAddr) Network() string { return "tcp" }
func (a strAddr) String() string  { return string(a) }

// Whoever has signed in is counted by account, wherever they come from, and does not suffer from their neighbours.
func TestAccountsAreLimited(t *testing.T) {
	s := startLimited(t, func(c *Config) {
		c.Auth.Enabled = true
		c.RateLimits.Anonymous.Requests, c.RateLimits.SignIn = rateOf(5), rateOf(6)
		c.RateLimits.Accounts = ClientRates{Requests: rateOf(40), Pulls: rateOf(2), Pushes: rateOf(1)}
		c.RateLimits.ExemptAccounts = []string{"deploy"}
	})
	const password = "a good password"
	basic := func(name string) []string {
		r := &http.Request{Header: make(http.Header)}
		r.SetBasicAuth(name, password)
		return []string{"Authorization", r.Header.Get("Authorization")}
	}
	json := []string{"Content-Type", "application/json"}
	_, secret, _ := strings.Cut(s.log.String(), "/setup#")
	secret = secret[:strings.IndexAny(secret, "\" ")]
	s.want(201, "POST", "/api/v1/setup", fmt.Sprintf(`{"token":%q,"name":"root","password":%q}`, secret, password), json...) // a sign-in
	for _, name := range []string{"alice", "deploy"} {
		s.want(201, "POST", "/api/v1/users", fmt.Sprintf(`{"name":%q,"password":%q,"admin":true}`, name, password), append(json, basic("root")...)...)
	}
	s.push("team/app", "1", basic("root")...)
	s.want(429, "POST", "/v2/team/app/blobs/uploads/", "", basic("root")...)
	s.push("team/app", "2", basic("alice")...)
	for _, name := range []string{"root", "alice"} {
		for range 2 {
			s.want(200, "GET", "/v2/team/app/manifests/1", "", basic(name)...)
		}
		resp := s.want(429, "GET", "/v2/team/app/manifests/1", "", basic(name)...)
		if got := resp.Header.Get("RateLimit-Remaining"); got != "0;w=2592000" {
			t.Errorf("%s has %q left", name, got)
		}
	}
	for range 60 {
		s.want(200, "GET", "/v2/team/app/manifests/1", "", basic("deploy")...)
	}

	for range 5 {
		s.want(401, "GET", "/v2/team/app/manifests/1", "")
	}
	s.want(429, "GET", "/v2/team/app/manifests/1", "")
	s.want(429, "GET", "/v2/team/app/manifests/1", "", "Authorization", "Bearer forged")
	s.want(429, "GET", "/api/v1/account", "")
	s.want(429, "GET", "/.well-known/jwks.json", "")
	s.want(401, "GET", "/v2/", "") // with which a client learns how to sign in
	for range 5 {
		s.want(200, "GET", "/token?service=berth", "", basic("alice")...)
	}
	s.want(429, "GET", "/token?service=berth", "", basic("alice")...)
	s.want(429, "POST", "/token", "grant_type=password", "Content-Type", "application/x-www-form-urlencoded")
	s.want(429, "POST", "/api/v1/setup", "{}", json...)
	s.want(429, "GET", "/setup", "")

	s.want(200, "GET", "/v2/", "", basic("alice")...)
	s.want(200, "HEAD", "/v2/team/app/manifests/1", "", basic("alice")...)
	for status := 200; status == 200; {
		resp, _ := call(t, "GET", s.url+"/api/v1/account", "", basic("alice")...)
		status = resp.StatusCode
	}
	s.want(429, "GET", "/api/v1/account", "", basic("alice")...)
	s.want(429, "HEAD", "/v2/team/app/manifests/1", "", basic("alice")...)
	s.want(200, "GET", "/api/v1/account", "", basic("root")...)
	for by, want := range map[[2]string]float64{{"pulls", "account"}: 2, {"pushes", "account"}: 1, {"requests", "account"}: 3, {"requests", "network"}: 4, {"sign_in", "network"}: 4} {
		if n := s.refusals(by[0], by[1]); n != want {
			t.Errorf("%v: %v refusals were counted, expected %v", by, n, want)
		}
	}
	if log := s.log.String(); !strings.Contains(log, `limited="pulls of account alice"`) || strings.Contains(log, password) {
		t.Error("the access log does not tell which account was refused, or tells too much")
	}
}
