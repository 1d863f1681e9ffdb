package httpserver

import (
	"strings"
	"testing"
)

const someParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParseTraceparent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		someParent:                               true,
		someParent[:53] + "00":                   true,
		someParent[:53] + "ff":                   true,
		"01" + someParent[2:]:                    true,
		"01" + someParent[2:] + "-more":          true,
		"fe" + someParent[2:] + "-":              true,
		"":                                       false,
		"01" + someParent[2:] + "more":           false,
		someParent + "-more":                     false,
		someParent + " ":                         false,
		" " + someParent:                         false,
		someParent[:54]:                          false,
		"ff" + someParent[2:]:                    false,
		"0g" + someParent[2:]:                    false,
		"0A" + someParent[2:]:                    false,
		someParent[:53] + "0A":                   false,
		someParent[:53] + "x1":                   false,
		strings.ToUpper(someParent):              false,
		strings.ReplaceAll(someParent, "-", "_"): false,
		"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01":                 false,
		"00-0af7651916cd43dd8448eb211c80319c-" + strings.Repeat("0", 16) + "-01": false,
		"01" + someParent[2:] + "-" + strings.Repeat("x", maxTraceparent):        false,
	} {
		got, ok := parseTraceparent(text)
		if ok != want || ok != got.IsValid() {
			t.Errorf("%q: %t", text, ok)
		}
		if ok && (got.TraceID().String() != someParent[3:35] || got.SpanID().String() != someParent[36:52] || !got.IsRemote()) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add(someParent)
	f.Add("01" + someParent[2:] + "-x")
	f.Add("00-" + strings.Repeat("\xff", 32) + "-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseTraceparent(text)
		if ok != got.IsValid() || len(newTraceID()) != 32 {
			t.Fatalf("%q: %t, %+v", text, ok, got)
		}
		if ok && !strings.Contains(text, got.TraceID().String()) {
			t.Fatalf("%q is read as %s", text, got.TraceID())
		}
	})
}

func TestRouteOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]route{
		VerifyPath: routeVerify, MutatePath: routeMutate, AuditPath: routeAudit, MutatePath + "/namespaces/x": routeMutate,
		AuditPath + "s": routeOther, "/": routeOther, "": routeOther, VerifyPath + "/": routeVerify,
	} {
		if got := routeOf(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
