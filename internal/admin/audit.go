package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/audit"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// localActor is who uses the command line on the data itself.
const localActor = "local"

// Bounds of an entry, in bytes.
const (
	maxObject = 1 << 10
	maxDetail = 4 << 10
)

// AuditActions returns the actions that entries of the audit log can have, in ASCII order.
func AuditActions() []string {
	actions := []string{"delete", "denied", "push", "restore", "retention", "sign-in", "undelete"} // of content, and of whoever signs in
	for i := range routes {
		if routes[i].action != "" {
			actions = append(actions, routes[i].action)
		}
	}
	slices.Sort(actions)
	return slices.Compact(actions)
}

// changes returns the database for the change that a request makes. The entry of the audit log is written with it, so neither is there without
// the other. Without access control there is no log.
func (h *Handler) changes(c *call) *meta.DB {
	if h.opts.Auth == nil {
		return h.opts.DB
	}
	return h.opts.DB.WithAudit(func() meta.AuditEntry {
		e := h.entry(c)
		e.Allowed = true
		if c.detail != nil {
			b, err := json.Marshal(c.detail)
			if err != nil || string(b) == "{}" {
				b = nil
			}
			e.Detail = shorten(string(b), maxDetail)
		}
		return e
	})
}

// noteDenied stores that somebody wanted to change something and has no right to it. What failed otherwise has changed nothing.
func (h *Handler) noteDenied(c *call, failure error) {
	wrong, ok := errors.AsType[*oci.Error](failure)
	if !ok || wrong.Code != oci.CodeDenied || !c.identity.SignedIn() { // nobody shall fill the log who needs no account for it
		return
	}
	e := h.entry(c)
	e.Detail = wrong.Message
	if err := h.opts.DB.AddAudit(context.WithoutCancel(c.Context()), []meta.AuditEntry{e}); err != nil {
		h.opts.Log.Error("an entry of the audit log could not be stored", "actor", e.Actor, "action", e.Action, "object", e.Object, "error", err)
	}
}

// entry returns what the entries of a request have in common.
func (h *Handler) entry(c *call) meta.AuditEntry {
	e := meta.AuditEntry{Action: c.action, Object: c.object(), AccountID: c.identity.Account, Actor: c.identity.Actor(), Credential: c.credential}
	e.At = h.opts.Now()
	switch {
	case c.local:
		e.Actor = localActor
	case c.identity.SignedIn():
		e.Client = c.identity.Client.String()
	default: // the first administrator is being made
		e.Client = h.opts.Client(c.Request).String()
		e.Actor = "anonymous@" + e.Client
	}
	return e
}

// object is the path of what a request is about.
func (c *call) object() string {
	object := strings.TrimSuffix(strings.TrimPrefix(c.URL.Path, Prefix), "/rotate") // which makes a secret like others
	if own, ok := strings.CutPrefix(object, "account"); ok {
		object = "users/" + c.identity.Name + own
	}
	switch {
	case c.madeID != nil:
		object += "/" + strconv.FormatInt(*c.madeID, 10)
	case c.made != "":
		object += "/" + clip(c.made)
	}
	return shorten(object, maxObject)
}

// shorten cuts a text after so many bytes at most, between letters.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// auditFilter reads what entries a request asks for.
func auditFilter(c *call) (f meta.AuditFilter, err error) {
	query := c.URL.Query()
	f = meta.AuditFilter{Actor: query.Get("actor"), Object: query.Get("object"), Prefix: query.Get("prefix"), Action: query.Get("action")}
	for name, to := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if s := query.Get(name); s != "" {
			if *to, err = time.Parse(time.RFC3339, s); err != nil {
				return f, errInvalid("%s: %q is not a time: write it as 2026-12-31T00:00:00Z", name, clip(s))
			}
		}
	}
	if s := query.Get("allowed"); s != "" {
		yes, err := strconv.ParseBool(s)
		if err != nil {
			return f, errInvalid("allowed is true or false")
		}
		f.Allowed = &yes
	}
	return f, nil
}

// listAudit answers with entries, the newest first. There may be fewer than asked for, and more to come.
func (h *Handler) listAudit(c *call) (any, error) {
	f, err := auditFilter(c)
	if err != nil {
		return nil, err
	}
	n, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	var before meta.AuditPlace
	if after := c.URL.Query().Get("after"); after != "" {
		var at int64
		if _, err := fmt.Sscanf(after, "%d-%d", &at, &before.ID); err != nil {
			return nil, errInvalid("after must be what next was")
		}
		before.At = time.UnixMilli(at)
	}
	entries, next, err := h.opts.DB.Audit(c.Context(), f, before, n)
	if err != nil {
		return nil, err
	}
	p := Page[audit.Entry]{Items: make([]audit.Entry, len(entries))}
	for i := range entries {
		p.Items[i] = audit.EntryOf(&entries[i])
	}
	if next != nil {
		p.Next = fmt.Sprintf("%d-%d", next.At.UnixMilli(), next.ID)
	}
	return p, nil
}

// exportAudit answers with all entries, the oldest first, one on each line.
func (h *Handler) exportAudit(c *call) (any, error) {
	f, err := auditFilter(c)
	if err != nil {
		return nil, err
	}
	return lines(func(to *json.Encoder) error {
		for next := new(meta.AuditPlace); next != nil; {
			var entries []meta.AuditEntry
			var err error
			if entries, next, err = h.opts.DB.AuditAfter(c.Context(), f, *next, maxPage); err != nil {
				return err
			}
			for i := range entries {
				if err := to.Encode(audit.EntryOf(&entries[i])); err != nil {
					return err
				}
			}
		}
		return nil
	}), nil
}
