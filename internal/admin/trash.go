package admin

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Trashed is a manifest that was deleted and can be taken back.
type Trashed struct {
	Repository string    `json:"repository"`
	Digest     string    `json:"digest"`
	MediaType  string    `json:"mediaType"`
	Tags       []string  `json:"tags,omitempty"` // that it lost, at most 100
	Bytes      int64     `json:"bytes"`          // of the manifest and its blobs, which others may need, too
	Deleted    time.Time `json:"deleted"`
	Expires    time.Time `json:"expires,omitzero"` // when it will be gone; absent if that is not known here
	Actor      string    `json:"actor"`
	Credential string    `json:"credential,omitempty"`
	Method     string    `json:"method"`
}

// listTrash answers with what lies in the trash, by repository, the last deleted first.
func (h *Handler) listTrash(c *call) (any, error) {
	query := c.URL.Query()
	scope, err := scopeOf(query.Get("scope"))
	if err != nil {
		return nil, err
	}
	if err := h.maySee(c, scope, true); err != nil {
		return nil, err
	}
	n, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	return walk(h, scope, query.Get("after"), n, h.trashed(c), func(r oci.Repository) (func(string, int) ([]Trashed, string, error), error) {
		if _, ok, err := h.pullable(c, r, true); !ok {
			return nil, err
		}
		return func(within string, n int) (items []Trashed, next string, err error) {
			var before meta.TrashPlace
			if before.Deleted, before.ID, err = parseMilliseconds(within); err != nil {
				return nil, "", err
			}
			found, err := h.opts.DB.Trash(c.Context(), r, before, n)
			for _, m := range found {
				items = append(items, h.show(m))
			}
			if err == nil && len(found) == n {
				next = milliseconds(found[n-1].Deleted, found[n-1].ID)
			}
			return items, next, err
		}, nil
	})
}

func (h *Handler) trashed(c *call) func(scope, after string, n int) ([]string, error) {
	return func(scope, after string, n int) ([]string, error) {
		return h.opts.DB.TrashedRepositories(c.Context(), scope, after, n)
	}
}

func (h *Handler) show(m meta.Trashed) Trashed {
	t := Trashed{Repository: string(m.Repository), Digest: m.Digest.String(), MediaType: m.MediaType, Bytes: m.Size + m.Blobs,
		Deleted: m.Deleted.UTC(), Actor: m.Origin.Actor, Credential: m.Origin.Credential, Method: m.Origin.Method}
	for _, tag := range m.Tags {
		t.Tags = append(t.Tags, string(tag))
	}
	if h.opts.TrashKeep > 0 {
		t.Expires = t.Deleted.Add(h.opts.TrashKeep)
	}
	return t
}

// EmptyOrder says what is taken out of the trash for good.
type EmptyOrder struct {
	// Scope is a repository, the beginning of names with a slash at its end, or empty for everything.
	Scope string `json:"scope"`
	// Digest is the only manifest that goes, if the scope is a repository.
	Digest string `json:"digest,omitempty"`
	// After is where the last part of the answer ended.
	After string `json:"after,omitempty"`
}

// Emptied says how much of the trash of a repository is gone.
type Emptied struct {
	Repository string `json:"repository"`
	Manifests  int64  `json:"manifests"`
	Problem    string `json:"problem,omitempty"`
}

// emptyBatch is how many manifests leave the trash, or repositories, at a time.
const emptyBatch = 100

// emptyTrash takes manifests out of the trash for good. The collector frees the bytes when the grace period is over.
func (h *Handler) emptyTrash(c *call) (any, error) {
	var o EmptyOrder
	if err := c.read(&o); err != nil {
		return nil, err
	}
	c.made, c.detail = o.Scope, o
	scope, err := scopeOf(o.Scope)
	if err != nil {
		return nil, err
	}
	var d oci.Digest
	if o.Digest != "" {
		if !isRepository(scope) {
			return nil, errInvalid("a digest needs the repository that it is in")
		}
		if d, err = oci.ParseDigest(o.Digest); err != nil {
			return nil, err
		}
	}
	if isRepository(scope) {
		if _, _, err := h.repositoryOf(c, scope, access.Delete); err != nil {
			return nil, err
		}
	}
	if err := h.maySee(c, scope, false); err != nil {
		return nil, err
	}
	return walk(h, scope, o.After, emptyBatch, h.trashed(c), func(r oci.Repository) (func(string, int) ([]Emptied, string, error), error) {
		k, ok, err := h.pullable(c, r, false)
		if !ok {
			return nil, err
		}
		return func(string, int) ([]Emptied, string, error) {
			done := Emptied{Repository: string(r)}
			if err := k.need(access.Delete); err != nil {
				done.Problem = messageOf(err)
				return []Emptied{done}, "", nil
			}
			for range emptyBatch {
				e, err := h.opts.Registry.EmptyTrash(c.Context(), r, d, emptyBatch, k.actor())
				if err != nil {
					return nil, "", err
				}
				done.Manifests += e.Manifests
				if e.Manifests < emptyBatch {
					return []Emptied{done}, "", nil
				}
			}
			return []Emptied{done}, "more", nil
		}, nil
	})
}

// messageOf returns what a client hears of an error.
func messageOf(err error) string {
	if wrong, is := errors.AsType[*oci.Error](err); is {
		return wrong.Message
	}
	return err.Error()
}

// UndeleteOrder says what is taken out of the trash: a tag, a manifest, or of a repository all that was deleted since a time, or
// with what was deleted last if there is none.
type UndeleteOrder struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest,omitempty"`
	Since      string `json:"since,omitempty"`
	// After is where the last part of the answer ended.
	After string `json:"after,omitempty"`
}

// Undeleted is a manifest that was taken out of the trash, or could not be.
type Undeleted struct {
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Tags       []string `json:"tags,omitempty"`    // that it has again
	Taken      []string `json:"taken,omitempty"`   // tags that were set anew since
	Problem    string   `json:"problem,omitempty"` // why it is still in the trash
}

// undeleteBatch is how many manifests come out of the trash for one answer.
const undeleteBatch = 50

// undelete takes manifests out of the trash.
func (h *Handler) undelete(c *call) (any, error) {
	var o UndeleteOrder
	if err := c.read(&o); err != nil {
		return nil, err
	}
	c.made, c.detail = o.Repository, o
	r, k, err := h.repositoryOf(c, o.Repository, access.Pull)
	if err != nil {
		return nil, err
	}
	switch {
	case o.Tag != "" && o.Digest != "":
		return nil, errInvalid("give a tag or a digest, not both")
	case o.Tag != "":
		return k.undeleteTag(r, o.Tag)
	case o.Digest != "":
		d, err := oci.ParseDigest(o.Digest)
		if err != nil {
			return nil, err
		}
		item, err := k.undelete(r, d)
		if wrong, is := errors.AsType[*oci.Error](err); is && wrong.Code == oci.CodeManifestUnknown {
			err = errNotFound("no manifest %s in the trash of %s", d, r)
		}
		return Page[Undeleted]{Items: []Undeleted{item}}, err
	}
	since, err := timeOf("since", o.Since)
	if err != nil {
		return nil, err
	}
	return k.undeleteSince(r, since, o.After)
}

// undeleteTag sets a tag that was deleted to what it was.
func (k content) undeleteTag(r oci.Repository, name string) (any, error) {
	tag, err := oci.ParseTag(name)
	if err != nil {
		return nil, err
	}
	last, err := k.h.opts.DB.TagMoves(k.c.Context(), r, tag, meta.MovePlace{}, 1)
	switch {
	case err != nil:
		return nil, err
	case len(last) == 0:
		return nil, errNotFound("no history of the tag %s of %s", tag, r)
	case !last[0].New.IsZero():
		return nil, errConflict("the tag %s of %s is there: restore it to another time", tag, r)
	}
	failed, _, err := k.h.opts.Registry.RestoreTags(k.c.Context(), r, []meta.TagRestore{{Tag: tag, To: last[0].Old}}, k.actor(), k.maySet())
	switch {
	case err != nil:
		return nil, err
	case errors.Is(failed[0], meta.ErrGone):
		return nil, errNotFound("no manifest %s any more that the tag %s of %s pointed to: its time in the trash is over", last[0].Old, tag, r)
	case errors.Is(failed[0], meta.ErrChanged):
		return nil, errConflict("the tag %s of %s has been set meanwhile", tag, r)
	case failed[0] != nil:
		return nil, failed[0]
	}
	return Page[Undeleted]{Items: []Undeleted{{Repository: string(r), Digest: last[0].Old.String(), Tags: []string{string(tag)}}}}, nil
}

func (k content) undelete(r oci.Repository, d oci.Digest) (Undeleted, error) {
	u, err := k.h.opts.Registry.Undelete(k.c.Context(), r, d, k.actor(), k.maySet())
	item := Undeleted{Repository: string(r), Digest: d.String()}
	for _, tag := range u.Tags {
		item.Tags = append(item.Tags, string(tag))
	}
	for _, tag := range u.Taken {
		item.Taken = append(item.Taken, string(tag))
	}
	return item, err
}

// undeleteSince takes out of the trash what was deleted since a time. Without one, it is the time of the last deletion, which a part of the answer hands on
// to the next in its place.
func (k content) undeleteSince(r oci.Repository, since time.Time, after string) (any, error) {
	var before meta.TrashPlace
	var err error
	if place, handed, ok := strings.Cut(after, "/"); ok {
		if before.Deleted, before.ID, err = parseMilliseconds(place); err != nil {
			return nil, err
		}
		ms, err := strconv.ParseInt(handed, 10, 64)
		if err != nil {
			return nil, errInvalid("after must be what next was")
		}
		since = time.UnixMilli(ms)
	}
	found, err := k.h.opts.DB.Trash(k.c.Context(), r, before, undeleteBatch)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 && since.IsZero() {
		since = found[0].Deleted
	}
	p := Page[Undeleted]{Items: []Undeleted{}}
	for _, m := range found {
		if m.Deleted.Before(since) {
			return p, nil
		}
		item, err := k.undelete(r, m.Digest)
		switch wrong, is := errors.AsType[*oci.Error](err); {
		case err == nil:
		case is && wrong.Code == oci.CodeManifestUnknown:
			continue // it came along with another one
		case is:
			item = Undeleted{Repository: string(r), Digest: m.Digest.String(), Problem: wrong.Message}
		default:
			return nil, err
		}
		p.Items = append(p.Items, item)
	}
	if len(found) == undeleteBatch {
		last := found[len(found)-1]
		p.Next = milliseconds(last.Deleted, last.ID) + "/" + strconv.FormatInt(since.UnixMilli(), 10)
	}
	return p, nil
}

// Contents is what a repository holds.
type Contents struct {
	Repository string `json:"repository"`
	Manifests  int64  `json:"manifests"`
	Tags       int64  `json:"tags"`
	Blobs      int64  `json:"blobs"`
	Bytes      int64  `json:"bytes"` // of its blobs, which other repositories may have, too
	// Through is what a deletion of exactly this is asked for with.
	Through int64 `json:"through"`
}

// showContents answers with what a repository holds.
func (h *Handler) showContents(c *call) (any, error) {
	r, _, err := h.repositoryOf(c, c.PathValue("repository"), access.Pull)
	if err != nil {
		return nil, err
	}
	held, err := h.opts.DB.Contents(c.Context(), r)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFound("no repository %s", r)
	}
	return Contents{string(r), held.Manifests, held.Tags, held.Blobs, held.Bytes, held.LastManifest}, err
}

// Deletion is a part of a deletion of all that a repository holds.
type Deletion struct {
	Deleted int `json:"deleted"` // manifests
	// Next is what the parameter deletion is for the next part; empty if nothing is left.
	Next string `json:"next,omitempty"`
}

const (
	deleteBatch = 100 // manifests that are deleted in one transaction
	deleteParts = 10  // transactions of one answer
	// deleteWithin is how long a deletion may take in all. Its parts have one time, so that they can be taken back together.
	deleteWithin = 24 * time.Hour
)

// deleteRepository deletes the manifests of a repository, up to the newest that there was when it began.
func (h *Handler) deleteRepository(c *call) (any, error) {
	r, k, err := h.repositoryOf(c, c.PathValue("repository"), access.Delete)
	if err != nil {
		return nil, err
	}
	query := c.URL.Query()
	at, through, err := parseMilliseconds(query.Get("deletion"))
	if err != nil {
		return nil, err
	}
	if at.IsZero() {
		at = h.opts.Now()
		if through, err = strconv.ParseInt(query.Get("through"), 10, 64); err != nil || through < 0 {
			return nil, errInvalid("through is missing: ask for the contents of the repository first")
		}
	}
	if now := h.opts.Now(); at.After(now) || now.Sub(at) > deleteWithin {
		return nil, errInvalid("the deletion began too long ago: begin again")
	}
	var d Deletion
	for range deleteParts {
		n, err := h.opts.Registry.DeleteManifests(c.Context(), r, through, deleteBatch, at, k.actor(), k.mayDelete())
		if err != nil {
			return nil, err
		}
		if d.Deleted += n; n < deleteBatch {
			return d, nil
		}
	}
	d.Next = milliseconds(at, through)
	return d, nil
}
