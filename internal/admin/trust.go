package admin

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// TrustRule says which tokens of an issuer, such as a CI service, stand for a robot.
type TrustRule struct {
	ID int64 `json:"id"`
	oidc.Rule
	Advice  []string `json:"advice,omitempty"` // what could be stricter
	Created Expiry   `json:"created"`
}

// trustOf shows a rule; one that cannot be read, which trusts nobody, without its claims.
func trustOf(r *meta.TrustRule) TrustRule {
	v := TrustRule{ID: r.ID, Created: Expiry{r.Created}}
	if err := json.Unmarshal([]byte(r.Rule), &v.Rule); err != nil {
		v.Rule = oidc.Rule{Issuer: r.Issuer}
	}
	v.Advice = v.Rule.Advice()
	return v
}

// maxTrustRules is how many rules a robot can have.
const maxTrustRules = 100

func (h *Handler) listTrust(c *call) (any, error) {
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	return page(c, func(after string, n int) ([]*meta.TrustRule, error) {
		id, err := afterID(after)
		if err != nil {
			return nil, err
		}
		return h.opts.DB.TrustRulesOf(c.Context(), a.Name, id, n)
	}, func(r *meta.TrustRule) string { return strconv.FormatInt(r.ID, 10) }, trustOf)
}

func (h *Handler) addTrust(c *call) (any, error) {
	var rule oidc.Rule
	if err := c.read(&rule); err != nil {
		return nil, err
	}
	if err := rule.Validate(); err != nil {
		return nil, errInvalid("%v", err)
	}
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	if !c.local && !h.opts.Auth.KnownIssuer(rule.Issuer) {
		d, err := h.opts.Auth.Administers(c.Context(), &c.identity, "")
		if err != nil {
			return nil, err
		}
		if !d.Allowed {
			return nil, oci.Errorf(oci.CodeDenied, "an administrator of the registry must trust %s first: by a rule, or in the setting auth.issuers", rule.Issuer)
		}
	}
	c.detail = rule
	text, err := json.Marshal(rule)
	if err != nil {
		return nil, err
	}
	there, err := h.opts.DB.TrustRulesOf(c.Context(), a.Name, 0, maxTrustRules)
	if err != nil {
		return nil, err
	}
	if len(there) == maxTrustRules {
		return nil, errConflict("%s has %d trust rules already: remove what is not used any more", a.Name, len(there))
	}
	r := &meta.TrustRule{Account: a.Name, Issuer: rule.Issuer, Rule: string(text), Created: h.opts.Now()}
	c.madeID = &r.ID
	if err := h.changes(c).AddTrustRule(c.Context(), r); err != nil {
		return nil, err
	}
	return created{trustOf(r)}, nil
}

func (h *Handler) removeTrust(c *call) (any, error) {
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	if err = h.changes(c).DeleteTrustRule(c.Context(), a.Name, id); errors.Is(err, meta.ErrNotFound) {
		err = errNotFound("no trust rule %d of %s", id, a.Name)
	}
	return nil, err
}
