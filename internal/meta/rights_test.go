package meta

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// users makes accounts and returns the last one.
func users(t testing.TB, db *DB, names ...string) *Account {
	t.Helper()
	var a *Account
	for _, name := range names {
		a = &Account{Account: access.Account{Name: name}, Source: LocalAccounts, Created: at(0)}
		must(t, db.CreateAccount(t.Context(), a))
	}
	return a
}

func organization(t testing.TB, db *DB, name string) *Organization {
	t.Helper()
	o := &Organization{Name: name, Creation: access.CreationPush, Created: at(0)}
	must(t, db.CreateOrganization(t.Context(), o))
	return o
}

func newTeam(t testing.TB, db *DB, organization, name string) {
	t.Helper()
	must(t, db.CreateTeam(t.Context(), &Team{Organization: organization, Name: name, Created: at(0)}))
}

// roleOf returns a grant of a role to an account.
func roleOf(account, organization string, role access.Role, repositories ...string) *Grant {
	return &Grant{Account: account, Organization: organization, Created: at(0),
		Grant: access.Grant{Role: role, Actions: role.Actions(), Repositories: repositories}}
}

func grant(t testing.TB, db *DB, g *Grant) *Grant {
	t.Helper()
	must(t, db.AddGrant(t.Context(), g))
	return g
}

func newCredential(t testing.TB, db *DB, account int64, kind CredentialKind, hash string, actions access.Actions) *Credential {
	t.Helper()
	c := &Credential{Credential: access.Credential{Name: hash, Actions: actions}, Kind: kind, Created: at(0)}
	must(t, db.AddCredential(t.Context(), account, c, []byte(hash), 0))
	return c
}

// people puts rows into every table of accounts and rights.
func people(t testing.TB, db *DB) {
	t.Helper()
	ctx := t.Context()
	users(t, db, "gone") // whose number is not given again
	must(t, db.DeleteAccount(ctx, "gone"))
	ann := users(t, db, "ann")
	organization(t, db, "team")
	robot := &Account{Account: access.Account{Name: "robot", Robot: true, Networks: access.Networks{netip.MustParsePrefix("10.0.0.0/8")}, Expires: at(9)},
		Organization: "team", Source: "ci", Subject: "é\x00", Created: at(0)}
	must(t, db.CreateAccount(ctx, robot))
	newCredential(t, db, robot.ID, SecretCredential, "secret", access.Pull)
	newTeam(t, db, "team", "devs")
	must(t, db.AddTeamMember(ctx, "team", "devs", "ann"))
	must(t, db.SetTeamGroups(ctx, "team", "devs", "ldap", []string{"cn=devs", "cn=ops"}))
	must(t, db.SignedIn(ctx, ann.ID, "ldap", []string{"cn=devs"}, at(1)))
	grant(t, db, roleOf("ann", "team", access.Reader))
	grant(t, db, &Grant{Organization: "team", Grant: access.Grant{Team: "devs", Role: access.Writer, Actions: access.Writer.Actions(), Tags: access.Patterns{"v*"}}})
	must(t, db.AddTrustRule(ctx, &TrustRule{Account: "robot", Issuer: "https://ci", Rule: "{}", Created: at(0)}))
	must(t, db.AddSigningKey(ctx, SigningKey{ID: "k", Private: []byte{0, 255}, From: at(0), Until: at(9)}, ""))
	must(t, db.NoteFailures(ctx, []string{"ann"}, time.Hour, func(int) time.Duration { return 0 }))
	must(t, db.AddAudit(ctx, []AuditEntry{{AuditPlace: AuditPlace{At: at(0)}, Actor: "ann", Action: "sign in", Object: "ann", Allowed: true}}))
}

// exerciseRights calls every method of accounts and rights.
func exerciseRights(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	people(t, db)
	ann, err := db.Account(ctx, "ann")
	must(t, err)
	robot, err := db.AccountOf(ctx, "ci", "é\x00")
	must(t, err)
	_, err = db.AccountByID(ctx, ann.ID)
	must(t, err)
	_, err = db.Accounts(ctx, true, "", 10)
	must(t, err)
	_, err = db.HasAccounts(ctx)
	must(t, err)
	must(t, db.ChangeAccount(ctx, "ann", func(a *Account) error { a.Mail = "m"; return nil }))
	c := &Credential{Credential: access.Credential{Name: "c"}, Kind: TokenCredential, Created: at(0)}
	must(t, db.AddCredential(ctx, ann.ID, c, []byte("hash"), 1))
	_, _, err = db.CredentialByHash(ctx, []byte("hash"))
	must(t, err)
	_, err = db.Credentials(ctx, ann.ID)
	must(t, err)
	must(t, db.UsedCredential(ctx, c.ID, "::1", at(1)))
	for range 2 { // the second time it may be remembered
		_, err = db.Facts(ctx, ann.ID, c.ID, "team/app")
		must(t, err)
		for _, name := range []oci.Repository{"team/app", "team/more"} { // first by tag, first by digest
			for _, ref := range []oci.Reference{{Tag: "t"}, {Digest: digestOf("x")}} {
				_, _, err = db.FactsAndManifest(ctx, ann.ID, c.ID, name, ref)
				must(t, err)
				if name == "team/more" {
					break
				}
			}
		}
	}
	must(t, db.RotateCredential(ctx, ann.ID, &Credential{Kind: TokenCredential, Created: at(0)}, []byte("rotated"), at(2)))
	must(t, db.DeleteCredential(ctx, ann.ID, c.ID))
	_, err = db.DeleteExpiredCredentials(ctx, at(0), 1)
	must(t, err)
	_, err = db.Organization(ctx, "team")
	must(t, err)
	_, err = db.Organizations(ctx, "", 10)
	must(t, err)
	must(t, db.ChangeOrganization(ctx, "team", func(o *Organization) error { o.Public = true; return nil }))
	_, err = db.Teams(ctx, "team", "", 10)
	must(t, err)
	_, err = db.TeamsOf(ctx, ann.ID, 0, 10)
	must(t, err)
	_, err = db.TeamMembers(ctx, "team", "devs", "", 10)
	must(t, err)
	_, err = db.TeamGroups(ctx, "team", "devs")
	must(t, err)
	must(t, db.RemoveTeamMember(ctx, "team", "devs", "ann"))
	everywhere := grant(t, db, roleOf("ann", "", access.Reader))
	for _, f := range []GrantFilter{{Organization: "team"}, {Everywhere: true}, {Account: "ann"}, {Team: "devs", TeamOrganization: "team"},
		{Organization: "team", Account: "ann"}, {Organization: "team", Team: "devs", TeamOrganization: "team"}} {
		all, err := db.Grants(ctx, f, 0, 10)
		must(t, err)
		if len(all) == 0 {
			t.Errorf("no grants of %+v", f)
		}
		if f.Organization != "" {
			must(t, db.DeleteGrant(ctx, "team", all[0].ID))
			grant(t, db, all[0])
		}
	}
	must(t, db.DeleteGrant(ctx, "", everywhere.ID))
	for _, term := range []string{"", "a"} {
		_, _, err = db.ReadableRepositories(ctx, Viewer{Account: ann.ID}, term, "", 10)
		must(t, err)
	}
	image(t, db, "team/set", "set")
	yes := true
	must(t, db.SetRepositoryPublic(ctx, "team/set", &yes))
	must(t, db.SetRepositoryPublic(ctx, "team/set", nil))
	_, err = db.TrustRules(ctx, "https://ci", 0, 10)
	must(t, err)
	rules, err := db.TrustRulesOf(ctx, robot.Name, 0, 10)
	must(t, err)
	must(t, db.DeleteTrustRule(ctx, robot.Name, rules[0].ID))
	_, err = db.SigningKeys(ctx)
	must(t, err)
	_, err = db.DeleteSigningKeys(ctx, at(0))
	must(t, err)
	must(t, db.NoteFailures(ctx, []string{"ann"}, time.Hour, func(int) time.Duration { return time.Hour }))
	_, err = db.FirstUse(ctx, "token")
	must(t, err)
	_, err = db.Failures(ctx, []string{"ann"})
	must(t, err)
	_, err = db.DeleteOldFailures(ctx, 0, 1)
	must(t, err)
	must(t, db.ClearFailures(ctx, "ann"))
	for _, f := range []AuditFilter{{}, {Actor: "ann"}, {Object: "ann"}} {
		_, _, err = db.Audit(ctx, f, AuditPlace{}, 10)
		must(t, err)
		_, _, err = db.AuditAfter(ctx, f, AuditPlace{}, 10)
		must(t, err)
	}
	settled, err := db.SettledAudit(ctx)
	must(t, err)
	_, err = db.AuditBetween(ctx, 0, settled, 10)
	must(t, err)
	if _, err = db.OldestAudit(ctx, 0); !errors.Is(err, ErrNotFound) {
		must(t, err)
	}
	must(t, db.SetAuditForwarded(ctx, "file", settled))
	_, err = db.AuditForwarded(ctx, "file")
	must(t, err)
	must(t, db.CreateAccountFor(ctx, &Account{Account: access.Account{Name: "first"}, Source: LocalAccounts, Created: at(0)}, "audit_forwarded_file",
		strconv.AppendInt(nil, settled, 10), []byte("0")))
	_, err = db.DeleteAudit(ctx, at(9), 100, 10)
	must(t, err)
	must(t, db.DeleteTeam(ctx, "team", "devs"))
	must(t, db.DeleteOrganization(ctx, "team"))
	must(t, db.DeleteAccount(ctx, "ann"))
}

// rightless are the methods that change something which no right rests on.
var rightless = []string{
	"Doomed", "DoomOrphan", "Buried", "SetSetting", "DeleteSetting", "SettingOr", "StartJob", "RenewJob", "EndJob", "ReleaseJob", "ofHolder",
	"SaveUpload", "CancelUpload", "ExpireUploads", "TouchBlob", "UsedCredential",
	"AddTrustRule", "DeleteTrustRule", "AddSigningKey", "DeleteSigningKeys", "AddAudit", "DeleteAudit",
	"SettledAudit", "CreateAccountFor", // which is CreateAccount
	"NoteFailures", "FirstUse", "ClearFailures", "DeleteOldFailures", "DeleteTag", // which leaves the manifest
	"RestoreTags", "Undelete", // of repositories that are there
	"SetQuota", "DeleteQuota", "RecountUsage",
	"addPolicy", "DeleteProtection", "DeleteFreeze", // which stand above rights
	// Nobody is served meanwhile.
	"BeginMove", "NoteMoved", "ForgetMoved", "ClearRows", "AddRows", "FinishMove", "DropBlob", "MarkStrayLinks", "Analyze",
	"clearRows", "BeginRebuild", "StageRecords", "rebuild", "NumberRebuilt", "NoteAllMoved", "RekeyMoved",
	// A copy of what is there.
	"SwapJournalState", "Settle", "Written",
	"PlanCascade", "ofJob", "NotePulls", "AddRetention", "DeleteRetention",
	"MarkDamaged", "ClearDamage", "ReplaceObject", "NoteVerified", // of blobs
}

// updaters returns the methods of DB that change something.
func updaters(t *testing.T) []string {
	t.Helper()
	files, err := os.ReadDir(".")
	must(t, err)
	var found []string
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.SkipObjectResolution)
		must(t, err)
		for _, d := range file.Decls {
			m, ok := d.(*ast.FuncDecl)
			if !ok || m.Recv == nil || m.Name.Name == "update" {
				continue
			}
			ast.Inspect(m, func(n ast.Node) bool {
				if call, ok := n.(*ast.SelectorExpr); ok && call.Sel.Name == "update" {
					if x, ok := call.X.(*ast.Ident); ok && x.Name == "db" && !slices.Contains(found, m.Name.Name) {
						found = append(found, m.Name.Name)
					}
				}
				return true
			})
		}
	}
	return found
}

// A right that was given or taken away counts with the next call, whatever method did it: Facts are as they are without a cache.
func TestFactsAreExact(t *testing.T) {
	db := newDB(t)
	plain := &DB{engine: db.engine, statements: new(atomic.Int64), rows: new(atomic.Int64), dialect: db.dialect, read: db.read}
	ctx := t.Context()
	organization(t, db, "acme")
	ann := users(t, db, "ann")
	bob := users(t, db, "bob")
	token := newCredential(t, db, ann.ID, TokenCredential, "token", access.Pull)
	later := newCredential(t, db, ann.ID, TokenCredential, "later", access.Pull)
	kept := image(t, db, "acme/kept", "kept")
	again := func() error {
		n := kept
		n.Repository, n.NeedBlobs = "acme/app", false
		_, err := db.PutManifest(ctx, n)
		return err
	}
	newTeam(t, db, "acme", "devs")
	devs := &Grant{Organization: "acme", Created: at(0), Grant: access.Grant{Team: "devs", Role: access.Writer, Actions: access.Writer.Actions()}}
	repositories := []oci.Repository{"acme/kept", "acme/app", "acme/blob", "acme/mounted", "new/app", "other/app"}
	// all returns what is known of everybody everywhere.
	all := func(db *DB) map[string]access.Facts {
		t.Helper()
		found := make(map[string]access.Facts)
		for _, r := range repositories {
			for _, who := range [][2]int64{{0, 0}, {ann.ID, 0}, {ann.ID, token.ID}, {ann.ID, later.ID}, {ann.ID, 99}, {bob.ID, 0}, {99, 0}, {bob.ID + 1, 0}} {
				f, err := db.Facts(ctx, who[0], who[1], r)
				must(t, err)
				slices.SortFunc(f.Grants, func(a, b access.Grant) int { return int(a.ID - b.ID) })
				found[fmt.Sprint(who, r)] = *f
			}
		}
		return found
	}
	yes, own := true, &Grant{}
	blob := digestOf("blob of kept")
	steps := []struct {
		method string
		do     func() error
	}{
		{"CreateOrganization", func() error {
			return db.CreateOrganization(ctx, &Organization{Name: "new", Creation: access.CreationNobody, Public: true})
		}},
		{"ChangeOrganization", func() error {
			return db.ChangeOrganization(ctx, "new", func(o *Organization) error { o.Public = false; return nil })
		}},
		{"AddGrant", func() error { own = roleOf("ann", "new", access.Owner); return db.AddGrant(ctx, own) }},
		{"AddGrant", func() error { return db.AddGrant(ctx, roleOf("ann", "new", access.Reader)) }}, // in place of it
		{"DeleteGrant", func() error { return db.DeleteGrant(ctx, "new", own.ID) }},
		{"AddGrant", func() error { own = roleOf("bob", "", access.Reader, "**/app"); return db.AddGrant(ctx, own) }},
		{"DeleteGrant", func() error { return db.DeleteGrant(ctx, "", own.ID) }},
		{"AddGrant", func() error { return db.AddGrant(ctx, roleOf("bob", "new", access.Reader)) }},
		{"DeleteOrganization", func() error { return db.DeleteOrganization(ctx, "new") }},
		{"CreateOrganization", func() error { return db.CreateOrganization(ctx, &Organization{Name: "new"}) }}, // without the grants of before
		{"AddTeamMember", func() error { must(t, db.AddGrant(ctx, devs)); return db.AddTeamMember(ctx, "acme", "devs", "ann") }},
		{"RemoveTeamMember", func() error { return db.RemoveTeamMember(ctx, "acme", "devs", "ann") }},
		{"SetTeamGroups", func() error {
			must(t, db.SignedIn(ctx, bob.ID, "ldap", []string{"d"}, at(0)))
			return db.SetTeamGroups(ctx, "acme", "devs", "ldap", []string{"d", "e"})
		}},
		{"SignedIn", func() error { return db.SignedIn(ctx, ann.ID, "ldap", []string{"e", "x"}, at(0)) }},
		{"SignedIn", func() error { return db.SignedIn(ctx, ann.ID, "ldap", []string{"x"}, at(0)) }},
		{"SignedIn", func() error { return db.SignedIn(ctx, bob.ID, "oidc", []string{}, at(0)) }}, // has another source
		{"SignedIn", func() error { return db.SignedIn(ctx, bob.ID, "ldap", []string{"e"}, at(0)) }},
		{"SetGroups", func() error { return db.SetGroups(ctx, bob.ID, "ldap", []string{"x"}) }},
		{"SetGroups", func() error { return db.SetGroups(ctx, bob.ID, "ldap", []string{"e"}) }},
		{"SetTeamGroups", func() error { return db.SetTeamGroups(ctx, "acme", "devs", "ldap", nil) }},
		{"AddTeamMember", func() error { return db.AddTeamMember(ctx, "acme", "devs", "ann") }},
		{"DeleteTeam", func() error { return db.DeleteTeam(ctx, "acme", "devs") }},
		{"CreateTeam", func() error {
			must(t, db.CreateTeam(ctx, &Team{Organization: "acme", Name: "devs"}))
			return db.AddTeamMember(ctx, "acme", "devs", "ann") // which has no grants
		}},
		{"ChangeAccount", func() error {
			return db.ChangeAccount(ctx, "ann", func(a *Account) error { a.Admin = true; return nil })
		}},
		{"ManageAccount", func() error {
			return db.ManageAccount(ctx, "ann", func(a *Account) error {
				a.Networks = access.Networks{netip.MustParsePrefix("10.0.0.0/8")}
				return nil
			})
		}},
		{"ChangeAccount", func() error {
			return db.ChangeAccount(ctx, "ann", func(a *Account) error {
				a.Admin, a.Disabled, a.Expires, a.Networks = false, true, at(1), access.Networks{netip.MustParsePrefix("::1/128")}
				return nil
			})
		}},
		{"DeleteCredential", func() error { return db.DeleteCredential(ctx, ann.ID, token.ID) }},
		{"RotateCredential", func() error {
			return db.RotateCredential(ctx, ann.ID, &Credential{Kind: TokenCredential, Created: at(0)}, []byte("next"), at(5))
		}},
		{"DeleteExpiredCredentials", func() error { _, err := db.DeleteExpiredCredentials(ctx, at(6), 10); return err }},
		{"AddCredential", func() error {
			c := &Credential{Kind: TokenCredential, Created: at(0)}
			must(t, db.AddCredential(ctx, ann.ID, c, []byte("kept"), 1))
			token = c
			all(db)
			return db.AddCredential(ctx, ann.ID, &Credential{Kind: TokenCredential, Created: at(0)}, []byte("newer"), 1) // instead of it
		}},
		{"SetRepositoryPublic", func() error { return db.SetRepositoryPublic(ctx, "acme/kept", &yes) }},
		{"SetRepositoryPublic", func() error { return db.SetRepositoryPublic(ctx, "acme/kept", nil) }},
		{"CommitBlob", func() error {
			return db.CommitBlob(ctx, NewBlob{Repository: "acme/blob", Digest: digestOf("b"), Key: newKey(), Now: at(0)})
		}},
		{"MountBlob", func() error { return db.MountBlob(ctx, "acme/mounted", "acme/kept", blob, at(0)) }},
		{"DeleteBlob", func() error { return db.DeleteBlob(ctx, "acme/mounted", blob, Origin{}, at(0)) }},
		{"CollectBlobs", func() error { collectAll(t, db); return nil }},
		{"PutManifest", again},
		{"DeleteManifest", func() error { return db.DeleteManifest(ctx, "acme/app", kept.Digest, nil, Origin{}, at(0)) }},
		{"PutManifest", again},
		{"DeleteManifests", func() error {
			_, err := db.DeleteManifests(ctx, "acme/app", 1<<40, 10, nil, Origin{}, at(0))
			return err
		}},
		{"PutManifest", again},
		{"DeleteCascade", func() error {
			plan, err := db.PlanCascade(ctx, "acme/app", oci.Reference{Digest: kept.Digest})
			must(t, err)
			goes := []oci.Digest{}
			for _, m := range plan.Manifests {
				goes = append(goes, m.Digest)
			}
			_, err = db.DeleteCascade(ctx, "acme/app", ordered(plan.Tags), orderedManifests(goes...), nil, Origin{}, at(0))
			return err
		}},
		{"PutManifest", again},
		{"EmptyTrash", func() error {
			must(t, db.DeleteManifest(ctx, "acme/app", kept.Digest, nil, Origin{Trash: true}, at(0)))
			all(db)
			_, err := db.EmptyTrash(ctx, "acme/app", oci.Digest{}, 10, Origin{}, at(0))
			return err
		}},
		{"PutManifest", again},
		{"emptyTrash", func() error {
			must(t, db.DeleteManifest(ctx, "acme/app", kept.Digest, nil, Origin{Trash: true}, at(0)))
			all(db)
			_, err := db.ExpireTrash(ctx, at(1), 10, at(1))
			return err
		}},
		{"AddGrant", func() error { return db.AddGrant(ctx, roleOf("bob", "acme", access.Reader)) }},
		{"DeleteAccount", func() error { return db.DeleteAccount(ctx, "bob") }},
		{"CreateAccount", func() error { users(t, db, "bob"); return nil }}, // has another number
	}
	covered := map[string]bool{}
	for _, s := range steps {
		before := all(plain)
		all(db) // into the cache
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.method, err)
		}
		got, want := all(db), all(plain)
		for k := range want {
			if !reflect.DeepEqual(got[k], want[k]) {
				t.Errorf("%s: %s: the cache has %+v, the database %+v", s.method, k, got[k], want[k])
			}
		}
		changesNothing := s.method == "CreateTeam" || s.method == "SignedIn" && reflect.DeepEqual(before, want) && covered[s.method]
		if reflect.DeepEqual(before, want) && !changesNothing {
			t.Errorf("%s changes nothing", s.method)
		}
		covered[s.method] = true
	}
	for _, m := range updaters(t) {
		if !covered[m] && !slices.Contains(rightless, m) {
			t.Errorf("%s changes something: does no right rest on it?", m)
		}
	}
}

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

// Of several that do the same at once one succeeds, and the others hear that it exists.
func TestCreatedOnce(t *testing.T) {
	db := newDB(t)
	organization(t, db, "o")
	for what, create := range map[string]func(ctx context.Context) error{
		"account": func(ctx context.Context) error {
			return db.CreateAccount(ctx, &Account{Account: access.Account{Name: "a"}, Source: LocalAccounts})
		},
		"account of a source": func(ctx context.Context) error {
			return db.CreateAccount(ctx, &Account{Account: access.Account{Name: newKey()}, Source: "ldap", Subject: "s"})
		},
		"organization": func(ctx context.Context) error { return db.CreateOrganization(ctx, &Organization{Name: "a"}) },
		"team":         func(ctx context.Context) error { return db.CreateTeam(ctx, &Team{Organization: "o", Name: "a"}) },
		"key": func(ctx context.Context) error {
			return db.AddSigningKey(ctx, SigningKey{ID: newKey(), Private: []byte{1}, From: at(1)}, "")
		},
	} {
		errs := make([]error, 8)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = create(t.Context()) })
		}
		all.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else if !errors.Is(err, ErrExists) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if made != 1 {
			t.Errorf("%s: %d were made", what, made)
		}
	}
}

// A grant that is given again changes in place: at every moment there is exactly one.
func TestGrantIsReplaced(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	organization(t, db, "o")
	ann := users(t, db, "ben", "ann")
	first := grant(t, db, roleOf("ann", "o", access.Reader, "o/a"))
	if g := grant(t, db, roleOf("ann", "o", access.Owner, "o/b")); g.ID == first.ID {
		t.Error("another pattern is the same grant")
	}
	var all sync.WaitGroup
	for _, role := range access.Roles {
		all.Go(func() {
			for range rounds(10) {
				g := roleOf("ann", "o", role, "o/a")
				if err := db.AddGrant(ctx, g); err != nil || g.ID != first.ID {
					t.Errorf("%d, %v", g.ID, err)
				}
				f, err := db.Facts(ctx, ann.ID, 0, "o/a")
				if err != nil || len(f.Grants) != 2 {
					t.Errorf("%+v, %v", f, err)
				}
			}
		})
		all.Go(func() { // what was not there yet is made once
			if err := db.AddGrant(ctx, roleOf("ben", "", role)); err != nil {
				t.Error(err)
			}
			if err := db.AddGrant(ctx, &Grant{Account: "ben"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := count(t, db, "access_grant"); n != 3 {
		t.Errorf("there are %d grants", n)
	}
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

// The last account that administers can neither be deleted nor become less.
func TestLastAdministrator(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	make := func(name string, change func(*Account)) {
		a := &Account{Source: LocalAccounts, Created: at(0)}
		a.Name, a.Admin = name, true
		change(a)
		must(t, db.CreateAccount(ctx, a))
	}
	if there, err := db.HasAdministrator(ctx); err != nil || there {
		t.Errorf("%t, %v", there, err)
	}
	make("robot", func(a *Account) { a.Robot = true })
	make("disabled", func(a *Account) { a.Disabled = true })
	make("passing", func(a *Account) { a.Expires = at(1) })
	make("one", func(*Account) {})
	less := func(name string, change func(*Account)) error {
		return db.ManageAccount(ctx, name, func(a *Account) error { change(a); return nil })
	}
	for _, change := range []func(*Account){
		func(a *Account) { a.Admin = false }, func(a *Account) { a.Disabled = true }, func(a *Account) { a.Expires = at(5) },
	} {
		wantErr(t, less("one", change), ErrLastAdministrator)
	}
	wantErr(t, db.DeleteAccount(ctx, "one"), ErrLastAdministrator)
	must(t, less("one", func(a *Account) { a.Mail = "one@example.com" }))
	must(t, less("disabled", func(a *Account) { a.Admin = false }))
	if there, err := db.HasAdministrator(ctx); err != nil || !there {
		t.Errorf("%t, %v", there, err)
	}
	// Of two who take the last two away, one is refused.
	for round := range 20 {
		names := []string{fmt.Sprint("x", round), fmt.Sprint("y", round)}
		for _, name := range names {
			make(name, func(*Account) {})
		}
		if round == 0 {
			must(t, db.DeleteAccount(ctx, "one"))
		} else {
			for _, name := range []string{"x", "y"} {
				must(t, db.DeleteAccount(ctx, name+fmt.Sprint(round-1)))
			}
		}
		var wg sync.WaitGroup
		errs := [2]error{}
		for i, name := range names {
			wg.Go(func() {
				if i == 0 {
					errs[i] = db.DeleteAccount(ctx, name)
				} else {
					errs[i] = less(name, func(a *Account) { a.Admin = false })
				}
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || errs[0] != nil && !errors.Is(errs[0], ErrLastAdministrator) || errs[1] != nil && !errors.Is(errs[1], ErrLastAdministrator) {
			t.Fatalf("round %d: %v", round, errs)
		}
		if errs[0] == nil {
			make(names[0], func(a *Account) { a.Admin = false })
		}
	}
}
