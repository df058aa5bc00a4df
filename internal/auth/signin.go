package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
)

const (
	// verifiedFor is for how long a name and a password are not checked again. Whether the account, the credential and the
	// password still stand is looked at all the same.
	verifiedFor = time.Minute
	// usedEvery is how often at most it is stored that a credential is in use.
	usedEvery = time.Minute
	// What the audit log calls sign-ins without a credential that has a name.
	passwordLabel    = "password"
	certificateLabel = "certificate"
	maxSecret        = 32 << 10 // of a name or password, in bytes
)

// Identify tells who makes a request from a client, by its Authorization header. Without one it is nobody. It fails as SignIn does,
// or with ErrToken. Whether the account and what it proves itself with still stand is told by what is asked next: Decide, or Stands.
func (a *Auth) Identify(r *http.Request, client netip.Addr) (Identity, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return a.byCertificate(r, client)
	}
	scheme, value, _ := strings.Cut(header, " ")
	value = strings.TrimSpace(value)
	var id Identity
	var err error
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		id, err = a.bearer(r.Context(), value)
	case strings.EqualFold(scheme, "Basic"):
		var name, secret string
		if name, secret, err = parseBasic(value); err == nil {
			id, _, err = a.basic(r.Context(), name, secret, client)
		}
	default:
		err = ErrCredentials
	}
	id.Client = client
	return id, err
}

// byCertificate returns the account that the client's certificate names, or nobody.
func (a *Auth) byCertificate(r *http.Request, client netip.Addr) (Identity, error) {
	nobody := Identity{Client: client}
	if a.opts.Certificate == nil {
		return nobody, nil
	}
	leaf := a.opts.Certificate(r)
	if leaf == nil || leaf.Subject.CommonName == "" {
		return nobody, nil
	}
	now := a.opts.Now()
	sum := a.verified.sum(certificateLabel, leaf.Subject.CommonName)
	id, ok := a.verified.get(sum, now)
	if !ok {
		account, err := a.db.Account(r.Context(), leaf.Subject.CommonName)
		if errors.Is(err, meta.ErrNotFound) {
			return nobody, nil
		}
		if err != nil {
			return nobody, err
		}
		id = Identity{Account: account.ID, Name: account.Name, how: certificateLabel}
		a.verified.put(sum, id, now.Add(verifiedFor))
	}
	id.Client = client
	if noted := a.verified.sum("noted", id.Name, client.String()); !a.verified.has(noted, now) {
		if err := a.stands(r.Context(), &id); err == nil { // else whoever asks next notes that
			a.verified.put(noted, Identity{}, now.Add(usedEntryEvery))
			a.noteSignIn(r.Context(), &id, id.how)
		}
	}
	return id, nil
}

// parseBasic reads the credentials of RFC 7617.
func parseBasic(value string) (name, secret string, err error) {
	if len(value) > maxSecret {
		return "", "", ErrCredentials
	}
	b, err := base64.StdEncoding.DecodeString(value)
	name, secret, ok := strings.Cut(string(b), ":")
	if err != nil || !ok || name == "" && secret == "" {
		return "", "", ErrCredentials
	}
	return name, secret, nil
}

// SignIn tells who has a name and a password, or what stands in its place: a personal access token, a robot's secret, a refresh
// token, or the token of an issuer that is trusted. It fails with ErrCredentials, ErrUnavailable or a *LockedError.
func (a *Auth) SignIn(ctx context.Context, name, secret string, client netip.Addr) (Identity, error) {
	id, remembered, err := a.basic(ctx, name, secret, client)
	if err == nil && remembered {
		err = a.Stands(ctx, &id)
	}
	return id, err
}

// basic is SignIn; what is remembered may not stand any more.
func (a *Auth) basic(ctx context.Context, name, secret string, client netip.Addr) (id Identity, remembered bool, err error) {
	now := a.opts.Now()
	sum := a.verified.sum("basic", name, secret)
	if id, remembered = a.verified.get(sum, now); !remembered {
		var until time.Time
		if id, until, err = a.signIn(ctx, name, secret, client, now); err != nil {
			return Identity{}, false, err
		}
		a.verified.put(sum, id, until)
	}
	id.Client = client
	return id, remembered, nil
}

// signIn is SignIn of what is not remembered. It also returns until when to remember it.
func (a *Auth) signIn(ctx context.Context, name, secret string, client netip.Addr, now time.Time) (id Identity, until time.Time, err error) {
	until = now.Add(verifiedFor)
	guessed := "" // the account whose password may have been guessed
	how := passwordLabel
	var c *meta.Credential // that the secret is, if it is one of ours
	switch kind, ok := secretKind(secret); {
	case ok:
		if id, c, err = a.bySecret(ctx, name, secret, kind); err == nil {
			how = string(c.Kind) + " " + c.Label()
		}
	case looksLikeJWT(secret):
		how = "trust"
		var expiry time.Time
		if id, expiry, err = a.byIssuer(ctx, name, secret); err == nil && expiry.Before(until) {
			until = expiry
		}
	default:
		if err := a.locked(ctx, accountSubject(name), networkSubject(client)); err != nil {
			return Identity{}, until, err
		}
		guessed = name
		id, err = a.byPassword(ctx, name, secret, now)
	}
	id.Client, id.how = client, how
	if err == nil {
		// Of who may not sign in at all, or not from there, although the password is right, neither what they are told nor how long it takes says
		// that it is, and it counts as a failure.
		err = a.stands(ctx, &id)
	}
	switch {
	case errors.Is(err, ErrCredentials) && id.Account != 0:
		a.inVain(ctx, &id, guessed)
	case errors.Is(err, ErrCredentials):
		a.failed(ctx, guessed, client, func() { a.noteFailure(ctx, name, client) })
	case err == nil && guessed != "":
		a.succeeded(ctx, guessed)
	}
	if err != nil {
		return Identity{}, until, err
	}
	if c == nil {
		a.noteSignIn(ctx, &id, how)
	} else {
		a.noteUse(ctx, &id, c, now)
	}
	return id, until, nil
}

// noteUse notes when and from where a credential was used last, and the first sign-in with it from there on a day.
func (a *Auth) noteUse(ctx context.Context, id *Identity, c *meta.Credential, now time.Time) {
	elsewhere := c.UsedFrom != id.Client.String()
	if elsewhere || now.Sub(c.Used) > usedEvery {
		if err := a.db.UsedCredential(ctx, c.ID, id.Client.String(), now); err != nil {
			a.opts.Log.Warn("the use of a credential could not be stored", "account", id.Name, "credential", c.ID, "error", err)
		}
	}
	if elsewhere || now.Sub(c.Used) > usedEntryEvery {
		a.noteSignIn(ctx, id, id.how)
	}
}

// anyName is what may stand in the place of the account's name where a token tells it.
const anyName = "token"

// bySecret signs in with a personal access token, a robot's secret or a refresh token.
func (a *Auth) bySecret(ctx context.Context, name, secret string, kind meta.CredentialKind) (Identity, *meta.Credential, error) {
	c, account, err := a.db.CredentialByHash(ctx, hashSecret(secret))
	if errors.Is(err, meta.ErrNotFound) || err == nil && (c.Kind != kind || account.Name != name && name != anyName && name != "") {
		return Identity{}, nil, ErrCredentials
	}
	if err != nil {
		return Identity{}, nil, err
	}
	return Identity{Account: account.ID, Credential: c.ID, Name: account.Name}, c, nil
}

// byPassword signs in a user, who is kept here or elsewhere.
func (a *Auth) byPassword(ctx context.Context, name, password string, now time.Time) (Identity, error) {
	account, err := a.db.Account(ctx, name)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return Identity{}, err
	}
	if len(a.opts.Sources) > 0 && (account == nil || account.Source != meta.LocalAccounts) {
		return a.bySources(ctx, account, name, password, now)
	}
	hash := ""
	if account != nil && account.Source == meta.LocalAccounts && !account.Robot {
		hash = account.Password
	}
	ok, err := a.checkPassword(ctx, password, hash)
	if err != nil {
		return Identity{}, err
	}
	if !ok {
		return Identity{}, ErrCredentials
	}
	if now.Sub(account.Seen) > usedEvery {
		if err := a.db.SignedIn(ctx, account.ID, meta.LocalAccounts, nil, now); err != nil {
			a.opts.Log.Warn("a sign-in could not be stored", "account", account.Name, "error", err)
		}
	}
	return Identity{Account: account.ID, Name: account.Name, proof: access.ProofOf(account.Password)}, nil
}

// Refresh returns what a client may keep in the place of a password: a refresh token for who signed in with a password that is kept here,
// which is gone when the password is changed. It is empty for others. Nothing shall outlive their secret, and clients keep that as it is, where those find
// it, too, that know names and passwords only: Podman and Skopeo refuse to sign in beside a refresh token of Docker's.
func (a *Auth) Refresh(ctx context.Context, id *Identity, clientID string) (string, error) {
	if id.Credential != 0 || id.proof == "" {
		return "", nil
	}
	c := &meta.Credential{Kind: meta.RefreshCredential, Created: a.opts.Now()}
	c.Name, c.Actions, c.Expires = clip(clientID), access.All, c.Created.Add(refreshLifetime)
	refresh, hash := NewSecret(c.Kind)
	return refresh, a.tokenChanges(id, "token.create", c).AddCredential(ctx, id.Account, c, hash, maxRefresh)
}

// clip shortens a name that a client gave itself.
func clip(s string) string { return s[:min(len(s), 64)] }

const (
	refreshLifetime = 90 * 24 * time.Hour
	maxRefresh      = 50 // of an account; the oldest go
)
