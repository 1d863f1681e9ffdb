package docs

import (
	"regexp"
	"testing"

	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// docs/configuration.md shows patterns with what they match and what not.
func TestPatterns(t *testing.T) {
	t.Parallel()
	const name = "docs/configuration.md"
	_, table, _ := between(t, name, read(t, name), "patterns")
	images, checked := regexp.MustCompile("`([^`]+)`"), 0
	for _, row := range rows(table) {
		text, ok := code(row[0])
		if !ok || len(row) != 3 {
			t.Fatalf("%s: %v is not a pattern, what it matches, and what not", name, row)
		}
		pattern, err := policy.ParsePattern(text)
		if err != nil {
			t.Error(err)
			continue
		}
		for i, want := range []bool{true, false} {
			for _, m := range images.FindAllStringSubmatch(row[1+i], -1) {
				ref, err := referrerstore.ParseReference(m[1])
				if err != nil {
					t.Error(err)
					continue
				}
				if checked++; pattern.Match(ref) != want {
					t.Errorf("%s: %s matches %s: want %t", name, text, m[1], want)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d images were tried", checked)
	}
}
