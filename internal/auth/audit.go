package auth

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// The actions of the audit log that are not changes of content: those are written with the change.
const (
	signInAction = "sign-in"
	deniedAction = "denied"
)

// maxFailureEntries is how many failed sign-ins of a network are in the audit log until it has been quiet for failureWindow.
const maxFailureEntries = 100

const (
	// refusedEntryEvery is after how long the refusal of the same pull or credential is in the audit log again: clients repeat them, and mirrors make many.
	refusedEntryEvery = time.Hour
	rememberRefused   = 8192
)

// usedEntryEvery is after how long the use of a token from the same address is in the audit log again.
const usedEntryEvery = 24 * time.Hour

// note writes to the audit log what has happened. That this fails is logged, and changes nothing.
func (a *Auth) note(ctx context.Context, e meta.AuditEntry) {
	e.At = a.opts.Now()
	if err := a.db.AddAudit(ctx, []meta.AuditEntry{e}); err != nil {
		a.opts.Log.Warn("an entry could not be written to the audit log", "action", e.Action, "actor", e.Actor, "object", e.Object, "error", err)
	}
}

// noteSignIn notes that somebody has signed in, or why it was in vain: the account is disabled, or cannot be used from there, or the like.
func (a *Auth) noteSignIn(ctx context.Context, id *Identity, how string) {
	e := meta.AuditEntry{AccountID: id.Account, Actor: id.Name, Credential: how, Client: id.Client.String(), Action: signInAction, Object: id.Name, Allowed: true}
	if facts, err := a.db.Facts(ctx, id.Account, id.Credential, ""); err == nil {
		if d := a.Judge(id, facts, access.Pull, ""); d.Unknown {
			e.Allowed, e.Detail = false, d.Rule()
		}
	}
	a.note(ctx, e)
}

// changes returns the database for a change of an account that its source has brought about. The entry of the audit log is written with it.
func (a *Auth) changes(source, action, name, detail string) *meta.DB {
	return a.db.WithAudit(func() meta.AuditEntry {
		return meta.AuditEntry{AuditPlace: meta.AuditPlace{At: a.opts.Now()}, Actor: source, Action: action, Object: "users/" + name, Detail: detail, Allowed: true}
	})
}

// noteFailure notes that somebody could not sign in.
func (a *Auth) noteFailure(ctx context.Context, name string, client netip.Addr) {
	a.noteRefused(ctx, name, "", client, "wrong name or password")
}

// noteRefused notes that somebody could not sign in, and why.
func (a *Auth) noteRefused(ctx context.Context, name, how string, client netip.Addr, why string) {
	a.note(ctx, meta.AuditEntry{Actor: "anonymous@" + client.String(), Credential: how, Client: client.String(), Action: signInAction, Object: clip(name), Detail: why})
}

// CredentialLabel is what the audit log calls the credential that somebody has signed in with; empty for a password. facts are those of a decision
// about them.
func (id *Identity) CredentialLabel(facts *access.Facts) string {
	switch {
	case facts != nil && facts.Credential != nil:
		return facts.Credential.Label()
	case id.Credential != 0: // it is gone
		return strconv.FormatInt(id.Credential, 10)
	case id.how == certificateLabel:
		return certificateLabel
	}
	return ""
}

// CredentialLabel is that of an identity whose facts are not known.
func (a *Auth) CredentialLabel(ctx context.Context, id *Identity) string {
	if id.Credential == 0 {
		return id.CredentialLabel(nil)
	}
	facts, err := a.db.Facts(ctx, id.Account, id.Credential, "")
	if err != nil {
		facts = nil
	}
	return id.CredentialLabel(facts)
}

// NoteRefusedPull notes that somebody wanted to pull from a repository and may not, whether there is one or not: so that takes as long.
func (a *Auth) NoteRefusedPull(ctx context.Context, id *Identity, repository oci.Repository) {
	note := func() {
		a.NoteDenied(ctx, id, string(repository), fmt.Sprintf("%s may not pull from %s", id.Name, repository))
	}
	a.notOften(note, deniedAction, strconv.FormatInt(id.Account, 10), strconv.FormatInt(id.Credential, 10), id.Client.String(), string(repository))
}

// notOften calls note, unless this node has done so for the same refusal a while ago.
func (a *Auth) notOften(note func(), refusal ...string) {
	now := a.opts.Now()
	sum := a.verified.sum(refusal...)
	if noted, ok := a.refused.Get(sum); ok && now.Sub(noted) < refusedEntryEvery {
		return
	}
	a.refused.Add(sum, now)
	note()
}

// NoteDenied notes what somebody was not allowed to do to a repository.
func (a *Auth) NoteDenied(ctx context.Context, id *Identity, repository, why string) {
	a.note(ctx, meta.AuditEntry{AccountID: id.Account, Actor: id.Actor(), Credential: a.CredentialLabel(ctx, id), Client: id.Client.String(), Action: deniedAction, Object: repository, Detail: why})
}
