package auth

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// claims are those of auth-jwt.md, and which account and credential a token stands for.
type claims struct {
	jwt.Claims
	Access     []ResourceActions `json:"access"`
	Account    string            `json:"account,omitempty"`
	Credential string            `json:"credential,omitempty"`
	Proof      string            `json:"proof,omitempty"`
}

const (
	// maxToken is longer than any token that is issued here.
	maxToken = 32 << 10
	// expiredGrace is for how long a token that has expired serves to go on with an upload.
	expiredGrace = 24 * time.Hour
)

func looksLikeJWT(s string) bool { return strings.HasPrefix(s, "ey") && strings.Count(s, ".") == 2 }

// Token is a bearer token and how long it can be used.
type Token struct {
	Text    string
	Issued  time.Time
	Expires time.Time
}

// Issue makes a token for those of the resources and actions that the identity has rights to (auth-token.md). The rights
// are asked for again whenever it is used.
func (a *Auth) Issue(ctx context.Context, id *Identity, asked []ResourceActions) (*Token, error) {
	granted := make([]ResourceActions, 0, len(asked))
	for _, want := range asked {
		var actions []string
		if want.Type == registryResource {
			actions = []string{"*"} // the list shows what one may see
		} else {
			var err error
			if actions, err = a.tokenActions(ctx, id, oci.Repository(want.Name), want.Actions); err != nil {
				return nil, err
			}
		}
		if len(actions) > 0 {
			granted = append(granted, ResourceActions{want.Type, want.Name, actions})
		}
	}
	now := a.opts.Now()
	key, err := a.keys.signer(ctx, now, a.opts.KeyLifetime, a.opts.TokenLifetime)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	t := &Token{Issued: now, Expires: now.Add(a.opts.TokenLifetime)}
	c := claims{
		Claims: jwt.Claims{
			Issuer: a.opts.Service, Subject: id.Name, Audience: jwt.Audience{a.opts.Service}, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-clockSkew)), Expiry: jwt.NewNumericDate(t.Expires),
		},
		Access: granted,
		Proof:  id.proof,
	}
	if id.SignedIn() {
		c.Account = strconv.FormatInt(id.Account, 10)
	}
	if id.Credential != 0 {
		c.Credential = strconv.FormatInt(id.Credential, 10)
	}
	t.Text, err = jwt.Signed(signer).Claims(c).Serialize()
	return t, err
}

// tokenActions returns which of the actions the identity may do.
func (a *Auth) tokenActions(ctx context.Context, id *Identity, r oci.Repository, asked []string) ([]string, error) {
	facts, err := a.db.Facts(ctx, id.Account, id.Credential, r)
	if err != nil {
		return nil, err
	}
	var may []string
	for _, action := range []access.Actions{access.Pull, access.Push, access.Overwrite, access.Delete} {
		name := tokenAction(action)
		if (slices.Contains(asked, name) || slices.Contains(asked, "*")) && !slices.Contains(may, name) && a.Judge(id, facts, action, "").Allowed {
			may = append(may, name)
		}
	}
	return may, nil
}

// bearer returns the identity that a token stands for.
func (a *Auth) bearer(ctx context.Context, text string) (Identity, error) {
	if len(text) > maxToken {
		return Identity{}, fmt.Errorf("%w: it is too long", ErrToken)
	}
	now := a.opts.Now()
	sum := a.verified.sum("bearer", text)
	if id, ok := a.verified.get(sum, now); ok {
		return id, nil
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(parsed.Headers) != 1 {
		return Identity{}, fmt.Errorf("%w: it is no token of this registry", ErrToken)
	}
	// Of the header nothing counts but the key's name: keys come from the database only.
	public, err := a.keys.public(ctx, parsed.Headers[0].KeyID, now)
	if err != nil {
		return Identity{}, err
	}
	var c claims
	if err := parsed.Claims(public, &c); err != nil {
		return Identity{}, fmt.Errorf("%w: it was not signed by this registry", ErrToken)
	}
	if c.Issuer != a.opts.Service || !c.Audience.Contains(a.opts.Service) || c.Expiry == nil || c.NotBefore == nil {
		return Identity{}, fmt.Errorf("%w: it is for another registry", ErrToken)
	}
	id := Identity{Name: c.Subject, Scope: &Scope{c.Access}, proof: c.Proof}
	for field, to := range map[*string]*int64{&c.Account: &id.Account, &c.Credential: &id.Credential} {
		if *field == "" {
			continue
		}
		if *to, err = strconv.ParseInt(*field, 10, 64); err != nil {
			return Identity{}, fmt.Errorf("%w: it is no token of this registry", ErrToken)
		}
	}
	expires := c.Expiry.Time()
	switch {
	case now.Add(clockSkew).Before(c.NotBefore.Time()):
		return Identity{}, fmt.Errorf("%w yet", ErrToken)
	case now.Before(expires):
		a.verified.put(sum, id, expires)
	case now.Before(expires.Add(expiredGrace)):
		id.Expired = true
	default:
		return Identity{}, fmt.Errorf("%w any more: it has expired", ErrToken)
	}
	return id, nil
}
