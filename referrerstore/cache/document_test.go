package cache

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestParseDocument(t *testing.T) {
	t.Parallel()
	a, b := digest.Digest("sha256:"+strings.Repeat("a", 64)), digest.Digest("sha512:"+strings.Repeat("b", 128))
	ref := func(d digest.Digest) string { return fmt.Sprintf(`{"digest":%q,"size":1}`, d) }
	for name, tt := range map[string]struct {
		text string
		want document
	}{
		"image":            {`{"mediaType":"m","config":` + ref(a) + `,"layers":[` + ref(b) + `,` + ref(a) + `]}`, document{mediaType: "m", lists: []digest.Digest{a, b}}},
		"index":            {`{"manifests":[` + ref(b) + `]}`, document{index: true, lists: []digest.Digest{b}}},
		"empty index":      {`{"manifests":[]}`, document{index: true}},
		"artifact":         {`{"blobs":[` + ref(a) + `],"subject":` + ref(b) + `}`, document{lists: []digest.Digest{a}, subject: b}},
		"both":             {`{"manifests":[` + ref(a) + `],"layers":[` + ref(b) + `]}`, document{index: true, ambiguous: true, lists: []digest.Digest{a, b}}},
		"both, empty":      {`{"manifests":[],"layers":[]}`, document{index: true, ambiguous: true}},
		"index, config":    {`{"manifests":[],"config":` + ref(a) + `}`, document{index: true, ambiguous: true, lists: []digest.Digest{a}}},
		"other case":       {`{"Manifests":[],"LAYERS":[` + ref(a) + `]}`, document{index: true, ambiguous: true, lists: []digest.Digest{a}}},
		"key twice":        {`{"layers":[` + ref(a) + `],"layers":[` + ref(b) + `]}`, document{lists: []digest.Digest{a, b}}},
		"null":             {`{"manifests":null,"layers":[` + ref(a) + `]}`, document{lists: []digest.Digest{a}}},
		"wrong digest":     {`{"layers":[{"digest":"sha256:../.."},` + ref(a) + `]}`, document{lists: []digest.Digest{a}}},
		"wrong subject":    {`{"subject":{"digest":"latest"}}`, document{}},
		"long media type":  {`{"mediaType":"` + strings.Repeat("m", 1000) + `"}`, document{}},
		"no list":          {`{"layers":{}}`, document{}},
		"no manifest":      {`hello`, document{}},
		"too many":         {`{"layers":[` + strings.Repeat(`{},`, maxListed) + `{}]}`, document{}},
		"too many in sum":  {`{"layers":[` + strings.Repeat(`{},`, maxListed-1) + `{}],"config":{}}`, document{}},
		"too deep":         {`{"x":` + strings.Repeat("[", 100_000), document{}},
		"nothing whatever": {``, document{}},
	} {
		got := parseDocument([]byte(tt.text))
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(document{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What is kept of a manifest is no larger than it, but for a fixed sum, and what
// it lists can be asked for.
func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"mediaType":"m","config":{"digest":"sha256:aa"},"layers":[{}],"subject":{}}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := parseDocument(data)
		size := len(d.mediaType) + len(d.subject)
		for i, child := range d.lists {
			if validDigest(child) != nil || child.Validate() != nil {
				t.Errorf("lists %q", child)
			}
			if i > 0 && d.lists[i-1] >= child {
				t.Error("not sorted, or twice the same")
			}
			size += len(child)
		}
		if size > len(data) || len(d.lists) > maxListed || (d.ambiguous && !d.index) {
			t.Errorf("%d bytes became %d: %+v", len(data), size, d)
		}
	})
}

func FuzzValidDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("a", 64))
	f.Add("sha512:" + strings.Repeat("0", 128))
	f.Add("sha256:../../../../../../../../../../../../../../../../../../../etc/passwd")
	f.Fuzz(func(t *testing.T, text string) {
		d := digest.Digest(text)
		known := d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
		if got := validDigest(d) == nil; got != known {
			t.Errorf("%q: %v, want %v", text, got, known)
		}
	})
}

// Records of the journal are taken as they come: one that is not what was written
// says nothing, and stops nothing.
func FuzzApply(f *testing.F) {
	d := digest.FromString("x")
	for _, r := range []record{
		{Kind: recordPut, Digest: d, Lists: []digest.Digest{d}, Subject: d},
		{Kind: recordGrant, Scope: testScope, Digest: d, MediaType: testMediaType},
		{Kind: recordPulled, Times: map[digest.Digest]int64{d: 1}},
		{Kind: recordPin, Pin: &Pin{Registry: "r", Repository: "a", Tag: "t"}},
		tagRecord(testScope, "t", tagTo(d)),
		{Kind: recordUntag, Scope: testScope, Tag: "t"},
		listRecord(testScope, d, listed{list: d}),
	} {
		f.Add(encode([]record{r})[0])
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		c := newCache(t.Context(), nil, Options{}.withDefaults(), "")
		defer c.cancel(nil)
		for _, text := range [][]byte{encode([]record{{Kind: recordPut, Digest: d}})[0], line, line} {
			c.applyLine(text)
		}
		for range c.snapshot() { // it can be walked through
		}
	})
}
