package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/bmatcuk/doublestar/v4"

	"github.com/berthregistry/berth/internal/oci"
)

// Tags are patterns of tags, none of which stands for all tags:
//
//	1.*               a glob
//	regex:v[0-9]+     a regular expression (RE2), which has to match the whole tag
//	semver            a semantic version, with or without a v before it
//	semver:>=1.0 <3   one that meets a constraint; one with a pre-release meets those only that name a pre-release
//	!1.2.3            an exception, of any of these kinds
//
// A tag is matched by Tags if one of them matches it, or if all are exceptions, and no exception does.
type Tags struct {
	texts      []string
	patterns   []pattern
	exceptions []pattern
}

type pattern func(oci.Tag) bool

// Bounds of Tags.
const (
	maxTags    = 50
	maxPattern = 512 // bytes
)

// ParseTags reads patterns.
func ParseTags(texts []string) (Tags, error) {
	t := Tags{texts: slices.Clone(texts)}
	if len(texts) > maxTags {
		return Tags{}, fmt.Errorf("there can be %d patterns of tags, not %d", maxTags, len(texts))
	}
	for _, text := range texts {
		if len(text) > maxPattern {
			return Tags{}, fmt.Errorf("a pattern of tags has more than %d bytes", maxPattern)
		}
		bare, not := strings.CutPrefix(text, "!")
		p, err := parsePattern(bare)
		if err != nil {
			return Tags{}, err
		}
		if not {
			t.exceptions = append(t.exceptions, p)
		} else {
			t.patterns = append(t.patterns, p)
		}
	}
	return t, nil
}

func parsePattern(text string) (pattern, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case text == "semver":
		return func(tag oci.Tag) bool { return Version(tag) != nil }, nil
	case kind == "semver":
		c, err := semver.NewConstraint(rest)
		if err != nil {
			return nil, fmt.Errorf("%q: %q is no constraint on versions: write it as in semver:>=1.2 <2", text, rest)
		}
		return func(tag oci.Tag) bool {
			v := Version(tag)
			return v != nil && c.Check(v)
		}, nil
	case kind == "regex":
		re, err := regexp.Compile(`^(?:` + rest + `)$`)
		if err != nil {
			return nil, fmt.Errorf("%q is no regular expression: %w", rest, err)
		}
		return func(tag oci.Tag) bool { return re.MatchString(string(tag)) }, nil
	}
	if text == "" || strings.ContainsAny(text, " \t\r\n/:") || strings.Count(text, "{") > 2 || strings.Count(text, "**") > 3 || !doublestar.ValidatePattern(text) {
		return nil, fmt.Errorf("%q is no pattern of tags: write it as v1.*, regex:EXPRESSION, semver or semver:CONSTRAINT, with ! before an exception", text)
	}
	return func(tag oci.Tag) bool { return doublestar.MatchUnvalidated(text, string(tag)) }, nil
}

// Version returns the semantic version that a tag is, with or without a v before it, or nil.
func Version(tag oci.Tag) *semver.Version {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(string(tag), "v"))
	if err != nil {
		return nil
	}
	return v
}

// Match tells whether the patterns match a tag.
func (t Tags) Match(tag oci.Tag) bool {
	is := func(p pattern) bool { return p(tag) }
	return (len(t.patterns) == 0 || slices.ContainsFunc(t.patterns, is)) && !slices.ContainsFunc(t.exceptions, is)
}

// Texts returns what ParseTags has read.
func (t Tags) Texts() []string { return slices.Clone(t.texts) }

// String is for people.
func (t Tags) String() string {
	if len(t.texts) == 0 {
		return "all tags"
	}
	return strings.Join(t.texts, ", ")
}

// MarshalText implements encoding.TextMarshaler, for the database.
func (t Tags) MarshalText() ([]byte, error) {
	if len(t.texts) == 0 {
		return []byte("[]"), nil
	}
	return json.Marshal(t.texts)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tags) UnmarshalText(b []byte) error {
	var texts []string
	if err := json.Unmarshal(b, &texts); err != nil {
		return err
	}
	parsed, err := ParseTags(texts)
	*t = parsed
	return err
}
