package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/berthregistry/berth/internal/auth/oidc"
)

// issuers are those whose tokens somebody trusts. What they publish is kept, so there is one value of each.
type issuers struct {
	configured map[string]oidc.Options // by URL

	mu    sync.Mutex
	known map[string]*oidc.Issuer
}

// of returns an issuer. There are no more than there are in trust rules.
func (i *issuers) of(url string) (*oidc.Issuer, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if is, ok := i.known[url]; ok {
		return is, nil
	}
	opts, ok := i.configured[url]
	if !ok {
		opts = oidc.Options{Issuer: url}
	}
	is, err := oidc.NewIssuer(opts)
	if err != nil {
		return nil, err
	}
	if i.known == nil {
		i.known = make(map[string]*oidc.Issuer)
	}
	i.known[url] = is
	return is, nil
}

// KnownIssuer tells whether the operator has named an issuer, or everybody knows it. Others may be any address that this registry
// reaches, so that only an administrator of the registry may have one asked.
func (a *Auth) KnownIssuer(url string) bool {
	_, configured := a.issuers.configured[url]
	return configured || url == oidc.GitHubIssuer || url == oidc.GitLabIssuer
}

// rulesPage is how many rules of an issuer are read at a time.
const rulesPage = 200

// byIssuer signs in a workload, such as a CI job, with a token of its own issuer: the robot of the first rule that
// trusts it. A name other than anyName says which robot.
func (a *Auth) byIssuer(ctx context.Context, name, raw string) (Identity, time.Time, error) {
	no := func(err error) (Identity, time.Time, error) { return Identity{}, time.Time{}, err }
	url, err := oidc.IssuerOf(raw)
	if err != nil {
		return no(ErrCredentials)
	}
	var token *oidc.Token
	for after := int64(0); ; {
		page, err := a.db.TrustRules(ctx, url, after, rulesPage)
		if err != nil {
			return no(err)
		}
		if len(page) == 0 {
			return no(fmt.Errorf("%w: no trust rule is for this token", ErrCredentials))
		}
		for _, row := range page {
			after = row.ID
			if name != "" && name != anyName && name != row.Account {
				continue
			}
			var rule oidc.Rule
			if err := json.Unmarshal([]byte(row.Rule), &rule); err != nil {
				a.opts.Log.Error("a trust rule cannot be read", "rule", row.ID, "account", row.Account, "error", err)
				continue
			}
			if token == nil || !slices.Contains(token.Audience, rule.Audience) {
				t, err := a.verify(ctx, url, raw, rule.Audience)
				if errors.Is(err, oidc.ErrToken) {
					continue // perhaps it is for the audience of another rule
				}
				if err != nil {
					return no(err)
				}
				token = t
			}
			if ok, _ := rule.Match(token); ok {
				return Identity{Account: row.AccountID, Credential: row.Credential, Name: row.Account}, token.Expiry, nil
			}
		}
	}
}

// verify checks a token's signature, its times and its audience.
func (a *Auth) verify(ctx context.Context, url, raw, audience string) (*oidc.Token, error) {
	issuer, err := a.issuers.of(url)
	if err != nil {
		return nil, err
	}
	t, err := issuer.Verify(ctx, raw, audience)
	if errors.Is(err, oidc.ErrUnavailable) {
		a.opts.Log.Error("an issuer of tokens failed", "issuer", url, "error", err)
		return nil, fmt.Errorf("%w: the issuer of the token cannot be asked at this moment", ErrUnavailable)
	}
	return t, err
}
