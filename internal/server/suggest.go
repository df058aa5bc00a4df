package server

import (
	"fmt"
	"strings"
)

// didYouMean returns "; did you mean X?" for the name that is most like a
// mistyped one, or nothing if none is alike.
func didYouMean(typed string, names []string) string {
	if len(typed) > 64 {
		return "" // the cost is quadratic, and this is no slip of a finger
	}
	own := strings.TrimPrefix(typed[strings.LastIndexByte(typed, '.')+1:], envPrefix)
	best, least := "", len(own)/3+1 // a third of the letters may be wrong
	for _, name := range names {
		if d := distance(strings.ToLower(typed), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	if best == "" {
		best = lastPart(own, names)
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// lastPart finds the setting that was written outside its section: "level" for
// "log.level", BERTH_LEVEL for BERTH_LOG_LEVEL.
func lastPart(typed string, names []string) string {
	if typed == "" {
		return ""
	}
	for _, name := range names {
		if strings.HasSuffix(name, "."+typed) || strings.HasPrefix(name, envPrefix) && strings.HasSuffix(name, "_"+typed) {
			return name
		}
	}
	return ""
}

// distance is the count of bytes to insert, delete or replace to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
