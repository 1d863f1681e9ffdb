package docs

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
)

func TestLinks(t *testing.T) {
	t.Parallel()
	followed := 0
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(prose(read(t, name)), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %s: %v", name, m[1], err)
				continue
			}
			if u.Scheme != "" {
				continue // leads out of the repository
			}
			followed++
			follow(t, name, u)
		}
	}
	if followed < 10 {
		t.Errorf("only %d links were followed", followed)
	}
}

// follow checks a link of a document: the file is there, and has the heading.
func follow(t *testing.T, from string, to *url.URL) {
	t.Helper()
	target := from
	if to.Path != "" {
		target = path.Join(path.Dir(from), to.Path)
	}
	if _, err := os.Stat(filepath.Join(root, target)); err != nil || strings.HasPrefix(target, "..") || path.IsAbs(to.Path) {
		t.Errorf("%s: the link %s leads nowhere in the repository", from, to)
		return
	}
	if to.Fragment == "" {
		return
	}
	for _, m := range heading.FindAllStringSubmatch(prose(read(t, target)), -1) {
		if anchor(m[1]) == to.Fragment {
			return
		}
	}
	t.Errorf("%s: the link %s: no such heading", from, to)
}

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			return r
		default:
			return -1
		}
	}, strings.ToLower(heading))
}
