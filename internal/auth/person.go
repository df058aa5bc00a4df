package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
)

// PeopleSource is the source of accounts and groups of the people who sign in at the issuer that is configured under a name.
func PeopleSource(issuer string) string { return "oidc:" + issuer }

// anonymous stands in messages for who has not signed in.
const anonymous = "anonymous"

// NameTakenError says that somebody who comes for the first time has the name of another account. It is an ErrCredentials.
type NameTakenError struct{ Name string }

// Error implements error.
func (e *NameTakenError) Error() string {
	if e.Name == anyName || e.Name == anonymous {
		return fmt.Sprintf("the name %s has a meaning of its own here: have another one given to you where your account is kept", e.Name)
	}
	return fmt.Sprintf("the name %s belongs to another account of this registry: ask its administrator to delete that one (berth user delete %s), or have another name given to you where your account is kept",
		e.Name, e.Name)
}

// Unwrap returns ErrCredentials.
func (e *NameTakenError) Unwrap() error { return ErrCredentials }

// SignInPerson returns the identity of somebody who has signed in at the issuer that is configured under a name. Those who come for the first time get an
// account. It fails with an ErrCredentials that tells why: the name is taken (*NameTakenError), or the account is disabled, has expired or cannot
// be used from there.
func (a *Auth) SignInPerson(ctx context.Context, issuer string, p *oidc.Person, client netip.Addr) (Identity, error) {
	id, err := a.byPerson(ctx, issuer, p, client)
	switch {
	case err == nil:
		a.noteSignIn(ctx, &id, PeopleSource(issuer))
	case errors.Is(err, ErrCredentials):
		a.noteRefused(ctx, p.Name, PeopleSource(issuer), client, err.Error())
	}
	return id, err
}

// byPerson is SignInPerson without the audit log.
func (a *Auth) byPerson(ctx context.Context, issuer string, p *oidc.Person, client netip.Addr) (Identity, error) {
	now := a.opts.Now()
	id, err := a.signedIn(ctx, PeopleSource(issuer), &Person{Subject: p.Subject, Name: p.Name, DisplayName: p.DisplayName, Mail: p.Mail, Groups: p.Groups}, now)
	if err != nil {
		return Identity{}, err
	}
	id.Client = client
	facts, err := a.db.Facts(ctx, id.Account, 0, "")
	if err != nil {
		return Identity{}, err
	}
	if d, ok := facts.Known(client, now); !ok {
		return Identity{}, &RefusedError{Name: id.Name, Reason: d.Rule()}
	}
	return id, nil
}

// RefusedError says why an account cannot be signed in to. It is an ErrCredentials, and for who has proved that the account is theirs.
type RefusedError struct{ Name, Reason string }

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s cannot sign in: %s; the registry's administrator can change that", e.Name, e.Reason)
}

// Unwrap returns ErrCredentials.
func (e *RefusedError) Unwrap() error { return ErrCredentials }

// FirstUse tells whether the ID token of somebody who signs in at an issuer, by its oidc.Token.ID, is used for the first time, at all nodes together. It is
// remembered for longer than the token of a command line is accepted. Another use is a sign-in in vain.
func (a *Auth) FirstUse(ctx context.Context, token, issuer string, p *oidc.Person, client netip.Addr) (bool, error) {
	first, err := a.db.FirstUse(ctx, "id token "+token)
	if err == nil && !first {
		a.failed(ctx, "", client, func() { a.noteRefused(ctx, p.Name, PeopleSource(issuer), client, "the ID token was used before") })
	}
	return first, err
}

const (
	// DefaultSignInLifetime is for how long a sign-in counts if nothing else is said and nobody looks whether the account is still there.
	DefaultSignInLifetime = 30 * 24 * time.Hour

	maxPersonTokens = 5 // of an account; the oldest go
)

// PersonToken gives somebody who has signed in at an issuer what stands for a password for as long as the sign-in counts: it lets them do what they may, and make
// tokens of their own. The name, of at most 64 bytes, is for them to recognise it. It takes the place of the oldest one if there are more than 5.
func (a *Auth) PersonToken(ctx context.Context, id *Identity, issuer, name string) (secret string, expires time.Time, err error) {
	c := &meta.Credential{Kind: meta.SignInCredential, Created: a.opts.Now()}
	c.Name, c.Actions = name, access.All
	c.Expires = c.Created.Add(a.signInLifetime(PeopleSource(issuer)))
	secret, hash := NewSecret(c.Kind)
	return secret, c.Expires, a.tokenChanges(id, "token.create", c).AddCredential(ctx, id.Account, c, hash, maxPersonTokens)
}

// tokenChanges returns the database for a change of a token of somebody who has signed in. The entry of the audit log is written with it.
func (a *Auth) tokenChanges(id *Identity, action string, c *meta.Credential) *meta.DB {
	return a.db.WithAudit(func() meta.AuditEntry {
		return meta.AuditEntry{AuditPlace: meta.AuditPlace{At: a.opts.Now()}, AccountID: id.Account, Actor: id.Name, Client: id.Client.String(), Action: action,
			Object: fmt.Sprintf("users/%s/tokens/%d", id.Name, c.ID), Detail: c.Name, Allowed: true}
	})
}
