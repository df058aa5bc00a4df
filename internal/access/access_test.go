package access

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		patterns string
		match    []string
		not      []string
	}{
		{"", []string{"a", "a/b/c", ""}, nil},
		{"team/app", []string{"team/app"}, []string{"team/app2", "team", "a/team/app", "team/app/x"}},
		{"team/*", []string{"team/app", "team/"}, []string{"team", "team/a/b", "teams/app"}},
		{"team/**", []string{"team/app", "team/a/b"}, []string{"teams/app", "xteam/app"}},
		{"**/app", []string{"app", "team/app", "a/b/app"}, []string{"team/apps", "app/x"}},
		{"*", []string{"a"}, []string{"a/b"}},
		{"**", []string{"a", "a/b/c"}, nil},
		{"v[0-9]*", []string{"v1", "v1.2-rc"}, []string{"v", "latest", "1v"}},
		{"a?", []string{"ab"}, []string{"a", "abc", "a/"}},
		{"!team/secret", []string{"team/app", "x"}, []string{"team/secret"}},
		{"team/* !team/secret other/*", []string{"team/app", "other/x"}, []string{"team/secret", "x/y"}},
		{"!a team/* ", []string{"team/x"}, []string{"a", "b"}},
		{"{a,b}/x", []string{"a/x", "b/x"}, []string{"c/x"}},
		{"!** a", nil, []string{"a", "b/c"}},
	} {
		p, err := ParsePatterns(c.patterns)
		if err != nil {
			t.Errorf("%q: %v", c.patterns, err)
		}
		for _, name := range c.match {
			if !p.Match(name) {
				t.Errorf("%q does not match %q", c.patterns, name)
			}
		}
		for _, name := range c.not {
			if p.Match(name) {
				t.Errorf("%q matches %q", c.patterns, name)
			}
		}
		if again, err := ParsePatterns(p.String()); err != nil || !slices.Equal(again, p) {
			t.Errorf("%q became %q, %v", c.patterns, again, err)
		}
	}
	for _, s := range []string{"!", "a [", "{a", "a\\", "x !"} {
		if p, err := ParsePatterns(s); err == nil {
			t.Errorf("%q was taken as %q", s, p)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	p := Patterns{"team/**", "*/app", "!team/secret/**", "v[0-9]*.?", "**/x/**"}
	if n := testing.AllocsPerRun(100, func() { p.Match("team/some/long/name/of/an/app") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNetworks(t *testing.T) {
	n, err := ParseNetworks("10.1.2.3/8, 192.0.2.1 2001:db8::1/32 ::1")
	if err != nil || n.String() != "10.0.0.0/8 192.0.2.1/32 2001:db8::/32 ::1/128" {
		t.Fatalf("%s, %v", n, err)
	}
	for s, want := range map[string]bool{
		"10.255.0.1": true, "::ffff:10.0.0.1": true, "192.0.2.1": true, "192.0.2.2": false, "11.0.0.1": false, "2001:db8:ffff::": true, "2001:db9::": false, "::1": true, "::2": false,
	} {
		if n.Contains(netip.MustParseAddr(s)) != want {
			t.Errorf("%s: %v", s, !want)
		}
	}
	if n.Contains(netip.Addr{}) || !(Networks{}).Contains(netip.Addr{}) || !(Networks(nil)).Contains(netip.MustParseAddr("8.8.8.8")) {
		t.Error("an unknown address is in a network, or not everywhere")
	}
	for _, s := range []string{"10", "10.0.0.0/33", "10.0.0.256", "example.com", "fe80::1%eth0", "fe80::1%eth0/64", "10.0.0.0/-1"} {
		if n, err := ParseNetworks(s); err == nil {
			t.Errorf("%q was taken as %s", s, n)
		}
	}
}

// A network written as IPv4 within IPv6 matches what it says: addresses are compared unmapped.
func TestMappedNetworks(t *testing.T) {
	for _, s := range []string{"::ffff:10.0.0.0/104", "::ffff:10.0.0.1"} {
		n, err := ParseNetworks(s)
		if err != nil || !n.Contains(netip.MustParseAddr("10.0.0.1")) || n.Contains(netip.MustParseAddr("11.0.0.1")) {
			t.Errorf("%s was taken as %s, %v", s, n, err)
		}
	}
	if n, err := ParseNetworks("::ffff:0.0.0.0/95"); err == nil {
		t.Errorf("taken as %s", n)
	}
}

func TestActions(t *testing.T) {
	for i := range All + 1 {
		a, err := ParseActions(i.Names())
		if err != nil || a != i {
			t.Errorf("%s became %s, %v", i, a, err)
		}
	}
	if None.String() != "nothing" || All.String() != "pull,push,overwrite,delete,admin" {
		t.Error(None, All)
	}
	for _, name := range []string{"", "Pull", "write"} {
		if _, err := ParseActions([]string{"pull", name}); err == nil {
			t.Errorf("%q is an action", name)
		}
	}
	last := None
	for _, r := range Roles {
		if parsed, err := ParseRole(string(r)); err != nil || parsed != r || !r.Actions().Has(last) || r.Actions() == last {
			t.Errorf("%s: %v, %v", r, r.Actions(), err)
		}
		last = r.Actions()
	}
	if _, err := ParseRole("root"); err == nil || last != All {
		t.Error("root is a role, or the owner lacks a right")
	}
}

func TestDecide(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	home := netip.MustParseAddr("10.0.0.1")
	yes, no := true, false
	user := func(change func(*Account)) *Account {
		a := &Account{ID: 1, Name: "ann"}
		if change != nil {
			change(a)
		}
		return a
	}
	token := func(change func(*Credential)) *Credential {
		c := &Credential{ID: 1, Name: "ci", Actions: All}
		if change != nil {
			change(c)
		}
		return c
	}
	grants := func(actions Actions, patterns ...string) []Grant {
		return []Grant{{ID: 1, Actions: actions, Repositories: patterns}}
	}
	elsewhere := Networks{netip.MustParsePrefix("192.0.2.0/24")}
	admin := user(func(a *Account) { a.Admin = true })
	for name, c := range map[string]struct {
		facts   Facts
		action  Actions
		tag     oci.Tag
		allowed bool
		unknown bool
		rule    string
	}{
		"anonymous, private":               {Facts{}, Pull, "", false, false, "not signed in"},
		"anonymous, public repository":     {Facts{Public: &yes}, Pull, "", true, false, "public"},
		"anonymous pushes to a public one": {Facts{Public: &yes}, Push, "", false, false, "not signed in"},
		"anonymous, public organization":   {Facts{OrganizationID: 1, OrganizationPublic: true}, Pull, "", true, false, "public"},
		"its repository is private":        {Facts{OrganizationID: 1, OrganizationPublic: true, Public: &no}, Pull, "", false, false, "not signed in"},
		"no organization is not public":    {Facts{OrganizationPublic: true}, Pull, "", false, false, "not signed in"},
		"lost":                             {Facts{Lost: true, Public: &yes}, Pull, "", false, true, "deleted"},
		"disabled, public":                 {Facts{Account: user(func(a *Account) { a.Disabled = true }), Public: &yes}, Pull, "", false, true, "disabled"},
		"disabled administrator":           {Facts{Account: user(func(a *Account) { a.Disabled, a.Admin = true, true })}, Pull, "", false, true, "disabled"},
		"expired at this moment":           {Facts{Account: user(func(a *Account) { a.Expires = now })}, Pull, "", false, true, "account has expired"},
		"expires later":                    {Facts{Account: user(func(a *Account) { a.Expires = now.Add(1) }), Grants: grants(Pull)}, Pull, "", true, false, "grant 1"},
		"from elsewhere":                   {Facts{Account: user(func(a *Account) { a.Networks = elsewhere }), Grants: grants(Pull)}, Pull, "", false, true, "10.0.0.1"},
		"no grant":                         {Facts{Account: user(nil)}, Pull, "", false, false, "no grant allows pull"},
		"reader pulls":                     {Facts{Account: user(nil), Grants: grants(Reader.Actions())}, Pull, "", true, false, "grant 1"},
		"reader pushes":                    {Facts{Account: user(nil), Grants: grants(Reader.Actions())}, Push, "", false, false, "no grant allows push"},
		"another repository":               {Facts{Account: user(nil), Grants: grants(All, "team/other")}, Pull, "", false, false, "no grant"},
		"excluded repository":              {Facts{Account: user(nil), Grants: grants(All, "!team/app")}, Pull, "", false, false, "no grant"},
		"push is not overwrite":            {Facts{Account: user(nil), Grants: grants(Push), Exists: true}, Overwrite, "v1", false, false, "no grant allows overwrite"},
		"rights add up": {Facts{Account: user(nil), Grants: append(grants(Pull), Grant{ID: 2, Team: "devs", Role: Maintainer, Actions: Maintainer.Actions()})},
			Delete, "", true, false, "grant 2 of team devs (maintainer)"},
		"administrator":                       {Facts{Account: admin}, Admin, "", true, false, "administrator"},
		"administrator with a narrow token":   {Facts{Account: admin, Credential: token(func(c *Credential) { c.Actions = Pull })}, Push, "", false, false, `credential "ci" allows pull only`},
		"administrator, token for another":    {Facts{Account: admin, Credential: token(func(c *Credential) { c.Repositories = Patterns{"x/*"} })}, Pull, "", false, false, "for x/* only"},
		"a token does not widen":              {Facts{Account: user(nil), Credential: token(nil), Grants: grants(Pull)}, Push, "", false, false, "no grant"},
		"a token narrows":                     {Facts{Account: user(nil), Credential: token(func(c *Credential) { c.Actions = Pull }), Grants: grants(All)}, Delete, "", false, false, "credential"},
		"a token that is expired":             {Facts{Account: user(nil), Credential: token(func(c *Credential) { c.Expires = now }), Grants: grants(All)}, Pull, "", false, true, "credential has expired"},
		"a token from elsewhere, public":      {Facts{Account: user(nil), Credential: token(func(c *Credential) { c.Networks = elsewhere }), Public: &yes}, Pull, "", false, true, "credential cannot be used"},
		"tag in the pattern":                  {Facts{Account: user(nil), Exists: true, Grants: []Grant{{ID: 1, Actions: All, Tags: Patterns{"v*"}}}}, Push, "v1", true, false, "tags v*"},
		"tag outside":                         {Facts{Account: user(nil), Exists: true, Grants: []Grant{{ID: 1, Actions: All, Tags: Patterns{"v*"}}}}, Push, "latest", false, false, "not for this tag"},
		"tag of another grant":                {Facts{Account: user(nil), Exists: true, Grants: []Grant{{ID: 1, Actions: All, Tags: Patterns{"v*"}}, {ID: 2, Actions: Push}}}, Push, "latest", true, false, "grant 2"},
		"makes a repository":                  {Facts{Account: user(nil), Creation: CreationPush, Grants: grants(Push)}, Push, "", true, false, "grant 1"},
		"may not make it":                     {Facts{Account: user(nil), Creation: CreationAdmin, Grants: grants(Push)}, Push, "", false, false, "only an owner"},
		"owner makes it":                      {Facts{Account: user(nil), Creation: CreationAdmin, Grants: grants(All)}, Push, "", true, false, "grant 1"},
		"nobody makes it":                     {Facts{Account: user(nil), Creation: CreationNobody, Grants: grants(All)}, Push, "", false, false, "nobody"},
		"nobody but administrators":           {Facts{Account: admin, Creation: CreationNobody}, Push, "", true, false, "administrator"},
		"it exists":                           {Facts{Account: user(nil), Creation: CreationNobody, Exists: true, Grants: grants(Push)}, Push, "", true, false, "grant 1"},
		"owner of another part makes nothing": {Facts{Account: user(nil), Creation: CreationAdmin, Grants: append(grants(Push), Grant{ID: 2, Actions: All, Repositories: Patterns{"team/x"}})}, Push, "", false, false, "only an owner"},
	} {
		c.facts.Repository = "team/app"
		d := c.facts.Decide(Question{Action: c.action, Tag: c.tag, Client: home, Now: now})
		if d.Allowed != c.allowed || d.Unknown != c.unknown || !strings.Contains(d.Rule(), c.rule) {
			t.Errorf("%s: %+v", name, d)
		}
		if known, ok := c.facts.Known(home, now); ok == c.unknown || known.Unknown != c.unknown {
			t.Errorf("%s: known is %v, %+v", name, ok, known)
		}
	}
}

func FuzzPatterns(f *testing.F) {
	for _, s := range []string{"a/* !b", "**/{a,b}", "[a-z]?", "\\", "!!", "{{a}", "[^"} {
		f.Add(s, "team/app")
	}
	f.Fuzz(func(t *testing.T, s, name string) {
		p, err := ParsePatterns(s)
		if err != nil {
			return
		}
		p.Match(name)
		again, err := ParsePatterns(p.String())
		if err != nil || !slices.Equal(again, p) || again.Match(name) != p.Match(name) {
			t.Errorf("%q became %q, %v", p, again, err)
		}
	})
}

func FuzzNetworks(f *testing.F) {
	f.Add("10.0.0.0/8, ::1", "10.0.0.1")
	f.Add("::ffff:1.2.3.4/100", "1.2.3.4")
	f.Fuzz(func(t *testing.T, s, client string) {
		n, err := ParseNetworks(s)
		if err != nil {
			return
		}
		again, err := ParseNetworks(n.String())
		if err != nil || !slices.Equal(again, n) {
			t.Errorf("%q became %q, %v", n, again, err)
		}
		if a, err := netip.ParseAddr(client); err == nil {
			n.Contains(a)
		}
	})
}
