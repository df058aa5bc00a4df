package auth

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	ldap3 "github.com/go-ldap/ldap/v3"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth/ldap"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

// CVE-2025-23208: who is taken out of a team or a group has lost its rights with the next request, on every node and with every token.
func TestGroupRemovalCountsWithTheNextRequest(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(ctx context.Context, w *world, account int64) error{
		"out of the team": func(ctx context.Context, w *world, _ int64) error {
			return w.db.RemoveTeamMember(ctx, "team", "core", "alice")
		},
		"team deleted": func(ctx context.Context, w *world, _ int64) error { return w.db.DeleteTeam(ctx, "team", "core") },
		"group leaves the team": func(ctx context.Context, w *world, _ int64) error {
			return w.db.SetTeamGroups(ctx, "team", "core", "ldap", nil)
		},
		"out of the group": func(ctx context.Context, w *world, id int64) error {
			return w.db.SetGroups(ctx, id, "ldap", []string{})
		},
		"into another group": func(ctx context.Context, w *world, id int64) error {
			return w.db.SetGroups(ctx, id, "ldap", []string{"other"})
		},
		"the team's grant is taken": func(ctx context.Context, w *world, _ int64) error { return deleteGrants(ctx, w, "team") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ctx := t.Context()
			account := w.user("alice")
			w.organization("team", w.mustUser("root"), access.Owner)
			byGroup := name != "out of the team"
			member := func() error { return w.db.AddTeamMember(ctx, "team", "core", "alice") }
			if byGroup {
				member = func() error {
					return errors.Join(w.db.SetTeamGroups(ctx, "team", "core", "ldap", []string{"devs"}), w.db.SetGroups(ctx, account, "ldap", []string{"devs"}))
				}
			}
			if err := errors.Join(w.db.CreateTeam(ctx, &meta.Team{Organization: "team", Name: "core", Created: w.now()}), member(),
				w.db.AddGrant(ctx, &meta.Grant{Organization: "team", Grant: access.Grant{Team: "core", Role: access.Writer, Actions: access.Writer.Actions()}})); err != nil {
				t.Fatal(err)
			}
			headers := []string{basic("alice", password), "Bearer " + w.token(w.a, w.mustSignIn("alice", password), "repository:team/app:pull,push"),
				basic("alice", w.credential(account, meta.TokenCredential, nil))}
			nodes := []*Auth{w.a, w.node()}
			may := func(want bool) {
				t.Helper()
				for i, node := range nodes {
					for k, h := range headers {
						if w.may(node, h, access.Push, "team/app") != want || w.may(node, h, access.Pull, "team/app") != want {
							t.Errorf("node %d, header %d: not %t", i, k, want)
						}
					}
				}
			}
			may(true)
			if err := remove(ctx, w, account); err != nil {
				t.Fatal(err)
			}
			may(false)
		})
	}
}

func deleteGrants(ctx context.Context, w *world, organization string) error {
	grants, err := w.db.Grants(ctx, meta.GrantFilter{Organization: organization}, 0, 100)
	for _, g := range grants {
		err = errors.Join(err, w.db.DeleteGrant(ctx, organization, g.ID))
	}
	return err
}

// Rights hang on identifiers that are never reused: neither a token nor a grant, a team, a robot or a setting of an organization that is gone
// counts in the next one of that name.
func TestRecreatedOrganizationHasNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.user("alice")
	w.organization("team", "alice", access.Owner)
	robot := &meta.Account{Source: meta.LocalAccounts, Created: w.now()}
	robot.Name, robot.Robot, robot.Organization = "team+ci", true, "team"
	if err := errors.Join(w.db.CreateTeam(ctx, &meta.Team{Organization: "team", Name: "core", Created: w.now()}), w.db.AddTeamMember(ctx, "team", "core", "alice"),
		w.db.ChangeOrganization(ctx, "team", func(o *meta.Organization) error { o.Public = true; return nil }),
		w.db.CreateAccount(ctx, robot),
		w.db.AddGrant(ctx, &meta.Grant{Organization: "team", Account: "team+ci", Grant: access.Grant{Role: access.Writer, Actions: access.Writer.Actions()}})); err != nil {
		t.Fatal(err)
	}
	secret := w.credential(robot.ID, meta.SecretCredential, nil)
	headers := []string{basic("alice", password), "Bearer " + w.token(w.a, w.mustSignIn("alice", password), "repository:team/app:*"),
		basic("team+ci", secret), "Bearer " + w.token(w.a, w.mustSignIn("team+ci", secret), "repository:team/app:*"), ""}
	for _, h := range headers {
		if !w.may(w.a, h, access.Pull, "team/app") {
			t.Fatalf("%q may not pull before", h)
		}
	}
	recreate := func(old *meta.Account) {
		t.Helper()
		again := &meta.Account{Source: meta.LocalAccounts, Created: w.now()}
		again.Name, again.Robot, again.Organization = old.Name, true, "team"
		if err := errors.Join(w.db.DeleteOrganization(ctx, "team"),
			w.db.CreateOrganization(ctx, &meta.Organization{Name: "team", Creation: access.CreationPush, Created: w.now()}),
			w.db.CreateTeam(ctx, &meta.Team{Organization: "team", Name: "core", Created: w.now()}),
			w.db.AddGrant(ctx, &meta.Grant{Organization: "team", Grant: access.Grant{Team: "core", Role: access.Owner, Actions: access.All}}),
			w.db.CreateAccount(ctx, again),
			w.db.AddGrant(ctx, &meta.Grant{Organization: "team", Account: again.Name, Grant: access.Grant{Role: access.Writer, Actions: access.Writer.Actions()}})); err != nil {
			t.Fatal(err)
		}
		if again.ID <= old.ID {
			t.Errorf("the new robot has the number %d, the old one %d", again.ID, old.ID)
		}
	}
	recreate(robot)
	for _, node := range []*Auth{w.a, w.node()} {
		for _, h := range headers {
			if w.may(node, h, access.Pull, "team/app") || w.may(node, h, access.Push, "team/app") {
				t.Errorf("%.20q may what the organization before allowed", h)
			}
		}
	}
}

// Sign-in elsewhere does not break docker login: whoever has an account of a directory signs in with a personal token, too, also while the
// directory is down, and not any more when the account is gone there.
func TestPersonalTokensBesideOtherSignIns(t *testing.T) {
	t.Parallel()
	server := service.NewLDAP(t)
	dn := "uid=bea,ou=people," + service.LDAPSuffix
	server.Add(t, dn, map[string][]string{"objectClass": {"inetOrgPerson"}, "cn": {"Bea"}, "sn": {"bea"}, "userPassword": {password}})
	directory, err := ldap.New(ldap.Options{URL: server.URL, BindDN: service.LDAPAdminDN, BindPassword: service.LDAPPassword, UserBase: "ou=people," + service.LDAPSuffix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	w := newWorld(t)
	file, _ := w.file("ann")
	w.a.opts.Sources = []Source{file, LDAP{directory}}
	for _, name := range []string{"bea", "ann"} {
		id := w.mustSignIn(name, password)
		w.organization("of-"+name, name, access.Writer)
		token := w.credential(id.Account, meta.TokenCredential, nil)
		header := "Bearer " + w.token(w.a, w.mustSignIn(name, token), "repository:of-"+name+"/app:pull,push")
		for _, h := range []string{basic(name, token), basic(name, password), header} {
			if !w.may(w.a, h, access.Push, "of-"+name+"/app") {
				t.Errorf("%s may not push", name)
			}
		}
		if name == "ann" {
			continue
		}
		server.Stop()
		w.pass(verifiedFor)
		header = "Bearer " + w.token(w.a, w.mustSignIn(name, token), "repository:of-bea/app:pull,push")
		if !w.may(w.a, basic(name, token), access.Push, "of-bea/app") || !w.may(w.a, header, access.Push, "of-bea/app") {
			t.Error("the directory is down, and the token does not count")
		}
		server.Start(t)
		server.Do(t, func(c *ldap3.Conn) error { return c.Del(ldap3.NewDelRequest(dn, nil)) })
		if _, err := w.a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w.may(w.a, basic(name, token), access.Push, "of-bea/app") || w.may(w.a, header, access.Push, "of-bea/app") {
			t.Error("the account is gone, and the token counts")
		}
	}
}

// The right password or secret of who may not sign in, or not from there, is a failure like any other: nothing says that it is right, no sign-in is
// noted, and guesses are counted.
func TestRightPasswordOfWhoMayNotSignInIsAFailure(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(a *meta.Account){
		"disabled":  func(a *meta.Account) { a.Disabled = true },
		"expired":   func(a *meta.Account) { a.Expires = time.Now().Add(-time.Second) },
		"elsewhere": func(a *meta.Account) { a.Networks = access.Networks{netip.MustParsePrefix("198.51.100.0/24")} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			account := w.user("alice")
			secret := w.credential(account, meta.TokenCredential, nil)
			if err := change(take)(w, account); err != nil {
				t.Fatal(err)
			}
			for _, proof := range []string{secret, password} {
				if _, err := w.signIn("alice", proof); !errors.Is(err, ErrCredentials) {
					t.Errorf("sign-in: %v", err)
				}
				if _, err := identify(t, w.a, basic("alice", proof)); !errors.Is(err, ErrCredentials) {
					t.Errorf("request: %v", err)
				}
			}
			for range accountFailures {
				if _, err := w.signIn("alice", password); err == nil {
					t.Error("signed in")
				}
			}
			if _, err := w.signIn("alice", password); !errors.As(err, new(*LockedError)) {
				t.Errorf("guesses are not counted: %v", err)
			}
			entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 100)
			if err != nil || len(entries) == 0 {
				t.Fatalf("%v, %v", entries, err)
			}
			for _, e := range entries {
				if e.Allowed {
					t.Errorf("noted as allowed: %+v", e)
				}
			}
			all, err := w.db.Credentials(t.Context(), account)
			if err != nil || !all[0].Used.IsZero() {
				t.Errorf("the token is noted as used: %+v, %v", all, err)
			}
		})
	}
}
