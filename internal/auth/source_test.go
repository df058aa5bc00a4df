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
		if _, _, err := w.a.PersonToken(ctx, &id, "laptop"); err != nil {
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
	if want = append(want, "ann token.revoke users/ann/tokens/1 laptop"); !slices.Equal(got, want) {
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
	w.mustSignIn("alice", secret) // from the same address, on the same day
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
		"alice 1 test denied team/app because false",
		"alice  denied team/app because false",
		"anonymous@192.0.2.7  sign-in nobody wrong name or password false",
		"anonymous@192.0.2.7  sign-in alice wrong name or password false",
		"alice token 1 test sign-in alice  true",
		"alice password sign-in alice  true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
