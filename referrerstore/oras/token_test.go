package oras

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenge(t *testing.T) {
	t.Parallel()
	type want struct {
		scheme         authScheme
		realm, service string
	}
	for _, tt := range []struct {
		header string
		want   *want
	}{
		{``, nil},
		{`Negotiate`, nil},
		{`Negotiate abc/d+e==`, nil},
		{`Bearer`, nil},
		{`Bearer realm=""`, nil},
		{`Basic`, &want{scheme: schemeBasic}},
		{`basic realm="r"`, &want{scheme: schemeBasic}},
		{`Bearer realm="https://a.example/t",service="s",scope="repository:x:push"`, &want{schemeBearer, "https://a.example/t", "s"}},
		{`bearer Realm = "https://a.example/t" , SERVICE=s`, &want{schemeBearer, "https://a.example/t", "s"}},
		{`Bearer realm="a\"b\\c"`, &want{schemeBearer, `a"b\c`, ""}},
		{`Bearer realm="a,b=c d"`, &want{schemeBearer, "a,b=c d", ""}},
		{`Basic realm="r", Bearer realm="b", service="s"`, &want{schemeBearer, "b", "s"}},
		{`Negotiate abc==, Basic realm="x", Bearer realm="b"`, &want{schemeBearer, "b", ""}},
		{`Bearer realm="b", Basic realm="evil"`, &want{schemeBearer, "b", ""}},
		{`Bearer realm="first", realm="second"`, &want{schemeBearer, "first", ""}},
		{`Bearer realm="never ends`, nil},
		{`Bearer service="s"`, nil},
		{`, , Bearer ,realm=b`, &want{schemeBearer, "b", ""}},
		{`Bearer realm="b" service="s"`, &want{schemeBearer, "b", "s"}},
	} {
		var expected *challenge
		if w := tt.want; w != nil {
			expected = &challenge{scheme: w.scheme, realm: w.realm, service: w.service}
		}
		got := parseChallenge([]string{tt.header}, time.Time{})
		if diff := cmp.Diff(expected, got, cmp.AllowUnexported(challenge{})); diff != "" {
			t.Errorf("%s: %s", tt.header, diff)
		}
	}
	got := parseChallenge([]string{`Basic realm="r"`, `Bearer realm="b"`}, time.Time{})
	if got == nil || got.scheme != schemeBearer {
		t.Errorf("two headers: %+v, want bearer", got)
	}
}

func FuzzParseChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a.example/t",service="s",scope="x"`)
	f.Add(`Negotiate abc==, Basic realm="x", Bearer realm="b\"`)
	f.Fuzz(func(t *testing.T, header string) {
		got := parseChallenge([]string{header}, time.Time{})
		if got == nil {
			return
		}
		if got.scheme == schemeBearer && got.realm == "" {
			t.Error("bearer without a realm")
		}
		if len(got.realm)+len(got.service) > len(header) {
			t.Errorf("%q out of %q", got.realm+got.service, header)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add([]byte(`{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"access_token":"a","expires_in":"1e400"}`))
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseToken(data, begun)
		if err != nil {
			return
		}
		if got.value == "" || len(got.value) > maxTokenBytes {
			t.Errorf("token of %d bytes", len(got.value))
		}
		if !got.until.After(begun) || got.until.After(begun.Add(maxTokenLife)) {
			t.Errorf("lives until %s", got.until)
		}
	})
}

func TestTokenLife(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) string { return begun.Add(d).Format(time.RFC3339) }
	for _, tt := range []struct {
		answer string
		want   time.Duration
	}{
		{`{"token":"a"}`, 54 * time.Second},
		{`{"token":"a","expires_in":300}`, 290 * time.Second},
		{`{"token":"a","expires_in":"300"}`, 290 * time.Second},
		{`{"token":"a","expires_in":20.5}`, 18450 * time.Millisecond},
		{`{"token":"a","expires_in":-5}`, 54 * time.Second},
		{`{"token":"a","expires_in":null}`, 54 * time.Second},
		{`{"token":"a","expires_in":99999999999999999999}`, 24*time.Hour - 10*time.Second},
		{`{"token":"a","expires_in":300,"issued_at":"` + at(-100*time.Second) + `"}`, 190 * time.Second},
		{`{"token":"a","expires_in":300,"issued_at":"` + at(time.Hour) + `"}`, 290 * time.Second},
		{`{"token":"a","expires_in":300,"issued_at":"` + at(-time.Hour) + `"}`, 54 * time.Second},
		{`{"token":"a","expires_in":300,"issued_at":"yesterday"}`, 290 * time.Second},
	} {
		got, err := parseToken([]byte(tt.answer), begun)
		if err != nil {
			t.Errorf("%s: %v", tt.answer, err)
			continue
		}
		if life := got.until.Sub(begun); life != tt.want {
			t.Errorf("%s: used for %s, want %s", tt.answer, life, tt.want)
		}
	}
}

func TestTokenCache(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := func(i int) tokenKey { return tokenKey{scheme: "https", host: "h", repository: fmt.Sprint(i)} }
	c := newTokenCache(3, 10_000)
	for i := range 4 {
		c.put(key(i), token{value: fmt.Sprint("t", i), until: now.Add(time.Minute)})
	}
	if _, ok := c.get(key(0), now); ok {
		t.Error("the oldest is still there")
	}
	if got, ok := c.get(key(1), now); !ok || got.value != "t1" {
		t.Errorf("got %v, %t", got, ok)
	}
	if _, ok := c.get(key(1), now.Add(time.Minute)); ok {
		t.Error("it outlived its end")
	}
	c.drop(key(2), "another")
	if _, ok := c.get(key(2), now); !ok {
		t.Error("dropped for another's fault")
	}
	c.drop(key(2), "t2")
	if _, ok := c.get(key(2), now); ok {
		t.Error("not dropped")
	}
	for _, other := range []tokenKey{
		{scheme: "http", host: "h", repository: "3"},
		{scheme: "https", host: "h:1", repository: "3"},
		{scheme: "https", host: "h", repository: "3", identity: "x"},
	} {
		if _, ok := c.get(other, now); ok {
			t.Errorf("%+v finds the token of another", other)
		}
	}
}

func TestTokenCacheBytes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := newTokenCache(1<<20, 100_000)
	for i := range 1000 {
		c.put(tokenKey{repository: fmt.Sprint(i)}, token{value: strings.Repeat("a", 1000), until: now.Add(time.Minute)})
		if c.bytes > c.maxBytes {
			t.Fatalf("%d bytes", c.bytes)
		}
	}
	c.put(tokenKey{repository: "huge"}, token{value: strings.Repeat("a", 100_001), until: now.Add(time.Minute)})
	if _, ok := c.get(tokenKey{repository: "huge"}, now); ok {
		t.Error("a token larger than the cache was kept")
	}
	for at := c.recent.Front(); at != nil; at = c.recent.Front() {
		c.remove(at)
	}
	if c.bytes != 0 || len(c.entries) != 0 {
		t.Errorf("%d bytes and %d entries of nothing", c.bytes, len(c.entries))
	}
}
