package config_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/gatehouse-project/gatehouse/config"
)

// everything has a field of each kind that the decoder knows.
type everything struct {
	Inlined  `yaml:",inline"`
	Bool     bool                     `yaml:"bool"`
	Text     string                   `yaml:"text" default:"given"`
	Int      int                      `yaml:"int" default:"7" min:"-5" max:"100"`
	Small    int8                     `yaml:"small"`
	Unsigned uint16                   `yaml:"unsigned"`
	Duration time.Duration            `yaml:"duration" default:"1m30s"`
	Size     int64                    `yaml:"size" unit:"bytes" default:"8MiB"`
	Pointer  *int                     `yaml:"pointer"`
	Nested   *nested                  `yaml:"nested"`
	List     []nested                 `yaml:"list"`
	Lists    [][]string               `yaml:"lists"`
	Map      map[string]time.Duration `yaml:"map" max:"2"`
	Named    map[color][]color        `yaml:"named" enum:"red,blue"`
	Prefix   netip.Prefix             `yaml:"prefix" default:"10.0.0.0/8"`
	Prefixes []*netip.Prefix          `yaml:"prefixes"`
	Later    yaml.Node                `yaml:"later"`
	Kept     string                   // no tag
	hidden   string                   `yaml:"hidden"` //nolint:unused // unexported fields are no fields of the file
	Pos      config.Position
}

type color string

type Inlined struct {
	Inner string `yaml:"inner"`
}

type nested struct {
	A string `yaml:"a" required:"true"`
	B int64  `yaml:"b,omitempty" unit:"bytes" default:"1KB"`
}

func node(t *testing.T, text string) *yaml.Node {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	return &n
}

func TestDecode(t *testing.T) {
	t.Parallel()
	const text = `
inner: in
bool: true
text: 2024-01-01
int: -5
small: -128
unsigned: 65535
duration: 1h2m3.5s
size: 2GiB
pointer: 3
nested: {a: x}
list: [{a: y, b: 5}, {a: z, b: "6KB"}]
lists: [[a, b], []]
map: {one: 1s, two: 1ms}
named: {key: [red, blue]}
prefix: 192.168.0.0/16
prefixes: [10.1.0.0/16]
later: {any: [thing, null]}
`
	got := everything{Kept: "kept"}
	if err := config.Decode(node(t, text), &got); err != nil {
		t.Fatal(err)
	}
	var later map[string][]any
	if err := got.Later.Decode(&later); err != nil || len(later["any"]) != 2 {
		t.Errorf("later = %v, %v", later, err)
	}
	three, prefix := 3, netip.MustParsePrefix("10.1.0.0/16")
	want := everything{
		Inlined: Inlined{Inner: "in"}, Bool: true, Text: "2024-01-01", Int: -5, Small: -128, Unsigned: 65535,
		Duration: time.Hour + 2*time.Minute + 3500*time.Millisecond, Size: 2 << 30, Pointer: &three,
		Nested: &nested{A: "x", B: 1000}, List: []nested{{A: "y", B: 5}, {A: "z", B: 6000}}, Lists: [][]string{{"a", "b"}, {}},
		Map: map[string]time.Duration{"one": time.Second, "two": time.Millisecond}, Named: map[color][]color{"key": {"red", "blue"}},
		Prefix: netip.MustParsePrefix("192.168.0.0/16"), Prefixes: []*netip.Prefix{&prefix}, Kept: "kept",
		Pos: config.Position{Line: 2, Column: 1},
	}
	if diff := cmp.Diff(want, got, compare()...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func compare() cmp.Options {
	return cmp.Options{
		cmpopts.IgnoreFields(everything{}, "Later"), cmpopts.IgnoreUnexported(everything{}),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func TestDecodeDefaults(t *testing.T) {
	t.Parallel()
	want := everything{Text: "given", Int: 7, Duration: 90 * time.Second, Size: 8 << 20, Prefix: netip.MustParsePrefix("10.0.0.0/8")}
	var absent everything
	if err := config.Decode(&yaml.Node{}, &absent); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, absent, compare()...); diff != "" {
		t.Errorf("absent (-want +got):\n%s", diff)
	}
	filled := everything{Text: "mine", Size: 5}
	want.Text, want.Size, want.Pos = "mine", 5, config.Position{Line: 1, Column: 1}
	if err := config.Decode(node(t, "{}"), &filled); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, filled, compare()...); diff != "" {
		t.Errorf("filled before (-want +got):\n%s", diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	longDuration := strings.Repeat("99999999", 10) + "h"
	for text, want := range map[string]string{
		"hidden: x":                      `1:1: unknown field "hidden"; valid here, nearest first: inner, `,
		"Kept: x":                        `1:1: unknown field "Kept"; `,
		"pos: x":                         `1:1: unknown field "pos"; `,
		"Bool: true":                     `1:1: unknown field "Bool"; did you mean "bool"? upper and lower case count`,
		"durtaion: 1s":                   `1:1: unknown field "durtaion"; did you mean "duration"?`,
		"bool: {a: b}":                   `1:7: bool: expected true or false, found a mapping`,
		"text: true":                     `1:7: text: expected text, found true; put it in quotes: "true"`,
		"text: 1.0":                      `1:7: text: expected text, found the number 1.0; put it in quotes: "1.0"`,
		"int: -6":                        `1:6: int: -6 is too small, at least -5`,
		"int: 007":                       `1:6: int: expected a whole number, found the number 007; write decimal digits, without quotes`,
		"int: 1_0":                       `1:6: int: expected a whole number, found the number 1_0; write decimal digits, without quotes`,
		"small: 128":                     `1:8: small: 128 is out of range for int8`,
		"unsigned: -1":                   `1:11: unsigned: -1 is out of range for uint16`,
		"unsigned: 65536":                `1:11: unsigned: 65536 is out of range for uint16`,
		"size: 9223372036854775807KiB":   `1:7: size: 9223372036854775807KiB is out of range`,
		"pointer: ~":                     `1:1: pointer: has no value; give it one or leave the field out`,
		"nested: {}":                     `1:9: nested.a: is required`,
		"nested: {a: ''}":                `1:13: nested.a: is empty; leave it out if it is not meant`,
		"nested: {a: }":                  `1:10: nested.a: has no value`,
		"list: [{a: x}, {A: y}]":         `1:16: list[1].a: is required` + "\n" + `1:17: list[1]: unknown field "A"; did you mean "a"?`,
		"lists: [[a], b]":                `1:14: lists[1]: expected a list, found the text "b"`,
		"lists: [[a, 1]]":                `1:13: lists[0][1]: expected text, found the number 1; put it in quotes: "1"`,
		"map: {a: 1s, b: 2s, c: 3s}":     `1:6: map: has 3 entries, at most 2 are allowed`,
		`map: {"a.b": 5}`:                `1:14: map["a.b"]: expected a duration such as 500ms, found the number 5; a duration needs its unit: 5s or 5ms`,
		"named: {a: [red, green]}":       `1:18: named.a[1]: "green" is not one of: red, blue`,
		"prefix: 10.0.0.0":               `1:9: prefix: netip.ParsePrefix("10.0.0.0"): no '/'`,
		"prefix: [10.0.0.0/8]":           `1:9: prefix: expected text, found a list`,
		"later: {a: 1, a: 2}":            `1:15: later: "a" stands twice; it is already in line 1`,
		"later: [&x a, *x]":              `1:9: later[0]: the anchor "x" is not allowed; write the value wherever it is needed`,
		"text: !!str 5":                  `1:7: text: the tag "!!str" is not allowed; write the plain value`,
		"later: {a: {<<: {b: c}}}":       `1:13: later.a: the merge key "<<" is not allowed; write the fields themselves`,
		"map: [a]":                       `1:6: map: expected a mapping, found a list`,
		"later: {'': 1}":                 `1:9: later: a name is empty`,
		"later: {~: 1}":                  `1:9: later: a name must be text, found nothing; put it in quotes: "~"`,
		"later: {&x a: 1}":               `1:9: later: a name has neither anchor nor tag`,
		"later: {true: 1}":               `1:9: later: a name must be text, found true; put it in quotes: "true"`,
		"- a":                            `1:1: expected a mapping, found a list`,
		"~":                              `1:1: has no value; give it one or leave the field out`,
		"duration: " + longDuration:      `1:11: duration: ` + longDuration[:32] + `... is not a duration of at most 290 years`,
		"text: [" + longDuration + "]":   `1:7: text: expected text, found a list`,
		"bool: " + longDuration + "\"\"": `1:7: bool: expected true or false, found the text "` + longDuration[:64] + `"...; write`,
	} {
		err := config.Decode(node(t, text), new(everything))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

// Mistakes in the code rather than in the file are errors, not panics.
func TestDecodeTargets(t *testing.T) {
	t.Parallel()
	var nothing *everything
	for name, into := range map[string]any{
		"nil": nil, "no pointer": everything{}, "nil pointer": nothing,
		"interface": new(struct {
			A any `yaml:"a"`
		}),
		"float": new(struct {
			A float64 `yaml:"a"`
		}),
		"bad default": new(struct {
			B int `yaml:"b" default:"x"`
		}),
		"bad bound": new(struct {
			A int `yaml:"a" max:"x"`
		}),
		"bad count": new(struct {
			A []int `yaml:"a" max:"x"`
		}),
	} {
		text := "a: 1"
		if name == "bad default" {
			text = "{}"
		}
		if err := config.Decode(node(t, text), into); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestComponentDecode(t *testing.T) {
	t.Parallel()
	const text = `version: v1alpha1
server: {insecureHTTP: true}
stores:
  - name: registry
    plainHttp: []
    type: oras
    nam: x
    hosts: [7]
policy: {rules: [{name: all, images: ["**"], allow: {reason: x, until: 2027-01-31}}]}
`
	cfg, err := config.Parse("dir/f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		`dir/f.yaml:5:5: stores[0]: unknown field "plainHttp"; did you mean "plainHTTP"? upper and lower case count`,
		`dir/f.yaml:7:5: stores[0]: unknown field "nam"; did you mean "name"?`,
		`dir/f.yaml:8:13: stores[0].hosts[0]: expected text, found the number 7; put it in quotes: "7"`,
	}, "\n")
	if err := cfg.Stores[0].Decode(new(orasOptions)); err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}
