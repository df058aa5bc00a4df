package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Administers tells whether somebody may manage an organization; an empty name stands for the whole registry. A grant or a credential that is for some of
// the organization's repositories only is not enough, since who manages can give themselves the others.
func (a *Auth) Administers(ctx context.Context, id *Identity, organization string) (access.Decision, error) {
	d, facts, err := a.Decide(ctx, id, access.Admin, oci.Repository(organization), "")
	if err != nil || d.Unknown || facts.Account == nil {
		return d, err
	}
	switch c := facts.Credential; {
	case organization == "" && !facts.Account.Admin:
		return access.Deny("not an administrator of the registry"), nil
	case !d.Allowed:
		return d, nil
	case c != nil && !covers(c.Repositories, organization):
		return access.Deny(fmt.Sprintf("the credential %q is for some repositories only", c.Name)), nil
	case facts.Account.Admin:
		return d, nil
	}
	for i := range facts.Grants {
		if g := &facts.Grants[i]; g.Actions.Has(access.Admin) && covers(g.Repositories, organization) {
			return access.Allow(g.String()), nil
		}
	}
	return access.Deny("no grant allows admin on all of the organization"), nil
}

// covers tells whether patterns match all repositories of an organization, or all of the registry for an empty name.
func covers(p access.Patterns, organization string) bool {
	if len(p) == 0 {
		return true
	}
	return !slices.ContainsFunc(p, func(one string) bool { return strings.HasPrefix(one, "!") }) &&
		(slices.Contains(p, "**") || organization != "" && slices.Contains(p, organization+"/**"))
}

// ManagesItself tells whether somebody may change what their own account proves itself with: whoever has signed in with the password, or with what
// docker keeps in its place, or at a provider, or with a token that is narrowed in nothing. Else a narrow credential could get itself a wider one.
func (a *Auth) ManagesItself(ctx context.Context, id *Identity) (access.Decision, error) {
	facts, err := a.db.Facts(ctx, id.Account, id.Credential, "")
	if err != nil {
		return access.Decision{}, err
	}
	if d := a.Judge(id, facts, access.Pull, ""); d.Unknown {
		return d, nil
	}
	switch c := facts.Credential; {
	case facts.Account == nil:
		return access.Deny("not signed in"), nil
	case facts.Account.Robot:
		return access.Deny("a robot is managed by who administers its organization"), nil
	case c == nil, c.Actions == access.All && len(c.Repositories) == 0 && len(c.Networks) == 0 && c.Expires.IsZero():
		return access.Allow("the own account"), nil
	}
	all, err := a.db.Credentials(ctx, id.Account)
	if err != nil {
		return access.Decision{}, err
	}
	if slices.ContainsFunc(all, func(c *meta.Credential) bool {
		return c.ID == id.Credential && (c.Kind == meta.RefreshCredential || c.Kind == meta.SignInCredential)
	}) {
		return access.Allow("the own account"), nil
	}
	return access.Deny("the token is limited: sign in with the password, or at the provider"), nil
}

// Explain is Decide for somebody else: an account, or nobody for 0, with a credential of it, or its password for 0. For a decision that is no, it tells
// what would have to change for a yes. Only who is privy hears that there is no such organization: to others that would tell which there are.
func (a *Auth) Explain(ctx context.Context, id *Identity, action access.Actions, r oci.Repository, tag oci.Tag, privy bool) (d access.Decision, change string, err error) {
	d, facts, err := a.Decide(ctx, id, action, r, tag)
	if err != nil || d.Allowed {
		return d, "", err
	}
	if !privy && facts.OrganizationID == 0 {
		some := *facts
		some.OrganizationID, facts = -1, &some
	}
	q := access.Question{Action: action, Tag: tag, Client: id.Client, Now: a.opts.Now()}
	return d, remedy(facts, q), nil
}

// remedy tells what would turn a no into a yes, by trying it.
func remedy(facts *access.Facts, q access.Question) string {
	organization := access.Organization(facts.Repository)
	f := *facts
	var parts []string
	try := func(part string, change func()) bool {
		if d := f.Decide(q); d.Allowed {
			return true
		}
		change()
		parts = append(parts, part)
		return f.Decide(q).Allowed
	}
	switch c := f.Credential; {
	case f.Lost:
		return "sign in with an account and a credential that exist"
	case f.Account == nil:
		if q.Action == access.Pull {
			return "sign in with an account that may, or make the repository public"
		}
		return "sign in with an account that may"
	case c != nil && (!c.Actions.Has(q.Action) || !c.Repositories.Match(string(f.Repository)) || !c.Networks.Contains(q.Client) ||
		!c.Expires.IsZero() && !q.Now.Before(c.Expires)):
		if try("use a credential that is for this action and repository, has not expired and can be used from this network", func() { f.Credential = nil }) {
			return strings.Join(parts, "; ")
		}
	}
	account := *f.Account
	f.Account = &account
	if account.Disabled {
		try("enable the account", func() { account.Disabled = false })
	}
	if !account.Expires.IsZero() && !q.Now.Before(account.Expires) {
		try("let the account expire later", func() { account.Expires = account.Expires.AddDate(1000, 0, 0) })
	}
	if !account.Networks.Contains(q.Client) {
		try("allow the account to be used from this network", func() { account.Networks = nil })
	}
	if f.Decide(q).Allowed {
		return strings.Join(parts, "; ")
	}
	if q.Tag != "" {
		without := q
		without.Tag = ""
		if f.Decide(without).Allowed {
			return strings.Join(append(parts, "grant "+q.Action.String()+" for tags of this kind"), "; ")
		}
	}
	granted := f
	granted.Grants = append(slices.Clone(f.Grants), access.Grant{Actions: q.Action})
	switch {
	case f.OrganizationID == 0:
		parts = append(parts, "make the organization "+organization+", and grant "+q.Action.String()+" there")
	case granted.Decide(q).Allowed:
		parts = append(parts, "grant "+q.Action.String()+" in the organization "+organization+", to the account or to a team of it")
	default:
		parts = append(parts, "make the repository with an account that may, or let pushes make repositories in the organization "+organization)
	}
	return strings.Join(parts, "; ")
}
