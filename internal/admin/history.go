package admin

import (
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Move is a move of a tag.
type Move struct {
	At         time.Time `json:"at"`
	ID         int64     `json:"id"`
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	Old        string    `json:"old,omitempty"` // the digest; empty if the tag was not there before
	New        string    `json:"new,omitempty"` // empty if it was not there after
	Actor      string    `json:"actor"`         // the account, or the address of who did not sign in
	Credential string    `json:"credential,omitempty"`
	Method     string    `json:"method"` // push, delete, restore, undelete, ...
}

// TagAt is what a tag pointed to at a time.
type TagAt struct {
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	Digest     string    `json:"digest"`
	Since      time.Time `json:"since"`
	Kept       meta.Kept `json:"kept"` // where the manifest is now: repository, trash or gone
}

// TagDiff is a tag that pointed elsewhere at one of two times.
type TagDiff struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	From       string `json:"from,omitempty"` // empty if it was not there
	To         string `json:"to,omitempty"`
}

// Restore is a tag that a restore changes, or cannot change.
type Restore struct {
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	Now        string    `json:"now,omitempty"`     // what it points to; empty if it is not there
	Then       string    `json:"then,omitempty"`    // what it is to point to; empty if it is to be deleted
	Kept       meta.Kept `json:"kept,omitempty"`    // where that manifest is
	Problem    string    `json:"problem,omitempty"` // why it cannot be done
}

// RestoreOrder says what is set back, and to when.
type RestoreOrder struct {
	// Scope is a repository, the beginning of names with a slash at its end, or empty for everything.
	Scope string `json:"scope"`
	// Tag is the only tag that is set back, if the scope is a repository.
	Tag string `json:"tag,omitempty"`
	// At is when; without it, the tag is set back to what it was before its last move.
	At string `json:"at,omitempty"`
	// KeepNew leaves tags that were not there then.
	KeepNew bool `json:"keep_new,omitempty"`
	// After is where the last part of the answer ended.
	After string `json:"after,omitempty"`
}

func digestText(d oci.Digest) string {
	if d.IsZero() {
		return ""
	}
	return d.String()
}

// listMoves answers with moves, the last first.
func (h *Handler) listMoves(c *call) (any, error) {
	query := c.URL.Query()
	r, k, err := h.repositoryOf(c, query.Get("repository"), access.Pull)
	if err == nil {
		err = k.needMember()
	}
	if err != nil {
		return nil, err
	}
	var tag oci.Tag
	if s := query.Get("tag"); s != "" {
		if tag, err = oci.ParseTag(s); err != nil {
			return nil, err
		}
	}
	var before meta.MovePlace
	if before.At, before.ID, err = parseMilliseconds(query.Get("after")); err != nil {
		return nil, err
	}
	n, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	moves, err := h.opts.DB.TagMoves(c.Context(), r, tag, before, n)
	if err != nil {
		return nil, err
	}
	p := Page[Move]{Items: make([]Move, len(moves))}
	for i, m := range moves {
		p.Items[i] = Move{m.At.UTC(), m.ID, string(r), string(m.Tag), digestText(m.Old), digestText(m.New), m.Origin.Actor, m.Origin.Credential, m.Origin.Method}
	}
	if len(moves) == n {
		p.Next = milliseconds(moves[n-1].At, moves[n-1].ID)
	}
	return p, nil
}

// listTagsAt answers with tags as they were at a time.
func (h *Handler) listTagsAt(c *call) (any, error) {
	query := c.URL.Query()
	scope, err := scopeOf(query.Get("scope"))
	if err != nil {
		return nil, err
	}
	at, err := timeOf("at", query.Get("at"))
	if err != nil {
		return nil, err
	}
	if at.IsZero() {
		at = h.opts.Now()
	}
	if s := query.Get("tag"); s != "" {
		return h.tagAt(c, scope, s, at)
	}
	return walkHistory(h, c, scope, query.Get("after"), at, at, func(_ content, r oci.Repository, changes []meta.TagChange) ([]TagAt, error) {
		states := make([]meta.TagState, len(changes))
		for i := range changes {
			states[i] = changes[i].From
		}
		return h.tagsAt(c, r, states)
	})
}

// tagAt answers with one tag as it was at a time.
func (h *Handler) tagAt(c *call, scope, name string, at time.Time) (any, error) {
	r, _, err := h.repositoryOf(c, scope, access.Pull)
	if err != nil {
		return nil, err
	}
	tag, err := oci.ParseTag(name)
	if err != nil {
		return nil, err
	}
	s, err := h.opts.DB.TagAt(c.Context(), r, tag, at)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFound("no tag %s of %s at %s", tag, r, at.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, err
	}
	items, err := h.tagsAt(c, r, []meta.TagState{s})
	return Page[TagAt]{Items: items}, err
}

// tagsAt adds where the manifests are.
func (h *Handler) tagsAt(c *call, r oci.Repository, states []meta.TagState) ([]TagAt, error) {
	digests := make([]oci.Digest, len(states))
	for i, s := range states {
		digests[i] = s.Digest
	}
	kept, err := h.opts.DB.Whereabouts(c.Context(), r, digests)
	items := make([]TagAt, len(states))
	for i, s := range states {
		items[i] = TagAt{string(r), string(s.Tag), digestText(s.Digest), s.Since.UTC(), kept[s.Digest]}
	}
	return items, err
}

// listChanges answers with tags that pointed elsewhere at one of two times.
func (h *Handler) listChanges(c *call) (any, error) {
	query := c.URL.Query()
	scope, err := scopeOf(query.Get("scope"))
	if err != nil {
		return nil, err
	}
	from, err := timeOf("from", query.Get("from"))
	if err != nil {
		return nil, err
	}
	if from.IsZero() {
		return nil, errInvalid("from is missing: the time from which on changes are asked for")
	}
	to, err := timeOf("to", query.Get("to"))
	if err != nil {
		return nil, err
	}
	return walkHistory(h, c, scope, query.Get("after"), from, to, func(_ content, r oci.Repository, changes []meta.TagChange) ([]TagDiff, error) {
		items := make([]TagDiff, 0, len(changes))
		for _, ch := range changes {
			if ch.From.Digest != ch.To.Digest {
				items = append(items, TagDiff{string(r), string(ch.From.Tag), digestText(ch.From.Digest), digestText(ch.To.Digest)})
			}
		}
		return items, nil
	})
}

// walkHistory is walk over the tags of repositories that the caller may pull from, at two times.
func walkHistory[T any](h *Handler, c *call, scope, after string, from, to time.Time, show func(content, oci.Repository, []meta.TagChange) ([]T, error)) (any, error) {
	if err := h.maySee(c, scope, false); err != nil {
		return nil, err
	}
	n, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	names := func(scope, after string, n int) ([]string, error) {
		return h.opts.DB.LoggedRepositories(c.Context(), scope, after, n)
	}
	return walk(h, scope, after, n, names, func(r oci.Repository) (func(string, int) ([]T, string, error), error) {
		k, ok, err := h.pullable(c, r, false)
		if err != nil || !ok {
			return nil, err
		}
		return func(within string, n int) ([]T, string, error) {
			changes, next, err := h.opts.DB.TagChanges(c.Context(), r, from, to, oci.Tag(within), n)
			if err != nil {
				return nil, "", err
			}
			items, err := show(k, r, changes)
			return items, string(next), err
		}, nil
	})
}

// planRestore answers with what a restore would do.
func (h *Handler) planRestore(c *call) (any, error) {
	query := c.URL.Query()
	return h.restores(c, RestoreOrder{Scope: query.Get("scope"), Tag: query.Get("tag"), At: query.Get("at"), KeepNew: query.Get("keep_new") == "true", After: query.Get("after")}, false)
}

// restore sets tags back, and answers with what it did, and could not do.
func (h *Handler) restore(c *call) (any, error) {
	var o RestoreOrder
	if err := c.read(&o); err != nil {
		return nil, err
	}
	c.made, c.detail = o.Scope, o
	return h.restores(c, o, true)
}

// restores plans a part of a restore, and executes it if asked to. A tag that moves meanwhile stays as it is and has a problem.
func (h *Handler) restores(c *call, o RestoreOrder, execute bool) (any, error) {
	scope, err := scopeOf(o.Scope)
	if err != nil {
		return nil, err
	}
	at, err := timeOf("at", o.At)
	switch {
	case err != nil:
		return nil, err
	case at.After(h.opts.Now()):
		return nil, errInvalid("the time %s has not come yet", o.At)
	case o.Tag != "":
		return h.restoreTag(c, scope, o.Tag, at, execute)
	case at.IsZero():
		return nil, errInvalid("at is missing: the time that is to be restored")
	}
	return walkHistory(h, c, scope, o.After, at, time.Time{}, func(k content, r oci.Repository, changes []meta.TagChange) ([]Restore, error) {
		var tags []meta.TagRestore
		for _, ch := range changes {
			if ch.From.Digest != ch.To.Digest && !(o.KeepNew && ch.From.Digest.IsZero()) {
				tags = append(tags, meta.TagRestore{Tag: ch.From.Tag, From: ch.To.Digest, To: ch.From.Digest})
			}
		}
		return k.restore(r, tags, execute)
	})
}

// restoreTag is restores of one tag; the zero time stands for before its last move.
func (h *Handler) restoreTag(c *call, scope, name string, at time.Time, execute bool) (any, error) {
	r, k, err := h.repositoryOf(c, scope, access.Pull)
	if err != nil {
		return nil, err
	}
	tag, err := oci.ParseTag(name)
	if err != nil {
		return nil, err
	}
	last, err := h.opts.DB.TagMoves(c.Context(), r, tag, meta.MovePlace{}, 1)
	if err != nil {
		return nil, err
	}
	if len(last) == 0 {
		return nil, errNotFound("no history of the tag %s of %s", tag, r)
	}
	one := meta.TagRestore{Tag: tag, From: last[0].New, To: last[0].Old}
	if !at.IsZero() {
		s, err := h.opts.DB.TagAt(c.Context(), r, tag, at)
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return nil, err
		}
		one.To = s.Digest
	}
	if one.To.IsZero() { // a typing error in the time shall delete nothing
		return nil, errNotFound("no tag %s of %s at that time: delete it, if that is what it shall be again", tag, r)
	}
	if one.From == one.To {
		return Page[Restore]{Items: []Restore{}}, nil
	}
	items, err := k.restore(r, []meta.TagRestore{one}, execute)
	return Page[Restore]{Items: items}, err
}

// restore tells what setting tags back does, and does it if asked to.
func (k content) restore(r oci.Repository, tags []meta.TagRestore, execute bool) ([]Restore, error) {
	if len(tags) == 0 {
		return []Restore{}, nil
	}
	ctx := k.c.Context()
	digests := make([]oci.Digest, 0, len(tags))
	for _, one := range tags {
		if !one.To.IsZero() {
			digests = append(digests, one.To)
		}
	}
	kept, err := k.h.opts.DB.Whereabouts(ctx, r, digests)
	if err != nil {
		return nil, err
	}
	failed := make([]error, len(tags))
	if execute {
		if failed, _, err = k.h.opts.Registry.RestoreTags(ctx, r, tags, k.actor(), k.maySet()); err != nil {
			return nil, err
		}
	} else {
		may := k.maySet()
		for i, one := range tags {
			switch {
			case may != nil && may(one.Tag, one.From, one.To) != nil:
				failed[i] = may(one.Tag, one.From, one.To)
			case kept[one.To] == meta.KeptNowhere:
				failed[i] = meta.ErrGone
			}
		}
	}
	items := make([]Restore, len(tags))
	for i, one := range tags {
		items[i] = Restore{Repository: string(r), Tag: string(one.Tag), Now: digestText(one.From), Then: digestText(one.To), Kept: kept[one.To]}
		switch wrong, is := errors.AsType[*oci.Error](failed[i]); {
		case failed[i] == nil:
		case is:
			items[i].Problem = wrong.Message
		default:
			items[i].Problem = failed[i].Error()
		}
	}
	return items, nil
}
