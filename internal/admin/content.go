package admin

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// What is here serves the routes of rightContent. They are about what repositories hold, so they exist without access control, too: whoever
// may push and delete then may do the same here. With it, what somebody may do to a repository is asked as for a push, a pull or a delete.

// content are the rights of a caller on one repository.
type content struct {
	h     *Handler
	c     *call
	facts *access.Facts // nil if the caller may do everything
}

// free tells whether a caller may do everything with content.
func (h *Handler) free(c *call) bool { return c.local || h.opts.Auth == nil }

// content reads the rights of a caller on a repository.
func (h *Handler) content(c *call, r oci.Repository) (content, error) {
	k := content{h: h, c: c}
	if h.free(c) {
		return k, nil
	}
	_, facts, err := h.opts.Auth.Decide(c.Context(), &c.identity, access.Pull, r, "")
	k.facts = facts
	return k, err
}

// may tells whether the caller may do something to the repository.
func (k content) may(action access.Actions) bool {
	return k.facts == nil || k.h.opts.Auth.Judge(&k.c.identity, k.facts, action, "").Allowed
}

// need fails if the caller may not do something to the repository.
func (k content) need(action access.Actions) error {
	if k.facts == nil {
		return nil
	}
	if d := k.h.opts.Auth.Judge(&k.c.identity, k.facts, action, ""); !d.Allowed {
		return k.h.opts.Auth.Denied(&k.c.identity, action, k.facts, "", d)
	}
	return nil
}

// isMember tells whether the caller may pull by a right of their own, not merely because everybody may: who changed what is not for everybody.
func (k content) isMember() bool {
	if k.facts == nil {
		return true
	}
	private, no := *k.facts, false
	private.Public = &no
	return k.h.opts.Auth.Judge(&k.c.identity, &private, access.Pull, "").Allowed
}

// needMember fails if the caller is no member.
func (k content) needMember() error {
	if !k.isMember() {
		return oci.Errorf(oci.CodeDenied, "%s may not see who changed %s: that needs a grant to pull", k.c.identity.Name, k.facts.Repository)
	}
	return nil
}

// maySet is what decides about each tag that is set back or deleted, or nil.
func (k content) maySet() meta.AllowRestore {
	if k.facts == nil {
		return nil
	}
	set, del := k.h.opts.Auth.MaySet(&k.c.identity, k.facts), k.h.opts.Auth.MayDelete(&k.c.identity, k.facts)
	return func(tag oci.Tag, current, next oci.Digest) error {
		if next.IsZero() {
			return del(tag)
		}
		return set(tag, current, next)
	}
}

// mayDelete is what decides about each tag that a delete takes away, or nil.
func (k content) mayDelete() func(oci.Tag) error {
	if k.facts == nil {
		return nil
	}
	return k.h.opts.Auth.MayDelete(&k.c.identity, k.facts)
}

// actor is who makes a change, for the logs.
func (k content) actor() registry.Actor {
	if k.c.local {
		return registry.Actor{Name: localActor}
	}
	client := k.c.identity.Client.String()
	if k.facts == nil {
		return registry.Actor{Name: "anonymous@" + client}
	}
	return registry.Actor{Name: k.c.identity.Actor(), Account: k.c.identity.Account, Credential: k.c.identity.CredentialLabel(k.facts), Client: client, Audit: true}
}

// anonymous makes the identity of a caller where there is no access control.
func (h *Handler) anonymous(c *call) auth.Identity {
	id := auth.Identity{Client: netip.IPv6Unspecified()}
	if h.opts.Client != nil {
		id.Client = h.opts.Client(c.Request)
	}
	return id
}

// scopeOf reads a scope: a repository, an organization or another first part of names with a slash at the end, or nothing for everything.
func scopeOf(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, err := oci.ParseRepository(strings.TrimSuffix(s, "/")); err != nil {
		return "", errInvalid("the scope %q is neither a repository nor the beginning of names with a '/' at its end", clip(s))
	}
	return s, nil
}

// isRepository tells whether a scope is one repository.
func isRepository(scope string) bool { return scope != "" && !strings.HasSuffix(scope, "/") }

// timeOf reads the parameter of a time; none is the zero time.
func timeOf(name, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, errInvalid("%s: %q is not a time: write it as 2026-12-31T00:00:00Z", name, clip(s))
	}
	return t, nil
}

const (
	scopeBatch = 100  // repositories that are read at a time
	maxScope   = 1000 // that are looked at for one answer
)

// place is where the next part of a list over repositories goes on: within one, or after it.
type place struct {
	repository oci.Repository
	within     string
}

func (p place) String() string {
	if p.within == "" {
		return string(p.repository)
	}
	return string(p.repository) + ":" + p.within
}

func placeOf(s string) (p place, err error) {
	name, within, _ := strings.Cut(s, ":")
	if s != "" {
		p.repository, err = oci.ParseRepository(name)
	}
	p.within = within
	if err != nil {
		return p, errInvalid("after must be what next was")
	}
	return p, nil
}

// walk answers with the part of a list over the repositories of a scope that the request asks for. names returns repositories after one; look returns up to n items of a
// repository after a place within it, and the place to go on from, empty if there are no more. Repositories that skip tells are passed over.
func walk[T any](h *Handler, scope, after string, n int, names func(scope, after string, n int) ([]string, error),
	enter func(oci.Repository) (look func(within string, n int) ([]T, string, error), err error)) (any, error) {
	after, err := h.opts.Registry.Reveal(after)
	if err != nil {
		return nil, err
	}
	at, err := placeOf(after)
	if err != nil {
		return nil, err
	}
	p := Page[T]{Items: []T{}}
	for seen := 0; ; {
		var batch []string
		if at.within != "" {
			batch = []string{string(at.repository)}
		} else if batch, err = names(scope, string(at.repository), scopeBatch); err != nil {
			return nil, err
		}
		if len(batch) == 0 {
			return p, nil
		}
		for _, name := range batch {
			if name != string(at.repository) {
				at = place{oci.Repository(name), ""}
			}
			look, err := enter(at.repository)
			if err != nil {
				return nil, err
			}
			if look != nil {
				items, within, err := look(at.within, n-len(p.Items))
				if err != nil {
					return nil, err
				}
				p.Items = append(p.Items, items...)
				at.within = within
			} else {
				at.within = ""
			}
			if seen++; at.within != "" || len(p.Items) >= n || seen >= maxScope {
				if p.Next = at.String(); look == nil {
					p.Next = h.opts.Registry.Conceal(p.Next)
				}
				return p, nil
			}
		}
	}
}

// maySee fails if a scope is a single repository that the caller may not pull from, whether there is one or not. With member, that takes a right of their own.
func (h *Handler) maySee(c *call, scope string, member bool) error {
	if !isRepository(scope) {
		return nil
	}
	k, err := h.content(c, oci.Repository(scope))
	if err == nil {
		err = k.need(access.Pull)
	}
	if err == nil && member {
		err = k.needMember()
	}
	return err
}

// pullable is what walk enters where the caller may pull, with member by a right of their own.
func (h *Handler) pullable(c *call, r oci.Repository, member bool) (content, bool, error) {
	k, err := h.content(c, r)
	if err != nil {
		return k, false, err
	}
	return k, k.may(access.Pull) && (!member || k.isMember()), nil
}

// repositoryOf reads the parameter of a repository, and the rights on it.
func (h *Handler) repositoryOf(c *call, name string, action access.Actions) (oci.Repository, content, error) {
	r, err := oci.ParseRepository(name)
	if err != nil {
		return "", content{}, err
	}
	k, err := h.content(c, r)
	if err == nil {
		err = k.need(action)
	}
	return r, k, err
}

// milliseconds is a place in a list by time.
func milliseconds(at time.Time, id int64) string { return fmt.Sprintf("%d-%d", at.UnixMilli(), id) }

func parseMilliseconds(s string) (at time.Time, id int64, err error) {
	if s == "" {
		return at, 0, nil
	}
	var ms int64
	if _, err := fmt.Sscanf(s, "%d-%d", &ms, &id); err != nil {
		return at, 0, errInvalid("after must be what next was")
	}
	return time.UnixMilli(ms), id, nil
}
