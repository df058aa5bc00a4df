package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/signin"
	"github.com/berthregistry/berth/internal/web"
)

// checkOIDC looks at the providers at which people sign in.
func (c *Config) checkOIDC(require func(ok bool, key, format string, args ...any)) {
	const key = "auth.oidc"
	require(len(c.Auth.OIDC) == 0 || c.ExternalURL != "", key, "external_url is needed: browsers are sent back to it")
	names := make(map[string]bool)
	for i, p := range c.Auth.OIDC {
		require(isProviderName(p.Name), key, "the name %q of item %d must be up to 32 lower-case letters and digits, with '-' between", clip([]byte(p.Name)), i+1)
		require(!names[p.Name], key, "the name %q stands twice", clip([]byte(p.Name)))
		names[p.Name] = true
		require(p.SignInLifetime == 0 || p.SignInLifetime.D() >= minSignIn, key, "the sign_in_lifetime of %s is %s, which is too short: it must be %s at least", clip([]byte(p.Name)), p.SignInLifetime, minSignIn)
		require(len(p.Label) <= 40, key, "the label of %s has more than 40 bytes", clip([]byte(p.Name)))
	}
}

func isProviderName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "-") == s && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// signinKey is the setting with what seals the cookies of sign-ins, on all nodes.
const signinKey = "signin_key"

// newSignin returns what people sign in with at their issuers, or nil if there are none.
func newSignin(ctx context.Context, cfg *Config, db *meta.DB, accounts *auth.Auth, server *web.Server, limits *ratelimit.Limiter, log *slog.Logger) (*signin.Handler, error) {
	if len(cfg.Auth.OIDC) == 0 {
		return nil, nil
	}
	key := make([]byte, 32)
	rand.Read(key)
	if !cfg.ReadOnly { // else nobody can sign in that way
		var err error
		if key, err = db.SettingOr(ctx, signinKey, key); err != nil {
			return nil, fmt.Errorf("read the key of sign-ins: %w", err)
		}
	}
	opts := signin.Options{Auth: accounts, Log: log, ExternalURL: string(cfg.ExternalURL), Client: server.Client, Limits: limits, ReadOnly: cfg.ReadOnly}
	for _, p := range cfg.Auth.OIDC {
		login, err := p.login(cfg, [32]byte(key))
		if err != nil {
			return nil, fmt.Errorf("auth.oidc: %s: %w", p.Name, err)
		}
		opts.Providers = append(opts.Providers, signin.Provider{Name: p.Name, Label: cmp.Or(p.Label, p.Name), Login: login})
	}
	return signin.New(opts), nil
}

func (p *OIDCConfig) login(cfg *Config, key [32]byte) (*oidc.Login, error) {
	issuer, err := oidc.NewIssuer(oidc.Options{Issuer: p.Issuer, CAFile: p.CAFile})
	if err != nil {
		return nil, err
	}
	return oidc.NewLogin(oidc.LoginOptions{
		Issuer:         issuer,
		ClientID:       p.ClientID,
		ClientSecret:   p.ClientSecret.Reveal(),
		RedirectURL:    string(cfg.ExternalURL) + signin.CallbackPath(p.Name),
		DeviceClientID: p.DeviceClientID,
		Scopes:         p.Scopes,
		NameClaim:      p.NameClaim,
		NameDomain:     p.NameDomain,
		GroupsClaim:    p.GroupsClaim,
		Key:            key,
	})
}
