// Package auth tells who makes a request, and asks whether they may do what they want.
//
// What holds true: a right is read for each request, together with whether the account and the credential still
// stand, so what was taken away is gone with the next request, on every node; a bearer token never grants
// more than its scope and never more than its account has; secrets are compared by their hash or in constant time; who
// fails to sign in cannot tell whether the account exists.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Options configure an Auth.
type Options struct {
	Log *slog.Logger
	// Service is the audience of the tokens that are issued here.
	Service string
	// TokenLifetime is how long a bearer token can be used.
	TokenLifetime time.Duration
	// KeyLifetime is how long a key signs tokens before the next one does.
	KeyLifetime time.Duration
	// KeepAudit is how long entries of the audit log are kept; 0 for ever.
	KeepAudit time.Duration
	// ForwardAudit are the receivers that entries of the audit log must have arrived at before they are deleted; see meta.DB.AuditForwarded.
	ForwardAudit []string
	// Sources keep accounts elsewhere, and are asked in this order about names that are not known here.
	Sources []Source
	// SignInLifetime is for how long somebody whom a source knows counts as known after they have signed in there, by the name of
	// the source. Then nothing of theirs can be used until they sign in again. Sources without one set no limit; what is neither here nor in
	// Sources, such as a provider that was taken out, has DefaultSignInLifetime.
	SignInLifetime map[string]time.Duration
	// Issuers says how some issuers of tokens are reached; others need nothing but their URL.
	Issuers []oidc.Options
	// Certificate, if not nil, returns the verified certificate of the client of a request, or nil. Its common name is that of the
	// account, if there is no Authorization header.
	Certificate func(*http.Request) *x509.Certificate
	// Now is the clock.
	Now func() time.Time
}

// Auth knows the accounts of one registry. It may be used concurrently.
type Auth struct {
	db       *meta.DB
	opts     Options
	keys     keyring
	verified *verified
	hashing  *semaphore.Weighted                      // bounds the memory that password hashes take
	dummy    string                                   // a hash that no password has
	refused  *lru.Cache[[sha256.Size]byte, time.Time] // what was refused, and when that was noted
	issuers  issuers
}

// New returns the accounts of a database.
func New(db *meta.DB, opts Options) (*Auth, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	verified, err := newVerified()
	if err != nil {
		return nil, err
	}
	refused, err := lru.New[[sha256.Size]byte, time.Time](rememberRefused)
	if err != nil {
		return nil, err
	}
	configured := make(map[string]oidc.Options)
	for _, o := range opts.Issuers {
		if _, err := oidc.NewIssuer(o); err != nil {
			return nil, err
		}
		configured[o.Issuer] = o
	}
	return &Auth{
		issuers:  issuers{configured: configured},
		db:       db,
		opts:     opts,
		keys:     keyring{db: db},
		verified: verified,
		hashing:  semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		dummy:    hashPassword(rand.Text()),
		refused:  refused,
	}, nil
}

// Identity is who makes a request, as far as the request proves it. The zero value is who did not sign in.
type Identity struct {
	Account    int64
	Credential int64 // 0 for a password
	Name       string
	Client     netip.Addr
	// proof is what the account's password was when it was checked, if that is what the identity rests on.
	proof string
	// Scope narrows what the identity may do; nil for a request that carries no token.
	Scope *Scope
	// Expired says that the token was right, but is too old for anything but going on with an upload.
	Expired bool
	// how is what the audit log calls a sign-in with what the request itself carries; empty for a token of this registry.
	how string
}

// SignedIn tells whether there is an account.
func (id *Identity) SignedIn() bool { return id.Account != 0 }

// Actor names the identity, for logs.
func (id *Identity) Actor() string {
	if id.SignedIn() {
		return id.Name
	}
	return "anonymous@" + id.Client.String()
}

// Errors of signing in.
var (
	// ErrCredentials: name or secret are wrong, or were taken away, or have expired.
	ErrCredentials = errors.New("wrong name or password, or they are not valid any more")
	// ErrUnavailable: who could tell whether the credentials are right cannot be asked at this moment.
	ErrUnavailable = errors.New("signing in is not possible at this moment, try again")
	// ErrToken: the bearer token is not valid here, or not any more.
	ErrToken = errors.New("the token is not valid")
)

// Decide tells whether somebody may act on a repository, and returns the facts that say so. tag may be empty.
func (a *Auth) Decide(ctx context.Context, id *Identity, action access.Actions, r oci.Repository, tag oci.Tag) (access.Decision, *access.Facts, error) {
	facts, err := a.db.Facts(ctx, id.Account, id.Credential, r)
	if err != nil {
		return access.Decision{}, nil, err
	}
	return a.Judge(id, facts, action, tag), facts, nil
}

// DecidePull is Decide about the pull of a manifest, which it returns, too, if it is there and may be pulled.
func (a *Auth) DecidePull(ctx context.Context, id *Identity, r oci.Repository, ref oci.Reference) (access.Decision, *access.Facts, *meta.Manifest, error) {
	facts, m, err := a.db.FactsAndManifest(ctx, id.Account, id.Credential, r, ref)
	if err != nil {
		return access.Decision{}, nil, nil, err
	}
	d := a.Judge(id, facts, access.Pull, "")
	if !d.Allowed {
		m = nil
	}
	return d, facts, m, nil
}

// Judge is Decide where the facts are known.
func (a *Auth) Judge(id *Identity, facts *access.Facts, action access.Actions, tag oci.Tag) access.Decision {
	if id.proof != "" && (facts.Account == nil || facts.Account.Proof != id.proof) {
		return access.Unknown("the password was changed")
	}
	if a.outdated(facts) {
		return access.Unknown("the account has not signed in at " + facts.Source + " for too long")
	}
	d := facts.Decide(access.Question{Action: action, Tag: tag, Client: id.Client, Now: a.opts.Now()})
	if d.Allowed && !id.Scope.allows(facts.Repository, action) {
		return access.Deny("the token was not issued for this")
	}
	return d
}

// Stands fails with ErrCredentials if the account or the credential of an identity do not stand any more, which is a sign-in in vain if the request
// itself carries them. The error is a *SignInAgainError if nothing is missing but a sign-in at the account's source.
func (a *Auth) Stands(ctx context.Context, id *Identity) error {
	err := a.stands(ctx, id)
	if id.how != "" && errors.Is(err, ErrCredentials) {
		a.inVain(ctx, id, id.Name)
	}
	return err
}

// inVain notes that somebody has shown what is right and does not stand. That it is a password, for the account that was named, nobody may find out: it
// counts as a guess. Whoever has a secret, a token of an issuer or a certificate has not guessed it; a CI system goes on with one that has expired, and
// must not lock out who signs in from the same network.
func (a *Auth) inVain(ctx context.Context, id *Identity, named string) {
	note := func() { a.noteSignIn(ctx, id, id.how) } // which finds out why
	if id.how == passwordLabel {
		a.failed(ctx, named, id.Client, note)
	} else {
		a.notOften(note, signInAction, id.how, id.Name, id.Client.String())
	}
}

// stands is Stands, and counts nothing.
func (a *Auth) stands(ctx context.Context, id *Identity) error {
	d, facts, err := a.Decide(ctx, id, access.Pull, "", "")
	switch {
	case err != nil || !d.Unknown:
		return err
	case a.outdated(facts):
		if _, ok := facts.Known(id.Client, a.opts.Now()); ok {
			return &SignInAgainError{Name: facts.Account.Name, Source: facts.Source}
		}
	}
	return ErrCredentials
}

// outdated tells whether the account's source has not vouched for it for too long.
func (a *Auth) outdated(facts *access.Facts) bool {
	limit := a.signInLifetime(facts.Source)
	return limit > 0 && facts.Account != nil && !a.opts.Now().Before(facts.SignedIn.Add(limit))
}

// signInLifetime returns for how long a sign-in at a source counts; 0 for ever.
func (a *Auth) signInLifetime(source string) time.Duration {
	if limit, ok := a.opts.SignInLifetime[source]; ok {
		return limit
	}
	if source == meta.LocalAccounts || slices.ContainsFunc(a.opts.Sources, func(s Source) bool { return s.Name() == source }) {
		return 0
	}
	return DefaultSignInLifetime
}

// SignInAgainError says that what somebody has would be good if they signed in again where their account is kept. It is an ErrCredentials, and for who
// has shown the right secret.
type SignInAgainError struct{ Name, Source string }

// Error implements error.
func (e *SignInAgainError) Error() string {
	how := "once with the password"
	if strings.HasPrefix(e.Source, PeopleSource("")) {
		how = `with a browser at /auth/oidc, or by "berth login --sso"`
	}
	return fmt.Sprintf("%s has not signed in at %s for too long: sign in %s, then this token works again", e.Name, e.Source, how)
}

// Unwrap returns ErrCredentials.
func (e *SignInAgainError) Unwrap() error { return ErrCredentials }

// Refusal returns what a client is told of an ErrCredentials or ErrToken: why, if it has shown the right secret.
func Refusal(err error) string {
	if again, ok := errors.AsType[*SignInAgainError](err); ok {
		return again.Error()
	}
	return ErrCredentials.Error()
}

// MaySet returns what decides about each tag that a manifest is pushed to: one that does not exist is a matter of
// access.Push, one that is to point elsewhere of access.Overwrite.
func (a *Auth) MaySet(id *Identity, facts *access.Facts) func(tag oci.Tag, current, next oci.Digest) error {
	return func(tag oci.Tag, current, next oci.Digest) error {
		action := access.Push
		if !current.IsZero() && current != next {
			action = access.Overwrite
		}
		if decision := a.Judge(id, facts, action, tag); !decision.Allowed {
			return a.Denied(id, action, facts, tag, decision)
		}
		return nil
	}
}

// MayDelete returns what decides about each tag that is deleted.
func (a *Auth) MayDelete(id *Identity, facts *access.Facts) func(oci.Tag) error {
	return func(tag oci.Tag) error {
		if decision := a.Judge(id, facts, access.Delete, tag); !decision.Allowed {
			return a.Denied(id, access.Delete, facts, tag, decision)
		}
		return nil
	}
}

// Denied is the answer to somebody who has signed in and may not do something. Who may pull from the repository is told why, and what
// would have to change.
func (a *Auth) Denied(id *Identity, action access.Actions, facts *access.Facts, tag oci.Tag, d access.Decision) *oci.Error {
	what := string(facts.Repository)
	if tag != "" {
		what += ":" + string(tag)
	}
	verb := map[access.Actions]string{access.Pull: "pull from", access.Push: "push to", access.Overwrite: "overwrite", access.Delete: "delete in", access.Admin: "administer"}[action]
	name := "whoever is not signed in"
	if facts.Account != nil {
		name = facts.Account.Name
	}
	e := oci.Errorf(oci.CodeDenied, "%s may not %s %s", name, verb, what)
	if !a.Judge(id, facts, access.Pull, "").Allowed {
		return e
	}
	detail := map[string]string{"action": action.String(), "repository": string(facts.Repository), "reason": d.Rule()}
	if tag != "" {
		detail["tag"] = string(tag)
	}
	if change := remedy(facts, access.Question{Action: action, Tag: tag, Client: id.Client, Now: a.opts.Now()}); change != "" {
		detail["change"] = change
	}
	return e.WithDetail(detail)
}
