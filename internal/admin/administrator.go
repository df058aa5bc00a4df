package admin

import (
	"context"

	"github.com/berthregistry/berth/internal/meta"
)

// administers tells whether an account is one of those of which there must be one: an administrator of the registry now and for ever.
func administers(a *meta.Account) bool {
	return a.Admin && !a.Disabled && !a.Robot && a.Expires.IsZero()
}

// hasAdministrator tells whether there is an administrator of another name.
func (h *Handler) hasAdministrator(ctx context.Context, except string) (bool, error) {
	for after := ""; ; {
		all, err := h.opts.DB.Accounts(ctx, false, after, maxPage)
		if err != nil {
			return false, err
		}
		for _, a := range all {
			if administers(a) && a.Name != except {
				return true, nil
			}
		}
		if len(all) < maxPage {
			return false, nil
		}
		after = all[len(all)-1].Name
	}
}

// change changes an account, unless it is the last administrator and would not be one any more. Of several nodes that take the last two
// away at the same moment, each sees in the end that there is none left, and gives the right back.
func (h *Handler) change(ctx context.Context, name string, apply func(*meta.Account)) (after *meta.Account, err error) {
	h.administrators.Lock()
	defer h.administrators.Unlock()
	a, err := h.opts.DB.Account(ctx, name)
	if err != nil {
		return nil, err
	}
	others := false // whom nobody has to look for if this account is none
	if administers(a) {
		if others, err = h.hasAdministrator(ctx, name); err != nil {
			return nil, err
		}
	}
	var before meta.Account
	lost := false
	err = h.opts.DB.ChangeAccount(ctx, name, func(a *meta.Account) error {
		before = *a
		apply(a)
		after, lost = a, administers(&before) && !administers(a)
		if lost && !others {
			return errLast
		}
		return nil
	})
	if err != nil || !lost {
		return after, err
	}
	ctx = context.WithoutCancel(ctx)
	if others, err = h.hasAdministrator(ctx, name); err != nil || others {
		return after, err
	}
	if err := h.opts.DB.ChangeAccount(ctx, name, func(a *meta.Account) error {
		a.Admin, a.Disabled, a.Expires = before.Admin, before.Disabled, before.Expires
		return nil
	}); err != nil {
		return nil, err
	}
	return nil, errLast
}

var errLast = errConflict("this is the last administrator, without whom nobody could manage the registry: make another one first")
