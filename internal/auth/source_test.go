package auth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ldap3 "github.com/go-ldap/ldap/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth/htpasswd"
	"github.com/berthregistry/berth/internal/auth/ldap"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

// file is a source of names whose password is password.
func (w *world) file(names ...string) (source Htpasswd, path string) {
	w.Helper()
	path = filepath.Join(w.TempDir(), "htpasswd")
	w.write(path, names...)
	f, err := htpasswd.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		w.Fatal(err)
	}
	return Htpasswd{f}, path
}

func (w *world) write(path string, names ...string) {
	w.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		w.Fatal(err)
	}
	text := ""
	for _, n := range names {
		text += n + ":" + string(hash) + "\n"
	}
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		w.Fatal(err)
	}
}

func TestHtpasswdSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	source, path := w.file("ann", "local")
	w.a.opts.Sources = []Source{source}
	w.user("local")
	id := w.mustSignIn("ann", password)
	if again := w.mustSignIn("ann", password); again.Account != id.Account {
		t.Error("who comes twice gets two accounts")
	}
	w.organization("team", "ann", access.Writer)
	header := "Bearer " + w.token(w.a, id, "repository:team/app:pull,push")
	if !w.may(w.a, header, access.Push, "team/app") || !w.may(w.a, basic("ann", password), access.Push, "team/app") {
		t.Error("ann may not push")
	}
	// An account that is kept here is asked for here only: its name in a file opens nothing.
	if err := w.db.ChangeAccount(t.Context(), "local", func(a *meta.Account) error {
		a.Password = hashPassword("something else")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.signIn("local", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("local: %v", err)
	}
	// Who is taken out of the file loses what is left at the next look.
	w.write(path, "local")
	result, err := w.a.Sync(t.Context())
	if err != nil || result != "1 accounts asked about, 1 disabled" {
		t.Errorf("%s, %v", result, err)
	}
	if w.may(w.a, header, access.Push, "team/app") || w.may(w.a, basic("ann", password), access.Push, "team/app") {
		t.Error("ann may still push")
	}
	// Coming back is for an administrator to allow.
	w.write(path, "ann", "local")
	if result, err := w.a.Sync(t.Context()); err != nil || result != "0 accounts asked about, 0 disabled" {
		t.Errorf("%s, %v", result, err)
	}
	if _, err := w.signIn("ann", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("ann: %v", err)
	}
}

func TestLDAPSource(t *testing.T) {
	t.Parallel()
	server := service.NewLDAP(t)
	add := func(uid string) string {
		dn := "uid=" + uid + ",ou=people," + service.LDAPSuffix
		server.Add(t, dn, map[string][]string{"objectClass": {"inetOrgPerson"}, "cn": {"Name of " + uid}, "sn": {uid}, "userPassword": {password}})
		return dn
	}
	bea := add("bea")
	server.Add(t, "cn=devs,ou=groups,"+service.LDAPSuffix, map[string][]string{"objectClass": {"groupOfNames"}, "member": {bea}})
	directory, err := ldap.New(ldap.Options{URL: server.URL, BindDN: service.LDAPAdminDN, BindPassword: service.LDAPPassword,
		UserBase: "ou=people," + service.LDAPSuffix, GroupBase: "ou=groups," + service.LDAPSuffix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	w := newWorld(t)
	file, _ := w.file("ann")
	w.a.opts.Sources = []Source{file, LDAP{directory}}
	w.organization("team", w.mustUser("root"), access.Owner)
	ctx := t.Context()
	// A team has the members of a group.
	if err := errors.Join(w.db.CreateTeam(ctx, &meta.Team{Organization: "team", Name: "core", Created: w.now()}),
		w.db.SetTeamGroups(ctx, "team", "core", "ldap", []string{"devs"}),
		w.db.AddGrant(ctx, &meta.Grant{Organization: "team", Grant: access.Grant{Team: "core", Role: access.Writer, Actions: access.Writer.Actions()}})); err != nil {
		t.Fatal(err)
	}
	header := "Bearer " + w.token(w.a, w.mustSignIn("bea", password), "repository:team/app:pull,push")
	if !w.may(w.a, header, access.Push, "team/app") {
		t.Fatal("a member of the group may not push")
	}
	if a, err := w.db.Account(ctx, "bea"); err != nil || a.DisplayName != "Name of bea" || a.Source != "ldap" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := w.signIn("bea", "wrong"); !errors.Is(err, ErrCredentials) {
		t.Errorf("a wrong password: %v", err)
	}
	w.mustSignIn("ann", password) // of the other source
	if d, err := w.a.ManagesItself(ctx, w.mustSignIn("bea", password)); err != nil || !d.Allowed {
		t.Errorf("whoever has signed in at the directory cannot make tokens: %+v, %v", d, err)
	}
	// Out of the group, and after the next look out of the rights.
	server.Do(t, func(c *ldap3.Conn) error {
		return c.Del(ldap3.NewDelRequest("cn=devs,ou=groups,"+service.LDAPSuffix, nil))
	})
	if _, err := w.a.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if w.may(w.a, header, access.Push, "team/app") {
		t.Error("who was taken out of the group may still push")
	}
	// A directory that is down takes nothing away, and does not keep others from signing in.
	server.Stop()
	if _, err := w.a.Sync(ctx); err == nil {
		t.Error("a directory that is down was asked")
	}
	if a, err := w.db.Account(ctx, "bea"); err != nil || a.Disabled {
		t.Errorf("%+v, %v", a, err)
	}
	w.pass(verifiedFor)
	if _, err := w.signIn("bea", password); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the directory is down: %v", err)
	}
	w.mustSignIn("ann", password)
	w.mustSignIn("root", password)
	// Gone for good.
	server.Start(t)
	server.Do(t, func(c *ldap3.Conn) error { return c.Del(ldap3.NewDelRequest(bea, nil)) })
	if result, err := w.a.Sync(ctx); err != nil || result != "2 accounts asked about, 1 disabled" {
		t.Errorf("%s, %v", result, err)
	}
	if _, err := w.signIn("bea", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("bea: %v", err)
	}
}

// An entry that cannot be read, and a directory that is down, do not keep others from being taken away.
func TestSyncGoesOn(t *testing.T) {
	t.Parallel()
	server := service.NewLDAP(t)
	add := func(uid string) (dn string) {
		dn = "uid=" + uid + ",ou=people," + service.LDAPSuffix
		server.Add(t, dn, map[string][]string{"objectClass": {"inetOrgPerson"}, "cn": {uid}, "sn": {uid}, "userPassword": {password}})
		return dn
	}
	add("bea")
	cleo := add("cleo")
	directory, err := ldap.New(ldap.Options{URL: server.URL, BindDN: service.LDAPAdminDN, BindPassword: service.LDAPPassword, UserBase: "ou=people," + service.LDAPSuffix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	w := newWorld(t)
	file, path := w.file("dora", "eve")
	w.a.opts.Sources = []Source{file, LDAP{directory}}
	for _, name := range []string{"bea", "cleo", "dora", "eve"} {
		w.mustSignIn(name, password)
	}
	// Two entries are bea now.
	server.Add(t, "cn=two,ou=people,"+service.LDAPSuffix, map[string][]string{"objectClass": {"inetOrgPerson"}, "sn": {"two"}, "uid": {"bea"}})
	server.Do(t, func(c *ldap3.Conn) error { return c.Del(ldap3.NewDelRequest(cleo, nil)) })
	w.write(path, "eve")
	if result, err := w.a.Sync(t.Context()); result != "4 accounts asked about, 2 disabled" || err == nil || !strings.Contains(err.Error(), "account bea") {
		t.Errorf("%s, %v", result, err)
	}
	w.write(path)
	server.Stop()
	if result, err := w.a.Sync(t.Context()); result != "2 accounts asked about, 1 disabled" || err == nil {
		t.Errorf("%s, %v", result, err)
	}
}

// Who is renamed in the directory stays who they are; whoever gets the name then is somebody else.
func TestRenamedInTheDirectory(t *testing.T) {
	t.Parallel()
	server := service.NewLDAP(t)
	add := func(uid string) {
		server.Add(t, "uid="+uid+",ou=people,"+service.LDAPSuffix, map[string][]string{"objectClass": {"inetOrgPerson"}, "cn": {uid}, "sn": {uid}, "userPassword": {password}})
	}
	rename := func(from, to string) {
		server.Do(t, func(c *ldap3.Conn) error {
			return c.ModifyDN(ldap3.NewModifyDNRequest("uid="+from+",ou=people,"+service.LDAPSuffix, "uid="+to, true, ""))
		})
	}
	add("bea")
	directory, err := ldap.New(ldap.Options{URL: server.URL, BindDN: service.LDAPAdminDN, BindPassword: service.LDAPPassword,
		UserBase: "ou=people," + service.LDAPSuffix, UserFilter: "(&(uid={{name}})(!(description=off)))"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(directory.Close)
	w := newWorld(t)
	w.a.opts.Sources = []Source{LDAP{directory}}
	account := w.mustSignIn("bea", password).Account
	sync := func(want string) {
		t.Helper()
		if result, err := w.a.Sync(t.Context()); err != nil || result != want {
			t.Errorf("%s, %v, expected %s", result, err, want)
		}
	}
	rename("bea", "beatrice")
	sync("1 accounts asked about, 0 disabled")
	add("bea")
	sync("1 accounts asked about, 0 disabled")
	if id := w.mustSignIn("beatrice", password); id.Account != account || id.Name != "bea" {
		t.Errorf("%+v", id)
	}
	w.pass(2 * verifiedFor)
	if _, err := w.signIn("bea", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("somebody else has the account: %v", err)
	}
	// One that the filter leaves out is gone under any name.
	server.Do(t, func(c *ldap3.Conn) error {
		m := ldap3.NewModifyRequest("uid=beatrice,ou=people,"+service.LDAPSuffix, nil)
		m.Add("description", []string{"off"})
		return c.Modify(m)
	})
	sync("1 accounts asked about, 1 disabled")
}

// mustUser is user, and returns the name.
func (w *world) mustUser(name string) string {
	w.Helper()
	w.user(name)
	return name
}

// Who guesses is slowed down, by account and by network, and nobody can lock out those with tokens.
func TestGuessing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.user("alice")
	w.user("bob")
	pat := w.credential(alice, meta.TokenCredential, nil)
	other := w.node()
	for range accountFailures {
		if _, err := w.signIn("alice", "a wrong guess"); !errors.Is(err, ErrCredentials) {
			t.Fatal(err)
		}
	}
	for i, node := range []*Auth{w.a, other} {
		_, err := node.SignIn(t.Context(), "alice", password, here)
		if locked, ok := errors.AsType[*LockedError](err); !ok || locked.For <= 0 || locked.For > accountLock {
			t.Errorf("node %d: %v", i, err)
		}
	}
	w.mustSignIn("alice", pat)
	w.mustSignIn("bob", password)
	// Whoever knows the password is let in after the time.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := w.signIn("alice", password); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if f, err := w.db.Failures(t.Context(), []string{accountSubject("alice")}); err != nil || len(f) != 0 {
		t.Errorf("after a success, %+v, %v", f, err)
	}
	// One network tries many names.
	far := netip.MustParseAddr("2001:db8::1")
	var err error
	for range networkFailures {
		_, err = w.a.SignIn(t.Context(), "x"+time.Now().Format("150405.000000000"), "a wrong guess", far)
	}
	if !errors.Is(err, ErrCredentials) {
		t.Fatal(err)
	}
	if _, err := w.a.SignIn(t.Context(), "bob", "never seen before", netip.MustParseAddr("2001:db8::ffff")); err == nil || errors.Is(err, ErrCredentials) {
		t.Errorf("a neighbour in the same network: %v", err)
	}
	if _, err := w.signIn("bob", "never seen before"); !errors.Is(err, ErrCredentials) {
		t.Errorf("another network: %v", err)
	}
}

// A directory knows one account by many spellings, none of which is another chance.
func TestSpellingsAreOneAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice")
	for _, name := range []string{"alice", "ALICE", " alice", "Alice ", "al ice"} {
		if _, err := w.signIn(name, "a wrong guess"); !errors.Is(err, ErrCredentials) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if _, ok := errors.AsType[*LockedError](second(w.signIn("alice", password))); !ok {
		t.Error("who guesses by other spellings is not slowed down")
	}
	for _, name := range []string{"al\u00adice", "\uff41lice", "\xff", strings.Repeat("a", 65)} {
		if got := accountSubject(name); got != accountSubject("") {
			t.Errorf("%q is %q", name, got)
		}
	}
}

func TestLockFor(t *testing.T) {
	for count, want := range map[int]time.Duration{0: 0, 4: 0, 5: time.Second, 6: 2 * time.Second, 10: 32 * time.Second, 30: time.Minute, 1 << 30: time.Minute} {
		if got := lockFor(count, 5, time.Minute); got != want {
			t.Errorf("after %d failures: %s, expected %s", count, got, want)
		}
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.a.opts.KeepAudit = expiredShown + time.Hour
	account := w.user("alice")
	w.mustSignIn("alice", password)
	w.credential(account, meta.TokenCredential, func(c *meta.Credential) { c.Expires = w.now().Add(time.Hour) })
	w.credential(account, meta.TokenCredential, nil)
	w.pass(expiredShown)
	if result, err := w.a.Forget(t.Context()); err != nil || result != "0 failed sign-ins, 0 credentials, 0 entries of the audit log" {
		t.Errorf("%s, %v", result, err)
	}
	w.pass(2 * time.Hour)
	if result, err := w.a.Forget(t.Context()); err != nil || result != "0 failed sign-ins, 1 credentials, 1 entries of the audit log" {
		t.Errorf("%s, %v", result, err)
	}
}

// What has not been forwarded yet is not deleted, and that is said.
func TestForgetForwarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.a.opts.KeepAudit, w.a.opts.ForwardAudit = time.Hour, []string{"syslog", "file"}
	w.user("alice")
	for range 3 {
		w.mustSignIn("alice", password)
		w.pass(2 * verifiedFor)
	}
	w.pass(2 * time.Hour)
	for _, step := range []struct {
		receiver string
		arrived  int64
		want     string
	}{
		{"syslog", 2, "0 entries of the audit log; older ones are kept, because they have not been forwarded"},
		{"file", 1, "1 entries of the audit log; older ones are kept, because they have not been forwarded"},
		{"file", 3, "1 entries of the audit log; older ones are kept, because they have not been forwarded"},
		{"syslog", 3, "1 entries of the audit log"},
	} {
		if err := w.db.SetAuditForwarded(t.Context(), step.receiver, step.arrived); err != nil {
			t.Fatal(err)
		}
		if result, err := w.a.Forget(t.Context()); err != nil || result != "0 failed sign-ins, 0 credentials, "+step.want {
			t.Errorf("when %s has %d: %s, %v", step.receiver, step.arrived, result, err)
		}
	}
}

// Accounts that a source makes, and those that it has no more, are in the audit log.
func TestSourcesAreNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	id, err := w.a.signedIn(ctx, "oidc:corp", &Person{Subject: "7", Name: "ann"}, w.now())
	if err != nil {
		t.Fatal(err)
	}
	id.Client = here
	for range maxPersonTokens + 1 {
		if _, _, err := w.a.PersonToken(ctx, &id, "corp", "laptop"); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	entries, _, err := w.db.AuditAfter(ctx, meta.AuditFilter{}, meta.AuditPlace{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %s %s %s", e.Actor, e.Action, e.Object, e.Detail))
	}
	want := []string{"oidc:corp user.create users/ann "}
	for i := range maxPersonTokens + 1 {
		want = append(want, fmt.Sprintf("ann token.create users/ann/tokens/%d laptop", i+1))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// Sign-ins are in the audit log, also those that fail, and no secret is.
func TestSignInsAreNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.user("alice")
	secret := w.credential(alice, meta.TokenCredential, nil)
	w.mustSignIn("alice", password)
	w.mustSignIn("alice", password) // is remembered
	w.mustSignIn("alice", secret)
	w.pass(2 * verifiedFor)
	w.mustSignIn("alice", secret)                    // from the same address, on the same day
	alicePassword := w.mustSignIn("alice", password) // after a while, and so that it is remembered
	if _, err := w.a.Refresh(t.Context(), alicePassword, "docker"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "nobody"} {
		if _, err := w.signIn(name, "a wrong guess"); !errors.Is(err, ErrCredentials) {
			t.Fatal(err)
		}
	}
	w.a.NoteDenied(t.Context(), &Identity{Account: alice, Name: "alice", Client: here}, "team/app", "because")
	w.a.NoteDenied(t.Context(), &Identity{Account: alice, Credential: 1, Name: "alice", Client: here}, "team/app", "because")
	if err := w.db.ChangeAccount(t.Context(), "alice", func(a *meta.Account) error { a.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	// Not before the password is checked again: what is remembered does not stand either.
	if _, err := w.signIn("alice", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("a disabled account: %v", err)
	}
	if id, err := identify(t, w.a, basic("alice", secret)); err != nil {
		t.Error(err)
	} else if err := w.a.Stands(t.Context(), &id); !errors.Is(err, ErrCredentials) {
		t.Errorf("a token of a disabled account: %v", err)
	}
	// Who has the token has not guessed it: it is noted once, and whatever a CI system repeats locks nobody out.
	for range 2 * networkFailures {
		if _, err := w.signIn("alice", secret); !errors.Is(err, ErrCredentials) {
			t.Fatalf("a token of a disabled account: %v", err)
		}
		w.pass(time.Second)
	}
	w.pass(2 * verifiedFor)
	if _, err := w.signIn("alice", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("a disabled account: %v", err)
	}
	entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		text := fmt.Sprintf("%s %s %s %s %s %t", e.Actor, e.Credential, e.Action, e.Object, e.Detail, e.Allowed)
		got = append(got, text)
		for _, hidden := range []string{password, secret, "guess"} {
			if strings.Contains(text, hidden) {
				t.Errorf("%q has %q in it", text, hidden)
			}
		}
	}
	want := []string{
		"alice password sign-in alice the account is disabled false",
		"alice token 1 test sign-in alice the account is disabled false",
		"alice password sign-in alice the account is disabled false",
		"alice 1 test denied team/app because false",
		"alice  denied team/app because false",
		"anonymous@192.0.2.7  sign-in nobody wrong name or password false",
		"anonymous@192.0.2.7  sign-in alice wrong name or password false",
		"alice  token.create users/alice/tokens/2 docker true",
		"alice password sign-in alice  true",
		"alice token 1 test sign-in alice  true",
		"alice password sign-in alice  true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// What somebody has who signs in at a provider ends with the sign-in, whoever made it, and goes on with the next one.
func TestSignInLifetime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const day = 24 * time.Hour
	w.a.opts.SignInLifetime = map[string]time.Duration{PeopleSource("corp"): 30 * day}
	ctx := t.Context()
	person := &oidc.Person{Subject: "u-1", Name: "ann"}
	signIn := func() string {
		t.Helper()
		id, err := w.a.SignInPerson(ctx, "corp", person, here)
		if err != nil {
			t.Fatal(err)
		}
		secret, expires, err := w.a.PersonToken(ctx, &id, "corp", "signed in with Corp")
		if err != nil || expires.Sub(w.now()) > 30*day || expires.Sub(w.now()) < 29*day {
			t.Fatalf("until %s, %v", expires, err)
		}
		return secret
	}
	manages := func(secret string) bool {
		t.Helper()
		d, err := w.a.ManagesItself(ctx, w.mustSignIn("ann", secret))
		if err != nil {
			t.Fatal(err)
		}
		return d.Allowed
	}
	first := signIn()
	account := w.mustSignIn("ann", first).Account
	w.organization("team", "ann", access.Writer)
	if !manages(first) {
		t.Error("who has signed in at the provider cannot make tokens")
	}
	own := w.credential(account, meta.TokenCredential, nil)
	narrow := w.credential(account, meta.TokenCredential, func(c *meta.Credential) { c.Expires = w.now().Add(90 * day) })
	if !manages(own) || manages(narrow) {
		t.Error("what a token can make others with does not depend on its limits")
	}
	may := func(header string) bool { return w.may(w.a, header, access.Push, "team/app") }
	w.pass(30*day - time.Hour)
	bearer := "Bearer " + w.token(w.a, w.mustSignIn("ann", own), "repository:team/app:pull,push")
	if !may(bearer) || !may(basic("ann", own)) || !may(basic("ann", narrow)) || !may(basic("ann", first)) {
		t.Error("a token ends before the sign-in does")
	}
	w.pass(time.Hour - time.Minute)
	bearer = "Bearer " + w.token(w.a, w.mustSignIn("ann", own), "repository:team/app:pull,push")
	w.pass(2 * time.Minute)
	if may(bearer) || may(basic("ann", own)) || may(basic("ann", narrow)) || may(basic("ann", first)) {
		t.Error("a token goes on after the sign-in has ended")
	}
	again, ok := errors.AsType[*SignInAgainError](second(w.signIn("ann", own)))
	if !ok || again.Name != "ann" || !errors.Is(again, ErrCredentials) || !strings.Contains(Refusal(again), "berth login --sso") {
		t.Errorf("%v", again)
	}
	// Nobody hears more than that it is wrong who has the wrong secret, or an account that is disabled.
	if err := second(w.signIn("ann", "berth_sso_nothing")); err == nil || Refusal(err) != ErrCredentials.Error() {
		t.Errorf("%v", err)
	}
	signIn()
	if !may(basic("ann", own)) || !may(basic("ann", narrow)) || may(basic("ann", first)) {
		t.Error("after a new sign-in, not all tokens work but the one of the old")
	}
	// A provider that is not known any more lets nobody in for longer.
	configured := w.a.opts.SignInLifetime
	w.a.opts.SignInLifetime = nil
	w.pass(29 * day)
	if !may(basic("ann", own)) {
		t.Error("a token ends before the sign-in at a provider that was taken out")
	}
	w.pass(2 * day)
	if may(basic("ann", own)) {
		t.Error("a token goes on after the sign-in at a provider that was taken out")
	}
	w.a.opts.SignInLifetime = configured
	// Who is kept here, or by a source without a limit, does not have to come back.
	w.user("local")
	secret := w.credential(w.mustSignIn("local", password).Account, meta.TokenCredential, nil)
	w.pass(1000 * day)
	w.mustSignIn("local", secret)
	if _, err := w.a.SignInPerson(ctx, "corp", person, here); err != nil {
		t.Fatal(err)
	}
	if err := w.db.ChangeAccount(ctx, "ann", func(a *meta.Account) error { a.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	w.pass(31 * day)
	if err := second(w.signIn("ann", own)); err == nil || Refusal(err) != ErrCredentials.Error() {
		t.Errorf("%v", err)
	}
}

func second[T any](_ T, err error) error { return err }
