package meta

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
)

// What is stored comes back as it was.
func TestAccount(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	if some, err := db.HasAccounts(ctx); err != nil || some {
		t.Errorf("%v, %v", some, err)
	}
	organization(t, db, "acme")
	robot := &Account{
		Account: access.Account{Name: "acme+ci", Robot: true, Admin: true, Disabled: true, Expires: at(5),
			Networks: access.Networks{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}},
		Organization: "acme", Source: "ldap", Subject: "uid=ci", DisplayName: "Ünïcode", Mail: "a@b", Password: "$argon2id$", Created: at(1), Seen: at(2),
	}
	must(t, db.CreateAccount(ctx, robot))
	same := func(a *Account, err error) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(a, robot) {
			t.Errorf("%+v, %v, want %+v", a, err, robot)
		}
	}
	same(db.Account(ctx, "acme+ci"))
	same(db.AccountByID(ctx, robot.ID))
	same(db.AccountOf(ctx, "ldap", "uid=ci"))
	users(t, db, "ann", "ben", "cat")
	if some, err := db.HasAccounts(ctx); err != nil || !some {
		t.Errorf("%v, %v", some, err)
	}
	for _, name := range []string{"none", "ann\x00", "\xff"} {
		_, err := db.Account(ctx, name)
		wantErr(t, err, ErrNotFound)
	}
	_, err := db.AccountOf(ctx, LocalAccounts, "")
	wantErr(t, err, ErrNotFound)
	_, err = db.AccountByID(ctx, 99)
	wantErr(t, err, ErrNotFound)
	wantErr(t, db.CreateAccount(ctx, &Account{Account: access.Account{Name: "x"}, Organization: "none"}), ErrNotFound)
	all, err := db.Accounts(ctx, false, "ann", 1)
	if err != nil || len(all) != 1 || all[0].Name != "ben" {
		t.Errorf("%v, %v", all, err)
	}
	if all, err = db.Accounts(ctx, true, "", 10); err != nil || len(all) != 1 || all[0].Name != "acme+ci" {
		t.Errorf("%v, %v", all, err)
	}
	must(t, db.ChangeAccount(ctx, "acme+ci", func(a *Account) error {
		a.Admin, a.Disabled, a.Networks, a.Expires, a.Password, a.Subject, a.Source = false, false, nil, time.Time{}, "", "", LocalAccounts
		a.DisplayName, a.Mail = "n", "m\x00"
		return nil
	}))
	robot.Admin, robot.Disabled, robot.Networks, robot.Expires, robot.Password, robot.Subject, robot.Source = false, false, nil, time.Time{}, "", "", LocalAccounts
	robot.DisplayName, robot.Mail = "n", "m\uFFFD"
	same(db.Account(ctx, "acme+ci"))
	refused := errors.New("refused")
	wantErr(t, db.ChangeAccount(ctx, "acme+ci", func(a *Account) error { a.Admin = true; return refused }), refused)
	same(db.Account(ctx, "acme+ci"))
	wantErr(t, db.ChangeAccount(ctx, "none", func(*Account) error { return nil }), ErrNotFound)
	wantErr(t, db.DeleteAccount(ctx, "none"), ErrNotFound)
	wantErr(t, db.SignedIn(ctx, 99, "ldap", nil, at(0)), ErrNotFound)
	must(t, db.SignedIn(ctx, robot.ID, "ldap", nil, at(9)))
	robot.Seen = at(9)
	same(db.Account(ctx, "acme+ci"))
	// A robot goes with its organization.
	must(t, db.DeleteOrganization(ctx, "acme"))
	_, err = db.Account(ctx, "acme+ci")
	wantErr(t, err, ErrNotFound)
}

// Changes that meet do not undo each other.
func TestChangesMeet(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	users(t, db, "ann")
	organization(t, db, "o")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := db.ChangeAccount(ctx, "ann", func(a *Account) error { a.Mail += fmt.Sprint(i); return nil }); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := db.ChangeOrganization(ctx, "o", func(o *Organization) error { o.Creation += "x"; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if a, err := db.Account(ctx, "ann"); err != nil || len(a.Mail) != 8 {
		t.Errorf("%+v, %v", a, err)
	}
	if o, err := db.Organization(ctx, "o"); err != nil || o.Creation != access.CreationPush+"xxxxxxxx" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestCredentials(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	ann := users(t, db, "bob", "ann")
	c := &Credential{Credential: access.Credential{Name: "ci\x00", Actions: access.Pull | access.Push, Repositories: access.Patterns{"a/*", "!a/b"},
		Networks: access.Networks{netip.MustParsePrefix("10.0.0.0/8")}, Expires: at(100)}, Kind: TokenCredential, Created: at(1)}
	must(t, db.AddCredential(ctx, ann.ID, c, []byte{0, 1, 255}, 0))
	c.Name = "ci\uFFFD"
	got, a, err := db.CredentialByHash(ctx, []byte{0, 1, 255})
	if err != nil || a.Name != "ann" || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v of %+v, %v", got, a, err)
	}
	_, _, err = db.CredentialByHash(ctx, []byte{0, 1})
	wantErr(t, err, ErrNotFound)
	must(t, db.UsedCredential(ctx, c.ID, "10.0.0.1", at(5)))
	must(t, db.UsedCredential(ctx, c.ID, "10.0.0.2", at(4))) // came late
	must(t, db.UsedCredential(ctx, 99, "", at(4)))
	c.Used, c.UsedFrom = at(5), "10.0.0.1"
	var next []*Credential
	for i, expire := range []time.Time{at(50), at(60)} {
		n := &Credential{Kind: TokenCredential, Created: at(2)}
		must(t, db.RotateCredential(ctx, ann.ID, n, []byte{9, byte(i)}, expire))
		next = append(next, n)
	}
	other := newCredential(t, db, ann.ID, SecretCredential, "other", access.All)
	c.Expires, next[0].Expires = at(50), at(60)
	if all, err := db.Credentials(ctx, ann.ID); err != nil || len(all) != 4 || !reflect.DeepEqual(all[0], c) || !all[1].Expires.Equal(at(60)) ||
		!all[2].Expires.IsZero() || !all[3].Expires.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
	for _, c := range []*Credential{next[0], next[1], other} {
		must(t, db.DeleteCredential(ctx, ann.ID, c.ID))
	}
	// Of another account it is not there.
	wantErr(t, db.RotateCredential(ctx, 99, &Credential{}, []byte("x"), at(50)), ErrNotFound)
	wantErr(t, db.DeleteCredential(ctx, ann.ID-1, c.ID), ErrNotFound)
	wantErr(t, db.AddCredential(ctx, 99, &Credential{}, []byte("x"), 0), ErrNotFound)
	var kept []int64
	for i := range 5 {
		r := newCredential(t, db, ann.ID, RefreshCredential, fmt.Sprint("r", i), access.All)
		kept = append(kept, r.ID)
	}
	last := &Credential{Kind: RefreshCredential}
	must(t, db.AddCredential(ctx, ann.ID, last, []byte("last"), 3))
	all, err := db.Credentials(ctx, ann.ID)
	var ids []int64
	for _, one := range all {
		ids = append(ids, one.ID)
	}
	if want := []int64{c.ID, kept[3], kept[4], last.ID}; err != nil || !slices.Equal(ids, want) {
		t.Errorf("%v are left, %v, want %v", ids, err, want)
	}
	if n, err := db.DeleteExpiredCredentials(ctx, at(50), 10); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := db.DeleteExpiredCredentials(ctx, at(51), 10); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	must(t, db.DeleteCredential(ctx, ann.ID, last.ID))
	must(t, db.DeleteAccount(ctx, "ann"))
	if n := count(t, db, "credential"); n != 0 {
		t.Errorf("%d credentials of an account that is gone", n)
	}
}

// What was granted to somebody who is gone falls to nobody of the same name.
func TestNumbersAreNotReused(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	var last [5]int64
	for round := range 3 {
		o := organization(t, db, "o")
		a := users(t, db, "ann")
		team := &Team{Organization: "o", Name: "t"}
		must(t, db.CreateTeam(ctx, team))
		must(t, db.AddTeamMember(ctx, "o", "t", "ann"))
		g := grant(t, db, roleOf("ann", "o", access.Owner))
		c := newCredential(t, db, a.ID, TokenCredential, "h", access.Pull)
		now := [5]int64{o.ID, a.ID, team.ID, g.ID, c.ID}
		for i := range now {
			if now[i] <= last[i] {
				t.Errorf("round %d: %v after %v", round, now, last)
			}
		}
		last = now
		must(t, db.DeleteAccount(ctx, "ann"))
		must(t, db.DeleteOrganization(ctx, "o"))
		for _, table := range []string{"team", "team_member", "access_grant", "credential"} {
			if n := count(t, db, table); n != 0 {
				t.Errorf("%d rows are left in %s", n, table)
			}
		}
	}
}

func TestOrganizationsAndTeams(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for _, name := range []string{"c", "a", "b"} {
		organization(t, db, name)
	}
	all, err := db.Organizations(ctx, "a", 1)
	if err != nil || len(all) != 1 || all[0].Name != "b" {
		t.Errorf("%v, %v", all, err)
	}
	must(t, db.ChangeOrganization(ctx, "a", func(o *Organization) error {
		o.Public, o.Creation, o.Name = true, access.CreationAdmin, "other"
		return nil
	}))
	if o, err := db.Organization(ctx, "a"); err != nil || !o.Public || o.Creation != access.CreationAdmin || !o.Created.Equal(at(0)) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, err := range []error{
		db.ChangeOrganization(ctx, "none", func(*Organization) error { return nil }), db.DeleteOrganization(ctx, "none"),
		db.CreateTeam(ctx, &Team{Organization: "none", Name: "t"}), db.DeleteTeam(ctx, "a", "none"), db.DeleteTeam(ctx, "none", "t"),
		db.AddTeamMember(ctx, "a", "none", "ann"), db.RemoveTeamMember(ctx, "a", "none", "ann"), db.SetTeamGroups(ctx, "a", "none", "s", nil),
		db.SetRepositoryPublic(ctx, "a/none", nil), db.AddGrant(ctx, roleOf("none", "a", access.Reader)), db.DeleteGrant(ctx, "a", 1),
		db.AddGrant(ctx, roleOf("ann", "none", access.Reader)), db.AddTrustRule(ctx, &TrustRule{Account: "none"}), db.DeleteTrustRule(ctx, "ann", 1),
	} {
		wantErr(t, err, ErrNotFound)
	}
	users(t, db, "ann", "ben", "cat")
	for _, name := range []string{"z", "y", "x"} {
		newTeam(t, db, "a", name)
	}
	newTeam(t, db, "b", "y")
	wantErr(t, db.AddTeamMember(ctx, "a", "y", "none"), ErrNotFound)
	for _, name := range []string{"cat", "ann", "ben"} {
		must(t, db.AddTeamMember(ctx, "a", "y", name))
	}
	if teams, err := db.Teams(ctx, "a", "x", 1); err != nil || len(teams) != 1 || teams[0].Name != "y" || teams[0].Members != 3 || teams[0].Organization != "a" {
		t.Errorf("%+v, %v", teams, err)
	}
	wantPages(t, "members", []string{"ann", "ben", "cat"}, func(after string, n int) ([]string, error) { return db.TeamMembers(ctx, "a", "y", after, n) })
	wantErr(t, db.RemoveTeamMember(ctx, "b", "y", "ann"), ErrNotFound)
	must(t, db.RemoveTeamMember(ctx, "a", "y", "ann"))
	wantErr(t, db.RemoveTeamMember(ctx, "a", "y", "ann"), ErrNotFound)
}

func TestGrants(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	organization(t, db, "a")
	organization(t, db, "b")
	users(t, db, "ann", "ben")
	newTeam(t, db, "b", "t")
	one := grant(t, db, roleOf("ann", "a", access.Reader, "a/*"))
	two := grant(t, db, roleOf("ann", "b", access.Owner))
	three := grant(t, db, roleOf("ben", "", access.Writer))
	four := grant(t, db, &Grant{Organization: "a", TeamOrganization: "b", Created: at(3), Grant: access.Grant{Team: "t", Actions: access.Push, Tags: access.Patterns{"v*"}}})
	for _, c := range []struct {
		f    GrantFilter
		want []*Grant
	}{
		{GrantFilter{Organization: "a"}, []*Grant{one, four}},
		{GrantFilter{Account: "ann"}, []*Grant{one, two}},
		{GrantFilter{Account: "ann", Organization: "b"}, []*Grant{two}},
		{GrantFilter{Everywhere: true}, []*Grant{three}},
		{GrantFilter{Everywhere: true, Account: "ann"}, nil},
		{GrantFilter{Team: "t", TeamOrganization: "b"}, []*Grant{four}},
		{GrantFilter{Team: "t", TeamOrganization: "a"}, nil},
		{GrantFilter{Organization: "none"}, nil},
	} {
		got, err := db.Grants(ctx, c.f, 0, 10)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %d grants, %v, want %d", c.f, len(got), err, len(c.want))
		}
	}
	if got, err := db.Grants(ctx, GrantFilter{Organization: "a"}, one.ID, 1); err != nil || len(got) != 1 || got[0].ID != four.ID {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := db.Grants(ctx, GrantFilter{}, 0, 1); err == nil {
		t.Error("all grants were looked at")
	}
	for _, g := range []*Grant{{}, {Account: "ann", Grant: access.Grant{Team: "t"}}} {
		if err := db.AddGrant(ctx, g); err == nil {
			t.Errorf("%+v was added", g)
		}
	}
	// A number is looked up under its organization.
	wantErr(t, db.DeleteGrant(ctx, "b", one.ID), ErrNotFound)
	wantErr(t, db.DeleteGrant(ctx, "", one.ID), ErrNotFound)
	wantErr(t, db.DeleteGrant(ctx, "a", three.ID), ErrNotFound)
	must(t, db.DeleteGrant(ctx, "a", one.ID))
	must(t, db.DeleteGrant(ctx, "", three.ID))
	must(t, db.DeleteTeam(ctx, "b", "t"))
	if n := count(t, db, "access_grant"); n != 1 {
		t.Errorf("%d grants are left", n)
	}
}

func TestTrustRules(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	users(t, db, "ann", "ben")
	var all []*TrustRule
	for i, name := range []string{"ann", "ben", "ann"} {
		r := &TrustRule{Account: name, Issuer: fmt.Sprint("i", i%2), Rule: `{"sub":"x"}`, Created: at(int64(i))}
		must(t, db.AddTrustRule(ctx, r))
		all = append(all, r)
	}
	if got, err := db.TrustRules(ctx, "i0", 0, 10); err != nil || !reflect.DeepEqual(got, []*TrustRule{all[0], all[2]}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := db.TrustRules(ctx, "i0", all[0].ID, 10); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := db.TrustRulesOf(ctx, "ben", 0, 10); err != nil || !reflect.DeepEqual(got, all[1:2]) {
		t.Errorf("%v, %v", got, err)
	}
	wantErr(t, db.DeleteTrustRule(ctx, "ben", all[0].ID), ErrNotFound)
	must(t, db.DeleteTrustRule(ctx, "ann", all[0].ID))
	must(t, db.DeleteAccount(ctx, "ann"))
	if n := count(t, db, "trust_rule"); n != 1 {
		t.Errorf("%d rules are left", n)
	}
}

func TestSigningKeys(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	one := SigningKey{ID: "b", Private: []byte{0, 1, 255}, From: at(0), Until: at(10)}
	two := SigningKey{ID: "a", Private: []byte{2}, From: at(5), Until: at(15)}
	wantErr(t, db.AddSigningKey(ctx, one, "x"), ErrExists)
	must(t, db.AddSigningKey(ctx, one, ""))
	wantErr(t, db.AddSigningKey(ctx, two, ""), ErrExists)
	must(t, db.AddSigningKey(ctx, two, "b"))
	if all, err := db.SigningKeys(ctx); err != nil || !reflect.DeepEqual(all, []SigningKey{two, one}) {
		t.Errorf("%v, %v", all, err)
	}
	if n, err := db.DeleteSigningKeys(ctx, at(11)); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if all, err := db.SigningKeys(ctx); err != nil || len(all) != 1 || all[0].ID != "a" {
		t.Errorf("%v, %v", all, err)
	}
}

// Failures are counted exactly, whoever counts, and lock what failed by the clock of the database.
func TestFailures(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	note := func(window time.Duration, lock func(int) time.Duration, subjects ...string) {
		t.Helper()
		if err := db.NoteFailures(ctx, subjects, window, lock); err != nil {
			t.Error(err)
		}
	}
	known := func(subjects ...string) map[string]Failure {
		t.Helper()
		all, err := db.Failures(ctx, subjects)
		must(t, err)
		found := make(map[string]Failure)
		for _, f := range all {
			found[f.Subject] = f
		}
		return found
	}
	free := func(int) time.Duration { return 0 }
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			subjects := []string{"ann", "10.0.0.0/24", "ann"}
			if i%2 == 0 {
				slices.Reverse(subjects[:2])
			}
			note(time.Hour, free, subjects...)
		})
	}
	all.Wait()
	got := known("ann", "10.0.0.0/24", "none")
	if len(got) != 2 || got["ann"].Count != 10 || got["10.0.0.0/24"].Count != 10 || got["ann"].Locked != 0 || got["ann"].Ago < 0 || got["ann"].Ago > time.Hour {
		t.Errorf("%+v", got)
	}
	note(time.Hour, func(n int) time.Duration {
		if n == 11 {
			return time.Hour
		}
		return 0
	}, "ann", "new\x00")
	got = known("ann", "new\x00")
	if f := got["ann"]; f.Count != 11 || f.Locked <= 0 || f.Locked > time.Hour {
		t.Errorf("%+v", f)
	}
	if f := got["new\uFFFD"]; f.Count != 1 || f.Locked != 0 {
		t.Errorf("%+v", got)
	}
	note(time.Hour, func(int) time.Duration { return time.Second }, "ann")
	if f := known("ann")["ann"]; f.Count != 12 || f.Locked < time.Minute {
		t.Errorf("a lock became shorter: %+v", f)
	}
	note(-time.Hour, free, "ann") // every failure is older than that
	if f := known("ann")["ann"]; f.Count != 1 {
		t.Errorf("after the window: %+v", f)
	}
	if n, err := db.DeleteOldFailures(ctx, time.Hour, 10); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := db.DeleteOldFailures(ctx, -time.Hour, 1); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := db.DeleteOldFailures(ctx, -time.Hour, 10); err != nil || n != 1 || len(known("ann")) != 1 {
		t.Errorf("%d, %v: who is locked stays", n, err)
	}
	must(t, db.ClearFailures(ctx, "ann"))
	must(t, db.ClearFailures(ctx, "ann"))
	if len(known("ann")) != 0 {
		t.Error("a failure was not forgotten")
	}
}

// What can be used once is used once, whoever uses it at the same time.
func TestFirstUse(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	var all sync.WaitGroup
	var first atomic.Int64
	for range 10 {
		all.Go(func() {
			ok, err := db.FirstUse(ctx, "token")
			if err != nil {
				t.Error(err)
			}
			if ok {
				first.Add(1)
			}
		})
	}
	all.Wait()
	if first.Load() != 1 {
		t.Errorf("used %d times", first.Load())
	}
	if n, err := db.DeleteOldFailures(ctx, time.Hour, 10); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := db.DeleteOldFailures(ctx, -time.Hour, 10); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if ok, err := db.FirstUse(ctx, "token"); err != nil || !ok {
		t.Errorf("%v, %v", ok, err)
	}
}
