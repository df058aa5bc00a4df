package report

import (
	"fmt"
	"strings"
)

// Goal is a bound on the subject's figure, or on its ratio to another server's.
type Goal struct {
	// Against is the other server, AgainstLimit, or "" to bound the figure itself.
	Against string  `json:"against,omitempty"`
	AtLeast float64 `json:"at_least,omitempty"` // 0 for no such bound
	AtMost  float64 `json:"at_most,omitempty"`  // 0 for no such bound
}

// AgainstLimit stands for the limit of the row.
const AgainstLimit = "limit"

// AtLeast bounds the ratio to another server from below.
func AtLeast(factor float64, against string) Goal { return Goal{Against: against, AtLeast: factor} }

// AtMost bounds the ratio to another server, or the figure itself, from above.
func AtMost(factor float64, against string) Goal { return Goal{Against: against, AtMost: factor} }

// Verdict is what became of a goal, or of all of a row.
type Verdict string

// The verdicts.
const (
	Met     Verdict = "yes"
	Missed  Verdict = "no"
	Unknown Verdict = "–" // no goal, or nothing to compare with
)

// check returns the figure that g is about and whether it is as it should be.
func (g Goal) check(r *Row) (got float64, v Verdict) {
	ok := false
	switch g.Against {
	case "":
		got, ok = r.Value(Subject)
	case AgainstLimit:
		var ratio Ratio
		ratio, ok = r.Ratio(Subject, r.Limit)
		got = ratio.Median
	default:
		var ratio Ratio
		ratio, ok = r.Ratio(Subject, g.Against)
		got = ratio.Median
	}
	switch {
	case !ok:
		return 0, Unknown
	case g.AtLeast != 0 && got < g.AtLeast, g.AtMost != 0 && got > g.AtMost:
		return got, Missed
	}
	return got, Met
}

// String returns the goal as people write it.
func (g Goal) String() string {
	bound := fmt.Sprintf("≥ %g", g.AtLeast)
	if g.AtMost != 0 {
		bound = fmt.Sprintf("≤ %g", g.AtMost)
	}
	if g.Against == "" {
		return bound
	}
	return bound + " × " + g.Against
}

// Verdict tells whether all goals of r are met. A goal that is missed is named.
func (r *Row) Verdict() (v Verdict, missed string) {
	v = Unknown
	var by []string
	for _, g := range r.Goals {
		got, one := g.check(r)
		switch one {
		case Missed:
			v = Missed
			by = append(by, fmt.Sprintf("%s, is %s", g, figure(got)))
		case Met:
			if v == Unknown {
				v = Met
			}
		}
	}
	if r.Failed[Subject] != "" {
		v = Missed
	}
	return v, strings.Join(by, "; ")
}
