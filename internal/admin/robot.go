package admin

import (
	"errors"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/meta"
)

// Robot is the account of a program.
type Robot struct {
	Name         string   `json:"name"` // ORGANIZATION+NAME if it belongs to one
	Organization string   `json:"organization,omitempty"`
	DisplayName  string   `json:"displayName,omitempty"`
	Disabled     bool     `json:"disabled"`
	Expires      Expiry   `json:"expires,omitzero"`
	Networks     []string `json:"networks,omitempty"`
	Created      Expiry   `json:"created"`
	Seen         Expiry   `json:"seen,omitzero"`
}

func robotOf(a *meta.Account) Robot {
	return Robot{
		Name: a.Name, Organization: a.Organization, DisplayName: a.DisplayName, Disabled: a.Disabled, Expires: Expiry{a.Expires},
		Networks: networkTexts(a.Networks), Created: Expiry{a.Created}, Seen: Expiry{a.Seen},
	}
}

// NewRobot is a robot to be made.
type NewRobot struct {
	Name string `json:"name"` // without the organization, which the path names
	AccountChange
}

// listRobots lists those of the organization, or all.
func (h *Handler) listRobots(c *call) (any, error) {
	prefix := ""
	if organization := c.PathValue("organization"); organization != "" {
		if _, err := h.organization(c); err != nil {
			return nil, err
		}
		prefix = robotName(organization, "")
	}
	return page(c, func(after string, n int) ([]*meta.Account, error) {
		all, err := h.opts.DB.Accounts(c.Context(), true, max(after, prefix), n)
		for i, a := range all {
			if !strings.HasPrefix(a.Name, prefix) {
				return all[:i], err
			}
		}
		return all, err
	}, func(a *meta.Account) string { return a.Name }, robotOf)
}

// apply is AccountChange.apply for a robot.
func (ch *AccountChange) applyRobot() (func(*meta.Account), error) {
	if ch.Admin != nil || ch.Mail != nil {
		return nil, errInvalid("a robot has no mail, and is no administrator: give it grants")
	}
	return ch.apply()
}

func (h *Handler) createRobot(c *call) (any, error) {
	var n NewRobot
	if err := c.read(&n); err != nil {
		return nil, err
	}
	if err := checkUser(n.Name); err != nil {
		return nil, err
	}
	c.made, c.detail = n.Name, n.AccountChange
	apply, err := n.applyRobot()
	if err != nil {
		return nil, err
	}
	a := &meta.Account{Organization: c.PathValue("organization"), Source: meta.LocalAccounts, Created: h.opts.Now()}
	a.Name, a.Robot = robotName(a.Organization, n.Name), true
	apply(a)
	if err := h.changes(c).CreateAccount(c.Context(), a); err != nil {
		return nil, err
	}
	return created{robotOf(a)}, nil
}

// robot returns the robot that the path names.
func (h *Handler) robot(c *call) (*meta.Account, error) {
	organization := c.PathValue("organization")
	name := robotName(organization, c.PathValue("robot"))
	a, err := h.opts.DB.Account(c.Context(), name)
	if err == nil && (!a.Robot || organization != "" && a.Organization != organization) {
		err = meta.ErrNotFound
	}
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFound("no robot %q", clip(name))
	}
	return a, err
}

func (h *Handler) showRobot(c *call) (any, error) {
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	return robotOf(a), nil
}

func (h *Handler) changeRobot(c *call) (any, error) {
	var ch AccountChange
	if err := c.read(&ch); err != nil {
		return nil, err
	}
	apply, err := ch.applyRobot()
	if err != nil {
		return nil, err
	}
	c.detail = ch
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	var after *meta.Account
	if err := h.changes(c).ChangeAccount(c.Context(), a.Name, func(a *meta.Account) error {
		apply(a)
		after = a
		return nil
	}); err != nil {
		return nil, err
	}
	return robotOf(after), nil
}

func (h *Handler) deleteRobot(c *call) (any, error) {
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	return nil, h.changes(c).DeleteAccount(c.Context(), a.Name)
}

func (h *Handler) listSecrets(c *call) (any, error) {
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	return h.credentials(c, a)
}

func (h *Handler) createSecret(c *call) (any, error) {
	var n NewCredential
	if err := c.read(&n); err != nil {
		return nil, err
	}
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	c.detail = n
	secret, err := n.credential(meta.SecretCredential, h.opts.Now())
	if err != nil {
		return nil, err
	}
	return h.addCredential(c, a, secret, nil)
}

// Rotation is how a robot's secrets are replaced by a new one.
type Rotation struct {
	Overlap *Overlap `json:"overlap,omitempty"` // a day if nil
	Expires Expiry   `json:"expires,omitzero"`  // of the new one
}

const usualOverlap = 24 * time.Hour

// rotateSecrets gives a robot a secret that is limited as its newest one is, and lets the others expire.
func (h *Handler) rotateSecrets(c *call) (any, error) {
	var r Rotation
	if err := c.read(&r); err != nil {
		return nil, err
	}
	c.detail = r
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	old, err := h.secrets(c, a)
	if err != nil {
		return nil, err
	}
	now := h.opts.Now()
	next, err := (&NewCredential{Expires: r.Expires}).credential(meta.SecretCredential, now)
	if err != nil {
		return nil, err
	}
	if len(old) > 0 {
		newest := old[len(old)-1]
		next.Name, next.Actions, next.Repositories, next.Networks = newest.Name, newest.Actions, newest.Repositories, newest.Networks
	}
	overlap := usualOverlap
	if r.Overlap != nil {
		overlap = r.Overlap.Duration
	}
	expire := now.Add(overlap)
	return h.addCredential(c, a, next, &expire)
}

func (h *Handler) revokeSecret(c *call) (any, error) {
	a, err := h.robot(c)
	if err != nil {
		return nil, err
	}
	return h.revoke(c, a)
}
