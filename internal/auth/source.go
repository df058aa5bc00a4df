package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth/htpasswd"
	"github.com/berthregistry/berth/internal/auth/ldap"
	"github.com/berthregistry/berth/internal/meta"
)

// Source keeps accounts elsewhere. Whoever signs in there for the first time gets an account here, with the same name, to which
// rights are given. All methods may be called concurrently.
type Source interface {
	// Name is what the source is called in the database.
	Name() string
	// SignIn returns who has a name and a password. It fails with ErrCredentials for a wrong name or password.
	SignIn(ctx context.Context, name, password string) (*Person, error)
	// Lookup returns who has a subject, and mostly still a name. It fails with meta.ErrNotFound if nobody has the subject any more.
	Lookup(ctx context.Context, subject, name string) (*Person, error)
	// Check fails if nobody can be looked up at this moment.
	Check(ctx context.Context) error
}

// Person is an account as its source has it.
type Person struct {
	Subject     string // what stays when the name changes
	Name        string
	DisplayName string
	Mail        string
	Groups      []string // nil if the source knows none
}

// LDAP is a Source of a directory.
type LDAP struct{ Directory *ldap.Directory }

// Name implements Source.
func (LDAP) Name() string { return "ldap" }

// SignIn implements Source.
func (l LDAP) SignIn(ctx context.Context, name, password string) (*Person, error) {
	return ldapPerson(l.Directory.Authenticate(ctx, name, password))
}

// Lookup implements Source.
func (l LDAP) Lookup(ctx context.Context, subject, name string) (*Person, error) {
	p, err := l.Directory.Lookup(ctx, name)
	if errors.Is(err, ldap.ErrNotFound) || err == nil && p.ID != subject {
		p, err = l.Directory.LookupID(ctx, subject) // renamed
	}
	return ldapPerson(p, err)
}

// Check implements Source.
func (l LDAP) Check(ctx context.Context) error { return l.Directory.Check(ctx) }

func ldapPerson(p *ldap.Person, err error) (*Person, error) {
	switch {
	case errors.Is(err, ldap.ErrCredentials):
		return nil, ErrCredentials
	case errors.Is(err, ldap.ErrNotFound):
		return nil, meta.ErrNotFound
	case err != nil:
		return nil, err
	}
	groups := p.Groups
	if groups == nil {
		groups = []string{}
	}
	return &Person{Subject: p.ID, Name: p.Name, DisplayName: p.DisplayName, Mail: p.Mail, Groups: groups}, nil
}

// Htpasswd is a Source of a file.
type Htpasswd struct{ File *htpasswd.File }

// Name implements Source.
func (Htpasswd) Name() string { return "htpasswd" }

// SignIn implements Source.
func (h Htpasswd) SignIn(ctx context.Context, name, password string) (*Person, error) {
	err := h.File.Authenticate(ctx, name, password)
	if errors.Is(err, htpasswd.ErrCredentials) {
		return nil, ErrCredentials
	}
	if err != nil {
		return nil, err
	}
	return &Person{Subject: name, Name: name}, nil
}

// Lookup implements Source.
func (h Htpasswd) Lookup(_ context.Context, subject, _ string) (*Person, error) {
	if !slices.Contains(h.File.Names(), subject) {
		return nil, meta.ErrNotFound
	}
	return &Person{Subject: subject, Name: subject}, nil
}

// Check implements Source. A file that cannot be read counts as it was.
func (Htpasswd) Check(context.Context) error { return nil }

// bySources signs in somebody whose account is kept elsewhere: where it is known to be, or else at the first source that
// knows it. A source that cannot be asked does not keep others from being asked.
func (a *Auth) bySources(ctx context.Context, account *meta.Account, name, password string, now time.Time) (Identity, error) {
	failed := ErrCredentials
	for _, s := range a.opts.Sources {
		if account != nil && account.Source != s.Name() {
			continue
		}
		p, err := s.SignIn(ctx, name, password)
		if err == nil {
			return a.signedIn(ctx, s.Name(), p, now)
		}
		if !errors.Is(err, ErrCredentials) {
			a.opts.Log.Error("a source of accounts failed", "source", s.Name(), "error", err)
			failed = errSource
		}
	}
	return Identity{}, failed
}

// errSource: a source could not be asked, so nobody knows whether the credentials are right.
var errSource = fmt.Errorf("%w: a directory that knows the account cannot be asked at this moment", ErrUnavailable)

// signedIn returns the identity of somebody whom a source knows, and makes the account when they come for the first time.
func (a *Auth) signedIn(ctx context.Context, source string, p *Person, now time.Time) (Identity, error) {
	account, err := a.db.AccountOf(ctx, source, p.Subject)
	if errors.Is(err, meta.ErrNotFound) {
		if p.Name == anyName || p.Name == anonymous {
			return Identity{}, &NameTakenError{p.Name}
		}
		account = &meta.Account{Account: access.Account{Name: p.Name}, Source: source, Subject: p.Subject, DisplayName: p.DisplayName, Mail: p.Mail, Created: now}
		if err = a.changes(source, "user.create", p.Name, "").CreateAccount(ctx, account); errors.Is(err, meta.ErrExists) {
			if account, err = a.db.AccountOf(ctx, source, p.Subject); errors.Is(err, meta.ErrNotFound) { // else another request was first
				a.opts.Log.Warn("the name of somebody who signs in belongs to another account", "name", p.Name, "source", source)
				return Identity{}, &NameTakenError{p.Name}
			}
		}
	}
	if err != nil {
		return Identity{}, err
	}
	if err := a.follow(ctx, account, p); err != nil {
		return Identity{}, err
	}
	if err := a.db.SignedIn(ctx, account.ID, source, p.Groups, now); err != nil {
		return Identity{}, err
	}
	return Identity{Account: account.ID, Name: account.Name}, nil
}

// follow takes over what a source says of an account, its name aside: rights and references hang on that.
func (a *Auth) follow(ctx context.Context, account *meta.Account, p *Person) error {
	if account.DisplayName == p.DisplayName && account.Mail == p.Mail {
		return nil
	}
	return a.db.ChangeAccount(ctx, account.Name, func(c *meta.Account) error {
		c.DisplayName, c.Mail = p.DisplayName, p.Mail
		return same(c, account)
	})
}

// same refuses to change an account that has only the name of one that is gone.
func same(c, account *meta.Account) error {
	if c.ID != account.ID {
		return meta.ErrNotFound
	}
	return nil
}

// Sync is a periodic job: it asks the sources about their accounts. Who is not there any more is disabled here, so that tokens
// of theirs end, too; who comes back is enabled by an administrator. Groups are taken over. An account that cannot be looked up, or a source that is
// down, does not keep the others from that.
func (a *Auth) Sync(ctx context.Context) (string, error) {
	sources := make(map[string]Source)
	for _, s := range a.opts.Sources {
		sources[s.Name()] = s
	}
	asked, disabled := 0, 0
	var failed error
	for after := ""; ; {
		page, err := a.db.Accounts(ctx, false, after, 100)
		if err != nil || len(page) == 0 {
			return fmt.Sprintf("%d accounts asked about, %d disabled", asked, disabled), errors.Join(failed, err)
		}
		for _, account := range page {
			after = account.Name
			s, ok := sources[account.Source]
			if !ok || account.Disabled {
				continue
			}
			asked++
			p, err := s.Lookup(ctx, account.Subject, account.Name)
			switch {
			case errors.Is(err, errors.ErrUnsupported):
				delete(sources, account.Source) // nobody may look there
			case errors.Is(err, meta.ErrNotFound):
				if err = a.changes(account.Source, "user.change", account.Name, `{"disabled":true}`).ChangeAccount(ctx, account.Name, func(c *meta.Account) error {
					c.Disabled = true
					return same(c, account)
				}); err == nil {
					disabled++
					a.opts.Log.Warn("an account is disabled: its source has it no more", "account", account.Name, "source", account.Source)
				}
			case err == nil:
				if err = a.follow(ctx, account, p); err == nil && p.Groups != nil {
					err = a.db.SetGroups(ctx, account.ID, account.Source, p.Groups)
				}
			}
			// Who was deleted here meanwhile needs nothing any more.
			if err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, meta.ErrNotFound) {
				if failed == nil { // one says enough
					failed = fmt.Errorf("account %s: %w", account.Name, err)
				}
				if ctx.Err() != nil {
					return fmt.Sprintf("%d accounts asked about, %d disabled", asked, disabled), failed
				}
				if s.Check(ctx) != nil {
					delete(sources, account.Source)
				}
			}
		}
	}
}
