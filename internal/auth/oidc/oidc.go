// Package oidc speaks to OpenID Connect issuers. It verifies their tokens (Issuer), says by rules which CI jobs and
// pods are trusted (Rule), and signs people in (Login, DeviceLogin).
//
// What holds true:
//
//   - A token counts only if it is signed, with an asymmetric algorithm, by a key that the configured issuer
//     publishes. Keys and addresses inside a token are never used. Issuer and audience are compared exactly.
//   - Nothing is asked of anyone but the issuer, and what its discovery names: over TLS, and never at an address
//     that is more private than the issuer's own. No redirect leads to another host. Answers are bounded in size and time.
//   - Whatever tokens come, an issuer is asked at most once in retryAfter. Tokens signed with keys that are known are verified
//     while it cannot be reached.
//   - Reasons of errors are safe to show to whoever sent the token: they hold nothing but what the token says.
//     Tokens, codes and secrets are in no error.
//
// All types may be used concurrently.
package oidc

import (
	"errors"
	"fmt"
	"strings"
)

// ErrToken: what was sent does not count, and sending it again does not help.
var ErrToken = errors.New("refused")

// ErrUnavailable: the issuer cannot be asked, or does not answer as an issuer does. Later it may.
var ErrUnavailable = errors.New("the issuer is unavailable")

// Error is why something is refused or cannot be told. errors.Is tells ErrToken from ErrUnavailable.
type Error struct {
	// For whoever sent the token: a clause without a capital and a full stop. In one that is ErrUnavailable, "it" is the issuer.
	Reason string

	kind  error
	cause error // for the log only; may be nil
}

// Error implements error. The text is for the log: it may name hosts and addresses.
func (e *Error) Error() string {
	s := e.kind.Error() + ": " + e.Reason
	if e.cause != nil {
		s += ": " + clip(e.cause.Error(), 500)
	}
	return s
}

// Unwrap returns ErrToken or ErrUnavailable, and what caused it.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

func refused(format string, args ...any) *Error {
	return &Error{Reason: fmt.Sprintf(format, args...), kind: ErrToken}
}

func unavailable(cause error, format string, args ...any) *Error {
	return &Error{Reason: fmt.Sprintf(format, args...), kind: ErrUnavailable, cause: cause}
}

// clip puts what others sent on one line of at most limit bytes, without what a terminal could take for a command.
func clip(s string, limit int) string {
	const replacement = '\uFFFD'
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return replacement
		case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069: // overrides of the direction of writing
			return replacement
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if cut {
		s += "…"
	}
	return s
}

// shown is a value of a token as it is put into a message.
func shown(s string) string { return `"` + clip(s, 100) + `"` }
