package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// suggest says which valid name was probably meant, or lists them from the
// nearest on.
func suggest(name string, valid []string) string {
	if len(valid) == 0 {
		return "nothing is valid here"
	}
	name = name[:min(len(name), maxKeyBytes)]
	sorted := slices.Clone(valid)
	slices.SortStableFunc(sorted, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
	switch best := sorted[0]; {
	case strings.EqualFold(name, best):
		return fmt.Sprintf("did you mean %q? upper and lower case count", best)
	case isClose(name, best):
		return fmt.Sprintf("did you mean %q?", best)
	case len(sorted) > 12:
		return "valid here, nearest first: " + strings.Join(sorted[:12], ", ") + ", ..."
	default:
		return "valid here, nearest first: " + strings.Join(sorted, ", ")
	}
}

// isClose: near enough to be a slip of the same name.
func isClose(name, valid string) bool {
	return name == valid || (len(name) <= maxKeyBytes && distance(name, valid) <= max(1, len(valid)/3))
}

// distance counts the single-letter slips (a letter more, less, other, or two
// swapped) between two names, case aside.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	before, last, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			next[j] = min(change, last[j]+1, next[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}
