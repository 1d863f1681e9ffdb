package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// object is one JSON object of the schema; encoding/json sorts its names, so
// that the text is the same each time.
type object map[string]any

// Schema prints the JSON Schema (2020-12) of the whole file, for editors. The
// components are the options of every known type: by kind ("stores",
// "verifiers"), then by type name, a value of the type that
// [Component.Decode] fills; its contents do not matter.
//
// It is made of the same tags that the decoder obeys. What the schema cannot
// say (names that refer to others, fields that exclude each other, durations
// and sizes out of range) is left to Parse. An error means that two types
// would share one name, or that a type has no form in YAML.
func Schema(components map[string]map[string]any) ([]byte, error) {
	s := &schema{components: components, defs: object{}, types: map[string]reflect.Type{}}
	document := s.structure(typeOf[Config](), nil)
	document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	document["title"] = "Gatehouse configuration"
	document["$defs"] = s.defs
	document["anyOf"], document["dependentRequired"] = sections(), object{"registry": []string{"cache"}}
	if s.err != nil {
		return nil, s.err
	}
	text, err := json.MarshalIndent(document, "", "  ")
	return append(text, '\n'), err
}

// sections are the sets of sections that make a file: those of the webhook, or a
// registry without a server, with a policy if it enforces one.
func sections() []any {
	unenforced := object{"properties": object{"enforce": object{"const": false}}}
	return []any{
		object{"required": []string{"server", "policy"}},
		object{"required": []string{"registry", "policy"}, "properties": object{"server": false}},
		object{"required": []string{"registry"}, "properties": object{"server": false, "registry": unenforced}},
	}
}

type schema struct {
	components map[string]map[string]any
	defs       object                  // by definition name
	types      map[string]reflect.Type // what each definition was made of
	err        error
}

// structure describes a struct; extra fields come first.
func (s *schema) structure(t reflect.Type, extra []field) object {
	properties, required := object{}, []string{}
	for _, f := range append(slices.Clone(extra), fieldsOf(t)...) {
		properties[f.name] = s.property(f)
		if f.required {
			required = append(required, f.name)
		}
	}
	described := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		described["required"] = required
	}
	return described
}

func (s *schema) property(f field) object {
	described := s.of(f.typ, f)
	if f.typ == typeOf[[]Component]() {
		described["items"] = s.component(f.name)
	}
	if f.doc != "" {
		described["description"] = f.doc
	}
	if f.def != "" {
		described["default"] = defaultOf(f)
	}
	return described
}

func defaultOf(f field) any {
	v := reflect.New(f.typ).Elem()
	if f.isFlag(f.def) {
		return f.def == "true"
	}
	if f.typ == typeOf[time.Duration]() || f.unit == "bytes" || setDefault(v, f) != nil || isText(f.typ) {
		return f.def
	}
	return v.Interface()
}

// of describes a type, as the decoder's value reads it.
func (s *schema) of(t reflect.Type, f field) object {
	switch {
	case t == typeOf[yaml.Node]():
		return object{}
	case t.Kind() == reflect.Pointer:
		return s.of(t.Elem(), f)
	case isText(t):
		return text(f)
	case t.Kind() == reflect.Struct:
		return s.reference(t)
	case t.Kind() == reflect.Slice:
		return s.counted(object{"type": "array", "items": s.of(t.Elem(), f.item())}, f, "Items")
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		return s.counted(object{"type": "object", "additionalProperties": s.of(t.Elem(), f.item())}, f, "Properties")
	default:
		return s.scalar(t, f)
	}
}

// counted adds the bounds on the count of a list or map.
func (s *schema) counted(described object, f field, what string) object {
	least, most, err := f.bounds(typeOf[int]())
	if err != nil {
		s.err = err
	}
	if f.min != "" {
		described["min"+what] = least
	}
	if f.max != "" {
		described["max"+what] = most
	}
	return described
}

func (s *schema) scalar(t reflect.Type, f field) object {
	switch {
	case t == typeOf[time.Duration]():
		return object{"type": "string", "pattern": durationPattern}
	case f.unit == "bytes":
		return object{"type": []string{"string", "integer"}, "pattern": bytesPattern, "minimum": 0}
	case t.Kind() == reflect.Bool:
		return object{"type": "boolean"}
	case t.Kind() == reflect.String:
		return text(f)
	case isInteger(t):
		return s.integer(t, f)
	}
	s.err = fmt.Errorf("schema of %s: the Go type %s has no form in YAML", f.name, t)
	return object{}
}

func (s *schema) integer(t reflect.Type, f field) object {
	described := object{"type": "integer"}
	least, most, err := f.bounds(t)
	if err != nil {
		s.err = err
	}
	if f.min != "" {
		described["minimum"] = least
	}
	if f.max != "" {
		described["maximum"] = most
	}
	return described
}

func text(f field) object {
	if f.hasFlags() {
		return object{"enum": words(f)}
	}
	described := object{"type": "string", "minLength": 1}
	if len(f.enum) > 0 {
		described["enum"] = f.enum
	}
	if f.pattern != "" {
		described["pattern"] = f.pattern
	}
	return described
}

// words are those of an enum, true and false as the booleans that they are.
func words(f field) []any {
	all := make([]any, len(f.enum))
	for i, word := range f.enum {
		all[i] = word
		if f.isFlag(word) {
			all[i] = word == "true"
		}
	}
	return all
}

// reference describes a struct once, under its name: types may contain
// themselves.
func (s *schema) reference(t reflect.Type) object {
	name := strings.ReplaceAll(t.String(), ".", "_")
	if t.Name() == "" {
		return s.structure(t, nil)
	}
	switch known, found := s.types[name]; {
	case !found:
		s.types[name] = t
		s.defs[name] = s.structure(t, nil)
	case known != t:
		s.err = fmt.Errorf("schema: %s and %s share the name %s", known.PkgPath(), t.PkgPath(), name)
	}
	return object{"$ref": "#/$defs/" + name}
}

// component describes an item of stores or verifiers: its type chooses which
// options it has.
func (s *schema) component(kind string) object {
	head := fieldsOf(typeOf[Component]())
	names := slices.Sorted(maps.Keys(s.components[kind]))
	choices := make([]any, 0, len(names))
	for _, name := range names {
		options := reflect.TypeOf(s.components[kind][name])
		for options != nil && options.Kind() == reflect.Pointer {
			options = options.Elem()
		}
		if options == nil || options.Kind() != reflect.Struct {
			s.err = fmt.Errorf("schema: options of %s %s are no struct", kind, name)
			return object{}
		}
		choices = append(choices, object{
			"if":   object{"properties": object{"type": object{"const": name}}, "required": []string{"type"}},
			"then": s.structure(options, head),
		})
	}
	described := object{
		"type": "object", "required": []string{"name", "type"},
		"properties": object{"type": object{"enum": names}},
	}
	if len(choices) > 0 {
		described["allOf"] = choices
	}
	return described
}
