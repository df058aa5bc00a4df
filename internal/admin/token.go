package admin

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
)

// Credential is a personal access token of a user, a secret of a robot, or what docker keeps after it has signed in.
type Credential struct {
	ID           int64    `json:"id"`
	Kind         string   `json:"kind"` // token, secret, refresh or sign-in
	Name         string   `json:"name"`
	Account      string   `json:"account"` // what to sign in as
	Actions      []string `json:"actions"` // which it is limited to
	Repositories []string `json:"repositories,omitempty"`
	Networks     []string `json:"networks,omitempty"`
	Created      Expiry   `json:"created"`
	Expires      Expiry   `json:"expires,omitzero"`
	Used         Expiry   `json:"used,omitzero"`
	UsedFrom     string   `json:"usedFrom,omitempty"`
	Secret       string   `json:"secret,omitempty"` // in the answer to its making only
}

func credentialOf(account string) func(*meta.Credential) Credential {
	return func(c *meta.Credential) Credential {
		return Credential{
			ID: c.ID, Kind: string(c.Kind), Name: c.Name, Account: account, Actions: c.Actions.Names(), Repositories: c.Repositories, Networks: networkTexts(c.Networks),
			Created: Expiry{c.Created}, Expires: Expiry{c.Expires}, Used: Expiry{c.Used}, UsedFrom: c.UsedFrom,
		}
	}
}

// NewCredential is a token or secret to be made.
type NewCredential struct {
	Name         string   `json:"name,omitempty"`
	Actions      []string `json:"actions,omitempty"` // none for all
	Repositories []string `json:"repositories,omitempty"`
	Networks     []string `json:"networks,omitempty"`
	Expires      Expiry   `json:"expires,omitzero"`
}

func (n *NewCredential) credential(kind meta.CredentialKind, now time.Time) (*meta.Credential, error) {
	if err := checkText("name", n.Name); err != nil {
		return nil, err
	}
	c := &meta.Credential{Kind: kind, Created: now}
	c.Name, c.Actions, c.Expires = n.Name, access.All, n.Expires.Time
	var err error
	if len(n.Actions) > 0 {
		if c.Actions, err = access.ParseActions(n.Actions); err != nil {
			return nil, errInvalid("%v", err)
		}
	}
	if c.Repositories, err = patternsOf(n.Repositories); err != nil {
		return nil, err
	}
	if c.Networks, err = networksOf(n.Networks); err != nil {
		return nil, err
	}
	if !c.Expires.IsZero() && !now.Before(c.Expires) {
		return nil, errInvalid("it would have expired already: expires is %s", c.Expires.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// maxCredentials is how many tokens or secrets an account can have.
const maxCredentials = 100

// credentials answers with those of an account.
func (h *Handler) credentials(c *call, a *meta.Account) (any, error) {
	all, err := h.secrets(c, a)
	if err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]*meta.Credential, error) {
		from, err := afterID(after)
		for len(all) > 0 && all[0].ID <= from {
			all = all[1:]
		}
		return all[:min(n, len(all))], err
	}, func(c *meta.Credential) string { return strconv.FormatInt(c.ID, 10) }, credentialOf(a.Name))
}

// secrets returns the credentials of an account that have a secret; those of trust rules go with the rules.
func (h *Handler) secrets(c *call, a *meta.Account) ([]*meta.Credential, error) {
	all, err := h.opts.DB.Credentials(c.Context(), a.ID)
	return slices.DeleteFunc(all, func(c *meta.Credential) bool { return c.Kind == meta.TrustCredential }), err
}

// afterID reads the parameter after of a list by id.
func afterID(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, errInvalid("after must be what next was")
	}
	return id, nil
}

// addCredential gives an account a credential. With expire, the others of the kind expire then.
func (h *Handler) addCredential(c *call, a *meta.Account, n *meta.Credential, expire *time.Time) (any, error) {
	all, err := h.secrets(c, a)
	if err != nil {
		return nil, err
	}
	same := 0
	for _, one := range all {
		if one.Kind == n.Kind {
			same++
		}
	}
	if same >= maxCredentials {
		return nil, errConflict("%s has %d of them already: revoke what is not used any more", a.Name, same)
	}
	c.madeID = &n.ID
	secret, hash := auth.NewSecret(n.Kind)
	if expire == nil {
		err = h.changes(c).AddCredential(c.Context(), a.ID, n, hash, 0)
	} else {
		err = h.changes(c).RotateCredential(c.Context(), a.ID, n, hash, *expire)
	}
	if err != nil {
		return nil, err
	}
	answer := credentialOf(a.Name)(n)
	answer.Secret = secret
	return created{answer}, nil
}

// revoke takes a credential away from an account.
func (h *Handler) revoke(c *call, a *meta.Account) (any, error) {
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	all, err := h.secrets(c, a)
	if err != nil {
		return nil, err
	}
	err = meta.ErrNotFound
	if slices.ContainsFunc(all, func(c *meta.Credential) bool { return c.ID == id }) {
		err = h.changes(c).DeleteCredential(c.Context(), a.ID, id)
	}
	if errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no credential %d of %s", id, a.Name)
	}
	return nil, err
}

func (h *Handler) listTokens(c *call) (any, error) {
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	return h.credentials(c, a)
}

func (h *Handler) createToken(c *call) (any, error) {
	var n NewCredential
	if err := c.read(&n); err != nil {
		return nil, err
	}
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	c.detail = n
	token, err := n.credential(meta.TokenCredential, h.opts.Now())
	if err != nil {
		return nil, err
	}
	return h.addCredential(c, a, token, nil)
}

func (h *Handler) revokeToken(c *call) (any, error) {
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	return h.revoke(c, a)
}

// Overlap is for how long the secrets that a new one takes the place of can still be used.
type Overlap struct{ time.Duration }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Overlap) UnmarshalJSON(b []byte) error {
	s, err := strconv.Unquote(string(b))
	if err == nil {
		o.Duration, err = time.ParseDuration(s)
	}
	if err != nil || o.Duration < 0 || o.Duration > 365*24*time.Hour {
		return &valueError{fmt.Sprintf("%s is not an overlap: write a duration such as 24h, up to a year, or 0s for none", clip(string(b)))}
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (o Overlap) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(o.String())), nil }
