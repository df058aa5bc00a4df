// Package policy is what holds for content whoever changes it: tags that stay as they are, and freezes.
//
// What holds true: a policy is of an organization, by its name, or of the whole registry; it works without access control, too; it
// stands above every right, so that an administrator who wants something else has to change the policy first, which leaves a
// trace. The decision is made from a Set alone, which is read in the transaction of the change.
package policy

import (
	"fmt"
	"slices"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// Protection keeps tags as they are: once set, they neither move nor go.
type Protection struct {
	ID           int64
	Organization string // empty for all
	Repositories access.Patterns
	Tags         Tags
}

// String names a protection in messages.
func (p *Protection) String() string {
	in := "the registry"
	if p.Organization != "" {
		in = "organization " + p.Organization
	}
	if len(p.Repositories) > 0 {
		in = p.Repositories.String()
	}
	return fmt.Sprintf("rule %d (%s in %s)", p.ID, p.Tags, in)
}

// Freeze makes content read-only.
type Freeze struct {
	Organization string // empty for all
	Message      string // for who wants to change something
}

// Set is what holds in a repository.
type Set struct {
	Freezes     []Freeze
	Protections []Protection
}

// CheckChange returns a *FrozenError if nothing in the repository may change.
func (s *Set) CheckChange() error {
	if len(s.Freezes) == 0 {
		return nil
	}
	return &FrozenError{s.Freezes[0]}
}

// CheckTag returns a *ProtectedError if a tag of the repository, which points to current, must not be pointed to next, or
// deleted if that is zero. A tag that is not there yet may be set.
func (s *Set) CheckTag(r oci.Repository, tag oci.Tag, current, next oci.Digest) error {
	if current.IsZero() || current == next {
		return nil
	}
	if p := s.Protecting(r, tag); p != nil {
		return &ProtectedError{r, tag, current, *p}
	}
	return nil
}

// Protecting returns the first protection that keeps a tag of the repository, or nil.
func (s *Set) Protecting(r oci.Repository, tag oci.Tag) *Protection {
	i := slices.IndexFunc(s.Protections, func(p Protection) bool {
		return p.Repositories.Match(string(r)) && p.Tags.Match(tag)
	})
	if i < 0 {
		return nil
	}
	return &s.Protections[i]
}

// FrozenError says that content is read-only.
type FrozenError struct{ Freeze Freeze }

// Error implements error.
func (e *FrozenError) Error() string {
	what := "the registry"
	if e.Freeze.Organization != "" {
		what = "the organization " + e.Freeze.Organization
	}
	text := what + " is frozen: nothing in it can be changed, pulls go on"
	if e.Freeze.Message != "" {
		text += ": " + e.Freeze.Message
	}
	return text
}

// ProtectedError says that a tag must stay as it is.
type ProtectedError struct {
	Repository oci.Repository
	Tag        oci.Tag
	Digest     oci.Digest // that it points to
	Protection Protection
}

// Error implements error.
func (e *ProtectedError) Error() string {
	return fmt.Sprintf("tag %s of %s is protected by %s: it stays at %s and cannot be moved or deleted; push under another tag", e.Tag, e.Repository, &e.Protection, e.Digest)
}
