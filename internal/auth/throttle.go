package auth

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Who guesses passwords is slowed down, by account and by network, at all nodes together. What is random and long (tokens, the
// secrets of robots) is not guessed: it works while an account or a network is locked, so that nobody can lock a
// CI system out; that it was wrong counts for the network.

// LockedError says that nobody is signed in with a password for a while, after too many failures.
type LockedError struct{ For time.Duration }

// Error implements error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("too many failed attempts to sign in: try again in %s", e.For.Round(time.Second))
}

// Answer returns what a client is told of an error of signing in, and says in the header when to try again. Errors
// that a client cannot do anything about, and ErrCredentials and ErrToken, which each protocol has an answer to, stay as they are.
func Answer(h http.Header, err error) error {
	if locked, ok := errors.AsType[*LockedError](err); ok {
		h.Set("Retry-After", strconv.Itoa(int((locked.For+time.Second-1)/time.Second)))
		return oci.Errorf(oci.CodeTooManyRequests, "%v", locked)
	}
	if errors.Is(err, ErrUnavailable) {
		return oci.Errorf(oci.CodeUnknown, "%v", err).WithStatus(http.StatusServiceUnavailable)
	}
	return err
}

const (
	// failureWindow is how long it takes without a failure until all are forgotten.
	failureWindow = 15 * time.Minute
	// After so many failures, each one more doubles the time for which nobody can sign in, from a second on.
	accountFailures = 5
	networkFailures = 30
	accountLock     = 15 * time.Minute // the longest
	networkLock     = 5 * time.Minute
)

// lockFor returns how long to lock after a count of failures.
func lockFor(count, free int, most time.Duration) time.Duration {
	if count < free {
		return 0
	}
	return min(time.Second<<min(count-free, 20), most)
}

// accountSubject is what guesses are counted by. A directory finds one account under many spellings (RFC 4518: case, spaces, characters that look alike or are not
// seen), which count as one. Names with other characters than those of ASCII, of which no account's own has any, count together.
func accountSubject(name string) string {
	if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) {
		name = ""
	}
	return "account " + strings.ToLower(strings.Join(strings.Fields(name), ""))
}

// networkSubject is the network that a client is counted with: of IPv6, what one customer has.
func networkSubject(client netip.Addr) string {
	bits := 32
	if client.Is6() {
		bits = 64
	}
	p, err := client.Prefix(bits)
	if err != nil {
		return "network" // a Unix socket
	}
	return "network " + p.String()
}

// locked returns a *LockedError if nobody may sign in now.
func (a *Auth) locked(ctx context.Context, subjects ...string) error {
	failures, err := a.db.Failures(ctx, subjects)
	if err != nil {
		return err
	}
	var longest time.Duration
	for _, f := range failures {
		longest = max(longest, f.Locked)
	}
	if longest > 0 {
		return &LockedError{max(longest, time.Second)}
	}
	return nil
}

// failed counts a failure, and has entry note it unless there are too many; guessed is the account if what failed was a password.
func (a *Auth) failed(ctx context.Context, guessed string, client netip.Addr, entry func()) {
	note := func(subject string, free int, most time.Duration) (count int) {
		err := a.db.NoteFailures(ctx, []string{subject}, failureWindow, func(n int) time.Duration {
			count = n
			return lockFor(n, free, most)
		})
		if err != nil {
			a.opts.Log.Warn("a failed sign-in could not be counted", "subject", subject, "error", err)
		}
		return count
	}
	if guessed != "" {
		note(accountSubject(guessed), accountFailures, accountLock)
	}
	if note(networkSubject(client), networkFailures, networkLock) <= maxFailureEntries {
		entry()
	}
}

// succeeded forgets the failures of an account.
func (a *Auth) succeeded(ctx context.Context, name string) {
	failures, err := a.db.Failures(ctx, []string{accountSubject(name)})
	if err == nil && len(failures) > 0 {
		err = a.db.ClearFailures(ctx, accountSubject(name))
	}
	if err != nil {
		a.opts.Log.Warn("failed sign-ins could not be forgotten", "account", name, "error", err)
	}
}

// Forget is a periodic job: it deletes what is known of failures long ago, credentials that have expired, and old entries of
// the audit log.
func (a *Auth) Forget(ctx context.Context) (string, error) {
	const batch = 500
	var failures, credentials, entries int
	for {
		n, err := a.db.DeleteOldFailures(ctx, max(failureWindow, accountLock), batch)
		failures += n
		if err != nil {
			return "", err
		}
		if n < batch {
			break
		}
	}
	for {
		// They are shown for a while, so that somebody can see why what they use does not work.
		n, err := a.db.DeleteExpiredCredentials(ctx, a.opts.Now().Add(-expiredShown), batch)
		credentials += n
		if err != nil {
			return "", err
		}
		if n < batch {
			break
		}
	}
	note := ""
	if a.opts.KeepAudit > 0 {
		var err error
		if entries, note, err = a.forgetAudit(ctx, a.opts.Now().Add(-a.opts.KeepAudit), batch); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d failed sign-ins, %d credentials, %d entries of the audit log%s", failures, credentials, entries, note), nil
}

// forgetAudit deletes entries of the audit log that were made before a time, those aside that a receiver has not got yet: it says so.
func (a *Auth) forgetAudit(ctx context.Context, before time.Time, batch int) (deleted int, note string, err error) {
	upTo := int64(math.MaxInt64)
	for _, receiver := range a.opts.ForwardAudit {
		arrived, err := a.db.AuditForwarded(ctx, receiver)
		if err != nil {
			return 0, "", err
		}
		upTo = min(upTo, arrived)
		switch oldest, err := a.db.OldestAudit(ctx, arrived); {
		case errors.Is(err, meta.ErrNotFound):
		case err != nil:
			return 0, "", err
		case oldest.Before(before):
			note = "; older ones are kept, because they have not been forwarded"
			a.opts.Log.Warn("entries of the audit log that should be deleted are kept, because they have not been forwarded", "receiver", receiver, "oldest", oldest)
		}
	}
	for {
		n, err := a.db.DeleteAudit(ctx, before, upTo, batch)
		deleted += n
		if err != nil || n < batch {
			return deleted, note, err
		}
	}
}

const expiredShown = 30 * 24 * time.Hour
