package ldap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ldap3 "github.com/go-ldap/ldap/v3"

	"github.com/berthregistry/berth/test/service"
)

const (
	people = "ou=people," + service.LDAPSuffix
	inOU   = "ou=groups," + service.LDAPSuffix
)

// fixture is a directory server and what it is filled with.
type fixture struct {
	*service.LDAPServer
	t testing.TB
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return &fixture{service.NewLDAP(t), t}
}

// person adds an account whose password is its name, twice.
func (f *fixture) person(uid string) string {
	f.t.Helper()
	dn := "uid=" + ldap3.EscapeDN(uid) + "," + people
	f.Add(f.t, dn, map[string][]string{
		"objectClass": {"inetOrgPerson"}, "cn": {"Name of " + uid}, "sn": {uid}, "mail": {"mail@example.org"}, "userPassword": {uid + uid},
	})
	return dn
}

// group adds a group.
func (f *fixture) group(cn string, members ...string) string {
	f.t.Helper()
	dn := groupDN(cn)
	f.Add(f.t, dn, map[string][]string{"objectClass": {"groupOfNames"}, "member": members})
	return dn
}

func groupDN(cn string) string { return "cn=" + cn + "," + inOU }

func (f *fixture) options() Options {
	return Options{
		URL: f.URL, BindDN: service.LDAPAdminDN, BindPassword: service.LDAPPassword,
		UserBase: people, GroupBase: inOU,
		DialTimeout: time.Minute, BindTimeout: time.Minute, SearchTimeout: time.Minute,
	}
}

// open opens a directory that is closed with the test.
func open(t testing.TB, opts Options) *Directory {
	t.Helper()
	d, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func signIn(t testing.TB, d *Directory, name, password string) *Person {
	t.Helper()
	p, err := d.Authenticate(t.Context(), name, password)
	if err != nil {
		t.Fatalf("sign in as %q: %v", name, err)
	}
	return p
}

func refused(t testing.TB, d *Directory, name, password string) {
	t.Helper()
	p, err := d.Authenticate(t.Context(), name, password)
	if err != ErrCredentials || p != nil {
		t.Errorf("sign in as %q with %q = %v, %v, want ErrCredentials itself", name, password, p, err)
	}
}

func isUnavailable(t testing.TB, err error, says string) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), says) {
		t.Errorf("error is %v, want ErrUnavailable that says %q", err, says)
	}
	if errors.Is(err, ErrCredentials) || errors.Is(err, ErrNotFound) {
		t.Errorf("error %v is of two kinds", err)
	}
}

// ways are the ways to find an account.
func (f *fixture) ways() map[string]Options {
	search := f.options()
	anonymous := search
	anonymous.BindDN, anonymous.BindPassword = "", ""
	template := search
	template.UserBase, template.UserDN = "", "uid={{name}},"+people
	byItself := anonymous
	byItself.UserBase, byItself.UserDN = "", template.UserDN
	return map[string]Options{"search": search, "anonymous search": anonymous, "template": template, "template, read by itself": byItself}
}

func TestSignIn(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.person("alice"), f.person("bob")
	f.group("Devs", alice, bob)
	f.group("ops", alice)
	f.group("others", bob)
	for way, opts := range f.ways() {
		t.Run(way, func(t *testing.T) {
			d := open(t, opts)
			for range 2 { // the second time on the same connection
				p := signIn(t, d, "alice", "alicealice")
				if p.Name != "alice" || p.DisplayName != "Name of alice" || p.Mail != "mail@example.org" || len(p.ID) != 36 {
					t.Errorf("alice is %+v", p)
				}
				if !slices.Equal(p.Groups, []string{"devs", "ops"}) {
					t.Errorf("alice is in %q", p.Groups)
				}
				if again := signIn(t, d, "ALICE", "alicealice"); again.ID != p.ID || again.Name != "alice" {
					t.Errorf("ALICE is %+v", again)
				}
				refused(t, d, "alice", "wrong")
				refused(t, d, "alice", "bobbob")
				refused(t, d, "alice", "")
				refused(t, d, "bob", "alicealice")
				refused(t, d, "carol", "carolcarol")
				refused(t, d, "carol", "")
				refused(t, d, "", "")
				refused(t, d, "alice\x00", "alicealice")
				refused(t, d, "alice\xff", "alicealice")
				refused(t, d, strings.Repeat("a", 257), "x")
				refused(t, d, "alice", strings.Repeat("x", maxPassword+1))
			}
		})
	}
}

func TestGroupNamesAreDNs(t *testing.T) {
	f := newFixture(t)
	alice := f.person("alice")
	f.group("Devs", alice)
	f.group(`a\, b`, alice)
	opts := f.options()
	opts.GroupAttribute = "dn"
	p := signIn(t, open(t, opts), "alice", "alicealice")
	want := []string{`cn=a\, b,ou=groups,dc=example,dc=org`, "cn=devs,ou=groups,dc=example,dc=org"}
	if !slices.Equal(p.Groups, want) {
		t.Errorf("groups are %q, want %q", p.Groups, want)
	}
	if written, err := NormalDN("CN=Devs, OU=Groups , dc=Example,dc=org"); err != nil || written != want[1] {
		t.Errorf("NormalDN = %q, %v", written, err)
	}
}

// TestInjection: what somebody enters is never a part of a filter or DN.
func TestInjection(t *testing.T) {
	f := newFixture(t)
	f.person("alice")
	odd := []string{"*", "a*", "al*ce", "(alice)", `al\69ce`, `\61lice`, "alice)(uid=*", "*)(objectClass=*", "alice,ou=people", "x+uid=alice", `a"b`, "#a", "a;b<c>d", "x{{name}}", "x{{dn}}", "ü", "a=b"}
	for _, name := range odd {
		f.person(name)
	}
	for way, opts := range f.ways() {
		t.Run(way, func(t *testing.T) {
			d := open(t, opts)
			for _, name := range odd {
				// Its own password is that of the one entry that has exactly this name, which then does not suit Berth.
				if _, err := d.Authenticate(t.Context(), name, name+name); !errors.Is(err, ErrName) {
					t.Errorf("sign in as %q: %v, want ErrName", name, err)
				}
				refused(t, d, name, "alicealice")
			}
			for _, name := range []string{"**", "alice)", "(", ")", "alice)(|(uid=*", "alice,", `alice\`, "alice" + people, "uid=alice", "|", "&", "!"} {
				refused(t, d, name, "alicealice")
			}
		})
	}
}

func TestNestedGroups(t *testing.T) {
	f := newFixture(t)
	alice := f.person("alice")
	f.group("team", alice)
	f.group("department", groupDN("team"))
	f.group("company", groupDN("department"), groupDN("loop"))
	f.group("loop", groupDN("company"), groupDN("loop")) // company, loop and company again; loop in itself
	f.group("stranger", groupDN("other"))
	opts := f.options()
	for nested, want := range map[bool][]string{false: {"team"}, true: {"company", "department", "loop", "team"}} {
		opts.NestedGroups = nested
		if p := signIn(t, open(t, opts), "alice", "alicealice"); !slices.Equal(p.Groups, want) {
			t.Errorf("nested %v: groups are %q, want %q", nested, p.Groups, want)
		}
	}
}

func TestNestingIsBounded(t *testing.T) {
	f := newFixture(t)
	below := f.person("alice")
	f.Do(t, func(c *ldap3.Conn) error {
		for i := range maxDepth + 1 {
			dn := groupDN(fmt.Sprint("g", i))
			if err := c.Add(service.AddRequest(dn, map[string][]string{"objectClass": {"groupOfNames"}, "member": {below}})); err != nil {
				return err
			}
			below = dn
		}
		return nil
	})
	opts := f.options()
	opts.NestedGroups = true
	d := open(t, opts)
	_, err := d.Authenticate(t.Context(), "alice", "alicealice")
	isUnavailable(t, err, "nested more than 64 deep")
	f.Do(t, func(c *ldap3.Conn) error { return c.Del(ldap3.NewDelRequest(below, nil)) })
	if p := signIn(t, d, "alice", "alicealice"); len(p.Groups) != maxDepth {
		t.Errorf("%d groups", len(p.Groups))
	}
}

func TestManyGroups(t *testing.T) {
	const count = 1234
	f := newFixture(t)
	alice := f.person("alice")
	f.Do(t, func(c *ldap3.Conn) error {
		for i := range count {
			if err := c.Add(service.AddRequest(groupDN(fmt.Sprintf("g%05d", i)), map[string][]string{"objectClass": {"groupOfNames"}, "member": {alice}})); err != nil {
				return err
			}
		}
		return nil
	})
	for way, opts := range f.ways() {
		for _, nested := range []bool{false, true} {
			opts.NestedGroups = nested
			if way == "anonymous search" {
				_, err := open(t, opts).Authenticate(t.Context(), "alice", "alicealice")
				isUnavailable(t, err, "raise its limit")
				continue
			}
			p := signIn(t, open(t, opts), "alice", "alicealice")
			if len(p.Groups) != count || p.Groups[0] != "g00000" || p.Groups[count-1] != "g01233" {
				t.Errorf("%s, nested %v: %d groups", way, nested, len(p.Groups))
			}
		}
	}
}

// TestRightsOfTheSearcher: those that docs/ldap.md names are enough, and nobody else has them.
func TestRightsOfTheSearcher(t *testing.T) {
	f := newFixture(t)
	alice := f.person("alice")
	f.group("devs", alice)
	searcher := "cn=berth,ou=services," + service.LDAPSuffix
	f.Add(t, "ou=services,"+service.LDAPSuffix, map[string][]string{"objectClass": {"organizationalUnit"}})
	f.Add(t, searcher, map[string][]string{"objectClass": {"organizationalRole", "simpleSecurityObject"}, "userPassword": {"searching"}})
	f.Stop()
	file := filepath.Join(f.Dir, "slapd.conf")
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	config = []byte(strings.Replace(string(config), "access to * by * read", fmt.Sprintf("access to dn.subtree=%q by dn.exact=%q read by * none", service.LDAPSuffix, searcher), 1))
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Start(t)
	opts := f.options()
	opts.BindDN, opts.BindPassword = searcher, "searching"
	d := open(t, opts)
	if p := signIn(t, d, "alice", "alicealice"); !slices.Equal(p.Groups, []string{"devs"}) {
		t.Errorf("alice is %+v", p)
	}
	refused(t, d, "alice", "wrong")
	if _, err := d.Lookup(t.Context(), "nobody"); err != ErrNotFound {
		t.Errorf("Lookup of nobody: %v", err)
	}
	// Whoever may see nothing must not conclude that nothing is there.
	for way, opts := range f.ways() {
		if opts.BindDN != "" {
			continue
		}
		_, err := open(t, opts).Authenticate(t.Context(), "alice", "alicealice")
		if isUnavailable(t, err, "not there"); t.Failed() {
			t.Log(way)
		}
	}
	opts.BindDN, opts.BindPassword = alice, "alicealice"
	_, err = open(t, opts).Lookup(t.Context(), "alice")
	isUnavailable(t, err, "user base is not there")
	opts.UserBase, opts.UserDN = "", "uid={{name}},"+people
	_, err = open(t, opts).Lookup(t.Context(), "alice")
	isUnavailable(t, err, "folder of accounts is not there")
}

// TestAccountsChange: renamed, taken out of a group, removed.
func TestAccountsChange(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.person("alice"), f.person("bob")
	f.group("devs", alice, bob)
	for way, opts := range f.ways() {
		t.Run(way, func(t *testing.T) {
			d := open(t, opts)
			before := signIn(t, d, "alice", "alicealice")
			f.Do(t, func(c *ldap3.Conn) error {
				return c.ModifyDN(ldap3.NewModifyDNRequest(alice, "uid=alicia", true, ""))
			})
			refused(t, d, "alice", "alicealice")
			after := signIn(t, d, "alicia", "alicealice")
			if after.ID != before.ID || after.Name != "alicia" {
				t.Errorf("after the change of name: %+v, before it %+v", after, before)
			}
			f.Do(t, func(c *ldap3.Conn) error {
				return c.ModifyDN(ldap3.NewModifyDNRequest("uid=alicia,"+people, "uid=alice", true, ""))
			})
			f.Do(t, func(c *ldap3.Conn) error {
				m := ldap3.NewModifyRequest(groupDN("devs"), nil)
				m.Delete("member", []string{alice})
				return c.Modify(m)
			})
			if p := signIn(t, d, "alice", "alicealice"); len(p.Groups) != 0 {
				t.Errorf("groups after leaving: %q", p.Groups)
			}
			f.Do(t, func(c *ldap3.Conn) error { return c.Del(ldap3.NewDelRequest(alice, nil)) })
			refused(t, d, "alice", "alicealice")
			f.person("alice")
			if p := signIn(t, d, "alice", "alicealice"); p.ID == before.ID {
				t.Error("an account that was made anew has the old one's id")
			}
			f.Do(t, func(c *ldap3.Conn) error {
				m := ldap3.NewModifyRequest(groupDN("devs"), nil)
				m.Add("member", []string{alice})
				return c.Modify(m)
			})
		})
	}
}

func TestLookup(t *testing.T) {
	f := newFixture(t)
	alice := f.person("alice")
	f.person("odd name")
	f.group("devs", alice)
	for way, opts := range f.ways() {
		t.Run(way, func(t *testing.T) {
			d := open(t, opts)
			p, err := d.Lookup(t.Context(), "alice")
			if opts.UserDN != "" && opts.BindDN == "" {
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("Lookup without an account that may look = %v, %v", p, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if signed := signIn(t, d, "alice", "alicealice"); fmt.Sprint(signed) != fmt.Sprint(p) || !slices.Equal(p.Groups, []string{"devs"}) {
				t.Errorf("Lookup = %+v, Authenticate = %+v", p, signed)
			}
			for _, name := range []string{"carol", "", "*", "alice,ou=people", "a\nb"} {
				if p, err := d.Lookup(t.Context(), name); err != ErrNotFound {
					t.Errorf("Lookup(%q) = %v, %v, want ErrNotFound", name, p, err)
				}
			}
			if _, err := d.Lookup(t.Context(), "odd name"); !errors.Is(err, ErrName) || !strings.Contains(err.Error(), `"odd name"`) {
				t.Errorf("Lookup of a name that does not suit: %v", err)
			}
		})
	}
}

// TestNotSeenIsNotGone: a directory that does not show accounts must not look like one that has none.
func TestNotSeenIsNotGone(t *testing.T) {
	f := newFixture(t)
	f.person("alice")
	missing := "ou=missing," + service.LDAPSuffix
	for what, change := range map[string]func(*Options){
		"user base is not there":           func(o *Options) { o.UserBase = missing },
		"folder of accounts is not there":  func(o *Options) { o.UserBase, o.UserDN = "", "uid={{name}},"+missing },
		"account that searches: result 49": func(o *Options) { o.BindPassword = "wrong" },
		"account that searches: result 4":  func(o *Options) { o.BindDN = "cn=nobody," + service.LDAPSuffix },
		"group base is not there":          func(o *Options) { o.GroupBase = missing },
		"no readable attribute employeeId": func(o *Options) { o.IDAttribute = "employeeId" },
		"no readable attribute employee":   func(o *Options) { o.NameAttribute = "employee" },
		"several entries match":            func(o *Options) { o.UserFilter = "(|(uid={{name}})(objectClass=*))" },
	} {
		opts := f.options()
		change(&opts)
		d := open(t, opts)
		_, err := d.Lookup(t.Context(), "alice")
		isUnavailable(t, err, what)
		if opts.UserDN == "" { // with it, the password alone tells that there is no such account
			_, err = d.Authenticate(t.Context(), "alice", "alicealice")
			isUnavailable(t, err, what)
		}
	}
}

func TestTLS(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	f.person("alice")
	tls := func(url string, start StartTLS, ca string) Options {
		opts := f.options()
		opts.URL, opts.StartTLS, opts.CAFile = url, start, ca
		return opts
	}
	named := func(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }
	for what, opts := range map[string]Options{
		"ldaps": tls(f.TLSURL, StartTLSAuto, f.CAFile), "ldaps by name": tls(named(f.TLSURL), StartTLSAuto, f.CAFile),
		"StartTLS": tls(f.URL, StartTLSOn, f.CAFile), "StartTLS by name": tls(named(f.URL), StartTLSOn, f.CAFile),
	} {
		t.Run(what, func(t *testing.T) {
			d := open(t, opts)
			signIn(t, d, "alice", "alicealice")
			refused(t, d, "alice", "wrong")
			signIn(t, d, "alice", "alicealice")
		})
	}
	for _, opts := range []Options{tls(f.TLSURL, StartTLSAuto, other.CAFile), tls(f.URL, StartTLSOn, other.CAFile)} {
		_, err := open(t, opts).Authenticate(t.Context(), "alice", "alicealice")
		isUnavailable(t, err, "certificate signed by unknown authority")
	}
	// A certificate that is good, but for another host.
	elsewhere := open(t, tls(f.TLSURL, StartTLSAuto, f.CAFile))
	elsewhere.tls.ServerName = "ldap.example.org"
	_, err := elsewhere.Authenticate(t.Context(), "alice", "alicealice")
	isUnavailable(t, err, "certificate is valid for localhost")
	// Without a CA, nobody is trusted but whom the system trusts.
	for _, opts := range []Options{tls(f.TLSURL, StartTLSAuto, ""), tls(f.URL, StartTLSOn, "")} {
		_, err := open(t, opts).Authenticate(t.Context(), "alice", "alicealice")
		isUnavailable(t, err, "certificate signed by unknown authority")
	}
	// TLS where there is none.
	_, err = open(t, tls(strings.Replace(f.URL, "ldap:", "ldaps:", 1), StartTLSAuto, f.CAFile)).Authenticate(t.Context(), "alice", "alicealice")
	isUnavailable(t, err, "TLS")
}

// TestStartTLSByDefault: without being told, no password goes to another machine in plain text.
func TestStartTLSByDefault(t *testing.T) {
	for url, want := range map[string]bool{
		"ldap://127.0.0.1": false, "ldap://localhost:389": false, "ldap://[::1]": false, "ldaps://127.0.0.1": true,
		"ldap://ldap.example.org": true, "ldap://10.1.2.3:389": true, "ldap://localhost.example.org": true, "ldaps://ldap.example.org": true,
	} {
		d := open(t, Options{URL: url, UserBase: people})
		if (d.tls != nil) != want {
			t.Errorf("%s: TLS is %v", url, d.tls != nil)
		}
	}
	for url, want := range map[string]string{"ldap://h": "h:389", "ldaps://h": "h:636", "ldap://[::1]:1389": "[::1]:1389"} {
		if d := open(t, Options{URL: url, UserBase: people}); d.address != want {
			t.Errorf("%s: address is %s", url, d.address)
		}
	}
}

func TestServerDown(t *testing.T) {
	f := newFixture(t)
	f.person("alice")
	d := open(t, f.options())
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	signIn(t, d, "alice", "alicealice")
	for range 2 {
		f.Stop()
		_, err := d.Authenticate(t.Context(), "alice", "alicealice")
		isUnavailable(t, err, "connection refused")
		_, err = d.Lookup(t.Context(), "alice")
		isUnavailable(t, err, "connection refused")
		isUnavailable(t, d.Check(t.Context()), "connection refused")
		f.Start(t)
		signIn(t, d, "alice", "alicealice")
		refused(t, d, "alice", "wrong")
	}
	// Restarted behind the back of connections that are kept.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { signIn(t, d, "alice", "alicealice") })
	}
	all.Wait()
	f.Stop()
	f.Start(t)
	for range 8 {
		all.Go(func() { signIn(t, d, "alice", "alicealice") })
	}
	all.Wait()
}

func TestConcurrentSignIns(t *testing.T) {
	f := newFixture(t)
	const n = 6
	for i := range n {
		dn := f.person(fmt.Sprint("user", i))
		f.group(fmt.Sprint("group", i), dn)
	}
	before := runtime.NumGoroutine()
	opts := f.options()
	opts.Connections, opts.NestedGroups = 3, true
	d := open(t, opts)
	var all sync.WaitGroup
	for i := range 4 * n {
		name := fmt.Sprint("user", i%n)
		all.Go(func() {
			for range 5 {
				p, err := d.Authenticate(t.Context(), name, name+name)
				if err != nil || p.Name != name || !slices.Equal(p.Groups, []string{"group" + name[4:]}) {
					t.Errorf("%s is %+v, %v", name, p, err)
				}
				refused(t, d, name, "wrong")
				refused(t, d, "no"+name, "wrong")
				if p, err := d.Lookup(t.Context(), name); err != nil || p.Name != name {
					t.Errorf("Lookup(%s) = %v, %v", name, p, err)
				}
			}
		})
		all.Go(func() { // who gives up in the middle harms nobody
			ctx, cancel := context.WithCancel(t.Context())
			go cancel()
			if _, err := d.Authenticate(ctx, name, name+name); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("a sign-in that was given up: %v", err)
			}
		})
	}
	all.Wait()
	if open := connections(t, f.URL); open > opts.Connections {
		t.Errorf("%d connections are open, %d are allowed", open, opts.Connections)
	}
	d.Close()
	eventually(t, func() string {
		if open := connections(t, f.URL); open != 0 {
			return fmt.Sprint(open, " connections are left")
		}
		if now := runtime.NumGoroutine(); now > before {
			return fmt.Sprint(now-before, " goroutines are left")
		}
		return ""
	})
}

// connections counts this process's connections to a server.
func connections(t testing.TB, url string) (n int) {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "ldap://"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Skip("connections can only be counted with /proc")
	}
	sockets := map[string]bool{}
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			sockets[to] = true
		}
	}
	var hex string
	if number, err := net.LookupPort("tcp", port); err == nil {
		hex = fmt.Sprintf(":%04X", number)
	}
	for row := range strings.Lines(string(table)) {
		if c := strings.Fields(row); len(c) > 9 && strings.HasSuffix(c[2], hex) && sockets["socket:["+c[9]+"]"] {
			n++
		}
	}
	return n
}

// eventually waits until nothing is wrong.
func eventually(t testing.TB, wrong func() string) {
	t.Helper()
	var what string
	for range 1000 {
		if what = wrong(); what == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error(what)
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	f := newFixture(t)
	d := open(t, f.options())
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.pool.mu.Lock()
	kept := slices.Clone(d.pool.free)
	d.pool.mu.Unlock()
	if len(kept) != 1 {
		t.Fatalf("%d connections are kept", len(kept))
	}
	kept[0].expire.Reset(0)
	eventually(t, func() string {
		if open := connections(t, f.URL); open != 0 {
			return fmt.Sprint(open, " connections are open")
		}
		return ""
	})
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBadOptions(t *testing.T) {
	noCA := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noCA, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Options{URL: "ldaps://ldap.example.org", UserBase: people}
	for says, change := range map[string]func(*Options){
		"ldap://HOST:PORT":                       func(o *Options) { o.URL = "ldap.example.org" },
		"or ldaps://HOST:PORT":                   func(o *Options) { o.URL = "ldap://ldap.example.org/dc=example" },
		"the URL is not":                         func(o *Options) { o.URL = "https://ldap.example.org" },
		"no certificate in":                      func(o *Options) { o.CAFile = noCA },
		"read the certificates":                  func(o *Options) { o.CAFile = noCA + "x" },
		"no effect without TLS":                  func(o *Options) { o.URL, o.StartTLS, o.CAFile = "ldap://h", StartTLSOff, noCA },
		"needs a bind password":                  func(o *Options) { o.BindDN = "cn=admin" },
		"the other way round":                    func(o *Options) { o.BindPassword = "x" },
		"either a user DN or a user base":        func(o *Options) { o.UserBase = "" },
		"user DN or a user base":                 func(o *Options) { o.UserDN = "uid={{name}}" },
		"user base is not a DN":                  func(o *Options) { o.UserBase = "people" },
		"group base is not a DN":                 func(o *Options) { o.GroupBase = "groups" },
		"bind DN is not a DN":                    func(o *Options) { o.BindDN, o.BindPassword = "admin", "x" },
		"user DN is not a DN":                    func(o *Options) { o.UserBase, o.UserDN = "", "{{name}}" },
		"user DN must contain {{name}}":          func(o *Options) { o.UserBase, o.UserDN = "", "uid=x" },
		"{{user}} is not known":                  func(o *Options) { o.UserBase, o.UserDN = "", "uid={{name}},ou={{user}}" },
		"user filter must contain":               func(o *Options) { o.UserFilter = "(uid=x)" },
		"{{dn}} is not known":                    func(o *Options) { o.UserFilter = "(|(uid={{name}})(x={{dn}}))" },
		"not a filter":                           func(o *Options) { o.UserFilter = "uid={{name}})" },
		"the group filter: it must contain":      func(o *Options) { o.GroupFilter = "(objectClass=group)" },
		"nested groups are found by DN":          func(o *Options) { o.GroupFilter, o.NestedGroups = "(memberUid={{name}})", true },
		"{{name}} must not be in it":             func(o *Options) { o.GroupFilter, o.NestedGroups = "(|(member={{dn}})(memberUid={{name}}))", true },
		"must not be negative":                   func(o *Options) { o.Connections = -1 },
		"connections and the timeouts must not ": func(o *Options) { o.BindTimeout = -1 },
	} {
		opts := good
		change(&opts)
		if _, err := New(opts); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("New: %v, want an error that says %q", err, says)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
