package hostile

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

const password = "a good password"

// guarded is a server with access control. Its administrator is root, once setUp was called.
type guarded struct {
	*harness.Server
	*harness.API
	t *testing.T
}

func newGuarded(t *testing.T, env ...string) *guarded {
	t.Helper()
	s := harness.Start(t, harness.Settings{Env: append(env, "BERTH_AUTH_ENABLED=true")})
	return &guarded{s, harness.NewAPI(t, s), t}
}

// setUp makes root with the one-time secret of the log.
func (g *guarded) setUp() {
	g.t.Helper()
	told := regexp.MustCompile(`--setup ([A-Z0-9]+)`)
	if !eventually(func() bool { return told.MatchString(g.Log()) }) {
		g.t.Fatalf("the log offers no set-up:\n%s", g.Log())
	}
	g.manage(password, "user", "add", "root", "--admin", "--password-stdin", "--setup", told.FindStringSubmatch(g.Log())[1])
}

// manage runs a command of the binary as root and returns what it prints.
func (g *guarded) manage(stdin string, args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), harness.Binary(g.t), append(args, "--server", g.URL)...)
	cmd.Env = append(os.Environ(), "BERTH_USER=root", "BERTH_PASSWORD="+password)
	cmd.Stdin = strings.NewReader(stdin + "\n")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("berth %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return strings.TrimSpace(out.String())
}

func basic(name, secret string) harness.Header {
	return harness.Header{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+secret))}
}

// CVE-2026-4404: a new registry has no account, so there is no password to try; nobody but who reads its log can make the first one.
func TestNoDefaultPassword(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for _, name := range []string{"admin", "root", "berth", "administrator", "user", "token", "anonymous", "local", ""} {
		for _, secret := range []string{"", name, "Harbor12345", "password"} {
			for _, path := range []string{"/v2/", "/token?service=berth", "/api/v1/account"} {
				resp := g.Do("GET", path, nil, basic(name, secret))
				if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusTooManyRequests {
					t.Errorf("%q with %q at %s: %d %s", name, secret, path, resp.StatusCode, resp.Bytes)
				}
			}
		}
	}
	for _, secret := range []string{"", "setup", strings.Repeat("A", 26), strings.Repeat("=", 26)} {
		body := fmt.Sprintf(`{"token":%q,"name":"eve","password":%q}`, secret, password)
		resp := g.Do("POST", "/api/v1/setup", []byte(body), harness.Header{"Content-Type": "application/json"})
		if resp.StatusCode/100 != 4 {
			t.Errorf("set-up with %q: %d %s", secret, resp.StatusCode, resp.Bytes)
		}
	}
	g.Expect(http.StatusUnauthorized, "GET", "/api/v1/users", nil)
}

// Where a client comes from is what the connection says, and what a trusted proxy adds to it: headers that a client makes up neither bring a robot
// into its network nor let somebody guess passwords as ever new clients.
func TestForgedForwardingHeadersMoveNobody(t *testing.T) {
	t.Parallel()
	for _, proxy := range []string{"", "127.0.0.1"} { // the test is then the proxy, and what a client forged is to the left
		t.Run("proxy "+proxy, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, "BERTH_TRUSTED_PROXIES="+proxy)
			g.setUp()
			g.manage("", "org", "add", "team")
			g.manage("", "robot", "add", "team+ci", "--network", "10.0.0.0/8")
			g.manage("", "grant", "add", "team", "--robot", "team+ci", "--role", "writer")
			robot := basic("team+ci", g.manage("", "robot", "secret", "add", "team+ci", "--quiet"))
			outside := "198.51.100.7"
			for _, forged := range []harness.Header{
				{"X-Forwarded-For": "10.1.1.1"}, {"X-Forwarded-For": "10.1.1.1, 10.1.1.2"}, {"Forwarded": "for=10.1.1.1"}, {"X-Real-Ip": "10.1.1.1"},
				{"X-Client-Ip": "10.1.1.1"}, {"True-Client-Ip": "10.1.1.1"}, {"Cf-Connecting-Ip": "10.1.1.1"}, {"X-Forwarded-For": "10.1.1.1", "Forwarded": "for=10.1.1.1"},
			} {
				if proxy != "" { // it appends whom it sees
					if v, ok := forged["X-Forwarded-For"]; ok {
						forged["X-Forwarded-For"] = v + ", " + outside
					} else if v, ok := forged["Forwarded"]; ok {
						forged["Forwarded"] = v + ", for=" + outside
					} else {
						forged["X-Forwarded-For"] = outside
					}
					if _, both := forged["Forwarded"]; both && forged["X-Forwarded-For"] != "" {
						continue // no proxy passes on the one that it does not write
					}
				}
				for _, path := range []string{"/v2/", "/v2/team/app/tags/list", "/token?service=berth", "/api/v1/account"} {
					if resp := g.Do("GET", path, nil, robot, forged); resp.StatusCode != http.StatusUnauthorized {
						t.Errorf("%v at %s: %d %s", forged, path, resp.StatusCode, resp.Bytes)
					}
				}
			}
			if proxy != "" {
				g.Expect(http.StatusOK, "GET", "/v2/", nil, robot, harness.Header{"X-Forwarded-For": "198.51.100.7, 10.1.1.1"})
				return
			}
			// Guessing is counted with the connection, whatever is made up.
			locked := false
			for i := range 200 {
				resp := g.Do("GET", "/token?service=berth", nil, basic(fmt.Sprint("user", i), "wrong"), harness.Header{"X-Forwarded-For": fmt.Sprintf("203.0.113.%d", i)})
				if locked = resp.StatusCode == http.StatusTooManyRequests; locked {
					break
				}
			}
			if !locked {
				t.Error("200 guesses from one address were not slowed down")
			}
		})
	}
}

// Who fails to sign in is told the same, whether there is such an account or not, whatever it is and whatever is wrong with it.
func TestAnswersDoNotTellWhichAccountsThereAre(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "BERTH_TRUSTED_PROXIES=127.0.0.1")
	g.setUp()
	g.manage("", "org", "add", "team")
	g.manage(password, "user", "add", "alice", "--password-stdin")
	g.manage(password, "user", "add", "bob", "--password-stdin")
	g.manage("", "user", "add", "without", "--no-password")
	for _, n := range []string{"1", "2"} { // each account for one secret, because wrong ones are counted
		for name, set := range map[string][]string{"disabled": {"--disabled"}, "expired": {"--expires", "2020-01-01"}, "elsewhere": {"--network", "192.0.2.0/24"}} {
			g.manage(password, "user", "add", name+n, "--password-stdin")
			g.manage("", append([]string{"user", "set", name + n}, set...)...)
		}
	}
	g.manage("", "robot", "add", "team+ci")
	asked := 0
	ask := func(name, secret string) string {
		t.Helper()
		var all strings.Builder
		asked++ // each time from another network, likewise
		from := harness.Header{"X-Forwarded-For": fmt.Sprint("203.0.113.", asked)}
		form := harness.Header{"Content-Type": "application/x-www-form-urlencoded"}
		for _, resp := range []*harness.Response{
			g.Do("GET", "/v2/", nil, basic(name, secret), from), g.Do("GET", "/v2/team/app/tags/list", nil, basic(name, secret), from),
			g.Do("GET", "/token?service=berth&scope=repository:team/app:pull", nil, basic(name, secret), from), g.Do("GET", "/api/v1/account", nil, basic(name, secret), from),
			g.Do("POST", "/token", []byte("grant_type=password&service=berth&client_id=x&username="+url.QueryEscape(name)+"&password="+url.QueryEscape(secret)), form, from),
		} {
			resp.Header.Del("Date")
			resp.Header.Del("X-Request-Id")
			header, err := json.Marshal(resp.Header)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "%d %s %s\n", resp.StatusCode, header, resp.Bytes)
		}
		return all.String()
	}
	want := ask("nosuch", "wrong")
	if strings.Contains(want, "200 ") || strings.Contains(want, "nosuch") {
		t.Fatal(want)
	}
	for _, tt := range [][2]string{
		{"alice", "wrong"}, {"without", "wrong"}, {"team+ci", "wrong"}, {"team+nosuch", "wrong"}, {"disabled1", "wrong"}, {"expired1", "wrong"}, {"elsewhere1", "wrong"},
		{"bob", "berth_pat_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, {"nosuch2", "berth_bot_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
		{"UPPER", "wrong"}, {"alice'--", "wrong"},
		// The right password of who may not sign in is no way to find out either.
		{"disabled2", password}, {"expired2", password}, {"elsewhere2", password},
	} {
		if got := ask(tt[0], tt[1]); got != want {
			t.Errorf("%s with %q:\n%sexpected, as for who does not exist:\n%s", tt[0], tt[1], got, want)
		}
	}
}
