package meta

import (
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
