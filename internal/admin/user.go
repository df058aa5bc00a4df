package admin

import (
	"context"
	"errors"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
)

// User is a person's account.
type User struct {
	Name        string   `json:"name"`
	DisplayName string   `json:"displayName,omitempty"`
	Mail        string   `json:"mail,omitempty"`
	Admin       bool     `json:"admin"` // of the whole registry
	Disabled    bool     `json:"disabled"`
	Expires     Expiry   `json:"expires,omitzero"`
	Networks    []string `json:"networks,omitempty"` // where it can be used from
	Source      string   `json:"source"`             // where it is kept: local, or a directory or issuer
	Password    bool     `json:"password"`           // whether there is one
	Created     Expiry   `json:"created"`
	Seen        Expiry   `json:"seen,omitzero"` // when it last signed in
}

func userOf(a *meta.Account) User {
	return User{
		Name: a.Name, DisplayName: a.DisplayName, Mail: a.Mail, Admin: a.Admin, Disabled: a.Disabled, Expires: Expiry{a.Expires},
		Networks: networkTexts(a.Networks), Source: a.Source, Password: a.Password != "", Created: Expiry{a.Created}, Seen: Expiry{a.Seen},
	}
}

// AccountChange says what shall change about a user or a robot; what is nil stays.
type AccountChange struct {
	DisplayName *string   `json:"displayName,omitempty"`
	Mail        *string   `json:"mail,omitempty"`  // of a user
	Admin       *bool     `json:"admin,omitempty"` // of a user
	Disabled    *bool     `json:"disabled,omitempty"`
	Expires     *Expiry   `json:"expires,omitempty"`
	Networks    *[]string `json:"networks,omitempty"`
}

// apply returns what makes the change.
func (ch *AccountChange) apply() (func(*meta.Account), error) {
	for field, text := range map[string]*string{"displayName": ch.DisplayName, "mail": ch.Mail} {
		if text != nil {
			if err := checkText(field, *text); err != nil {
				return nil, err
			}
		}
	}
	networks, err := networksOf(value(ch.Networks))
	return func(a *meta.Account) {
		set(&a.DisplayName, ch.DisplayName)
		set(&a.Mail, ch.Mail)
		set(&a.Admin, ch.Admin)
		set(&a.Disabled, ch.Disabled)
		if ch.Expires != nil {
			a.Expires = ch.Expires.Time
		}
		if ch.Networks != nil {
			a.Networks = networks
		}
	}, err
}

func set[T any](to, value *T) {
	if value != nil {
		*to = *value
	}
}

func value[T any](p *T) (v T) {
	set(&v, p)
	return v
}

// NewUser is a user to be made.
type NewUser struct {
	Name     string `json:"name"`
	Password string `json:"password,omitempty"` // without one, the user can have tokens only
	AccountChange
}

func (h *Handler) listUsers(c *call) (any, error) {
	return page(c, func(after string, n int) ([]*meta.Account, error) {
		return h.opts.DB.Accounts(c.Context(), false, after, n)
	}, func(a *meta.Account) string { return a.Name }, userOf)
}

func (h *Handler) createUser(c *call) (any, error) {
	var u NewUser
	if err := c.read(&u); err != nil {
		return nil, err
	}
	c.made, c.detail = u.Name, u.AccountChange
	return h.addUser(c, &u, h.changes(c).CreateAccount)
}

// addUser makes a user, by create.
func (h *Handler) addUser(c *call, u *NewUser, create func(context.Context, *meta.Account) error) (any, error) {
	if err := checkUser(u.Name); err != nil {
		return nil, err
	}
	apply, err := u.apply()
	if err != nil {
		return nil, err
	}
	a := &meta.Account{Source: meta.LocalAccounts, Created: h.opts.Now()}
	a.Name = u.Name
	apply(a)
	if u.Password != "" {
		if a.Password, err = h.hash(c.Context(), u.Password); err != nil {
			return nil, err
		}
	}
	if err := create(c.Context(), a); err != nil {
		return nil, err
	}
	return created{userOf(a)}, nil
}

// hash returns the hash of a new password.
func (h *Handler) hash(ctx context.Context, password string) (string, error) {
	if err := auth.CheckPassword(password); err != nil {
		return "", errInvalid("%v", err)
	}
	return h.opts.Auth.HashPassword(ctx, password)
}

// user returns the user that the path names, or else whose request it is.
func (h *Handler) user(c *call) (*meta.Account, error) {
	name := c.PathValue("user")
	if name == "" {
		return h.opts.DB.AccountByID(c.Context(), c.identity.Account)
	}
	a, err := h.opts.DB.Account(c.Context(), name)
	if err == nil && a.Robot {
		err = meta.ErrNotFound
	}
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFound("no user %q", clip(name))
	}
	return a, err
}

func (h *Handler) showUser(c *call) (any, error) {
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	if a.Robot {
		return robotOf(a), nil
	}
	return userOf(a), nil
}

func (h *Handler) changeUser(c *call) (any, error) {
	var ch AccountChange
	if err := c.read(&ch); err != nil {
		return nil, err
	}
	apply, err := ch.apply()
	if err != nil {
		return nil, err
	}
	c.detail = ch
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	if a, err = h.change(c, a.Name, apply); err != nil {
		return nil, err
	}
	return userOf(a), nil
}

func (h *Handler) deleteUser(c *call) (any, error) {
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	return nil, keeping(h.changes(c).DeleteAccount(c.Context(), a.Name))
}

// NewPassword is the password that a user gets.
type NewPassword struct {
	Old      string `json:"old,omitempty"` // needed by who changes their own
	Password string `json:"password"`
}

func (h *Handler) setPassword(c *call) (any, error) {
	var p NewPassword
	if err := c.read(&p); err != nil {
		return nil, err
	}
	return nil, h.givePassword(c, p.Password)
}

func (h *Handler) givePassword(c *call, password string) error {
	a, err := h.user(c)
	if err != nil {
		return err
	}
	if a.Source != meta.LocalAccounts {
		return errInvalid("the password of %s is kept at %s: change it there", a.Name, a.Source)
	}
	hash, err := h.hash(c.Context(), password)
	if err != nil {
		return err
	}
	_, err = h.change(c, a.Name, func(a *meta.Account) { a.Password = hash })
	return err
}

// changePassword changes the own password of who knows the old one.
func (h *Handler) changePassword(c *call) (any, error) {
	var p NewPassword
	if err := c.read(&p); err != nil {
		return nil, err
	}
	id, err := h.opts.Auth.SignIn(c.Context(), c.identity.Name, p.Old, c.identity.Client)
	if errors.Is(err, auth.ErrCredentials) || err == nil && (id.Credential != 0 || id.Account != c.identity.Account) {
		return nil, errInvalid("the old password is wrong")
	}
	if err != nil {
		return nil, err
	}
	return nil, h.givePassword(c, p.Password)
}

// dropPassword leaves a user with tokens only.
func (h *Handler) dropPassword(c *call) (any, error) {
	a, err := h.user(c)
	if err != nil {
		return nil, err
	}
	_, err = h.change(c, a.Name, func(a *meta.Account) { a.Password = "" })
	return nil, err
}
