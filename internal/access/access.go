// Package access is the vocabulary of rights, and the one function that decides.
//
// What holds true: rights only add up, nothing but their absence denies; a credential narrows what its
// account may do and never widens it; the decision is a function of Facts, which are read from the database at
// once, and of the question; it says which rule it rests on.
package access

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/berthregistry/berth/internal/oci"
)

// Actions is a set of what can be done with a repository. One action is a set of one.
type Actions uint8

// The actions. Each is granted by itself.
const (
	Pull      Actions = 1 << iota // read everything of a repository
	Push                          // add blobs, manifests and new tags
	Overwrite                     // point a tag that exists to another manifest
	Delete                        // delete tags, manifests and blobs
	Admin                         // manage the organization: its members, teams, robots, grants and visibility

	None Actions = 0
	All          = Pull | Push | Overwrite | Delete | Admin
)

var actionNames = []string{"pull", "push", "overwrite", "delete", "admin"}

// Has tells whether all of the actions are in the set.
func (a Actions) Has(b Actions) bool { return a&b == b }

// String lists the actions, with commas between.
func (a Actions) String() string {
	var names []string
	for i, n := range actionNames {
		if a&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if names == nil {
		return "nothing"
	}
	return strings.Join(names, ",")
}

// Names returns the actions in order.
func (a Actions) Names() []string {
	names := make([]string, 0, bits.OnesCount8(uint8(a)))
	for i, n := range actionNames {
		if a&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}

// ParseActions reads names of actions.
func ParseActions(names []string) (Actions, error) {
	var a Actions
	for _, n := range names {
		i := slices.Index(actionNames, n)
		if i < 0 {
			return 0, fmt.Errorf("there is no action %q; there are %s", n, strings.Join(actionNames, ", "))
		}
		a |= 1 << i
	}
	return a, nil
}

// Role is a usual set of actions.
type Role string

// The roles, each with what the one before has.
const (
	Reader     Role = "reader"     // pull
	Writer     Role = "writer"     // push, overwrite
	Maintainer Role = "maintainer" // delete
	Owner      Role = "owner"      // admin
)

// Roles are all roles, the weakest first.
var Roles = [...]Role{Reader, Writer, Maintainer, Owner}

// Actions returns what a role may do; nothing if there is no such role.
func (r Role) Actions() Actions {
	switch r {
	case Reader:
		return Pull
	case Writer:
		return Pull | Push | Overwrite
	case Maintainer:
		return Pull | Push | Overwrite | Delete
	case Owner:
		return All
	}
	return None
}

// ParseRole reads the name of a role.
func ParseRole(s string) (Role, error) {
	if r := Role(s); r.Actions() != None {
		return r, nil
	}
	return "", fmt.Errorf("there is no role %q; there are reader, writer, maintainer, owner", s)
}

// Patterns match names: those that a pattern matches and no pattern behind a "!" does. * stands for anything within a part between
// slashes, ** for any number of parts, {a,b} for either. No patterns match everything; patterns that all begin with "!" match everything else.
type Patterns []string

// ParsePatterns reads patterns with spaces between.
func ParsePatterns(s string) (Patterns, error) {
	var p Patterns
	for one := range strings.FieldsSeq(s) {
		p = append(p, one)
		if bare := strings.TrimPrefix(one, "!"); bare == "" || !doublestar.ValidatePattern(bare) {
			return nil, fmt.Errorf("%q is no pattern: it is a name in which * stands for anything within a part between slashes, and ** for any number of parts", one)
		}
	}
	return p, nil
}

// String is what ParsePatterns reads.
func (p Patterns) String() string { return strings.Join(p, " ") }

// Match tells whether the patterns match a name. It allocates nothing.
func (p Patterns) Match(name string) bool {
	if len(p) == 0 {
		return true
	}
	matched, only := false, true
	for _, one := range p {
		if bare, not := strings.CutPrefix(one, "!"); not {
			if doublestar.MatchUnvalidated(bare, name) {
				return false
			}
			continue
		}
		only = false
		matched = matched || doublestar.MatchUnvalidated(one, name)
	}
	return matched || only
}

// Networks are where something is allowed from; none stands for everywhere.
type Networks []netip.Prefix

// ParseNetworks reads networks and addresses with spaces or commas between.
func ParseNetworks(s string) (Networks, error) {
	var all Networks
	for _, one := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		n, err := netip.ParsePrefix(one)
		if err != nil {
			a, addr := netip.ParseAddr(one)
			if addr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%q is no network: write it as 10.0.0.0/8 or 192.0.2.1", one)
			}
			n = netip.PrefixFrom(a, a.BitLen())
		}
		if n.Addr().Is4In6() { // clients' addresses are compared unmapped
			if n.Bits() < 96 {
				return nil, fmt.Errorf("%q is no network: write those of IPv4 as 10.0.0.0/8", one)
			}
			n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
		all = append(all, n.Masked())
	}
	return all, nil
}

// String is what ParseNetworks reads.
func (n Networks) String() string {
	texts := make([]string, len(n))
	for i, one := range n {
		texts[i] = one.String()
	}
	return strings.Join(texts, " ")
}

// Contains tells whether an address is in one of the networks.
func (n Networks) Contains(a netip.Addr) bool {
	return len(n) == 0 || slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// Organization returns the part of a repository's name that organizations are named by: the first.
func Organization(r oci.Repository) string {
	name, _, _ := strings.Cut(string(r), "/")
	return name
}

// Account is who asks.
type Account struct {
	ID       int64
	Name     string
	Robot    bool
	Admin    bool // of the whole registry
	Disabled bool
	Expires  time.Time // zero for never
	Networks Networks
	// Proof stands for the password: it changes when the password does. Empty if there is none.
	Proof string
}

// ProofOf returns the Proof of a password's hash. It tells nothing about the password.
func ProofOf(hash string) string {
	if hash == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(hash))
	return hex.EncodeToString(sum[:8])
}

// Credential is what the account proved itself with, if that narrows what it may do.
type Credential struct {
	ID           int64
	Name         string
	Actions      Actions
	Repositories Patterns
	Networks     Networks
	Expires      time.Time // zero for never
}

// Label is what logs call the credential: its ID, since names may be the same, and its name.
func (c *Credential) Label() string {
	return strings.TrimSpace(strconv.FormatInt(c.ID, 10) + " " + c.Name)
}

// Grant allows actions on repositories of an organization.
type Grant struct {
	ID           int64
	Team         string // by which it comes to the account; empty if it is the account's own
	Everywhere   bool   // it is not of an organization, but of the registry
	Repositories Patterns
	Tags         Patterns // of Push, Overwrite and Delete
	Role         Role     // empty if the actions are no role's
	Actions      Actions
}

func (g *Grant) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "grant %d", g.ID)
	if g.Team != "" {
		fmt.Fprintf(&b, " of team %s", g.Team)
	}
	if g.Role != "" {
		fmt.Fprintf(&b, " (%s", g.Role)
	} else {
		fmt.Fprintf(&b, " (%s", g.Actions)
	}
	if len(g.Repositories) > 0 {
		fmt.Fprintf(&b, " on %s", g.Repositories)
	}
	if len(g.Tags) > 0 {
		fmt.Fprintf(&b, ", tags %s", g.Tags)
	}
	b.WriteByte(')')
	return b.String()
}

// Facts are all that the database knows for a decision about an account and a repository, read at once.
type Facts struct {
	Account    *Account    // nil for who did not sign in, or whose account is gone
	Credential *Credential // nil for a password, or if it is gone
	Lost       bool        // an account or a credential was asked for and is not there
	Source     string      // where the account is kept
	SignedIn   time.Time   // when it last signed in there; zero for never, and for an account that is kept here
	Repository oci.Repository
	Exists     bool  // the repository does
	Public     *bool // the repository's own setting, if it has one
	// The organization's.
	OrganizationID     int64 // 0 if there is none
	OrganizationPublic bool
	Creation           Creation
	Grants             []Grant // of the account, there or everywhere
}

// Creation says who may make a repository by pushing to it.
type Creation string

// The settings of creation.
const (
	CreationPush   Creation = "push"   // whoever may push there
	CreationAdmin  Creation = "admin"  // whoever administers the organization
	CreationNobody Creation = "nobody" // administrators of the registry only
)

// Question is what somebody wants to do.
type Question struct {
	Action Actions // one
	Tag    oci.Tag // that is set or deleted, if any
	Client netip.Addr
	Now    time.Time
}

// Decision is the answer.
type Decision struct {
	Allowed bool
	// Unknown says that who asked must be taken for nobody: the account or credential is gone, has expired, is disabled or
	// is used from elsewhere than it may be.
	Unknown bool

	rule  string
	grant *Grant // in the place of rule, because it is seldom asked for
}

// Rule says what the decision rests on, for people.
func (d Decision) Rule() string {
	if d.grant != nil {
		return d.grant.String()
	}
	return d.rule
}

// Allow returns a decision for somebody.
func Allow(rule string) Decision { return Decision{Allowed: true, rule: rule} }

// Deny returns a decision against somebody.
func Deny(rule string) Decision { return Decision{rule: rule} }

// Unknown returns the decision that somebody must be taken for nobody.
func Unknown(rule string) Decision { return Decision{Unknown: true, rule: rule} }

// IsPublic tells whether everybody may pull from the repository.
func (f *Facts) IsPublic() bool {
	if f.Public != nil {
		return *f.Public
	}
	return f.OrganizationID != 0 && f.OrganizationPublic
}

// Known tells whether who asks is who they say, at this moment and from there; if not, Decision tells why.
func (f *Facts) Known(client netip.Addr, now time.Time) (Decision, bool) {
	switch a, c := f.Account, f.Credential; {
	case f.Lost:
		return Unknown("the account or the credential was deleted"), false
	case a == nil:
	case a.Disabled:
		return Unknown("the account is disabled"), false
	case !a.Expires.IsZero() && !now.Before(a.Expires):
		return Unknown("the account has expired"), false
	case !a.Networks.Contains(client):
		return Unknown(fmt.Sprintf("the account cannot be used from %s", client)), false
	case c == nil:
	case !c.Expires.IsZero() && !now.Before(c.Expires):
		return Unknown("the credential has expired"), false
	case !c.Networks.Contains(client):
		return Unknown(fmt.Sprintf("the credential cannot be used from %s", client)), false
	}
	return Decision{}, true
}

// Decide answers a question about the repository of the facts.
func (f *Facts) Decide(q Question) Decision {
	if d, ok := f.Known(q.Client, q.Now); !ok {
		return d
	}
	if q.Action == Pull && f.IsPublic() {
		return Allow("the repository is public")
	}
	if f.Account == nil {
		return Deny("not signed in, and the repository is not public")
	}
	if c := f.Credential; c != nil {
		switch {
		case !c.Actions.Has(q.Action):
			return Deny(fmt.Sprintf("the credential %q allows %s only", c.Name, c.Actions))
		case !c.Repositories.Match(string(f.Repository)):
			return Deny(fmt.Sprintf("the credential %q is for %s only", c.Name, c.Repositories))
		}
	}
	if f.Account.Admin {
		return Allow("an administrator of the registry")
	}
	rule := ""
	for i := range f.Grants {
		g := &f.Grants[i]
		if !g.Actions.Has(q.Action) || !g.Repositories.Match(string(f.Repository)) {
			continue
		}
		if q.Tag != "" && !g.Tags.Match(string(q.Tag)) {
			rule = g.String() + " is not for this tag"
			continue
		}
		return f.allowCreation(q, g)
	}
	if rule == "" {
		rule = fmt.Sprintf("no grant allows %s here", q.Action)
	}
	return Deny(rule)
}

// allowCreation allows what a grant does, unless it would make a repository that the account must not make.
func (f *Facts) allowCreation(q Question, g *Grant) Decision {
	if q.Action == Push && !f.Exists {
		switch {
		case f.Creation == CreationNobody:
			return Deny("the repository does not exist, and the organization lets nobody make one by pushing")
		case f.Creation == CreationAdmin && !f.administers():
			return Deny("the repository does not exist, and only an owner of the organization makes one by pushing")
		}
	}
	return Decision{Allowed: true, grant: g}
}

func (f *Facts) administers() bool {
	return slices.ContainsFunc(f.Grants, func(g Grant) bool { return g.Actions.Has(Admin) && g.Repositories.Match(string(f.Repository)) })
}
