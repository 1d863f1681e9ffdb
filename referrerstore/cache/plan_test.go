package cache

import (
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"
)

func TestVictimsAreTheLongestUnused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.Int64Range(0, 1000), 0, 3*chunk).Draw(t, "times")
		var some victims
		all := make([]victim, len(times))
		for i, at := range times {
			all[i] = victim{&entry{digest: digest.FromString(fmt.Sprint(i))}, at}
			some.offer(all[i])
		}
		slices.SortFunc(all, victim.compare)
		want := all[:min(len(all), chunk)]
		if got := some.sorted(); !slices.Equal(got, want) {
			t.Fatalf("%d of %d chosen are not the longest unused", len(got), len(all))
		}
	})
}

func TestKinComeAndGo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pool := make([]*entry, 3*few)
		for i := range pool {
			pool[i] = new(entry)
		}
		var k kin
		model := make(map[*entry]bool)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, few).Draw(t, "n") {
					e := rapid.SampledFrom(pool).Draw(t, "e")
					k.add(e)
					model[e] = true
				}
			},
			"remove": func(t *rapid.T) {
				e := rapid.SampledFrom(pool).Draw(t, "e")
				k.remove(e)
				delete(model, e)
			},
			"": func(t *rapid.T) {
				if len(k.all) != len(model) {
					t.Fatalf("%d kin, want %d", len(k.all), len(model))
				}
				for i, e := range k.all {
					if !model[e] || k.find(e) != i {
						t.Fatalf("kin %d is wrong or found at %d", i, k.find(e))
					}
				}
			},
		})
	})
}

// TestTouch: what is pulled uses what alone lists it, and its subject; a shared
// layer says nothing of its images.
func TestTouch(t *testing.T) {
	t.Parallel()
	x := newIndex()
	add := func(name string, doc document) *entry {
		e := &entry{digest: digest.FromString(name), kind: Manifest, document: doc}
		x.insert(e)
		return e
	}
	own, base := digest.FromString("own"), digest.FromString("base")
	a := add("a", document{lists: []digest.Digest{own, base}})
	b := add("b", document{lists: []digest.Digest{base}})
	i := add("i", document{index: true, lists: []digest.Digest{a.digest}})
	signature := add("signature", document{subject: a.digest})
	layer, shared := add("own", document{}), add("base", document{})

	check := func(what string, at int64, used ...*entry) {
		t.Helper()
		for _, e := range []*entry{a, b, i, signature, layer, shared} {
			if got := e.pulled.Load() == at; got != slices.Contains(used, e) {
				t.Errorf("%s: %.12s pulled at %d", what, e.digest.Encoded(), e.pulled.Load())
			}
		}
	}
	x.touch(shared, 1000)
	check("shared layer", 1000, shared)
	x.touch(layer, 2000)
	check("own layer", 2000, layer, a, i)
	x.touch(signature, 3000)
	check("signature", 3000, signature, a, i)
	x.touch(b, 3059)
	x.touch(a, 3059) // within the resolution
	check("twice", 3059, b)
	b.pulled.Store(9999) // by a clock that was wrong
	x.touch(b, 4000)
	check("clock", 4000, b)
}

func TestNames(t *testing.T) {
	t.Parallel()
	d := digest.FromString("image")
	x := newIndex()
	inScope := func(repository string, tags ...string) *scope {
		s := x.scopeFor(Scope{Registry: "r:5000", Repository: repository})
		for _, tag := range tags {
			is := Tag{}
			is.Descriptor.Digest = d
			s.tags[tag] = is
		}
		return s
	}
	two, none := inScope("a/two", "v1", "v2"), inScope("a/none")
	for _, tt := range []struct {
		pattern  string
		in       []*scope
		any, all bool // of the names in two; of all names
	}{
		{"**", []*scope{two, none}, true, true},
		{"r:5000/a/two:v1", []*scope{two}, true, false}, // v2 leads to it as well
		{"r:5000/a/two:v*", []*scope{two}, true, true},
		{"r:5000/a/two:v*", []*scope{two, none}, true, false}, // another repository has it too
		{"r:5000/a/two@" + string(d), []*scope{two}, true, true},
		{"@" + string(d), []*scope{two, none}, true, true},
		{"r:5000/a/none", []*scope{two}, false, false},
		{"@" + string(d), nil, true, true},
		{"r:5000/**", nil, true, false}, // it is in no repository
	} {
		match, err := ParseMatch(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		n := newNames()
		if got := n.all(match, tt.in, d); got != tt.all {
			t.Errorf("%s of %d scopes: all = %v", tt.pattern, len(tt.in), got)
		}
		if got := n.any(match, two, d); got != tt.any {
			t.Errorf("%s: any = %v", tt.pattern, got)
		}
	}
}
