package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// AuditEntry tells who did, or was not allowed to do, what.
type AuditEntry struct {
	At         time.Time `json:"at"`
	ID         int64     `json:"id"`
	Actor      string    `json:"actor"`                // the account, or the address of who did not sign in
	Credential string    `json:"credential,omitempty"` // the name of what the account signed in with, if it is not the password
	Client     string    `json:"client,omitempty"`
	Action     string    `json:"action"`
	Object     string    `json:"object"`
	Detail     string    `json:"detail,omitempty"`
	Allowed    bool      `json:"allowed"`
}

func entryOf(e *meta.AuditEntry) AuditEntry {
	return AuditEntry{e.At.UTC(), e.ID, e.Actor, e.Credential, e.Client, e.Action, e.Object, e.Detail, e.Allowed}
}

// localActor is who uses the command line on the data itself.
const localActor = "local"

// Bounds of an entry, in bytes.
const (
	maxObject = 1 << 10
	maxDetail = 4 << 10
)

// record stores that something was changed, or that somebody wanted to and has no right to it. What failed otherwise has changed nothing. That an entry
// cannot be stored does not undo the change: the log of the server has it then. Without access control there is no such log.
func (h *Handler) record(c *call, action string, failure error) {
	if h.opts.Auth == nil {
		return
	}
	e := meta.AuditEntry{Action: action, Object: c.object(), Allowed: failure == nil, AccountID: c.identity.Account}
	switch wrong, _ := errors.AsType[*oci.Error](failure); {
	case failure == nil:
	case wrong == nil || wrong.Code != oci.CodeDenied || !c.identity.SignedIn(): // nobody shall fill the log who needs no account for it
		return
	default:
		e.Detail = wrong.Message
	}
	if c.detail != nil && failure == nil {
		b, err := json.Marshal(c.detail)
		if err != nil || string(b) == "{}" {
			b = nil
		}
		e.Detail = string(b[:min(len(b), maxDetail)])
	}
	e.At = h.opts.Now()
	e.Actor = c.identity.Actor()
	ctx := context.WithoutCancel(c.Context())
	switch {
	case c.local:
		e.Actor = localActor
	case c.identity.SignedIn():
		e.Client = c.identity.Client.String()
		e.Credential = h.credentialName(ctx, c)
	default: // the first administrator is being made
		e.Client = h.opts.Client(c.Request).String()
		e.Actor = "anonymous@" + e.Client
	}
	if err := h.opts.DB.AddAudit(ctx, []meta.AuditEntry{e}); err != nil {
		h.opts.Log.Error("an entry of the audit log could not be stored", "actor", e.Actor, "action", e.Action, "object", e.Object, "allowed", e.Allowed, "error", err)
	}
}

// object is the path of what a request is about.
func (c *call) object() string {
	object := strings.TrimPrefix(c.URL.Path, Prefix)
	if own, ok := strings.CutPrefix(object, "account"); ok {
		object = "users/" + c.identity.Name + own
	}
	if c.made != "" {
		object += "/" + clip(c.made)
	}
	return object[:min(len(object), maxObject)]
}

// credentialName returns the name of what the caller has signed in with.
func (h *Handler) credentialName(ctx context.Context, c *call) string {
	if c.identity.Credential == 0 {
		return ""
	}
	facts, err := h.opts.DB.Facts(ctx, c.identity.Account, c.identity.Credential, "")
	if err != nil || facts.Credential == nil {
		return strconv.FormatInt(c.identity.Credential, 10)
	}
	return facts.Credential.Name
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
	p := Page[AuditEntry]{Items: make([]AuditEntry, len(entries))}
	for i := range entries {
		p.Items[i] = entryOf(&entries[i])
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
				if err := to.Encode(entryOf(&entries[i])); err != nil {
					return err
				}
			}
		}
		return nil
	}), nil
}
