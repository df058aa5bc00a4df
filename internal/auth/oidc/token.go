package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// maxToken is the length of the longest token that is looked at, in bytes. Those with 200 groups have about 12 KiB.
	maxToken = 16 << 10

	// skew is how far the clocks of the issuer and of this machine may be apart.
	skew = time.Minute
)

// Token is a verified token.
type Token struct {
	// ID tells this token from all others of all issuers: 64 hexadecimal digits, from the issuer and the claim jti or, if there is none,
	// all that was signed. Another signature over the same is the same token.
	ID string

	Issuer   string
	Subject  string
	Audience []string
	Issued   time.Time // zero if the token does not say
	Expiry   time.Time // until skew after it the token counts
	Claims   Claims    // all of them

	typ   string // of the header
	nonce string
	party string // azp
}

// algorithms lists what tokens may be signed with. All are asymmetric: a secret shared with the issuer, or none at all, proves nothing.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// IssuerOf returns whom a token claims to be from. Nothing is verified: it is for choosing the Issuer that is to verify it. The
// error is an *Error of the kind ErrToken, also for what is no token at all.
func IssuerOf(raw string) (string, error) {
	jws, err := parse(raw)
	if err != nil {
		return "", err
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if josejson.Unmarshal(jws.UnsafePayloadWithoutVerification(), &c) != nil || c.Issuer == "" {
		return "", refused("the token names no issuer")
	}
	return c.Issuer, nil
}

// parse reads the compact form of a signed JWT (RFC 7519, RFC 7515 section 7.1).
func parse(raw string) (*jose.JSONWebSignature, error) {
	if len(raw) > maxToken {
		return nil, refused("the token has %d bytes, at most %d are read", len(raw), maxToken)
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms())
	var alg *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &alg) && alg.Got != "":
		return nil, refused("the token is signed with the algorithm %s, which does not count; RS256, ES256, EdDSA and the like do", shown(string(alg.Got)))
	case err != nil, strings.ContainsAny(raw, "\r\n"): // which Go's base64 passes over
		return nil, refused("it is not a signed JSON Web Token")
	}
	return jws, nil
}

// Verify checks a token for one of the given audiences: who signed it, for whom, and whether it counts now. It asks the issuer
// only if it has to. The error is an *Error.
func (i *Issuer) Verify(ctx context.Context, raw string, audiences ...string) (*Token, error) {
	if len(audiences) == 0 {
		return nil, errors.New("oidc: a token is to be verified for no audience") // a mistake of the caller
	}
	jws, err := parse(raw)
	if err != nil {
		return nil, err
	}
	payload, err := i.signed(ctx, jws)
	if err != nil {
		return nil, err
	}
	t, err := i.check(payload, audiences)
	if err != nil {
		return nil, err
	}
	t.typ, _ = jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType].(string)
	return t, nil
}

// signed returns what a key of the issuer signed.
func (i *Issuer) signed(ctx context.Context, jws *jose.JSONWebSignature) ([]byte, error) {
	p, err := i.current(ctx)
	if err != nil {
		return nil, err
	}
	if payload, ok := p.verify(jws); ok {
		return payload, nil
	}
	id := jws.Signatures[0].Protected.KeyID
	if p.knows(id) {
		return nil, refused("the token's signature is wrong")
	}
	// openid-connect-core-1_0#RotateSigKeys: the key may be new.
	if p, err = i.refresh(ctx); err != nil {
		return nil, err
	}
	if payload, ok := p.verify(jws); ok {
		return payload, nil
	}
	if id == "" {
		return nil, refused("the token is signed with none of its issuer's keys")
	}
	return nil, refused("the token is signed with the key %s, which its issuer does not publish, or published less than %s ago", shown(id), retryAfter)
}

// check judges the claims of what the issuer signed (openid-connect-core-1_0#IDTokenValidation).
func (i *Issuer) check(payload []byte, audiences []string) (*Token, error) {
	var std struct {
		jwt.Claims
		Nonce string `json:"nonce"`
		Party string `json:"azp"`
	}
	claims, err := decodeClaims(payload)
	if err != nil || josejson.Unmarshal(payload, &std) != nil {
		return nil, refused("the token's claims are malformed")
	}
	err = std.ValidateWithLeeway(jwt.Expected{Issuer: i.url, AnyAudience: audiences, Time: i.now()}, skew)
	switch {
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return nil, refused("the token is of the issuer %s, not of %s", shown(std.Issuer), shown(i.url))
	case errors.Is(err, jwt.ErrInvalidAudience):
		return nil, refused("the token is for the audience %s, not for %s", list(std.Audience), list(audiences))
	case errors.Is(err, jwt.ErrExpired):
		return nil, refused("the token expired at %s", stamp(std.Expiry))
	case errors.Is(err, jwt.ErrNotValidYet):
		return nil, refused("the token does not count before %s", stamp(std.NotBefore))
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return nil, refused("the token was issued in the future, at %s; is a clock wrong?", stamp(std.IssuedAt))
	case err != nil:
		return nil, refused("the token's claims are not those of its issuer")
	case std.Expiry == nil:
		return nil, refused("the token never expires")
	case std.Subject == "":
		return nil, refused("the token has no subject")
	}
	t := &Token{
		ID:       tokenID(i.url, std.ID, payload),
		Issuer:   std.Issuer,
		Subject:  std.Subject,
		Audience: std.Audience,
		Expiry:   std.Expiry.Time(),
		Claims:   claims,
		nonce:    std.Nonce,
		party:    std.Party,
	}
	if std.IssuedAt != nil {
		t.Issued = std.IssuedAt.Time()
	}
	return t, nil
}

// tokenID names a token. The signature does not count, because some algorithms allow to make others from it.
func tokenID(issuer, jti string, payload []byte) string {
	h := sha256.New()
	h.Write([]byte(issuer))
	if jti != "" {
		h.Write([]byte("\x00jti\x00"))
		h.Write([]byte(jti))
	} else {
		h.Write([]byte("\x00all\x00"))
		h.Write(payload)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func stamp(d *jwt.NumericDate) string { return d.Time().UTC().Format(time.RFC3339) }

// list shows a few values.
func list(values []string) string {
	if len(values) == 0 {
		return "nobody"
	}
	s := shown(values[0])
	for n, v := range values[1:] {
		if n == 4 {
			return s + ", …"
		}
		s += ", " + shown(v)
	}
	return s
}
