package oci

import (
	"strings"
	"time"
)

// Limits of the grammar in spec.md#pulling-manifests. The length of a repository
// name is not limited there; clients limit host and name together to 255.
const (
	maxRepository = 255
	maxTag        = 128
)

// Repository is a valid repository name such as "team/app".
// Values come from ParseRepository only.
type Repository string

// ParseRepository checks s against the name grammar of spec.md#pulling-manifests.
// The error is an *Error with code NAME_INVALID.
func ParseRepository(s string) (Repository, error) {
	if len(s) > maxRepository {
		return "", Errorf(CodeNameInvalid, "repository name has %d characters, at most %d are allowed", len(s), maxRepository)
	}
	for part := range strings.SplitSeq(s, "/") {
		if !validComponent(part) {
			return "", Errorf(CodeNameInvalid, "repository name %q: the part %q must be lower-case letters and digits, separated by one '.', one or two '_', or any number of '-'", clip(s), clip(part))
		}
	}
	return Repository(s), nil
}

// validComponent matches [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* without a regular
// expression, because every request passes here.
func validComponent(s string) bool {
	sep := "-" // the separator run before the current position; "-" stands for the start
	start := true
	run := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			start, run = false, 0
		case start:
			return false
		case c == '.' || c == '_' || c == '-':
			if run > 0 && (c != sep[0] || c == '.' || c == '_' && run == 2) {
				return false
			}
			sep = s[i : i+1]
			run++
		default:
			return false
		}
	}
	return !start && run == 0
}

// Tag is a valid tag. Values come from ParseTag only.
type Tag string

// ParseTag checks s against the tag grammar of spec.md#pulling-manifests.
// The error is an *Error with code MANIFEST_INVALID, which is what a manifest
// pushed under such a tag would be; TAG_INVALID belongs to schema 1.
func ParseTag(s string) (Tag, error) {
	if !validTag(s) {
		return "", Errorf(CodeManifestInvalid, "%q is neither a digest nor a tag: a tag has 1 to %d letters, digits, '_', '.' or '-' and does not begin with '.' or '-'", clip(s), maxTag)
	}
	return Tag(s), nil
}

func validTag(s string) bool {
	if s == "" || len(s) > maxTag {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// Reference names a manifest inside a repository: by digest or by tag, never both.
type Reference struct {
	Digest Digest // zero if the reference is a tag
	Tag    Tag    // empty if the reference is a digest
}

// ParseReference reads the <tag-or-digest> of spec.md#pulling-manifests.
// The error is an *Error with code DIGEST_INVALID or MANIFEST_INVALID.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	t, err := ParseTag(s)
	return Reference{Tag: t}, err
}

// IsDigest tells whether r names content by digest.
func (r Reference) IsDigest() bool { return !r.Digest.IsZero() }

// String returns the reference as it stands in a URL.
func (r Reference) String() string {
	if r.IsDigest() {
		return r.Digest.String()
	}
	return string(r.Tag)
}

// clip shortens what a client sent before it is put into a message.
func clip(s string) string {
	const limit = 100
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}

// atLayout is what follows a tag that stands for another one as of a time.
const atLayout = ".at-20060102T150405Z"

// At splits a tag of the form TAG.at-YYYYMMDDTHHMMSSZ, which is reserved: it stands for TAG as it was at that time, in UTC.
func (t Tag) At() (tag Tag, at time.Time, ok bool) {
	cut := len(t) - len(atLayout)
	if cut < 1 {
		return "", time.Time{}, false
	}
	at, err := time.Parse(atLayout, string(t[cut:]))
	if err != nil {
		return "", time.Time{}, false
	}
	return t[:cut], at, true
}
