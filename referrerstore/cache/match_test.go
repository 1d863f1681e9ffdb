package cache

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestParseMatch(t *testing.T) {
	t.Parallel()
	d := string(digest.FromString("x"))
	for _, tt := range []struct {
		pattern string
		yes, no []string
	}{
		{"**", []string{"r.io/a:1", "r.io:5000/a/b@" + d, "@" + d}, nil},
		{"r.io/a", []string{"r.io/a:1", "r.io/a@" + d}, []string{"r.io/a/b:1", "r.io:443/a:1", "x.r.io/a:1"}},
		{"r.io/*", []string{"r.io/a:1"}, []string{"r.io/a/b:1"}},
		{"r.io/**", []string{"r.io/a:1", "r.io/a/b/c:1"}, []string{"r.com/a:1", "@" + d}},
		{"r.io/**/b", []string{"r.io/a/b:1", "r.io/a/a/b:1", "r.io/b/b/b:1"}, []string{"r.io/b:1", "r.io/a/c:1", "r.io/b/a:1"}},
		{"r.io/**/**", []string{"r.io/a/b:1", "r.io/a/b/c:1"}, []string{"r.io/a:1"}},
		{"r.io:5000/a:v*", []string{"r.io:5000/a:v1", "r.io:5000/a:v"}, []string{"r.io:5000/a:w", "r.io:5000/a@" + d}},
		{"*.r.io/a:*", []string{"x.r.io/a:1"}, []string{"r.io/a:1", "x.y.r.io/a:1", "x.r.io/a@" + d}},
		{"@" + d, []string{"r.io/a@" + d, "@" + d}, []string{"r.io/a:1"}},
		{"**:latest", []string{"r.io/a/b:latest"}, []string{"r.io/a:1", "r.io/a@" + d}},
		{"r.io/a@sha256:*", []string{"r.io/a@" + d}, []string{"r.io/a:1"}},
	} {
		match, err := ParseMatch(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for _, name := range tt.yes {
			if !match(name) {
				t.Errorf("%s does not match %s", tt.pattern, name)
			}
		}
		for _, name := range tt.no {
			if match(name) {
				t.Errorf("%s matches %s", tt.pattern, name)
			}
		}
	}
}

func TestParseMatchRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "a", "r.io/", "r.io//b", "r.io/a**", "*/a", "r.io/a:", "r.io/a@", "@", ":", ":v1", strings.Repeat("a", 2000)} {
		if _, err := ParseMatch(text); !errors.Is(err, ErrPattern) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func FuzzParseMatch(f *testing.F) {
	f.Add("r.io/**/b:v*", "r.io/a/b:v1")
	f.Add("@sha256:*", "r.io/a@sha256:00")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		match, err := ParseMatch(pattern)
		if err != nil {
			if !errors.Is(err, ErrPattern) {
				t.Fatal(err)
			}
			return
		}
		// What is chosen with a version is chosen without.
		repository, _, _ := cutVersion(pattern)
		wide, err := ParseMatch(repository)
		if repository != "" && err != nil {
			t.Fatalf("%q: %v", repository, err)
		}
		if repository != "" && match(name) && !wide(name) {
			t.Fatalf("%q matches %q, and %q does not", pattern, name, repository)
		}
	})
}
