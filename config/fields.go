package config

import (
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// FieldDoc documents one field of the file.
type FieldDoc struct {
	// Path is the field's full name; an item of a list is "name[]", a value
	// of a map "name.*".
	Path string
	// Type is what it holds, in words: "duration", "list of text".
	Type string
	// Default is the value that stands for an absent field; it may be empty.
	Default string
	// Required fields have no default.
	Required bool
	// Doc says what it means.
	Doc string
}

// Fields documents the file's fields in its order, from the same tags that
// the decoder obeys. Options of components follow from [OptionFields].
func Fields() []FieldDoc { return OptionFields("", Config{}) }

// OptionFields documents the fields of any struct that [Decode] fills, under
// a path such as "stores[]".
func OptionFields(path string, options any) []FieldDoc {
	return docs(reflect.TypeOf(options), path, map[reflect.Type]bool{})
}

// docs walks a struct; a type inside itself is listed once.
func docs(t reflect.Type, path string, above map[reflect.Type]bool) []FieldDoc {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if above[t] {
		return nil
	}
	above[t] = true
	defer delete(above, t)
	var all []FieldDoc
	for _, f := range fieldsOf(t) {
		at := join(path, f.name)
		all = append(all, FieldDoc{Path: at, Type: wording(f.typ, f), Default: f.def, Required: f.required, Doc: f.doc})
		if inner, suffix := element(f.typ); isSection(inner) {
			all = append(all, docs(inner, at+suffix, above)...)
		}
	}
	return all
}

// element finds what is inside pointers, lists and maps, and how a path into
// them goes on.
func element(t reflect.Type) (inner reflect.Type, suffix string) {
	for !isText(t) {
		switch t.Kind() {
		case reflect.Pointer:
		case reflect.Slice:
			suffix += "[]"
		case reflect.Map:
			suffix += ".*"
		default:
			return t, suffix
		}
		t = t.Elem()
	}
	return t, suffix
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !isText(t) && t != typeOf[yaml.Node]()
}

func wording(t reflect.Type, f field) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return wording(t.Elem(), f)
	case f.hasFlags():
		last := len(f.enum) - 1
		return strings.Join(f.enum[:last], ", ") + " or " + f.enum[last]
	case isText(t), t.Kind() == reflect.String:
		return "text"
	case t == typeOf[yaml.Node]():
		return "any"
	case t.Kind() == reflect.Struct:
		return "section"
	case t.Kind() == reflect.Slice:
		return "list of " + wording(t.Elem(), f)
	case t.Kind() == reflect.Map:
		return "map to " + wording(t.Elem(), f)
	case t == typeOf[time.Duration]():
		return "duration"
	case f.unit == "bytes":
		return "size"
	case t.Kind() == reflect.Bool:
		return "true or false"
	default:
		return "number"
	}
}
