package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/audit"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

func TestUser(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	var u User
	w.want(201, root, "POST", "users", `{"name":"bob","password":"a good password","displayName":"Bob","mail":"bob@example.com","networks":["10.0.0.1/8","::1"],"expires":"2999-01-02T03:04:05Z"}`, &u)
	if u.Name != "bob" || u.DisplayName != "Bob" || u.Mail != "bob@example.com" || strings.Join(u.Networks, " ") != "10.0.0.0/8 ::1/128" || !u.Password || u.Admin ||
		u.Expires.Year() != 2999 || u.Source != "local" || u.Created.IsZero() {
		t.Errorf("made %+v", u)
	}
	w.want(409, root, "POST", "users", `{"name":"bob"}`, nil)
	u = User{}
	w.want(200, root, "PATCH", "users/bob", `{"networks":[],"expires":"","displayName":""}`, &u)
	if u.Networks != nil || !u.Expires.IsZero() || u.DisplayName != "" || u.Mail != "bob@example.com" || !u.Password {
		t.Errorf("changed to %+v", u)
	}
	bob := who{"bob", password}
	w.want(200, bob, "GET", "account", "", &u)
	w.want(403, bob, "GET", "users/bob", "", nil)
	w.want(204, root, "PUT", "users/bob/password", `{"password":"another password"}`, nil)
	w.want(401, bob, "GET", "account", "", nil)
	bob.secret = "another password"
	w.want(400, bob, "PUT", "account/password", `{"old":"wrong password","password":"a third password"}`, nil)
	w.want(400, bob, "PUT", "account/password", `{"old":"another password","password":"short"}`, nil)
	w.want(204, bob, "PUT", "account/password", `{"old":"another password","password":"a third password"}`, nil)
	w.want(401, bob, "GET", "account", "", nil)
	bob.secret = "a third password"
	w.want(200, bob, "GET", "account", "", nil)
	w.want(200, root, "PATCH", "users/bob", `{"disabled":true}`, nil)
	w.want(401, bob, "GET", "account", "", nil)
	w.want(200, root, "PATCH", "users/bob", `{"disabled":false}`, nil)
	w.want(200, bob, "GET", "account", "", nil)
	w.want(204, root, "DELETE", "users/bob/password", "", nil)
	w.want(401, bob, "GET", "account", "", nil)
	w.want(204, root, "DELETE", "users/bob", "", nil)
	w.want(404, root, "GET", "users/bob", "", nil)
	w.want(404, root, "DELETE", "users/bob", "", nil)
}

// The old password is asked for even of who has signed in with a token.
func TestOldPasswordIsNoToken(t *testing.T) {
	w := newWorld(t)
	bob := w.person("bob", nil)
	a, err := w.db.Account(t.Context(), "bob")
	if err != nil {
		t.Fatal(err)
	}
	token := w.token(a, nil)
	w.want(400, token, "PUT", "account/password", fmt.Sprintf(`{"old":%q,"password":"another password"}`, token.secret), nil)
	w.want(204, token, "PUT", "account/password", fmt.Sprintf(`{"old":%q,"password":"another password"}`, password), nil)
	w.want(401, bob, "GET", "account", "", nil)
	w.want(200, token, "GET", "account", "", nil)
}

// An account that is kept elsewhere has its password there.
func TestPasswordKeptElsewhere(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.user("bob", func(a *meta.Account) { a.Source, a.Subject = "ldap", "bob" })
	if m := w.message(w.want(400, root, "PUT", "users/bob/password", `{"password":"a good password"}`, nil)); !strings.Contains(m, "ldap") {
		t.Errorf("message %q", m)
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.organization("team", "")
	w.user("bob", nil)
	w.robot("team", "ci")
	w.repository("team/app")
	long := strings.Repeat("a", 70)
	for _, test := range []struct{ method, path, body, says string }{
		{"POST", "users", `{"name":"x","colour":1}`, `"colour"`},
		{"POST", "users", `{"name":"x"} {}`, "more than one"},
		{"POST", "users", `{"name":`, "not valid JSON"},
		{"POST", "users", `[]`, ""},
		{"POST", "users", `{"name":5}`, `"name"`},
		{"POST", "users", `{}`, "lower-case"},
		{"POST", "users", `{"name":"Bob"}`, "lower-case"},
		{"POST", "users", `{"name":"a..b"}`, "lower-case"},
		{"POST", "users", `{"name":"-a"}`, "lower-case"},
		{"POST", "users", `{"name":"a-"}`, "lower-case"},
		{"POST", "users", `{"name":"a+b"}`, "lower-case"},
		{"POST", "users", `{"name":"é"}`, "lower-case"},
		{"POST", "users", `{"name":"` + long + `"}`, "64"},
		{"POST", "users", `{"name":"anonymous"}`, "meaning of its own"},
		{"POST", "users", `{"name":"token"}`, "meaning of its own"},
		{"POST", "users", `{"name":"x","password":"short"}`, "at least"},
		{"POST", "users", `{"name":"x","expires":"tomorrow"}`, `"tomorrow" is not a time`},
		{"POST", "users", `{"name":"x","expires":5}`, "a time is"},
		{"POST", "users", `{"name":"x","networks":["10.0.0.0/33"]}`, "10.0.0.0/33"},
		{"POST", "users", `{"name":"x","networks":[` + strings.Repeat(`"::1",`, 50) + `"::1"]}`, "50 networks"},
		{"POST", "users", `{"name":"x","networks":[""]}`, "no network"},
		{"POST", "users/bob/tokens", `{"networks":[" , "]}`, "no network"},
		{"POST", "users", `{"name":"x","mail":"a\nb"}`, "mail"},
		{"PATCH", "users/bob", `{"name":"alice"}`, `"name"`},
		{"PUT", "users/bob/password", `{}`, "at least"},
		{"POST", "users/bob/tokens", `{"actions":["fly"]}`, `"fly"`},
		{"POST", "users/bob/tokens", `{"expires":"2020-01-01T00:00:00Z"}`, "expired already"},
		{"POST", "users/bob/tokens", `{"repositories":["a b"]}`, "no pattern"},
		{"POST", "users/bob/tokens", `{"repositories":[""]}`, "no pattern"},
		{"POST", "users/bob/tokens", `{"repositories":["!"]}`, "no pattern"},
		{"POST", "users/bob/tokens", `{"repositories":["["]}`, "no pattern"},
		{"POST", "users/bob/tokens", `{"repositories":["{a,b}{a,b}{a,b}"]}`, "braces"},
		{"POST", "users/bob/tokens", `{"repositories":["**/a/**/b/**/c/**"]}`, "**"},
		{"POST", "users/bob/tokens", `{"repositories":["` + strings.Repeat("a", 600) + `"]}`, "too long"},
		{"POST", "organizations", `{"name":"a/b"}`, "first part"},
		{"POST", "organizations", `{"name":""}`, "first part"},
		{"POST", "organizations", `{"name":"A"}`, "first part"},
		{"POST", "organizations", `{"name":"x","creation":"all"}`, `"all"`},
		{"PATCH", "organizations/team", `{"creation":""}`, "push, admin or nobody"},
		{"POST", "organizations/team/teams", `{"name":"a/b"}`, "lower-case"},
		{"PUT", "organizations/team/teams/dev/groups/local", `{"names":["x"]}`, "no groups"},
		{"PUT", "organizations/team/teams/dev/groups/ldap", `{"names":[""]}`, "no name of a group"},
		{"PUT", "organizations/team/teams/dev/groups/oidc:", `{"names":["x"]}`, "directory or issuer"},
		{"PUT", "organizations/team/teams/dev/groups/oidc:oidc:a", `{"names":["x"]}`, "directory or issuer"},
		{"POST", "organizations/team/robots", `{"name":"a","admin":true}`, "give it grants"},
		{"POST", "organizations/team/robots", `{"name":"team+a"}`, "lower-case"},
		{"POST", "organizations/team/robots/ci/secrets/rotate", `{"overlap":"-1h"}`, "overlap"},
		{"POST", "organizations/team/robots/ci/secrets/rotate", `{"overlap":5}`, "overlap"},
		{"POST", "organizations/team/grants", `{"role":"reader"}`, "either for an account or for a team"},
		{"POST", "organizations/team/grants", `{"account":"bob","team":"dev","role":"reader"}`, "either for an account or for a team"},
		{"POST", "organizations/team/grants", `{"account":"bob"}`, "either a role or actions"},
		{"POST", "organizations/team/grants", `{"account":"bob","role":"king"}`, `"king"`},
		{"POST", "organizations/team/grants", `{"account":"bob","role":"owner","repositories":["team/app"]}`, "give themselves everything"},
		{"POST", "organizations/team/grants", `{"account":"bob","actions":["admin"],"tags":["x"]}`, "give themselves everything"},
		{"POST", "organizations/team/grants", `{"account":"bob","role":"reader","repositories":["app"]}`, `begin with "team/"`},
		{"POST", "organizations/team/grants", `{"account":"bob","role":"reader","repositories":["!other/**"]}`, `begin with "team/"`},
		{"POST", "grants", `{"team":"dev","role":"reader"}`, "ORGANIZATION/TEAM"},
		{"PUT", "repositories/team/app", `{"visibility":"secret"}`, `"secret"`},
		{"GET", "users?n=0", "", "n must be"},
		{"GET", "users?n=x", "", "n must be"},
		{"GET", "users?n=1001", "", "n must be"},
		{"GET", "grants?after=x", "", "after must be"},
		{"GET", "audit?after=x", "", "after must be"},
		{"GET", "audit?since=x", "", "since"},
		{"GET", "audit/export?allowed=x", "", "allowed"},
		{"GET", "explain?repository=team/app&action=fly", "", `"fly"`},
		{"GET", "explain?repository=team/app&action=pull&client=x", "", `"x"`},
	} {
		a := w.do(root, test.method, Prefix+test.path, test.body)
		if m := w.message(a); a.StatusCode != http.StatusBadRequest || !strings.Contains(m, test.says) {
			t.Errorf("%s %s %.80s: status %d: %s", test.method, test.path, test.body, a.StatusCode, m)
		}
	}
	w.want(413, root, "POST", "users", `{"name":"`+strings.Repeat("a", maxBody)+`"}`, nil)
}

// The last administrator stays one, however one tries.
func TestLastAdministrator(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	// These do not count: they are none, or will not always be.
	w.user("bob", nil)
	w.user("sleeping", func(a *meta.Account) { a.Admin, a.Disabled = true, true })
	w.user("leaving", func(a *meta.Account) { a.Admin, a.Expires = true, time.Now().Add(time.Hour) })
	refused := []struct{ method, body string }{
		{"PATCH", `{"admin":false}`}, {"PATCH", `{"disabled":true}`}, {"PATCH", `{"expires":"2999-01-01T00:00:00Z"}`}, {"DELETE", ""},
	}
	for _, r := range refused {
		w.want(409, root, r.method, "users/root", r.body, nil)
	}
	w.want(200, root, "PATCH", "users/root", `{"mail":"root@example.com","admin":true}`, nil)
	w.want(204, root, "DELETE", "users/sleeping", "", nil)
	w.want(200, root, "PATCH", "users/bob", `{"admin":true}`, nil)
	w.want(204, root, "DELETE", "users/bob", "", nil)
	for i, r := range refused {
		other, otherSecret := w.administrator(fmt.Sprint("other", i))
		w.want(map[string]int{"PATCH": 200, "DELETE": 204}[r.method], otherSecret, r.method, "users/"+other.Name, r.body, nil)
	}
	w.want(200, root, "GET", "users", "", nil)
}

// Of the last two administrators, one stays, also if two nodes demote both at the same time.
func TestLastAdministratorOfNodes(t *testing.T) {
	database := service.Postgres(t).URL
	a, b := newNode(t, database), newNode(t, database)
	ctx := t.Context()
	for round := range 20 {
		names := [2]string{fmt.Sprint("a", round), fmt.Sprint("b", round)}
		for _, name := range names {
			a.user(name, func(a *meta.Account) { a.Admin = true })
		}
		if round > 0 {
			for _, old := range []string{fmt.Sprint("a", round-1), fmt.Sprint("b", round-1)} {
				if err := a.db.DeleteAccount(ctx, old); err != nil {
					t.Fatal(err)
				}
			}
		}
		var failures [2]error
		var wg sync.WaitGroup
		for i, node := range []*world{a, b} {
			wg.Go(func() {
				request := &call{Request: httptest.NewRequestWithContext(ctx, "PATCH", Prefix+"users/"+names[i], nil), caller: caller{local: true}}
				_, failures[i] = node.h.change(request, names[i], func(a *meta.Account) { a.Admin = false })
			})
		}
		wg.Wait()
		for _, err := range failures {
			if err != nil && !errors.Is(err, errLast) {
				t.Fatal(err)
			}
		}
		if left, err := a.db.HasAdministrator(ctx); err != nil || !left {
			t.Fatalf("round %d: no administrator is left: %v, %v", round, failures, err)
		}
	}
}

// What is taken away by one node is gone with the next request on another.
func TestRevocationOnOtherNode(t *testing.T) {
	database := service.Postgres(t).URL
	a, b := newNode(t, database), newNode(t, database)
	_, root := a.administrator("root")
	bob := a.person("bob", nil)
	var c Credential
	a.want(201, bob, "POST", "account/tokens", `{}`, &c)
	token := who{"bob", c.Secret}
	for range 2 {
		b.want(200, token, "GET", "account", "", nil)
		b.want(200, bob, "GET", "account", "", nil)
	}
	a.want(204, bob, "DELETE", "account/tokens/"+text(c.ID), "", nil)
	b.want(401, token, "GET", "account", "", nil)
	a.want(204, root, "PUT", "users/bob/password", `{"password":"another password"}`, nil)
	b.want(401, bob, "GET", "account", "", nil)
	bob.secret = "another password"
	b.want(403, bob, "GET", "users", "", nil)
	a.want(200, root, "PATCH", "users/bob", `{"admin":true}`, nil)
	b.want(200, bob, "GET", "users", "", nil)
	a.want(200, root, "PATCH", "users/bob", `{"admin":false}`, nil)
	b.want(403, bob, "GET", "users", "", nil)
	a.want(204, root, "DELETE", "users/bob", "", nil)
	b.want(401, bob, "GET", "account", "", nil)
}

// What belongs to something else is not found, whoever names it.
func TestObjectsAreLookedUpUnderTheirParent(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.organization("team", "")
	w.organization("other", "")
	for _, organization := range []string{"team", "other"} {
		if err := w.db.CreateTeam(t.Context(), &meta.Team{Organization: organization, Name: organization + "-dev", Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	alice, bob := w.user("alice", nil), w.user("bob", nil)
	one, two, registry := w.robot("team", "one"), w.robot("team", "two"), w.robot("", "registry")
	for _, a := range []*meta.Account{alice, bob, one, two, registry} {
		w.token(a, nil)
	}
	inTeam, everywhere := text(w.grant("team", "bob", access.Reader)), text(w.grant("", "bob", access.Reader))
	for _, test := range []struct{ method, path, body string }{
		{"DELETE", "users/alice/tokens/" + w.credentialID(bob), ""},
		{"DELETE", "users/alice/tokens/" + w.credentialID(one), ""},
		{"DELETE", "users/alice/tokens/0", ""},
		{"DELETE", "users/alice/tokens/-1", ""},
		{"DELETE", "users/alice/tokens/x", ""},
		{"DELETE", "account/tokens/" + w.credentialID(bob), ""},
		{"DELETE", "organizations/team/robots/one/secrets/" + w.credentialID(two), ""},
		{"DELETE", "robots/registry/secrets/" + w.credentialID(two), ""},
		{"GET", "users/registry", ""},
		{"DELETE", "users/team+one", ""},
		{"PUT", "users/registry/password", `{"password":"a good password"}`},
		{"POST", "users/registry/tokens", `{}`},
		{"GET", "robots/alice", ""},
		{"DELETE", "robots/alice", ""},
		{"POST", "robots/alice/secrets", `{}`},
		{"GET", "organizations/other/robots/one", ""},
		{"DELETE", "organizations/other/robots/one", ""},
		{"POST", "organizations/other/robots/one/secrets", `{}`},
		{"GET", "organizations/team/robots/registry", ""},
		{"GET", "organizations/nosuch/robots", ""},
		{"GET", "organizations/nosuch/teams", ""},
		{"GET", "organizations/nosuch/grants", ""},
		{"POST", "organizations/nosuch/teams", `{"name":"x"}`},
		{"POST", "organizations/nosuch/robots", `{"name":"x"}`},
		{"POST", "organizations/nosuch/grants", `{"account":"bob","role":"reader"}`},
		{"GET", "organizations/other/teams/team-dev/members", ""},
		{"GET", "organizations/other/teams/team-dev/groups", ""},
		{"DELETE", "organizations/other/teams/team-dev", ""},
		{"PUT", "organizations/other/teams/team-dev/members/bob", `{}`},
		{"PUT", "organizations/other/teams/other-dev/members/nosuch", `{}`},
		{"DELETE", "organizations/other/teams/other-dev/members/bob", ""},
		{"PUT", "organizations/other/teams/team-dev/groups/ldap", `{"names":["x"]}`},
		{"DELETE", "organizations/other/grants/" + inTeam, ""},
		{"DELETE", "organizations/team/grants/" + everywhere, ""},
		{"DELETE", "grants/" + inTeam, ""},
		{"POST", "organizations/team/grants", `{"account":"nosuch","role":"reader"}`},
		{"POST", "organizations/team/grants", `{"team":"nosuch","role":"reader"}`},
		{"GET", "repositories/team/nosuch", ""},
		{"PUT", "repositories/team/nosuch", `{"visibility":"public"}`},
		{"GET", "explain?account=nosuch&repository=team/app&action=pull", ""},
	} {
		w.want(404, root, test.method, test.path, test.body, nil)
	}
	for _, a := range []*meta.Account{alice, bob, one, two, registry} {
		w.credentialID(a) // is there yet
	}
	var grants Page[Grant]
	if w.want(200, root, "GET", "grants?account=bob", "", &grants); len(grants.Items) != 2 {
		t.Errorf("the grants are %+v", grants)
	}
}

// An owner reaches nothing beyond the organization.
func TestOwnerStaysWithin(t *testing.T) {
	w := newWorld(t)
	w.organization("team", "")
	w.organization("other", "")
	w.robot("other", "ci")
	w.user("bob", nil)
	own := w.token(w.user("own", nil), nil)
	w.grant("team", "own", access.Owner)
	w.repository("other/app")
	if err := w.db.CreateTeam(t.Context(), &meta.Team{Organization: "other", Name: "dev", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	w.want(201, own, "POST", "organizations/team/grants", `{"account":"bob","role":"owner"}`, nil)
	w.want(201, own, "POST", "organizations/team/grants", `{"account":"other+ci","role":"reader"}`, nil)
	w.want(400, own, "POST", "organizations/team/grants", `{"account":"bob","role":"reader","repositories":["other/**"]}`, nil)
	w.want(400, own, "POST", "organizations/team/grants", `{"team":"other/dev","role":"reader"}`, nil)
	w.want(403, own, "POST", "grants", `{"account":"own","role":"owner"}`, nil)
	w.want(403, own, "POST", "organizations/other/grants", `{"account":"own","role":"owner"}`, nil)
	w.want(403, own, "PUT", "repositories/other/app", `{"visibility":"public"}`, nil)
	w.want(403, own, "POST", "organizations/other/robots/ci/secrets", `{}`, nil)
	w.want(403, own, "GET", "explain?account=bob&repository=other/app&action=pull", "", nil)
	w.want(200, own, "GET", "explain?account=bob&repository=team/app&action=pull", "", nil)
	// A pattern of any part matches repositories elsewhere only by a grant for elsewhere.
	w.want(201, own, "POST", "organizations/team/grants", `{"account":"bob","role":"reader","repositories":["**"]}`, nil)
	var e Explanation
	_, root := w.administrator("root")
	if w.want(200, root, "GET", "explain?account=bob&repository=other/app&action=pull", "", &e); e.Allowed {
		t.Errorf("%+v", e)
	}
}

// A token never gets its owner a wider one.
func TestNarrowTokens(t *testing.T) {
	w := newWorld(t)
	a := w.user("bob", nil)
	for name, change := range map[string]func(*meta.Credential){
		"actions":      func(c *meta.Credential) { c.Actions = access.All &^ access.Delete },
		"repositories": func(c *meta.Credential) { c.Repositories = access.Patterns{"**"} },
		"networks":     func(c *meta.Credential) { c.Networks, _ = access.ParseNetworks("0.0.0.0/0 ::/0") },
		"expiry":       func(c *meta.Credential) { c.Expires = time.Now().Add(time.Hour) },
	} {
		token := w.token(a, change)
		w.want(200, token, "GET", "account/tokens", "", nil)
		if m := w.message(w.want(403, token, "POST", "account/tokens", `{}`, nil)); !strings.Contains(m, "limited") {
			t.Errorf("%s: %q", name, m)
		}
		w.want(403, token, "PUT", "account/password", `{"old":"x","password":"a good password"}`, nil)
	}
	// What docker keeps in the place of the password expires, and is as good as the password.
	refresh := w.token(a, func(c *meta.Credential) { c.Kind, c.Expires = meta.RefreshCredential, time.Now().Add(time.Hour) })
	refresh.name = "token"
	w.want(201, refresh, "POST", "account/tokens", `{}`, nil)
}

func TestTooManyTokens(t *testing.T) {
	w := newWorld(t)
	a := w.user("bob", nil)
	bob := w.token(a, nil)
	for range maxCredentials - 1 {
		w.token(a, nil)
	}
	w.want(409, bob, "POST", "account/tokens", `{}`, nil)
	w.want(204, bob, "DELETE", "account/tokens/"+w.credentialID(a), "", nil)
	w.want(201, bob, "POST", "account/tokens", `{}`, nil)
	seen := make(map[int64]bool)
	for after := ""; ; {
		var p Page[Credential]
		w.want(200, bob, "GET", "account/tokens?n=30&after="+after, "", &p)
		for _, c := range p.Items {
			if seen[c.ID] {
				t.Fatalf("%d comes twice", c.ID)
			}
			seen[c.ID] = true
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if len(seen) != maxCredentials {
		t.Errorf("%d of %d are listed", len(seen), maxCredentials)
	}
}

func TestRotate(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.organization("team", "")
	w.robot("team", "ci")
	w.grant("team", "team+ci", access.Owner)
	const secrets = "organizations/team/robots/ci/secrets"
	var old, next, third Credential
	w.want(201, root, "POST", secrets, `{"name":"pipeline","actions":["pull","admin"]}`, &old)
	w.want(201, root, "POST", secrets+"/rotate", `{"overlap":"1h"}`, &next)
	if next.Name != "pipeline" || strings.Join(next.Actions, " ") != "pull admin" || next.Secret == old.Secret || !next.Expires.IsZero() {
		t.Errorf("the next one is %+v", next)
	}
	by := func(c Credential) who { return who{"team+ci", c.Secret} }
	w.want(200, by(old), "GET", "account", "", nil)
	w.want(200, by(next), "GET", "account", "", nil)
	w.late.Add(int64(time.Hour))
	w.want(401, by(old), "GET", "account", "", nil)
	w.want(200, by(next), "GET", "account", "", nil)
	w.want(201, root, "POST", secrets+"/rotate", `{"overlap":"0s","expires":"2999-01-01T00:00:00Z"}`, &third)
	w.want(401, by(next), "GET", "account", "", nil)
	w.want(200, by(third), "GET", "account", "", nil)
	if third.Expires.Year() != 2999 {
		t.Errorf("the third one is %+v", third)
	}
	w.want(204, root, "DELETE", secrets+"/"+text(third.ID), "", nil)
	w.want(401, by(third), "GET", "account", "", nil)
}

func TestLists(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	for _, organization := range []string{"team", "team-x", "tea"} {
		w.organization(organization, "")
		for _, name := range []string{"a", "b", "c"} {
			w.robot(organization, name)
			if err := w.db.CreateTeam(t.Context(), &meta.Team{Organization: organization, Name: name, Created: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.robot("", "team")
	for _, name := range []string{"a", "b"} {
		w.user(name, nil)
		w.want(204, root, "PUT", "organizations/team/teams/b/members/"+name, `{}`, nil)
	}
	w.want(204, root, "PUT", "organizations/team/teams/b/groups/oidc:corp", `{"names":["z"]}`, nil)
	w.want(204, root, "PUT", "organizations/team/teams/b/groups/oidc:corp", `{"names":[]}`, nil)
	w.want(204, root, "PUT", "organizations/team/teams/b/groups/ldap", `{"names":["y","x"]}`, nil)
	for path, want := range map[string]string{
		"users":                              "a b root",
		"organizations":                      "tea team team-x",
		"organizations/team/robots":          "team+a team+b team+c",
		"organizations/tea/robots":           "tea+a tea+b tea+c",
		"organizations/team/teams":           "a b c",
		"organizations/team/teams/b/members": "a b",
		"robots":                             "tea+a tea+b tea+c team team+a team+b team+c team-x+a team-x+b team-x+c",
	} {
		for _, n := range []string{"1", "2", "3", "1000"} {
			var names []string
			for after := ""; ; {
				var p Page[struct{ Name string }]
				w.want(200, root, "GET", path+"?n="+n+"&after="+after, "", &p)
				for _, item := range p.Items {
					names = append(names, item.Name)
				}
				if after = strings.ReplaceAll(p.Next, "+", "%2B"); after == "" {
					break
				}
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s by %s: %s", path, n, got)
			}
		}
	}
	var groups Page[Groups]
	if w.want(200, root, "GET", "organizations/team/teams/b/groups", "", &groups); fmt.Sprint(groups.Items) != "[{ldap [x y]}]" {
		t.Errorf("groups: %v", groups.Items)
	}
}

func TestVisibility(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.organization("team", "")
	w.repository("team/app")
	const app = "repositories/team/app"
	for _, step := range []struct {
		method, path, body string
		visibility         Visibility
		public             bool
	}{
		{"PUT", app, `{"visibility":"inherit"}`, Inherit, false},
		{"PATCH", "organizations/team", `{"public":true}`, Inherit, true},
		{"PUT", app, `{"visibility":"private"}`, Private, false},
		{"PATCH", "organizations/team", `{"public":false}`, Private, false},
		{"PUT", app, `{"visibility":"public"}`, Public, true},
		{"PUT", app, `{"visibility":"inherit"}`, Inherit, false},
	} {
		w.want(map[string]int{"PUT": 204, "PATCH": 200}[step.method], root, step.method, step.path, step.body, nil)
		var r Repository
		w.want(200, root, "GET", app, "", &r)
		if r.Visibility != step.visibility || r.Public != step.public {
			t.Errorf("after %s %s: %+v", step.path, step.body, r)
		}
		var e Explanation
		w.want(200, root, "GET", "explain?account=anonymous&repository=team/app&action=pull", "", &e)
		if e.Allowed != step.public || e.Account != "anonymous" || (e.Change == "") != e.Allowed {
			t.Errorf("after %s %s: %+v", step.path, step.body, e)
		}
	}
}

// Explain says what would turn a no into a yes; that is done, and it is a yes.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.user("bob", nil)
	ask := func(action, tag string) Explanation {
		t.Helper()
		var e Explanation
		w.want(200, root, "GET", "explain?account=bob&repository=team/app&client=10.0.0.1&action="+action+"&tag="+tag, "", &e)
		if (e.Change == "") != e.Allowed || e.Rule == "" {
			t.Errorf("%+v", e)
		}
		return e
	}
	no := func(action, tag, change string) {
		t.Helper()
		if e := ask(action, tag); e.Allowed || !strings.Contains(e.Change, change) {
			t.Errorf("expected %q: %+v", change, e)
		}
	}
	yes := func(action, tag string) {
		t.Helper()
		if e := ask(action, tag); !e.Allowed {
			t.Errorf("%+v", e)
		}
	}
	no("push", "", "make the organization team")
	w.want(201, root, "POST", "organizations", `{"name":"team","creation":"nobody"}`, nil)
	no("push", "", "let pushes make repositories")
	no("pull", "", "grant pull in the organization team")
	w.want(200, root, "PATCH", "organizations/team", `{"creation":"push"}`, nil)
	no("push", "", "grant push in the organization team")
	w.want(201, root, "POST", "organizations/team/grants", `{"account":"bob","role":"writer","tags":["dev-*"]}`, nil)
	yes("push", "dev-1")
	no("push", "v1", "grant push for tags of this kind")
	w.want(200, root, "PATCH", "users/bob", `{"disabled":true,"networks":["192.0.2.0/24"]}`, nil)
	no("push", "dev-1", "enable the account; allow the account to be used from this network")
	w.want(200, root, "PATCH", "users/bob", `{"disabled":false,"networks":[],"expires":"2020-01-01T00:00:00Z"}`, nil)
	no("push", "dev-1", "let the account expire later")
	w.want(200, root, "PATCH", "users/bob", `{"expires":""}`, nil)
	yes("push", "dev-1")

	// About oneself it is said with what one has signed in with.
	bob, err := w.db.Account(t.Context(), "bob")
	if err != nil {
		t.Fatal(err)
	}
	narrow := w.token(bob, func(c *meta.Credential) { c.Actions = access.Pull })
	var e Explanation
	w.want(200, narrow, "GET", "explain?repository=team/app&action=push", "", &e)
	if e.Allowed || !strings.Contains(e.Change, "use a credential") {
		t.Errorf("%+v", e)
	}
	w.want(403, narrow, "GET", "explain?account=root&repository=team/app&action=push", "", nil)
}

// Every change has an entry, and so has every one that was refused to somebody for want of a right. Who has no account fills nothing.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	bob := w.token(w.user("bob", nil), nil)
	w.want(201, root, "POST", "organizations", `{"name":"team","public":true}`, nil)
	w.want(409, root, "POST", "organizations", `{"name":"team"}`, nil)
	w.want(403, bob, "DELETE", "organizations/team", "", nil)
	w.want(200, bob, "GET", "account", "", nil)
	w.want(403, bob, "GET", "organizations", "", nil)
	w.want(201, bob, "POST", "account/tokens", `{"name":"laptop"}`, nil)
	w.want(403, who{}, "POST", "setup", `{"token":"guess","name":"x","password":"a good password"}`, nil)
	entry := func(e audit.Entry) string {
		if e.Client != "127.0.0.1" || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
		return fmt.Sprintf("%s %s %s %v", e.Actor, e.Action, e.Object, e.Allowed)
	}
	want := []string{
		"root sign-in root true",
		"root organization.create organizations/team true",
		"bob sign-in bob true",
		"bob organization.delete organizations/team false",
		"bob token.create users/bob/tokens/3 true",
	}
	a := w.want(200, root, "GET", "audit/export", "", nil)
	d := json.NewDecoder(strings.NewReader(string(a.body)))
	for _, line := range want {
		var e audit.Entry
		if err := d.Decode(&e); err != nil || entry(e) != line {
			t.Errorf("%s, expected %s: %v", entry(e), line, err)
		}
	}
	if d.More() {
		t.Errorf("there is more: %s", a.body)
	}
	var got []string
	for after := ""; ; {
		var p Page[audit.Entry]
		w.want(200, root, "GET", "audit?n=1&after="+after, "", &p)
		for _, e := range p.Items {
			got = append([]string{entry(e)}, got...)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("in pages:\n%s", strings.Join(got, "\n"))
	}
	for query, n := range map[string]int{
		"actor=bob": 3, "allowed=false": 1, "action=organization.create": 1, "object=organizations/team": 2, "prefix=users/": 1,
		"since=2020-01-01T00:00:00Z": 5, "until=2020-01-01T00:00:00Z": 0,
	} {
		var p Page[audit.Entry]
		if w.want(200, root, "GET", "audit?"+query, "", &p); len(p.Items) != n {
			t.Errorf("%s: %d entries, expected %d", query, len(p.Items), n)
		}
	}
}

// Secrets are answered once: neither a log, nor the audit log, nor any later answer has them.
func TestSecretsAreNowhere(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	secrets := []string{root.secret, "a first password", "a second password", "a third password"}
	w.want(201, root, "POST", "users", `{"name":"bob","password":"a first password"}`, nil)
	w.want(204, root, "PUT", "users/bob/password", `{"password":"a second password"}`, nil)
	bob := who{"bob", "a second password"}
	w.want(400, bob, "PUT", "account/password", `{"old":"a third password","password":"short"}`, nil)
	w.want(204, bob, "PUT", "account/password", `{"old":"a second password","password":"a third password"}`, nil)
	w.want(401, bob, "GET", "account", "", nil)
	bob.secret = "a third password"
	w.want(201, root, "POST", "robots", `{"name":"ci"}`, nil)
	for path, by := range map[string]who{"account/tokens": bob, "users/bob/tokens": root, "robots/ci/secrets": root, "robots/ci/secrets/rotate": root} {
		var c Credential
		w.want(201, by, "POST", path, `{}`, &c)
		if !strings.HasPrefix(c.Secret, "berth_") {
			t.Fatalf("no secret: %+v", c)
		}
		secrets = append(secrets, c.Secret)
	}
	token, err := w.h.OfferSetup(t.Context())
	if err != nil || token != "" {
		t.Fatal(token, err)
	}
	texts := map[string]string{"log": w.log.String()}
	for _, path := range []string{"users", "users/bob", "users/bob/tokens", "robots/ci/secrets", "audit", "audit/export"} {
		texts[path] = string(w.want(200, root, "GET", path, "", nil).body)
	}
	for where, text := range texts {
		if text == "" {
			t.Errorf("%s is empty", where)
		}
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s has %q", where, s)
			}
		}
	}
}

// Trust rules have credentials of their own kind, which no command about secrets touches.
func TestTrust(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.organization("team", "")
	ci := w.robot("team", "ci")
	const robot = "organizations/team/robots/ci"
	var r TrustRule
	w.want(201, root, "POST", robot+"/trust", trustExample, &r)
	if r.Issuer != "https://token.actions.githubusercontent.com" || r.Audience != "registry.example.com" || r.Claims["repository"] != "octo-org/app" || len(r.Advice) == 0 {
		t.Errorf("made %+v", r)
	}
	for body, says := range map[string]string{
		`{"issuer":"https://token.actions.githubusercontent.com","audience":"x","claims":{"repository":"*/app"}}`: "anyone can get a token there",
		`{"issuer":"https://token.actions.githubusercontent.com","claims":{"repository":"octo-org/app"}}`:         "no audience",
		`{"issuer":"ftp://x","audience":"x","claims":{"sub":"x"}}`:                                                "",
		`{"issuer":"https://x.example","audience":"x","claims":{"sub":5}}`:                                        "",
		`{"issuer":"https://x.example","audience":"x","rules":{}}`:                                                `"rules"`,
	} {
		if m := w.message(w.want(400, root, "POST", robot+"/trust", body, nil)); !strings.Contains(m, says) {
			t.Errorf("%s: %s", body, m)
		}
	}
	credential := w.credentialID(ci)
	w.want(404, root, "DELETE", robot+"/secrets/"+credential, "", nil)
	var secrets Page[Credential]
	w.want(201, root, "POST", robot+"/secrets/rotate", `{"overlap":"0s"}`, nil)
	if w.want(200, root, "GET", robot+"/secrets", "", &secrets); len(secrets.Items) != 1 || secrets.Items[0].Name != "" {
		t.Errorf("the secrets are %+v", secrets.Items)
	}
	all, err := w.db.Credentials(t.Context(), ci.ID)
	if err != nil || len(all) != 2 || all[0].Kind != meta.TrustCredential || !all[0].Expires.IsZero() {
		t.Errorf("rotation touched what the trust rule has: %+v, %v", all, err)
	}
	other := w.trust(w.robot("team", "other"))
	w.want(404, root, "DELETE", robot+"/trust/"+other, "", nil)
	w.want(204, root, "DELETE", robot+"/trust/"+text(r.ID), "", nil)
	w.want(404, root, "DELETE", robot+"/trust/"+text(r.ID), "", nil)
	var rules Page[TrustRule]
	if w.want(200, root, "GET", robot+"/trust", "", &rules); len(rules.Items) != 0 {
		t.Errorf("the rules are %+v", rules.Items)
	}

	// An owner has nobody asked whom no administrator has named.
	olga := w.user("olga", nil)
	w.grant("team", "olga", access.Owner)
	owner := w.token(olga, nil)
	w.want(201, owner, "POST", robot+"/trust", trustExample, nil)
	inside := strings.Replace(trustExample, "https://token.actions.githubusercontent.com", "https://10.0.0.1", 1)
	w.want(403, owner, "POST", robot+"/trust", inside, nil)
	w.want(201, root, "POST", robot+"/trust", inside, nil)
}

// Whoever comes by a certificate is looked at for each request as others are.
func TestCertificate(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.user("bob", nil)
	as := func(status int, method, path, body string) {
		t.Helper()
		if a := w.do(who{}, method, Prefix+path, body, certificateHeader, "bob"); a.StatusCode != status {
			t.Errorf("%s %s: status %d, expected %d: %s", method, path, a.StatusCode, status, a.body)
		}
	}
	as(200, "GET", "account", "")
	as(201, "POST", "account/tokens", `{}`)
	as(403, "GET", "users", "")
	for _, change := range []string{`{"disabled":true}`, `{"disabled":false,"expires":"2020-01-01T00:00:00Z"}`, `{"expires":"","networks":["192.0.2.0/24"]}`} {
		w.want(200, root, "PATCH", "users/bob", change, nil)
		for _, path := range []string{"account", "account/tokens", "users", "organizations/team", "explain?repository=team/app&action=pull"} {
			as(401, "GET", path, "")
		}
		as(401, "POST", "account/tokens", `{}`)
	}
	w.want(204, root, "DELETE", "users/bob", "", nil)
	as(401, "GET", "account", "")
}
