package referrerstore_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func pattern(t testing.TB, text string) referrerstore.HostPattern {
	t.Helper()
	p, err := referrerstore.ParseHostPattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHostPattern(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text, canonical string
		match, differ   []string
	}{
		{
			"**", "**",
			[]string{"docker.io", "a.b.c:5000", "localhost", "[::1]:5000", "myhost:443"},
			nil,
		},
		{
			"example.com", "example.com",
			[]string{"example.com"},
			[]string{"example.com:5000", "a.example.com", "example.com.evil", "example.comx", "xexample.com", "example", "exampleXcom"},
		},
		{"EXAMPLE.com.:443", "example.com", []string{"example.com"}, []string{"example.com:443"}},
		{"index.docker.io", "docker.io", []string{"docker.io"}, []string{"index.docker.io"}},
		{
			"*.azurecr.io", "*.azurecr.io",
			[]string{"a.azurecr.io", "abc-d.azurecr.io"},
			[]string{"azurecr.io", "a.b.azurecr.io", "a.azurecr.io:5000", "a.azurecr.io.evil", "a.azurecr.iox", "a.azurecrXio"},
		},
		{
			"*.*.example.com", "*.*.example.com",
			[]string{"a.b.example.com"},
			[]string{"a.example.com", "a.b.c.example.com"},
		},
		{
			"a*b.example.com", "a*b.example.com",
			[]string{"ab.example.com", "axxb.example.com"},
			[]string{"abc.example.com", "a.b.example.com"},
		},
		{
			"*-*.example.com", "*-*.example.com",
			[]string{"a-b.example.com", "a-b-c.example.com"},
			[]string{"ab.example.com"},
		},
		{"*.example.com:5000", "*.example.com:5000", []string{"a.example.com:5000"}, []string{"a.example.com", "a.example.com:5001"}},
		{"*.example.com.:443", "*.example.com", []string{"a.example.com"}, nil},
		{"*.EXAMPLE.com", "*.example.com", []string{"a.example.com"}, nil},
		{"*:5000", "*:5000", []string{"localhost:5000", "myhost:5000"}, []string{"a.b:5000", "localhost"}},
		{"localhost", "localhost", []string{"localhost"}, []string{"localhost:5000"}},
		{"myhost", "myhost:443", []string{"myhost:443"}, []string{"myhost"}},
		{"MyHost:443", "myhost:443", []string{"myhost:443"}, nil},
		{"[::1]:5000", "[::1]:5000", []string{"[::1]:5000"}, []string{"[::1]", "[::2]:5000"}},
		{"127.0.0.*", "127.0.0.*", []string{"127.0.0.1"}, []string{"127.0.0.1.2", "127.0.1.1", "127.0.0.1:5000"}},
		// What once stood in for "*" is a name like any other.
		{"x0x0x.example.com", "x0x0x.example.com", []string{"x0x0x.example.com"}, []string{"a.example.com"}},
		{"X0X0X.example.com", "x0x0x.example.com", []string{"x0x0x.example.com"}, []string{"a.example.com"}},
		{"x0*.example.com", "x0*.example.com", []string{"x01.example.com"}, []string{"10x.example.com"}},
		{"x*.example.com", "x*.example.com", []string{"xa.example.com"}, []string{"ax.example.com"}},
	} {
		p := pattern(t, test.text)
		if p.String() != test.canonical {
			t.Errorf("%s: canonical %s, want %s", test.text, p, test.canonical)
		}
		if again := pattern(t, p.String()); again.String() != p.String() {
			t.Errorf("%s: parsed again %s", p, again)
		}
		for _, host := range test.match {
			if !p.Match(host) {
				t.Errorf("%s does not match %s", test.text, host)
			}
		}
		for _, host := range test.differ {
			if p.Match(host) {
				t.Errorf("%s matches %s", test.text, host)
			}
		}
	}
}

func TestParseHostPatternRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "*", "***", "**.example.com", "a**.example.com", "example.**", "example.com:*", "example.com:50*",
		"*.example.com:*", "example.com/*", "https://example.com", "a_b.example", ".example.com", "*..com",
		"example.com:0", "example.com:05", "[::1", "[*]", "[::*]:5000", "exa mple.com", "bücher.example", "\n",
		"?.example.com", "[a-z].example.com", "-*.example.com", "*-.example.com",
	} {
		if p, err := referrerstore.ParseHostPattern(text); err == nil {
			t.Errorf("%q was read as %s", text, p)
		}
	}
}

// Whoever wrote the pattern learns what to write instead.
func TestParseHostPatternSaysWhy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"*":              `for every host write "**"`,
		"**.example.com": `within a label use "*"`,
		"example.com:*":  `a port has no "*"`,
		"a_b.example":    "not a valid DNS name",
	} {
		if _, err := referrerstore.ParseHostPattern(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestZeroHostPatternMatchesNothing(t *testing.T) {
	t.Parallel()
	var zero referrerstore.HostPattern
	for _, host := range []string{"docker.io", "localhost", "[::1]", "myhost:443"} {
		if zero.Match(host) {
			t.Errorf("matches %s", host)
		}
	}
}

func TestCoversMeansMatches(t *testing.T) {
	t.Parallel()
	label := rapid.StringMatching(`[ab]?\*?[ab]?`).Filter(func(s string) bool { return s != "" })
	text := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 9).Draw(t, "any") == 0 {
			return "**"
		}
		labels := rapid.SliceOfN(label, 2, 3).Draw(t, "labels")
		return strings.Join(labels, ".") + rapid.SampledFrom([]string{"", ":5000"}).Draw(t, "port")
	})
	host := rapid.StringMatching(`[abc]{1,3}(\.[abc]{1,3}){1,2}(:5000)?`)
	var covered, matched int
	rapid.Check(t, func(rt *rapid.T) {
		wide, narrow := text.Draw(rt, "p"), text.Draw(rt, "q")
		if rapid.Bool().Draw(rt, "one of the other") {
			narrow = narrower(rt, wide)
		}
		p, q := pattern(t, wide), pattern(t, narrow)
		if !p.Covers(p) {
			rt.Errorf("%s does not cover itself", p)
		}
		if !p.Covers(q) {
			return
		}
		covered++
		for range 20 {
			h := host.Draw(rt, "host")
			if rapid.Bool().Draw(rt, "of the pattern") {
				h = strings.ReplaceAll(narrower(rt, q.String()), "*", "c")
			}
			if !q.Match(h) {
				continue
			}
			matched++
			if !p.Match(h) {
				rt.Errorf("%s covers %s, but not its %s", p, q, h)
			}
		}
	})
	if covered < 5 || matched < 5 {
		t.Errorf("hardly tested: %d pairs, %d hosts", covered, matched)
	}
}

// narrower fills in a wildcard of a pattern, so that the pattern covers it.
func narrower(t *rapid.T, text string) string {
	if text == "**" {
		return "a.b*"
	}
	return strings.Replace(text, "*", rapid.SampledFrom([]string{"a", "ab", "a*"}).Draw(t, "for the wildcard"), 1)
}

// words are all strings of 1 to n letters.
func words(letters string, n int) []string {
	all, last := []string(nil), []string{""}
	for range n {
		var next []string
		for _, word := range last {
			for _, letter := range letters {
				next = append(next, word+string(letter))
			}
		}
		all, last = append(all, next...), next
	}
	return all
}

// On a small alphabet all is tried: p covers q exactly if it matches all that
// q matches. The letter c, which no pattern has, stands for all the others.
func TestCoversExactly(t *testing.T) {
	t.Parallel()
	var patterns []referrerstore.HostPattern
	for _, label := range words("ab*", 3) {
		if !strings.Contains(label, "**") {
			patterns = append(patterns, pattern(t, label+".example"))
		}
	}
	hosts := words("abc", 4)
	sets := make([][]bool, len(patterns))
	for i, p := range patterns {
		for _, host := range hosts {
			sets[i] = append(sets[i], p.Match(host+".example"))
		}
	}
	for i, p := range patterns {
		for j, q := range patterns {
			subset := !slices.ContainsFunc(hosts, func(h string) bool {
				k := slices.Index(hosts, h)
				return sets[j][k] && !sets[i][k]
			})
			if p.Covers(q) != subset {
				t.Errorf("%s covers %s: %t, but matches all of it: %t", p, q, p.Covers(q), subset)
			}
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		p, q string
		want bool
	}{
		{"**", "**", true},
		{"**", "*.example.com:5000", true},
		{"*.example.com", "**", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a*.example.com", true},
		{"a*.example.com", "*.example.com", false},
		{"*.example.com", "*.*.example.com", false},
		{"*.example.com", "*.example.com:5000", false},
		{"example.com", "EXAMPLE.com:443", true},
		{"docker.io", "registry-1.docker.io", true},
		{"*:443", "myhost", true},
	} {
		if got := pattern(t, test.p).Covers(pattern(t, test.q)); got != test.want {
			t.Errorf("%s covers %s: %t", test.p, test.q, got)
		}
	}
}

// globRegexp says the same as a glob, in another language.
func globRegexp(glob string) (*regexp.Regexp, error) {
	parts := strings.Split(glob, "*")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.Compile(`(?s)\A` + strings.Join(parts, `.*`) + `\z`)
}

func FuzzMatchGlob(f *testing.F) {
	for _, pair := range [][2]string{
		{"", ""},
		{"*", ""},
		{"", "a"},
		{"a*", "a"},
		{"*a", "ba"},
		{"a*b*c", "axbxc"},
		{"*ab", "aab"},
		{"a*a", "a"},
		{"**", "x"},
		{"*.*", "a.b"},
		{"*", "\n"},
		{"a*", "a*"},
		{"ä*ö", "äöö"},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, glob, text string) {
		if !utf8.ValidString(glob) || !utf8.ValidString(text) || len(glob) > 500 || len(text) > 500 {
			t.Skip("regexp reads runes")
		}
		oracle, err := globRegexp(glob)
		if err != nil {
			t.Skip(err)
		}
		if got, want := referrerstore.MatchGlob(glob, text), oracle.MatchString(text); got != want {
			t.Errorf("%q on %q: %t, want %t", glob, text, got, want)
		}
	})
}

func TestMatchGlobExhaustively(t *testing.T) {
	t.Parallel()
	texts := append(words("ab", 5), "")
	for _, glob := range append(words("ab*", 5), "") {
		oracle, err := globRegexp(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if got, want := referrerstore.MatchGlob(glob, text), oracle.MatchString(text); got != want {
				t.Errorf("%q on %q: %t, want %t", glob, text, got, want)
			}
		}
	}
}

// With backtracking at each star this would not end.
func TestMatchGlobStaysCheap(t *testing.T) {
	t.Parallel()
	glob, text := strings.Repeat("*a", 40)+"*b", strings.Repeat("a", 2000)
	if referrerstore.MatchGlob(glob, text) {
		t.Error("matches")
	}
	if !referrerstore.MatchGlob(glob, text+"b") {
		t.Error("does not match")
	}
}
