package policy

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// Retention says which tags are kept, of those that it is for; all others of them may go, with the manifests that are there for them alone.
type Retention struct {
	ID           int64
	Organization string // empty for all
	Repositories access.Patterns
	Tags         Tags
	Rules        Rules
}

// Rules say what a Retention keeps: what any of them keeps. Zero stands for no such rule.
type Rules struct {
	Newest int           `json:"newest,omitempty"` // tags that were pushed last, of each repository
	Pushed time.Duration `json:"pushed,omitempty"` // what was pushed no longer ago
	Pulled time.Duration `json:"pulled,omitempty"` // what was pulled no longer ago, or pushed
	Minors int           `json:"minors,omitempty"` // the latest patch of as many minor versions, the latest ones; AllMinors for each
	// Patches is how many patches of each of these minor versions are kept, the latest ones; 0 stands for 1.
	Patches int `json:"patches,omitempty"`
	// Untagged lets manifests go that have no tag and that nothing needs, when they lost that, and were pushed and pulled, longer ago. It keeps nothing.
	Untagged time.Duration `json:"untagged,omitempty"`
}

// Check tells what is wrong with rules.
func (r Rules) Check() error {
	switch {
	case r == Rules{}:
		return errors.New("no rule says what is kept")
	case r.Newest < 0 || r.Minors < 0 || r.Pushed < 0 || r.Pulled < 0 || r.Untagged < 0 || r.Patches < 0:
		return errors.New("numbers and times of rules cannot be negative")
	case r.Patches > 0 && r.Minors == 0:
		return errors.New("patches are kept of minor versions: say of how many")
	}
	return nil
}

// AllMinors stands for every minor version.
const AllMinors = math.MaxInt32

// Versions names the versions that are kept by Minors and Patches.
func (r Rules) Versions() string {
	patches, minors := "latest patch", fmt.Sprintf("%d minors", r.Minors)
	if r.Patches > 1 {
		patches = fmt.Sprintf("latest %d patches", r.Patches)
	}
	if r.Minors >= AllMinors {
		minors = "every minor"
	}
	return patches + " of " + minors
}

// KeepsTags tells whether tags are kept or dropped by the rules: if not, they are about manifests without a tag alone.
func (r Rules) KeepsTags() bool { return r.Newest > 0 || r.Pushed > 0 || r.Pulled > 0 || r.Minors > 0 }

// Matches tells whether the policy is for a tag of the repository.
func (p *Retention) Matches(r oci.Repository, tag oci.Tag) bool {
	return p.Rules.KeepsTags() && p.MatchesRepository(r) && p.Tags.Match(tag)
}

// MatchesRepository tells whether the policy is for the repository.
func (p *Retention) MatchesRepository(r oci.Repository) bool {
	return (p.Organization == "" || p.Organization == access.Organization(r)) && p.Repositories.Match(string(r))
}

// String is for people.
func (r Rules) String() string {
	var parts []string
	add := func(on bool, format string, args ...any) {
		if on {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(r.Newest > 0, "newest %d", r.Newest)
	add(r.Minors > 0, "%s", r.Versions())
	add(r.Pushed > 0, "pushed in %s", Days(r.Pushed))
	add(r.Pulled > 0, "pulled in %s", Days(r.Pulled))
	add(r.Untagged > 0, "untagged for %s", Days(r.Untagged))
	return strings.Join(parts, ", ")
}

// Days writes a time in days if it is a whole number of them.
func Days(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}
