package meta

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// Rights come by accounts, teams and groups, in an organization and everywhere, and go with them.
func TestFacts(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	acme, other := organization(t, db, "acme"), organization(t, db, "other")
	ann := users(t, db, "bob", "ann")
	newTeam(t, db, "acme", "devs")
	newTeam(t, db, "other", "devs")
	must(t, db.AddTeamMember(ctx, "acme", "devs", "ann"))
	must(t, db.AddTeamMember(ctx, "acme", "devs", "ann")) // again
	must(t, db.SetTeamGroups(ctx, "other", "devs", "ldap", []string{"g", "g", "h\x00"}))
	must(t, db.SignedIn(ctx, ann.ID, "ldap", []string{"g", "g"}, at(0)))
	grant(t, db, roleOf("ann", "acme", access.Reader, "acme/*", "!acme/x"))
	grant(t, db, roleOf("bob", "acme", access.Owner))
	grant(t, db, roleOf("ann", "", access.Reader, "public/**"))
	team := func(in, of string) *Grant {
		return grant(t, db, &Grant{Organization: in, TeamOrganization: of, Grant: access.Grant{Team: "devs", Actions: access.Push, Tags: access.Patterns{"v*"}}})
	}
	team("acme", "")
	team("acme", "other") // of another organization
	team("", "other")
	team("other", "")
	f, err := db.Facts(ctx, ann.ID, 0, "acme/app")
	must(t, err)
	var got []string
	for _, g := range f.Grants {
		got = append(got, fmt.Sprintf("%s %v", g.String()[strings.Index(g.String(), " ")+3:], g.Everywhere))
	}
	slices.Sort(got)
	want := []string{
		"(reader on acme/* !acme/x) false", "(reader on public/**) true",
		"of team devs (push, tags v*) false", "of team devs (push, tags v*) false", "of team devs (push, tags v*) true",
	}
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("grants are\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if f.OrganizationID != acme.ID || f.Exists || f.Public != nil || f.Account.Name != "ann" || f.Lost || f.Credential != nil {
		t.Errorf("%+v", f)
	}
	if f, err = db.Facts(ctx, ann.ID, 0, "other/x"); err != nil || f.OrganizationID != other.ID || len(f.Grants) != 3 {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = db.Facts(ctx, 0, 0, "nobody/x"); err != nil || f.OrganizationID != 0 || f.Grants != nil || f.Account != nil || f.Lost {
		t.Errorf("%+v, %v", f, err)
	}
	// A credential is its account's only.
	c := newCredential(t, db, ann.ID, TokenCredential, "x", access.Pull)
	for _, who := range [][2]int64{{ann.ID - 1, c.ID}, {0, c.ID}, {ann.ID, c.ID + 1}, {ann.ID + 9, 0}} {
		if f, err = db.Facts(ctx, who[0], who[1], "acme/app"); err != nil || !f.Lost {
			t.Errorf("%v: %+v, %v", who, f, err)
		}
	}
	teams, err := db.TeamsOf(ctx, ann.ID, 0, 10)
	if err != nil || len(teams) != 2 || teams[0].Organization+teams[1].Organization != "acmeother" || teams[0].Members != 1 || teams[1].Members != 0 {
		t.Errorf("%+v, %v", teams, err)
	}
	if teams, err = db.TeamsOf(ctx, ann.ID, teams[0].ID, 10); err != nil || len(teams) != 1 {
		t.Errorf("%+v, %v", teams, err)
	}
	if groups, err := db.TeamGroups(ctx, "other", "devs"); err != nil || !slices.Equal(groups, []TeamGroup{{"ldap", "g"}, {"ldap", "h\uFFFD"}}) {
		t.Errorf("%v, %v", groups, err)
	}
	if err := db.SetTeamGroups(ctx, "other", "devs", "ldap", make([]string, MaxTeamGroups+1)); err == nil {
		t.Error("a team got too many groups")
	}
}

// A page of the catalog has what Decide allows for each repository by itself.
func TestReadableRepositories(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	ann := users(t, db, "ann")
	admin := users(t, db, "admin")
	must(t, db.ChangeAccount(ctx, "admin", func(a *Account) error { a.Admin = true; return nil }))
	yes, no := true, false
	var names []string
	for _, o := range []string{"acme", "open", "closed", "none"} {
		for i := range 12 {
			r := oci.Repository(fmt.Sprintf("%s/app%d", o, i))
			if i%5 == 4 {
				r += "-x/y"
			}
			image(t, db, r, r)
			names = append(names, string(r))
			switch i % 4 {
			case 1:
				must(t, db.SetRepositoryPublic(ctx, r, &yes))
			case 2:
				must(t, db.SetRepositoryPublic(ctx, r, &no))
			}
		}
	}
	commit(t, db, "open/empty", digestOf(1), at(0))
	slices.Sort(names)
	organization(t, db, "acme")
	must(t, db.CreateOrganization(ctx, &Organization{Name: "open", Public: true}))
	organization(t, db, "closed")
	newTeam(t, db, "closed", "t")
	must(t, db.AddTeamMember(ctx, "closed", "t", "ann"))
	grant(t, db, roleOf("ann", "acme", access.Reader, "acme/*", "!acme/app3"))
	grant(t, db, roleOf("ann", "", access.Reader, "**/app6"))
	grant(t, db, &Grant{Organization: "closed", Grant: access.Grant{Team: "t", Actions: access.Push | access.Pull, Repositories: access.Patterns{"closed/app1*"}}})
	narrow := &Credential{Credential: access.Credential{Actions: access.Pull, Repositories: access.Patterns{"acme/app1*", "*/app6"}}, Kind: TokenCredential}
	must(t, db.AddCredential(ctx, ann.ID, narrow, []byte("n"), 0))
	pushOnly := newCredential(t, db, admin.ID, TokenCredential, "p", access.Push)
	for _, v := range []Viewer{{}, {Account: ann.ID}, {Account: admin.ID}, {Account: ann.ID, Credential: narrow.ID}, {Account: admin.ID, Credential: pushOnly.ID}, {Account: 99}} {
		for _, term := range []string{"", "app1", "APP", "_", "é"} {
			want := []string{}
			for _, name := range names {
				f, err := db.Facts(ctx, v.Account, v.Credential, oci.Repository(name))
				must(t, err)
				if f.Decide(access.Question{Action: access.Pull}).Allowed && strings.Contains(name, strings.ToLower(term)) {
					want = append(want, name)
				}
			}
			if term == "" && len(want) == len(names) != (v == Viewer{Account: admin.ID}) {
				t.Errorf("%+v reads %d of %d", v, len(want), len(names))
			}
			for _, n := range []int{1, 7, 100} {
				got := []string{}
				for after, more := "", true; more; more = after != "" {
					var page []string
					var err error
					page, after, err = db.ReadableRepositories(ctx, v, term, after, n)
					must(t, err)
					if len(page) > n {
						t.Fatalf("a page of %d has %d", n, len(page))
					}
					got = append(got, page...)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%+v, %q by %d: %v, want %v", v, term, n, got, want)
				}
			}
		}
	}
}

// So many repositories are looked at by one call and no more.
func TestReadableRepositoriesIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("needs many rows")
	}
	db := newDB(t)
	must(t, db.update(t.Context(), func(t *tx) error {
		_, err := t.exec(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20500)
			INSERT INTO repository (name, created_at, listed) SELECT 'a/' || (100000 + i), 0, 1 FROM n`)
		return err
	}))
	before := db.Stats().Statements
	names, next, err := db.ReadableRepositories(t.Context(), Viewer{}, "", "", 10)
	if err != nil || len(names) != 0 || next != "a/120000" || db.Stats().Statements-before != 40 {
		t.Errorf("%v, %q, %v after %d statements", names, next, err, db.Stats().Statements-before)
	}
	if names, next, err = db.ReadableRepositories(t.Context(), Viewer{}, "", next, 10); err != nil || len(names) != 0 || next != "" {
		t.Errorf("%v, %q, %v", names, next, err)
	}
	must(t, db.update(t.Context(), func(t *tx) error { _, err := t.exec(`DELETE FROM repository`); return err }))
}

// A pull asks a database that others can change once, for the rights and for the manifest.
func TestFactsAndManifest(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	n := image(t, db, "team/app", "a", "t")
	must(t, db.CreateOrganization(ctx, &Organization{Name: "team", Creation: access.CreationPush, Created: at(0)}))
	ann := &Account{Source: LocalAccounts, Created: at(0)}
	ann.Name = "ann"
	must(t, db.CreateAccount(ctx, ann))
	must(t, db.AddGrant(ctx, &Grant{Organization: "team", Account: "ann", Grant: access.Grant{Role: access.Reader, Actions: access.Pull}}))
	for _, tt := range []struct {
		repository oci.Repository
		ref        oci.Reference
		there      bool
	}{
		{"team/app", byTag("t"), true},
		{"team/app", oci.Reference{Digest: n.Digest}, true},
		{"team/app", byTag("none"), false},
		{"team/none", byTag("t"), false},
		{"none", oci.Reference{Digest: n.Digest}, false},
	} {
		for _, account := range []int64{0, ann.ID, ann.ID + 1} {
			want, err := db.Facts(ctx, account, 0, tt.repository)
			must(t, err)
			before := db.Stats().Statements
			f, m, err := db.FactsAndManifest(ctx, account, 0, tt.repository, tt.ref)
			asked := db.Stats().Statements - before
			if err != nil || !reflect.DeepEqual(f, want) || (m != nil) != tt.there {
				t.Errorf("%s %s as %d: %+v, %+v, %v", tt.repository, tt.ref, account, f, m, err)
			}
			if m != nil && (m.Digest != n.Digest || string(m.Body) != string(n.Body) || m.Size != int64(len(n.Body)) || m.MediaType != n.Parsed.MediaType) {
				t.Errorf("%+v", m)
			}
			if !db.embedded() && asked != 1 {
				t.Errorf("%d statements", asked)
			}
		}
	}
}
