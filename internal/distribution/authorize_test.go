package distribution

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// guarded is a registry with access control.
type guarded struct {
	*world
	auth  *auth.Auth
	late  atomic.Int64 // by how much the clock is ahead
	image pushed       // in every repository that there is
	older pushed
}

// pushed is an image as a test pushed it.
type pushed struct {
	config string
	layer  string
	body   string
	digest oci.Digest
}

// The accounts of the tests, by what they may do in the organization team. Each one's password is its name and " password".
var accounts = map[string]struct {
	role    access.Role
	actions access.Actions
	admin   bool
}{
	"root":       {admin: true},
	"owner":      {role: access.Owner},
	"maintainer": {role: access.Maintainer},
	"writer":     {role: access.Writer},
	"reader":     {role: access.Reader},
	"pusher":     {actions: access.Pull | access.Push},
	"deleter":    {actions: access.Delete},
	"stranger":   {},
	"anonymous":  {},
}

func newGuarded(t testing.TB) *guarded {
	t.Helper()
	g := &guarded{}
	opts := Options{Service: "berth", Origin: func(r *http.Request) string { return "http://" + r.Host }}
	g.world = newWorldWith(t, opts, func(db *meta.DB, opts *Options) {
		var err error
		g.auth, err = auth.New(db, auth.Options{Log: slog.New(slog.DiscardHandler), Service: "berth", TokenLifetime: time.Minute, KeyLifetime: time.Hour,
			Now: func() time.Time { return time.Now().Add(time.Duration(g.late.Load())) }})
		if err != nil {
			t.Fatal(err)
		}
		opts.Auth = g.auth
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"team", "open"} {
		must(g.db.CreateOrganization(t.Context(), &meta.Organization{Name: name, Public: name == "open", Creation: access.CreationPush, Created: time.Now()}))
	}
	for name, what := range accounts {
		if name == "anonymous" {
			continue
		}
		hash, err := g.auth.HashPassword(t.Context(), name+" password")
		must(err)
		a := &meta.Account{Source: meta.LocalAccounts, Password: hash, Created: time.Now()}
		a.Name, a.Admin = name, what.admin
		must(g.db.CreateAccount(t.Context(), a))
		if actions := what.actions | what.role.Actions(); actions != 0 {
			must(g.db.AddGrant(t.Context(), &meta.Grant{Organization: "team", Account: name, Grant: access.Grant{Role: what.role, Actions: actions}}))
		}
	}
	for _, r := range []string{"team/app", "open/app", "other/app"} {
		g.image = g.push("root", r, "1.0", "new")
		g.older = g.push("root", r, "0.9", "old")
	}
	return g
}

// header signs in with Basic credentials.
func (g *guarded) header(name string) []string {
	if name == "anonymous" {
		return nil
	}
	return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+name+" password"))}
}

// bearer signs in with a token for scopes.
func (g *guarded) bearer(name string, scopes ...string) []string {
	g.Helper()
	var id auth.Identity
	if name != "anonymous" {
		var err error
		if id, err = g.auth.SignIn(g.Context(), name, name+" password", id.Client); err != nil {
			g.Fatal(err)
		}
	}
	token, err := g.auth.Issue(g.Context(), &id, auth.ParseScopes(scopes))
	if err != nil {
		g.Fatal(err)
	}
	return []string{"Authorization", "Bearer " + token.Text}
}

// push pushes an image with two blobs of its own.
func (g *guarded) push(name, repository, tag, content string) pushed {
	g.Helper()
	p := pushed{config: `{"architecture":"amd64","os":"linux","x":"` + content + `"}`, layer: "layer " + content}
	for _, b := range []string{p.config, p.layer} {
		g.want(http.StatusCreated, "POST", "/v2/"+repository+"/blobs/uploads/?digest="+oci.DigestBytes(oci.SHA256, []byte(b)).String(), b, g.header(name)...)
	}
	p.body = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		oci.MediaTypeImage, oci.DigestBytes(oci.SHA256, []byte(p.config)), len(p.config), oci.DigestBytes(oci.SHA256, []byte(p.layer)), len(p.layer))
	p.digest = oci.DigestBytes(oci.SHA256, []byte(p.body))
	g.want(http.StatusCreated, "PUT", "/v2/"+repository+"/manifests/"+tag, p.body, append(g.header(name), "Content-Type", oci.MediaTypeImage)...)
	return p
}

// The list of CVE-2026-27771 and its like: every route, as every role, with a password and with a token, in a private, a public, a
// foreign and a missing repository. A route that is not in this test fails it.
func TestEveryRouteAsEveryRole(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	digest := oci.DigestBytes(oci.SHA256, []byte(g.image.layer)).String()
	// What each route is asked, the right that it needs, and what an allowed request is answered. Requests that change something
	// are such that they can be made again, or fail after they were allowed.
	type asked struct {
		method, path, body string
		need               access.Actions
		allowed            []int
	}
	requests := map[kind][]asked{
		kindManifest: {
			{"GET", "manifests/1.0", "", access.Pull, []int{200}},
			{"HEAD", "manifests/1.0", "", access.Pull, []int{200}},
			{"GET", "manifests/" + g.image.digest.String(), "", access.Pull, []int{200}},
			{"GET", "manifests/missing", "", access.Pull, []int{404}},
			{"PUT", "manifests/1.0", g.image.body, access.Push, []int{201}},
			{"PUT", "manifests/" + g.image.digest.String(), g.image.body, access.Push, []int{201}},
			{"PUT", "manifests/1.0", "{}", access.Push, []int{400}},
			{"DELETE", "manifests/missing", "", access.Delete, []int{404}},
		},
		kindBlob: {
			{"GET", "blobs/" + digest, "", access.Pull, []int{200}},
			{"HEAD", "blobs/" + digest, "", access.Pull, []int{200}},
			{"DELETE", "blobs/" + digest, "", access.Delete, []int{405}}, // a manifest needs it
		},
		kindUploads: {
			{"POST", "blobs/uploads/", "", access.Push, []int{202}},
			{"POST", "blobs/uploads/?digest=" + digest, g.image.layer, access.Push, []int{201}},
			{"POST", "blobs/uploads/?mount=" + digest + "&from=open/app", "", access.Push, []int{201, 202}}, // the token is not for the source,
		},
		kindUpload: {
			{"GET", "blobs/uploads/7a51be76-312c-474e-9292-6e79470de94f?_state=x", "", access.Push, []int{404}},
			{"PATCH", "blobs/uploads/7a51be76-312c-474e-9292-6e79470de94f?_state=x", "x", access.Push, []int{404}},
			{"PUT", "blobs/uploads/7a51be76-312c-474e-9292-6e79470de94f?_state=x&digest=" + digest, "x", access.Push, []int{404}},
			{"DELETE", "blobs/uploads/7a51be76-312c-474e-9292-6e79470de94f?_state=x", "", access.Push, []int{404}},
		},
		kindTags:      {{"GET", "tags/list", "", access.Pull, []int{200}}},
		kindReferrers: {{"GET", "referrers/" + g.image.digest.String(), "", access.Pull, []int{200}}},
	}
	// Those have tests of their own.
	elsewhere := []kind{kindBase, kindCatalog, kindSearch, kindSearchPing}
	for _, r := range routes {
		if slices.Contains(elsewhere, r.kind) {
			continue
		}
		if !slices.ContainsFunc(requests[r.kind], func(a asked) bool { return a.method == r.method }) {
			t.Errorf("nobody asks for %s %s", r.method, r.kind)
		}
	}
	may := func(account, repository string, need access.Actions) bool {
		what := accounts[account]
		switch {
		case what.admin, need == access.Pull && strings.HasPrefix(repository, "open/"):
			return true
		case !strings.HasPrefix(repository, "team/"):
			return false
		}
		return (what.actions | what.role.Actions()).Has(need)
	}
	for account := range accounts {
		for _, repository := range []string{"team/app", "open/app", "other/app", "team/none", "other/none"} {
			scope := "repository:" + repository + ":*"
			for how, header := range map[string][]string{"password": g.header(account), "token": g.bearer(account, scope), "token for less": g.bearer(account, "repository:else/where:pull")} {
				for _, ask := range slices.Concat(requests[kindManifest], requests[kindBlob], requests[kindUploads], requests[kindUpload], requests[kindTags], requests[kindReferrers]) {
					name := fmt.Sprintf("%s with a %s: %s %s %s", account, how, ask.method, repository, ask.path)
					allowed := may(account, repository, ask.need)
					if strings.HasSuffix(repository, "/none") && allowed && ask.need != access.Pull {
						continue // it would be made
					}
					a := g.do(ask.method, "/v2/"+repository+"/"+ask.path, ask.body, append(slices.Clone(header), "Content-Type", oci.MediaTypeImage)...)
					status := a.StatusCode
					public := strings.HasPrefix(repository, "open/") && ask.need == access.Pull
					switch {
					case allowed && how == "token for less" && !public, !allowed && account == "anonymous":
						if status != 401 || !strings.Contains(a.Header.Get("WWW-Authenticate"), `scope="repository:`+repository+`:`) {
							t.Errorf("%s: %d, %q", name, status, a.Header.Get("WWW-Authenticate"))
						}
					case allowed && strings.HasSuffix(repository, "/none"):
						if status != 404 && !(strings.HasPrefix(ask.path, "referrers/") && status == 200) {
							t.Errorf("%s: %d", name, status)
						}
					case allowed && how == "token for less" && public:
						if status != 401 && !slices.Contains(ask.allowed, status) {
							t.Errorf("%s: %d", name, status)
						}
					case allowed:
						if !slices.Contains(ask.allowed, status) {
							t.Errorf("%s: %d %s", name, status, a.body)
						}
					case ask.need == access.Pull:
						if status != 404 {
							t.Errorf("%s: %d, expected 404: %s", name, status, a.body)
						}
					case status != 403:
						t.Errorf("%s: %d, expected 403: %s", name, status, a.body)
					}
				}
			}
		}
	}
}

// What somebody may not pull cannot be told from what does not exist.
func TestPrivateIsAsMissing(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for _, header := range [][]string{g.header("stranger"), g.header("anonymous"), g.bearer("stranger", "repository:team/app:*", "repository:team/nix:*"), g.bearer("anonymous")} {
		for _, path := range []string{"manifests/1.0", "manifests/" + g.image.digest.String(), "tags/list", "blobs/" + g.image.digest.String(), "referrers/" + g.image.digest.String()} {
			there := g.do("GET", "/v2/team/app/"+path, "", header...)
			not := g.do("GET", "/v2/team/nix/"+path, "", header...)
			normal := func(a answer) string {
				return strings.ReplaceAll(fmt.Sprint(a.StatusCode, a.Header.Get("WWW-Authenticate"), a.Header.Get("Content-Type"), len(a.Header), string(a.body)), "team/nix", "team/app")
			}
			if normal(there) != normal(not) {
				t.Errorf("%s:\n%s\n%s", path, normal(there), normal(not))
			}
		}
	}
}

// What is refused is noted: pulls, too, though nobody is told whether there is something, and requests with what was taken away a moment ago.
func TestRefusalsAreNoted(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for range 2 { // clients ask again
		for _, path := range []string{"team/app/manifests/1.0", "team/app/tags/list", "team/nix/manifests/1.0"} {
			g.want(http.StatusNotFound, "GET", "/v2/"+path, "", g.header("stranger")...)
		}
	}
	g.want(http.StatusNotFound, "GET", "/v2/team/nix/manifests/1.0", "", g.header("reader")...) // who may, but there is none
	g.want(http.StatusForbidden, "DELETE", "/v2/team/app/manifests/1.0", "", g.header("reader")...)
	if err := g.db.ChangeAccount(t.Context(), "reader", func(a *meta.Account) error { a.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	g.want(http.StatusUnauthorized, "GET", "/v2/team/app/manifests/1.0", "", g.header("reader")...)
	no := false
	entries, _, err := g.db.Audit(t.Context(), meta.AuditFilter{Allowed: &no}, meta.AuditPlace{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %s %s %s: %s", e.Actor, e.Credential, e.Action, e.Object, e.Detail))
	}
	want := []string{
		"reader password sign-in reader: the account is disabled",
		"reader  denied team/app: reader may not delete in team/app",
		"stranger  denied team/nix: stranger may not pull from team/nix",
		"stranger  denied team/app: stranger may not pull from team/app",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// CVE-2026-31801: creating and overwriting are separate rights, for every way to set a tag.
func TestOverwriteIsARightOfItsOwn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	put := func(account, ref string, p pushed) answer {
		return g.do("PUT", "/v2/team/app/manifests/"+ref, p.body, append(g.header(account), "Content-Type", oci.MediaTypeImage)...)
	}
	for _, tt := range []struct {
		account, ref string
		p            pushed
		status       int
	}{
		{"pusher", "1.0", g.image, 201},                                         // points there already
		{"pusher", "1.0", g.older, 403},                                         // would move
		{"pusher", "fresh", g.older, 201},                                       // is new
		{"pusher", "fresh", g.image, 403},                                       // not any more
		{"pusher", g.older.digest.String() + "?tag=1.0", g.older, 403},          // by the other way
		{"pusher", g.older.digest.String() + "?tag=new1&tag=1.0", g.older, 403}, // one of several
		{"pusher", g.older.digest.String() + "?tag=new2&tag=new3", g.older, 201},
		{"writer", "1.0", g.older, 201},
		{"writer", "1.0", g.image, 201},
	} {
		if a := put(tt.account, tt.ref, tt.p); a.StatusCode != tt.status {
			t.Errorf("%s %s: %d, expected %d: %s", tt.account, tt.ref, a.StatusCode, tt.status, a.body)
		}
	}
	if a := g.do("GET", "/v2/team/app/manifests/new1", "", g.header("root")...); a.StatusCode != 404 {
		t.Errorf("a push that was refused has set a tag: %d", a.StatusCode)
	}
	// The reason is told to who sees the repository.
	a := put("pusher", "1.0", g.older)
	var form struct {
		Errors []struct{ Detail map[string]string }
	}
	if err := json.Unmarshal(a.body, &form); err != nil || form.Errors[0].Detail["action"] != "overwrite" || form.Errors[0].Detail["reason"] == "" || form.Errors[0].Detail["change"] == "" {
		t.Errorf("%s", a.body)
	}
	if a := put("stranger", "1.0", g.older); strings.Contains(string(a.body), "detail") {
		t.Errorf("a stranger is told %s", a.body)
	}
}

// A robot pushes to team/*, but not over release tags, nor does it delete those.
func TestTagPatterns(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	a := &meta.Account{Source: meta.LocalAccounts, Created: time.Now()}
	a.Name, a.Robot = "team+ci", true
	if err := g.db.CreateAccount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	for _, grant := range []access.Grant{
		{Actions: access.Pull | access.Push},
		{Actions: access.Overwrite | access.Delete, Tags: access.Patterns{"!v*"}},
	} {
		if err := g.db.AddGrant(t.Context(), &meta.Grant{Organization: "team", Account: a.Name, Grant: grant}); err != nil {
			t.Fatal(err)
		}
	}
	c := &meta.Credential{Kind: meta.SecretCredential, Created: time.Now()}
	c.Name, c.Actions = "x", access.All
	secret, hash := auth.NewSecret(c.Kind)
	if err := g.db.AddCredential(t.Context(), a.ID, c, hash, 0); err != nil {
		t.Fatal(err)
	}
	header := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(a.Name+":"+secret)), "Content-Type", oci.MediaTypeImage}
	for _, tt := range []struct {
		method, ref string
		p           pushed
		status      int
	}{
		{"PUT", "v1", g.image, 201}, {"PUT", "v1", g.older, 403}, {"PUT", "main", g.image, 201}, {"PUT", "main", g.older, 201},
		{"DELETE", "v1", pushed{}, 403}, {"DELETE", g.image.digest.String(), pushed{}, 403}, {"DELETE", "main", pushed{}, 202},
		{"DELETE", g.older.digest.String(), pushed{}, 202}, // whose tag 0.9 is no release
	} {
		if a := g.do(tt.method, "/v2/team/app/manifests/"+tt.ref, tt.p.body, header...); a.StatusCode != tt.status {
			t.Errorf("%s %s: %d, expected %d: %s", tt.method, tt.ref, a.StatusCode, tt.status, a.body)
		}
	}
	g.want(200, "HEAD", "/v2/team/app/manifests/v1", "", header...)
}

// CVE-2024-39897: a mount asks for pull on the source. clients.md 10: what cannot be mounted is uploaded.
func TestMountAsksForPullOnTheSource(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	layer := oci.DigestBytes(oci.SHA256, []byte(g.image.layer)).String()
	for _, tt := range []struct {
		account, into, from string
		status              int
	}{
		{"writer", "team/new", "team/app", 201}, {"writer", "team/new", "open/app", 201}, {"writer", "team/new", "other/app", 202},
		{"writer", "team/new", "other/none", 202}, {"writer", "team/new", "", 202}, {"writer", "team/new", "BAD", 202}, {"root", "team/new", "other/app", 201},
		{"stranger", "team/new", "open/app", 403},
	} {
		path := "/v2/" + tt.into + "/blobs/uploads/?mount=" + layer
		if tt.from != "" {
			path += "&from=" + tt.from
		}
		g.want(tt.status, "POST", path, "", g.header(tt.account)...)
	}
	// A token for one repository mounts nothing out of another.
	g.want(202, "POST", "/v2/team/new/blobs/uploads/?mount="+layer+"&from=team/app", "", g.bearer("writer", "repository:team/new:pull,push")...)
	g.want(201, "POST", "/v2/team/new/blobs/uploads/?mount="+layer+"&from=team/app", "", g.bearer("writer", "repository:team/new:pull,push", "repository:team/app:pull")...)
}

// CVE-2026-32589: an upload is for who began it.
func TestUploadIsForWhoBeganIt(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for _, other := range []string{"owner", "root", "pusher"} {
		at := g.want(202, "POST", "/v2/team/app/blobs/uploads/", "", g.header("writer")...).Header.Get("Location")
		g.want(202, "PATCH", at, "some", g.header("writer")...)
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			g.want(404, method, at, "", g.header(other)...)
		}
		digest := oci.DigestBytes(oci.SHA256, []byte("some")).String()
		g.want(404, "PUT", at+"&digest="+digest, "", g.header(other)...)
		g.want(201, "PUT", at+"&digest="+digest, "", g.header("writer")...)
	}
}

// clients.md 1 and 2: docker decides by the answer at /v2/.
func TestBase(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	a := g.want(401, "GET", "/v2/", "")
	if got, want := a.Header.Get("WWW-Authenticate"), `Bearer realm="`+g.url+`/token",service="berth"`; got != want {
		t.Errorf("%s, expected %s", got, want)
	}
	g.want(401, "GET", "/v2/", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("root:wrong")))
	for _, header := range [][]string{g.header("root"), g.header("stranger"), g.bearer("root"), g.bearer("anonymous")} {
		g.want(200, "GET", "/v2/", "", header...)
	}
}

// Lists show what one may see.
func TestCatalogShowsWhatOneMaySee(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.push("root", "team/secret", "1", "x")
	private := false
	g.push("root", "open/closed", "1", "x")
	if err := g.db.SetRepositoryPublic(t.Context(), "open/closed", &private); err != nil {
		t.Fatal(err)
	}
	g.want(401, "GET", "/v2/_catalog", "")
	g.want(401, "GET", "/v2/_catalog", "", g.bearer("root", "repository:team/app:pull")...)
	for account, want := range map[string][]string{
		"root":      {"open/app", "open/closed", "other/app", "team/app", "team/secret"},
		"reader":    {"open/app", "team/app", "team/secret"},
		"deleter":   {"open/app"},
		"stranger":  {"open/app"},
		"anonymous": {"open/app"},
	} {
		header := g.bearer(account, auth.CatalogScope)
		var got, pages struct{ Repositories []string }
		if err := json.Unmarshal(g.want(200, "GET", "/v2/_catalog", "", header...).body, &got); err != nil || !slices.Equal(got.Repositories, want) {
			t.Errorf("%s sees %v, %v", account, got.Repositories, err)
		}
		for path := "/v2/_catalog?n=1"; path != ""; {
			a := g.want(200, "GET", path, "", header...)
			var page struct{ Repositories []string }
			if err := json.Unmarshal(a.body, &page); err != nil || len(page.Repositories) > 1 {
				t.Fatalf("%s, %v", a.body, err)
			}
			pages.Repositories = append(pages.Repositories, page.Repositories...)
			path = ""
			if link := a.Header.Get("Link"); link != "" {
				path = link[1:strings.Index(link, ">")]
			}
		}
		if !slices.Equal(pages.Repositories, want) {
			t.Errorf("%s sees in pages %v", account, pages.Repositories)
		}
		var found struct{ Results []struct{ Name string } }
		if account == "anonymous" {
			header = nil
		}
		if err := json.Unmarshal(g.want(200, "GET", "/v1/search?q=app&n=2", "", header...).body, &found); err != nil {
			t.Fatal(err)
		}
		matching := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return !strings.Contains(s, "app") })
		matching = matching[:min(2, len(matching))]
		if len(found.Results) != len(matching) {
			t.Errorf("%s finds %v, expected %v", account, found.Results, matching)
		}
	}
}
