package upstream

import (
	"fmt"
	"strings"

	"github.com/berthregistry/berth/internal/oci"
)

// ParsePlatform reads "os/architecture" or "os/architecture/variant", such as linux/arm64 or
// linux/arm/v7.
func ParsePlatform(s string) (oci.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" || len(parts) == 3 && parts[2] == "" {
		return oci.Platform{}, fmt.Errorf("%q is not a platform: write OS/ARCHITECTURE, such as linux/arm64, or OS/ARCHITECTURE/VARIANT", s)
	}
	p := oci.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// FormatPlatform is the inverse of ParsePlatform; "" for the zero value.
func FormatPlatform(p oci.Platform) string {
	if p.OS == "" && p.Architecture == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// MatchPlatform tells whether what runs on have is what was asked for with want. A variant that is
// not asked for matches any; arm64 is v8 where it says nothing.
func MatchPlatform(want, have oci.Platform) bool {
	return want.OS == have.OS && want.Architecture == have.Architecture &&
		(want.Variant == "" || want.Variant == variant(have))
}

func variant(p oci.Platform) string {
	if p.Variant == "" && p.Architecture == "arm64" {
		return "v8"
	}
	return p.Variant
}

// selectPlatform returns the first child of an index for the platform: one that
// names no variant, or the one asked for, before others.
func selectPlatform(children []oci.Descriptor, want oci.Platform) (oci.Descriptor, bool) {
	var found *oci.Descriptor
	for i, c := range children {
		if c.Platform == nil || !MatchPlatform(want, *c.Platform) {
			continue
		}
		if c.Platform.Variant == want.Variant {
			return c, true
		}
		if found == nil {
			found = &children[i]
		}
	}
	if found == nil {
		return oci.Descriptor{}, false
	}
	return *found, true
}
