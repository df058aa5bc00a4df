package admin

import (
	"errors"

	"github.com/berthregistry/berth/internal/meta"
)

// change changes an account, unless it is the last administrator and would not be one any more.
func (h *Handler) change(c *call, name string, apply func(*meta.Account)) (after *meta.Account, err error) {
	err = h.changes(c).ManageAccount(c.Context(), name, func(a *meta.Account) error {
		apply(a)
		after = a
		return nil
	})
	if err != nil {
		return nil, keeping(err)
	}
	return after, nil
}

// keeping tells who takes the last administrator away what to do.
func keeping(err error) error {
	if errors.Is(err, meta.ErrLastAdministrator) {
		return errLast
	}
	return err
}

var errLast = errConflict("this is the last administrator, without whom nobody could manage the registry: make another one first")
