package admin

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
)

// The callers of TestRoutes.
const (
	anonymous   = "anonymous"
	person      = "person"       // without any right
	owner       = "owner"        // of the organization team
	stranger    = "stranger"     // who owns the organization other
	root        = "root"         // an administrator of the registry
	robot       = "robot"        // of the organization team, which may pull there
	everywhere  = "everywhere"   // an owner by a grant everywhere, but no administrator of the registry
	narrowOwner = "narrow owner" // the owner, with a token for some repositories
	narrowRoot  = "narrow root"  // the administrator, with a token to pull
	shortRoot   = "short root"   // the administrator, with a token that expires
)

var (
	administrators = []string{root, shortRoot}
	owners         = append([]string{owner, everywhere}, administrators...)
	signedIn       = []string{person, owner, stranger, root, robot, everywhere, narrowOwner, narrowRoot, shortRoot}
	deleters       = append([]string{narrowOwner}, owners...)
	pullers        = append([]string{robot, narrowRoot}, deleters...)
	whole          = []string{person, owner, stranger, root, everywhere} // with all that their accounts may
)

// routeTests has a row for each row of routes: what is asked for, what the answer is for those who may, and who these are.
var routeTests = []struct {
	method, route, path, body string
	status                    int
	may                       []string
}{
	{"POST", "setup", "setup", `{"token":"x","name":"x","password":"long enough"}`, 403, nil},

	{"GET", "users", "users", "", 200, administrators},
	{"POST", "users", "users", `{"name":"new"}`, 201, administrators},
	{"GET", "users/{user}", "users/person", "", 200, administrators},
	{"PATCH", "users/{user}", "users/person", `{"mail":"a@example.com"}`, 200, administrators},
	{"DELETE", "users/{user}", "users/victim", "", 204, administrators},
	{"PUT", "users/{user}/password", "users/victim/password", `{"password":"long enough"}`, 204, administrators},
	{"DELETE", "users/{user}/password", "users/victim/password", "", 204, administrators},
	{"GET", "users/{user}/tokens", "users/victim/tokens", "", 200, administrators},
	{"POST", "users/{user}/tokens", "users/victim/tokens", `{}`, 201, administrators},
	{"DELETE", "users/{user}/tokens/{id}", "users/victim/tokens/{token}", "", 204, administrators},

	{"GET", "account", "account", "", 200, signedIn},
	{"PUT", "account/password", "account/password", `{"old":"no","password":"long enough"}`, 400, whole},
	{"GET", "account/tokens", "account/tokens", "", 200, signedIn},
	{"POST", "account/tokens", "account/tokens", `{"name":"x"}`, 201, whole},
	{"DELETE", "account/tokens/{id}", "account/tokens/999", "", 404, whole},

	{"GET", "organizations", "organizations", "", 200, administrators},
	{"POST", "organizations", "organizations", `{"name":"new"}`, 201, administrators},
	{"GET", "organizations/{organization}", "organizations/team", "", 200, owners},
	{"PATCH", "organizations/{organization}", "organizations/team", `{"public":true}`, 200, owners},
	{"DELETE", "organizations/{organization}", "organizations/team", "", 204, administrators},

	{"GET", "organizations/{organization}/teams", "organizations/team/teams", "", 200, owners},
	{"POST", "organizations/{organization}/teams", "organizations/team/teams", `{"name":"new"}`, 201, owners},
	{"DELETE", "organizations/{organization}/teams/{team}", "organizations/team/teams/dev", "", 204, owners},
	{"GET", "organizations/{organization}/teams/{team}/members", "organizations/team/teams/dev/members", "", 200, owners},
	{"PUT", "organizations/{organization}/teams/{team}/members/{account}", "organizations/team/teams/dev/members/person", "", 204, owners},
	{"DELETE", "organizations/{organization}/teams/{team}/members/{account}", "organizations/team/teams/dev/members/victim", "", 204, owners},
	{"GET", "organizations/{organization}/teams/{team}/groups", "organizations/team/teams/dev/groups", "", 200, owners},
	{"PUT", "organizations/{organization}/teams/{team}/groups/{source}", "organizations/team/teams/dev/groups/ldap", `{"names":["x"]}`, 204, owners},

	{"GET", "repositories/{repository...}", "repositories/team/app", "", 200, owners},
	{"PUT", "repositories/{repository...}", "repositories/team/app", `{"visibility":"public"}`, 204, owners},
	{"DELETE", "repositories/{repository...}", "repositories/team/app?through=0", "", 200, deleters},
	{"GET", "contents/{repository...}", "contents/team/app", "", 200, pullers},

	{"GET", "history/moves", "history/moves?repository=team/app", "", 200, pullers},
	{"GET", "history/tags", "history/tags?scope=team/app&tag=1", "", 200, pullers},
	{"GET", "history/changes", "history/changes?scope=team/app&from=2020-01-01T00:00:00Z", "", 200, pullers},
	{"GET", "history/restore", "history/restore?scope=team/app&tag=1", "", 404, pullers},
	{"POST", "history/restore", "history/restore", `{"scope":"team/app","tag":"1"}`, 404, pullers},
	{"GET", "trash", "trash?scope=team/app", "", 200, pullers},
	{"POST", "trash/empty", "trash/empty", `{"scope":"team/app"}`, 200, deleters},
	{"POST", "trash/undelete", "trash/undelete", `{"repository":"team/app"}`, 200, pullers},

	{"GET", "explain", "explain?repository=team/app&action=pull", "", 200, signedIn},

	{"GET", "usage", "usage", "", 200, administrators},
	{"GET", "organizations/{organization}/usage", "organizations/team/usage", "", 200, owners},
	{"GET", "organizations/{organization}/usage/repositories", "organizations/team/usage/repositories", "", 200, owners},
	{"GET", "usage/repositories/{repository...}", "usage/repositories/team/app", "", 200, owners},
	{"GET", "usage/tags/{repository...}", "usage/tags/team/app", "", 200, owners},
	{"GET", "quotas", "quotas", "", 200, administrators},
	{"GET", "organizations/{organization}/quota", "organizations/team/quota", "", 404, owners},
	{"PUT", "organizations/{organization}/quota", "organizations/team/quota", `{"tags":5}`, 200, administrators},
	{"DELETE", "organizations/{organization}/quota", "organizations/team/quota", "", 404, administrators},

	{"GET", "audit", "audit", "", 200, administrators},
	{"GET", "audit/export", "audit/export", "", 200, administrators},

	{"GET", "robots", "robots", "", 200, administrators},
	{"POST", "robots", "robots", `{"name":"new"}`, 201, administrators},
	{"GET", "robots/{robot}", "robots/backup", "", 200, administrators},
	{"PATCH", "robots/{robot}", "robots/backup", `{"disabled":true}`, 200, administrators},
	{"DELETE", "robots/{robot}", "robots/backup", "", 204, administrators},
	{"GET", "robots/{robot}/secrets", "robots/backup/secrets", "", 200, administrators},
	{"POST", "robots/{robot}/secrets", "robots/backup/secrets", `{}`, 201, administrators},
	{"POST", "robots/{robot}/secrets/rotate", "robots/backup/secrets/rotate", `{}`, 201, administrators},
	{"DELETE", "robots/{robot}/secrets/{id}", "robots/backup/secrets/{backupSecret}", "", 204, administrators},

	{"GET", "organizations/{organization}/robots", "organizations/team/robots", "", 200, owners},
	{"POST", "organizations/{organization}/robots", "organizations/team/robots", `{"name":"new"}`, 201, owners},
	{"GET", "organizations/{organization}/robots/{robot}", "organizations/team/robots/deploy", "", 200, owners},
	{"PATCH", "organizations/{organization}/robots/{robot}", "organizations/team/robots/deploy", `{"disabled":true}`, 200, owners},
	{"DELETE", "organizations/{organization}/robots/{robot}", "organizations/team/robots/deploy", "", 204, owners},
	{"GET", "organizations/{organization}/robots/{robot}/secrets", "organizations/team/robots/deploy/secrets", "", 200, owners},
	{"POST", "organizations/{organization}/robots/{robot}/secrets", "organizations/team/robots/deploy/secrets", `{}`, 201, owners},
	{"POST", "organizations/{organization}/robots/{robot}/secrets/rotate", "organizations/team/robots/deploy/secrets/rotate", `{"overlap":"0s"}`, 201, owners},
	{"DELETE", "organizations/{organization}/robots/{robot}/secrets/{id}", "organizations/team/robots/deploy/secrets/{deploySecret}", "", 204, owners},

	{"GET", "robots/{robot}/trust", "robots/backup/trust", "", 200, administrators},
	{"POST", "robots/{robot}/trust", "robots/backup/trust", trustExample, 201, administrators},
	{"DELETE", "robots/{robot}/trust/{id}", "robots/backup/trust/{backupTrust}", "", 204, administrators},
	{"GET", "organizations/{organization}/robots/{robot}/trust", "organizations/team/robots/deploy/trust", "", 200, owners},
	{"POST", "organizations/{organization}/robots/{robot}/trust", "organizations/team/robots/deploy/trust", trustExample, 201, owners},
	{"DELETE", "organizations/{organization}/robots/{robot}/trust/{id}", "organizations/team/robots/deploy/trust/{deployTrust}", "", 204, owners},

	{"GET", "collection", "collection", "", 200, administrators},
	{"POST", "collection/run", "collection/run", "{}", 204, administrators},
	{"POST", "collection/pause", "collection/pause", "{}", 204, administrators},
	{"POST", "collection/resume", "collection/resume", "{}", 204, administrators},
	{"GET", "scrub", "scrub", "", 200, administrators},
	{"GET", "scrub/damaged", "scrub/damaged", "", 200, administrators},
	{"POST", "scrub/run", "scrub/run", "{}", 204, administrators},
	{"POST", "scrub/pause", "scrub/pause", "{}", 204, administrators},
	{"POST", "scrub/resume", "scrub/resume", "{}", 204, administrators},
	{"GET", "backup", "backup", "", 200, administrators},
	{"POST", "backup/run", "backup/run", "{}", 204, administrators},
	{"POST", "backup/pause", "backup/pause", "{}", 204, administrators},
	{"POST", "backup/resume", "backup/resume", "{}", 204, administrators},
	{"GET", "retention/status", "retention/status", "", 200, administrators},
	{"POST", "retention/run", "retention/run", "{}", 204, administrators},
	{"POST", "retention/pause", "retention/pause", "{}", 204, administrators},
	{"POST", "retention/resume", "retention/resume", "{}", 204, administrators},

	{"GET", "grants", "grants", "", 200, administrators},
	{"POST", "grants", "grants", `{"account":"person","role":"reader"}`, 201, administrators},
	{"DELETE", "grants/{id}", "grants/{grantEverywhere}", "", 204, administrators},
	{"GET", "organizations/{organization}/grants", "organizations/team/grants", "", 200, owners},
	{"POST", "organizations/{organization}/grants", "organizations/team/grants", `{"team":"dev","role":"owner"}`, 201, owners},
	{"DELETE", "organizations/{organization}/grants/{id}", "organizations/team/grants/{grant}", "", 204, owners},

	{"GET", "freezes", "freezes", "", 200, administrators},
	{"GET", "protections", "protections", "", 200, administrators},
	{"POST", "protections", "protections", `{"tags":["v*"]}`, 201, administrators},
	{"DELETE", "protections/{id}", "protections/999", "", 404, administrators},
	{"GET", "freeze", "freeze", "", 404, administrators},
	{"PUT", "freeze", "freeze", `{"message":"closed"}`, 200, administrators},
	{"DELETE", "freeze", "freeze", "", 404, administrators},
	{"GET", "organizations/{organization}/protections", "organizations/team/protections", "", 200, owners},
	{"POST", "organizations/{organization}/protections", "organizations/team/protections", `{"tags":["v*"]}`, 201, owners},
	{"DELETE", "organizations/{organization}/protections/{id}", "organizations/team/protections/999", "", 404, owners},
	{"GET", "organizations/{organization}/freeze", "organizations/team/freeze", "", 404, owners},
	{"PUT", "organizations/{organization}/freeze", "organizations/team/freeze", `{"message":"closed"}`, 200, owners},
	{"DELETE", "organizations/{organization}/freeze", "organizations/team/freeze", "", 404, owners},

	{"GET", "retention", "retention", "", 200, administrators},
	{"POST", "retention", "retention", `{"rules":{"newest":1}}`, 201, administrators},
	{"GET", "retention/plan", "retention/plan", "", 200, administrators},
	{"DELETE", "retention/{id}", "retention/999", "", 404, administrators},
	{"GET", "organizations/{organization}/retention", "organizations/team/retention", "", 200, owners},
	{"POST", "organizations/{organization}/retention", "organizations/team/retention", `{"rules":{"newest":1}}`, 201, owners},
	{"GET", "organizations/{organization}/retention/plan", "organizations/team/retention/plan", "", 200, owners},
	{"DELETE", "organizations/{organization}/retention/{id}", "organizations/team/retention/999", "", 404, owners},

	{"GET", "tags/{repository...}", "tags/team/app", "", 200, append([]string{robot, narrowOwner, narrowRoot}, owners...)},
	{"GET", "manifests/{repository...}", "manifests/team/app", "", 200, append([]string{robot, narrowOwner, narrowRoot}, owners...)},
	{"GET", "cascade/{repository...}", "cascade/team/app?tag=x", "", 404, append([]string{narrowOwner}, owners...)},
	{"POST", "cascade/{repository...}", "cascade/team/app", `{"tags":[],"manifests":[]}`, 200, append([]string{narrowOwner}, owners...)},
}

// TestRoutes asks for everything as everybody: first as those who may not, and that changes nothing, since those who may come after them.
func TestRoutes(t *testing.T) {
	// Each route has a database of its own, which begins as this one.
	file := filepath.Join(t.TempDir(), "berth.db")
	var callers map[string]who
	var replace *strings.Replacer
	t.Run("cast", func(t *testing.T) { callers, replace = cast(newNode(t, file)) })
	database, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	covered := make(map[string]bool)
	for _, test := range routeTests {
		covered[test.method+" "+test.route] = true
		t.Run(test.method+" "+test.route, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "berth.db")
			if err := os.WriteFile(file, database, 0o600); err != nil {
				t.Fatal(err)
			}
			w := newNode(t, file)
			path := Prefix + replace.Replace(test.path)
			for _, name := range append([]string{anonymous}, signedIn...) {
				if slices.Contains(test.may, name) {
					continue
				}
				a := w.do(callers[name], test.method, path, test.body)
				want := http.StatusForbidden
				if name == anonymous && test.route != "setup" {
					want = http.StatusUnauthorized
					if a.Header.Get("WWW-Authenticate") != `Basic realm="berth", charset="UTF-8"` {
						t.Errorf("the challenge is %q", a.Header.Get("WWW-Authenticate"))
					}
				}
				if a.StatusCode != want {
					t.Errorf("%s: status %d, expected %d: %s", name, a.StatusCode, want, a.body)
				}
				w.message(a)
			}
			for i, name := range test.may {
				a := w.do(callers[name], test.method, path, test.body)
				if i == 0 && a.StatusCode != test.status || a.StatusCode == 401 || a.StatusCode == 403 || a.StatusCode >= 500 {
					t.Errorf("%s: status %d, expected %d of the first: %s", name, a.StatusCode, test.status, a.body)
				}
				if a.Header.Get("Cache-Control") != "no-store" && a.StatusCode < 300 {
					t.Errorf("anybody may keep the answer: %v", a.Header)
				}
			}
		})
	}
	for _, r := range routes {
		if name := r.method + " " + r.path; !covered[name] {
			t.Errorf("no test asks for %s", name)
		}
	}
}

// cast makes the callers of TestRoutes, and all that its rows name.
func cast(w *world) (callers map[string]who, replace *strings.Replacer) {
	w.Helper()
	w.organization("team", "")
	w.organization("other", "")
	callers = make(map[string]who)
	for _, name := range []string{person, owner, stranger, everywhere} {
		callers[name] = w.token(w.user(name, nil), nil)
	}
	w.grant("team", owner, access.Owner)
	w.grant("other", stranger, access.Owner)
	grantEverywhere := w.grant("", everywhere, access.Owner)
	admin, full := w.administrator(root)
	callers[root] = full
	callers[narrowRoot] = w.token(admin, func(c *meta.Credential) { c.Actions = access.Pull })
	callers[shortRoot] = w.token(admin, func(c *meta.Credential) { c.Expires = time.Now().Add(time.Hour) })
	own, err := w.db.Account(w.Context(), owner)
	if err != nil {
		w.Fatal(err)
	}
	callers[narrowOwner] = w.token(own, func(c *meta.Credential) { c.Repositories = access.Patterns{"team", "team/app"} })
	ci := w.robot("team", "ci")
	callers[robot] = w.token(ci, nil)
	w.grant("team", ci.Name, access.Reader)

	victim := w.user("victim", func(a *meta.Account) { a.Password = "a hash" })
	w.token(victim, nil)
	backup, deploy := w.robot("", "backup"), w.robot("team", "deploy")
	w.token(backup, nil)
	w.token(deploy, nil)
	if err := w.db.CreateTeam(w.Context(), &meta.Team{Organization: "team", Name: "dev", Created: time.Now()}); err != nil {
		w.Fatal(err)
	}
	if err := w.db.AddTeamMember(w.Context(), "team", "dev", "victim"); err != nil {
		w.Fatal(err)
	}
	w.repository("team/app")
	return callers, strings.NewReplacer(
		"{token}", w.credentialID(victim), "{backupSecret}", w.credentialID(backup), "{deploySecret}", w.credentialID(deploy),
		"{backupTrust}", w.trust(backup), "{deployTrust}", w.trust(deploy), "{grantEverywhere}", text(grantEverywhere), "{grant}", text(w.grant("team", "victim", access.Reader)))
}

// What somebody has no right to cannot be told from what does not exist: neither a repository nor an organization.
func TestPrivateIsAsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	callers, replace := cast(w)
	type ask struct{ method, path, body string }
	asks := []ask{
		{"GET", "history/tags?scope=team/app", ""},
		{"GET", "history/changes?scope=team/app&from=2020-01-01T00:00:00Z", ""},
		{"GET", "history/restore?scope=team/app&at=2020-01-01T00:00:00Z", ""},
		{"POST", "history/restore", `{"scope":"team/app","at":"2020-01-01T00:00:00Z"}`},
		{"POST", "trash/undelete", `{"repository":"team/app","tag":"1"}`},
	}
	for _, action := range []string{"pull", "push", "overwrite", "delete", "admin"} {
		asks = append(asks, ask{"GET", "explain?repository=team/app&action=" + action, ""}, ask{"GET", "explain?repository=team/app&tag=1&account=victim&action=" + action, ""})
	}
	for _, test := range routeTests {
		asks = append(asks, ask{test.method, replace.Replace(test.path), test.body})
	}
	for _, one := range asks {
		for _, other := range []*strings.Replacer{strings.NewReplacer("team/app", "team/nix"), strings.NewReplacer("team/app", "nix/app", "organizations/team", "organizations/nix")} {
			for _, name := range []string{anonymous, person} {
				there := w.do(callers[name], one.method, Prefix+one.path, one.body)
				path, body := other.Replace(one.path), other.Replace(one.body)
				if path == one.path && body == one.body {
					continue
				}
				missing := w.do(callers[name], one.method, Prefix+path, body)
				normal := strings.NewReplacer("team/nix", "team/app", "nix/app", "team/app", "organization nix", "organization team")
				if got, want := normal.Replace(string(missing.body)), string(there.body); missing.StatusCode != there.StatusCode || got != want {
					t.Errorf("%s: %s %s %s\n%d %s\nis not as %s\n%d %s", name, one.method, one.path, one.body, there.StatusCode, want, path, missing.StatusCode, got)
				}
			}
		}
	}
}

// What another site's page sends is refused, be it signed.
func TestCrossOrigin(t *testing.T) {
	w := newWorld(t)
	_, admin := w.administrator("root")
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
		if a := w.do(admin, "POST", Prefix+"users", `{"name":"x"}`, header...); a.StatusCode != http.StatusForbidden {
			t.Errorf("%v: status %d", header, a.StatusCode)
		}
	}
	for _, header := range [][]string{{"Origin", w.url}, {"Sec-Fetch-Site", "same-origin"}} {
		if a := w.do(admin, "PATCH", Prefix+"users/root", `{}`, header...); a.StatusCode != http.StatusOK {
			t.Errorf("%v: status %d: %s", header, a.StatusCode, a.body)
		}
	}
	// A form cannot send JSON.
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", ""} {
		if a := w.do(admin, "POST", Prefix+"users", `{"name":"x"}`, "Content-Type", kind); a.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%q: status %d", kind, a.StatusCode)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		values        string // with spaces between
		ok            bool
	}{
		{"users", "users", "", true},
		{"users", "users/", "", false},
		{"users", "user", "", false},
		{"users/{user}", "users/a", "user a", true},
		{"users/{user}", "users/", "", false},
		{"users/{user}", "users", "", false},
		{"users/{user}", "users/a/b", "", false},
		{"users/{user}/tokens/{id}", "users/a/tokens/1", "user a id 1", true},
		{"users/{user}/tokens/{id}", "users/a/secrets/1", "", false},
		{"r/{name...}", "r/a/b/c", "name a/b/c", true},
		{"r/{name...}", "r/", "", false},
		{"r/{name...}", "r", "", false},
		{"users", "", "", false},
	} {
		values, ok := match(test.pattern, test.path)
		if ok != test.ok || ok && strings.Join(values, " ") != test.values {
			t.Errorf("%q of %q: %q, %v", test.path, test.pattern, values, ok)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	w := newWorld(t)
	_, admin := w.administrator("root")
	for _, path := range []string{"", "nosuch", "users/root/nosuch", "users//tokens", "organizations/", "robots/a/secrets/rotate/x"} {
		w.want(404, admin, "GET", path, "", nil)
	}
	if a := w.want(405, admin, "PUT", "users/root", `{}`, nil); a.Header.Get("Allow") != "GET, PATCH, DELETE" {
		t.Errorf("allowed: %q", a.Header.Get("Allow"))
	}
}

// A registry that is read-only answers, and changes nothing.
func TestReadOnly(t *testing.T) {
	w := newWorld(t)
	_, admin := w.administrator("root")
	w.h.opts.ReadOnly = true
	w.want(200, admin, "GET", "users", "", nil)
	for _, r := range routes {
		if r.method != "GET" {
			w.want(503, admin, r.method, strings.NewReplacer("{repository...}", "a/b", "{", "", "}", "").Replace(r.path), `{}`, nil)
		}
		if (r.method == "GET") != (r.action == "") {
			t.Errorf("%s %s: its action is %q", r.method, r.path, r.action)
		}
	}
}
