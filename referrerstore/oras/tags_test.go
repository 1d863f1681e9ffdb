package oras

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// What registries answer that do not list tags as they should.
func TestTagAnswers(t *testing.T) {
	t.Parallel()
	type page struct{ body, link string }
	same := func(p page) func(*http.Request) page { return func(*http.Request) page { return p } }
	many := make([]string, maxTags+1)
	for i := range many {
		many[i] = fmt.Sprintf("t%05d", i)
	}
	all := `{"tags":["` + strings.Join(many, `","`) + `"]}`
	for _, tt := range []struct {
		name   string
		answer func(*http.Request) page
		n      int
		last   string
		want   []string
		more   bool
		err    error
	}{
		{"null", same(page{`{"name":"app","tags":null}`, ""}), 0, "", nil, false, nil},
		{"other fields", same(page{`{"x":{"tags":[1]},"tags":["a"],"y":[[]]}`, ""}), 0, "", []string{"a"}, false, nil},
		{"n ignored", same(page{`{"tags":["a","b","c"]}`, ""}), 2, "", []string{"a", "b"}, true, nil},
		{"last ignored", same(page{`{"tags":["a","b","c","d"]}`, ""}), 0, "b", []string{"c", "d"}, false, nil},
		{"n and last ignored", same(page{`{"tags":["a","b","c","d"]}`, ""}), 1, "b", []string{"c"}, true, nil},
		{"last is the end", same(page{`{"tags":["a","b"]}`, ""}), 1, "b", nil, false, nil},
		{"all at once", same(page{all, ""}), 0, "", many[:maxTags], true, nil},
		{"twice", same(page{`{"tags":["a","a","b"]}`, ""}), 0, "", []string{"a", "b"}, false, nil},
		{"empty page", func(req *http.Request) page {
			if req.URL.Query().Get("token") == "" {
				return page{`{"tags":[]}`, `<?token=1>; rel="next"`}
			}
			return page{`{"tags":["a"]}`, ""}
		}, 0, "", []string{"a"}, false, nil},
		{"page in a circle", same(page{`{"tags":["a"]}`, `</v2/app/tags/list>; rel="next"`}), 5, "", []string{"a"}, true, nil},
		{"nothing in a circle", same(page{`{"tags":[]}`, `</v2/app/tags/list>; rel="next"`}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"opaque links", func(req *http.Request) page {
			if req.URL.Query().Get("token") == "" {
				return page{`{"tags":["a"]}`, `</v2/app/tags/list?token=1>; rel="next"`}
			}
			return page{`{"tags":["b"]}`, ""}
		}, 5, "", []string{"a", "b"}, false, nil},
		{"link to another host", same(page{`{"tags":["a"]}`, `<http://192.0.2.1/v2/app/tags/list?last=a>; rel="next"`}), 5, "", nil, false, referrerstore.ErrProtocol},
		{"link that cannot be read", same(page{`{"tags":["a"]}`, `/v2/app/tags/list`}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"no tag", same(page{`{"tags":["a","-b"]}`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"control character", same(page{`{"tags":["a\u0000"]}`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"long", same(page{`{"tags":["` + strings.Repeat("a", 129) + `"]}`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"no list", same(page{`{"name":"app"}`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"no object", same(page{`["a"]`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"no texts", same(page{`{"tags":[{}]}`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"no array", same(page{`{"tags":{"a":"b"}}`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"no JSON", same(page{`<html>`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"cut", same(page{`{"tags":["a","b`, ""}), 0, "", nil, false, referrerstore.ErrProtocol},
		{"too many bytes", same(page{`{"x":"` + strings.Repeat("x", maxTagBytes) + `","tags":[]}`, ""}), 0, "", nil, false, referrerstore.ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t, registry.Options{})
			u.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.HasSuffix(req.URL.Path, "/tags/list") {
					return false
				}
				p := tt.answer(req)
				if p.link != "" {
					w.Header().Set("Link", p.link)
				}
				_, _ = w.Write([]byte(p.body))
				return true
			})
			store := pullFrom(t, Options{}, Deps{}, u)
			tags, more, err := store.Tags(t.Context(), u.ref(t), tt.n, tt.last)
			if !errors.Is(err, tt.err) || more != tt.more {
				t.Errorf("more %t, %v; want %t, %v", more, err, tt.more, tt.err)
			}
			if diff := cmp.Diff(tt.want, tags); diff != "" {
				t.Error(diff)
			}
			if n := underWay(store); n != 0 {
				t.Errorf("%d requests count as under way", n)
			}
		})
	}
}

func TestTagsBreakOff(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{})
	u.SetIntercept(registry.BreakOff(12))
	store := pullFrom(t, Options{}, Deps{}, u)
	if tags, _, err := store.Tags(t.Context(), u.ref(t), 0, ""); !errors.Is(err, referrerstore.ErrBrokenOff) || errors.Is(err, referrerstore.ErrProtocol) {
		t.Errorf("%q, %v; want ErrBrokenOff", tags, err)
	}
}

func TestTagsAskedFor(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{})
	store := pullFrom(t, Options{}, Deps{}, u)
	var query string
	u.SetIntercept(registry.Inspect(func(req *http.Request) { query = req.URL.RawQuery }))
	for want, call := range map[string]struct {
		n    int
		last string
	}{
		"": {0, ""}, "n=3": {3, ""}, "last=v0": {-1, "v0"}, "last=v0&n=3": {3, "v0"}, "n=10000": {1 << 30, ""},
	} {
		if _, _, err := store.Tags(t.Context(), u.ref(t), call.n, call.last); err != nil || query != want {
			t.Errorf("%+v: %q, %v; want %q", call, query, err, want)
		}
	}
}

var linkBase = &url.URL{Scheme: "https", Host: "registry.example", Path: "/v2/app/tags/list", RawQuery: "n=1"}

func TestNextPage(t *testing.T) {
	t.Parallel()
	const none, bad = "none", "bad"
	for _, tt := range []struct {
		links []string
		want  string
	}{
		{nil, none},
		{[]string{`</v2/app/tags/list?last=a>; rel="next"`}, "https://registry.example/v2/app/tags/list?last=a"},
		{[]string{`</v2/app/tags/list?last=a>;rel=next`}, "https://registry.example/v2/app/tags/list?last=a"},
		{[]string{`<?last=a>; REL="prev Next"#`}, bad},
		{[]string{`<?last=a>; REL="prev Next"`}, "https://registry.example/v2/app/tags/list?last=a"},
		{[]string{`<https://REGISTRY.example:443/x#y>; rel=next`}, "https://REGISTRY.example:443/x"},
		{[]string{`<?last=a,b;c>; title="x, rel=next; y"; rel="next"`}, "https://registry.example/v2/app/tags/list?last=a,b;c"},
		{[]string{`</x>; rel=prev, </y>; rel=next`}, "https://registry.example/y"},
		{[]string{`</x>; rel=prev`, `</y>; rel=next`}, "https://registry.example/y"},
		{[]string{`</x>; rel=prev; rel=next`}, none},
		{[]string{`</x>; title="rel=next"`}, none},
		{[]string{`</x>`}, none},
		{[]string{`</x>; rel`}, none},
		{[]string{`, ,`}, none},
		{[]string{`</x>; rel=next;`}, "https://registry.example/x"},
		{[]string{`</x; rel=next`}, bad},
		{[]string{`/x>; rel=next`}, bad},
		{[]string{`>`}, bad},
		{[]string{`</x> rel=next`}, bad},
		{[]string{`<http://registry.example/x>; rel=next`}, bad},
		{[]string{`<https://registry.example:444/x>; rel=next`}, bad},
		{[]string{`<//evil.example/x>; rel=next`}, bad},
		{[]string{`<https://registry.example@evil.example/x>; rel=next`}, bad},
		{[]string{`<https://user:secret@registry.example/x>; rel=next`}, bad},
		{[]string{`<file:///etc/passwd>; rel=next`}, bad},
		{[]string{`<https:x>; rel=next`}, bad},
		{[]string{"</x\x00>; rel=next"}, bad},
		{[]string{strings.Repeat("x", maxLinkBytes+1)}, bad},
		{make([]string, maxLinkHeaders+1), bad},
	} {
		got := none
		switch next, err := nextPage(http.Header{"Link": tt.links}, linkBase); {
		case err != nil && !errors.Is(err, referrerstore.ErrProtocol):
			t.Errorf("%q: %v", tt.links, err)
		case err != nil:
			got = bad
		case next != nil:
			got = next.String()
		}
		if got != tt.want {
			t.Errorf("%q: %s, want %s", tt.links, got, tt.want)
		}
	}
}

func FuzzNextPage(f *testing.F) {
	for _, text := range []string{
		`</v2/app/tags/list?last=a>; rel="next"`, `</x>; rel=prev, </y>; rel=next`, `>`, `<`, `<>;`, `<a>;b="\"`, `<//h>;rel=next`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		next, err := nextPage(http.Header{"Link": {text}}, linkBase)
		if err != nil && (next != nil || !errors.Is(err, referrerstore.ErrProtocol)) {
			t.Errorf("%v, %v", next, err)
		}
		if next != nil && (!sameOrigin(next, linkBase) || next.User != nil || !strings.Contains(strings.ToLower(text), "next")) {
			t.Errorf("%q leads to %s", text, next)
		}
	})
}

func FuzzParseTags(f *testing.F) {
	for _, text := range []string{`{"tags":["a","b"]}`, `{"tags":null}`, `{"x":[{}],"tags":[]}`, `{"tags":["a"`, `[]`, `{"tags":[1]}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := &tagList{most: 3, seen: make(map[string]bool)}
		err := parseTags(strings.NewReader(text), l.add)
		if err != nil && !errors.Is(err, referrerstore.ErrProtocol) {
			t.Errorf("%v, want ErrProtocol", err)
		}
		if len(l.tags) > 3 || (l.cut && len(l.tags) != 3) {
			t.Errorf("%d tags, cut %t", len(l.tags), l.cut)
		}
		for _, tag := range l.tags {
			if _, err := referrerstore.ParseReference("registry.example/app:" + tag); err != nil {
				t.Errorf("%q is listed: %v", tag, err)
			}
		}
	})
}
