package admin

import (
	"errors"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Cascade is what goes with a tag or a manifest: all that is there for it alone.
type Cascade struct {
	Tags      []CascadeTag      `json:"tags"`
	Manifests []CascadeManifest `json:"manifests"`
	Kept      []CascadeManifest `json:"kept"`  // that were looked at, and stay
	Bytes     int64             `json:"bytes"` // that are free when it has been collected; layers count once
}

// CascadeTag is a tag that goes.
type CascadeTag struct {
	Tag    oci.Tag    `json:"tag"`
	Digest oci.Digest `json:"digest"`
}

// CascadeManifest is a manifest that goes or stays.
type CascadeManifest struct {
	Digest    oci.Digest `json:"digest"`
	MediaType string     `json:"mediaType"`
	Size      int64      `json:"size"`
	Why       string     `json:"why"`
}

// CascadeOrder is what of a Cascade is to be deleted.
type CascadeOrder struct {
	Tags      []OrderedTag      `json:"tags"`
	Manifests []OrderedManifest `json:"manifests"`
}

// OrderedTag is a tag that is to be deleted, unless it was pushed or pulled after the times that are given.
type OrderedTag struct {
	CascadeTag
	Pushed time.Time `json:"pushed,omitzero"`
	Pulled time.Time `json:"pulled,omitzero"`
}

// OrderedManifest is a manifest that is to be deleted, likewise.
type OrderedManifest struct {
	Digest oci.Digest `json:"digest"`
	Pushed time.Time  `json:"pushed,omitzero"`
	Pulled time.Time  `json:"pulled,omitzero"`
}

func cascadeOf(c *meta.Cascade) Cascade {
	v := Cascade{Tags: []CascadeTag{}, Bytes: c.Bytes}
	for _, tag := range c.Tags {
		v.Tags = append(v.Tags, CascadeTag(tag))
	}
	show := func(all []meta.CascadeManifest) []CascadeManifest {
		shown := []CascadeManifest{}
		for _, m := range all {
			shown = append(shown, CascadeManifest(m))
		}
		return shown
	}
	v.Manifests, v.Kept = show(c.Manifests), show(c.Kept)
	return v
}

var errDeleteOff = oci.Errorf(oci.CodeUnsupported, "deleting is switched off on this registry")

func (h *Handler) planCascade(c *call) (any, error) {
	r, err := oci.ParseRepository(c.PathValue("repository"))
	if err != nil {
		return nil, err
	}
	var ref oci.Reference
	query := c.URL.Query()
	switch tag, digest := query.Get("tag"), query.Get("digest"); {
	case (tag == "") == (digest == ""):
		return nil, errInvalid("name what is to be deleted by either tag or digest")
	case tag != "":
		ref.Tag, err = oci.ParseTag(tag)
	default:
		ref.Digest, err = oci.ParseDigest(digest)
	}
	if err != nil {
		return nil, err
	}
	plan, err := h.opts.DB.PlanCascade(c.Context(), r, ref)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errNotFound("no %s in the repository %q", ref, string(r))
	}
	if err != nil {
		return nil, forbidden(err)
	}
	return cascadeOf(plan), nil
}

// maxOrder bounds the body of an order, in bytes.
const maxOrder = 1 << 20

func (h *Handler) deleteCascade(c *call) (any, error) {
	r, err := oci.ParseRepository(c.PathValue("repository"))
	if err != nil {
		return nil, err
	}
	if !h.opts.Delete {
		return nil, errDeleteOff
	}
	var order CascadeOrder
	if err := c.readUpTo(maxOrder, &order); err != nil {
		return nil, err
	}
	tags, manifests := make([]meta.OrderedTag, len(order.Tags)), make([]meta.OrderedManifest, len(order.Manifests))
	for i, tag := range order.Tags {
		if _, err := oci.ParseTag(string(tag.Tag)); err != nil {
			return nil, err
		}
		tags[i] = meta.OrderedTag{CascadeTag: meta.CascadeTag(tag.CascadeTag), Seen: meta.Seen{Pushed: tag.Pushed, Pulled: tag.Pulled}}
	}
	for i, m := range order.Manifests {
		manifests[i] = meta.OrderedManifest{Digest: m.Digest, Seen: meta.Seen{Pushed: m.Pushed, Pulled: m.Pulled}}
	}
	if err := h.flushPulls(c); err != nil {
		return nil, err
	}
	var allow meta.Allow
	if c.facts != nil {
		may := h.opts.Auth.MayDelete(&c.identity, c.facts)
		allow = func(tag oci.Tag, _ oci.Digest) error { return may(tag) }
	}
	done, err := h.opts.DB.DeleteCascade(c.Context(), r, tags, manifests, allow, h.originOf(c, "delete"), h.opts.Now())
	if err != nil {
		return nil, forbidden(err)
	}
	return cascadeOf(done), nil
}

// originOf is what the logs say of a change of content.
func (h *Handler) originOf(c *call, method string) meta.Origin {
	o := meta.Origin{Actor: h.by(c), Method: method, Trash: h.opts.TrashKeep > 0, Audit: h.opts.Auth != nil, AccountID: c.identity.Account, Credential: c.credential}
	if !c.local {
		o.Client = h.opts.Client(c.Request).String()
	}
	return o
}

// forbidden says what forbids a change of content.
func forbidden(err error) error {
	freeze, frozen := errors.AsType[*policy.FrozenError](err)
	held, protected := errors.AsType[*policy.ProtectedError](err)
	switch {
	case frozen:
		return oci.Errorf(oci.CodeDenied, "%v", freeze)
	case protected:
		return oci.Errorf(oci.CodeDenied, "%v", held)
	case errors.Is(err, meta.ErrTooMany):
		return errConflict("more than %d tags and manifests would go at once: begin with parts of it", meta.MaxCascade)
	}
	return err
}
