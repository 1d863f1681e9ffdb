package registry

import (
	"net/http"
	"testing"
)

func TestRangeOf(t *testing.T) {
	t.Parallel()
	whole := span{0, 100}
	for _, tt := range []struct {
		header    string
		part      span
		asked, ok bool
	}{
		{"", whole, false, true},
		{"bytes=0-", span{0, 100}, true, true},
		{"bytes=0-0", span{0, 1}, true, true},
		{"bytes=10-19", span{10, 10}, true, true},
		{"bytes= 10-19 ", span{10, 10}, true, true},
		{"bytes=90-1000", span{90, 10}, true, true},
		{"bytes=99-", span{99, 1}, true, true},
		{"bytes=-1", span{99, 1}, true, true},
		{"bytes=-1000", span{0, 100}, true, true},
		{"bytes=-99999999999999999999999", span{0, 100}, true, true},
		{"bytes=5-99999999999999999999999", span{5, 95}, true, true},
		{"bytes=100-", span{}, true, false},
		{"bytes=50-10", span{}, true, false},
		{"bytes=-0", span{}, true, false},
		{"bytes=-", span{}, true, false},
		{"bytes=a-b", span{}, true, false},
		{"bytes=+1-2", span{}, true, false},
		{"bytes=--2", span{}, true, false},
		{"bytes=99999999999999999999999-", span{}, true, false},
		{"bytes=0-1,3-4", whole, false, true}, // several may be ignored
		{"chunks=0-1", whole, false, true},    // as another unit must be
	} {
		part, asked, ok := rangeOf(tt.header, 100)
		if asked != tt.asked || ok != tt.ok || (ok && part != tt.part) {
			t.Errorf("%q: %+v %t %t, want %+v", tt.header, part, asked, ok, tt)
		}
	}
	if part, asked, ok := rangeOf("bytes=0-", 0); part != (span{0, 0}) || asked || !ok {
		t.Error("a part of nothing is nothing")
	}
}

func FuzzRangeOf(f *testing.F) {
	for _, seed := range []string{"", "bytes=0-", "bytes=-5", "bytes=3-4", "bytes=9-1", "bytes=1-2,3-4", "bytes=18446744073709551616-"} {
		f.Add(seed, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		size &= 1<<62 - 1
		part, asked, ok := rangeOf(header, size)
		if ok && (part.start < 0 || part.length < 0 || part.start+part.length > size || (asked && part.length == 0)) {
			t.Fatalf("%q of %d: %+v", header, size, part)
		}
		if !asked && part != (span{0, size}) {
			t.Fatalf("%q of %d: %+v, not the whole", header, size, part)
		}
	})
}

func TestConditions(t *testing.T) {
	t.Parallel()
	const etag = `"sha256:1"`
	for header, want := range map[string]bool{
		"": false, etag: true, "*": true, "W/" + etag: true, `"other", ` + etag: true, `"other"`: false, "sha256:1": false,
	} {
		r := &http.Request{Header: http.Header{"If-None-Match": {header}}}
		if unchanged(r, etag) != want {
			t.Errorf("If-None-Match %s: %t", header, !want)
		}
	}
	for condition, want := range map[string]string{"": "bytes=1-2", etag: "bytes=1-2", "W/" + etag: "", `"other"`: "", "Sun, 06 Nov 1994 08:49:37 GMT": ""} {
		r := &http.Request{Header: http.Header{"Range": {"bytes=1-2"}}}
		if condition != "" {
			r.Header.Set("If-Range", condition)
		}
		if got := wanted(r, etag); got != want {
			t.Errorf("If-Range %s: %q", condition, got)
		}
	}
}
