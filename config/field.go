package config

import (
	"math"
	"reflect"
	"slices"
	"strings"
)

// field is what the tags of a struct's field say.
type field struct {
	index          []int
	name, doc, def string
	required       bool
	enum           []string
	min, max       string
	unit, pattern  string
	typ            reflect.Type
}

// fieldsOf lists the fields that the file can have, with those of inlined
// structs, in the order of the type.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, inline := nameOf(sf)
		switch {
		case inline:
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
		case name != "" && sf.IsExported():
			fields = append(fields, fieldOf(sf, name))
		}
	}
	return fields
}

func fieldOf(sf reflect.StructField, name string) field {
	f := field{
		index: sf.Index, name: name, typ: sf.Type,
		doc: sf.Tag.Get("doc"), def: sf.Tag.Get("default"), required: sf.Tag.Get("required") == "true",
		min: sf.Tag.Get("min"), max: sf.Tag.Get("max"), unit: sf.Tag.Get("unit"), pattern: sf.Tag.Get("pattern"),
	}
	if enum := sf.Tag.Get("enum"); enum != "" {
		f.enum = strings.Split(enum, ",")
	}
	return f
}

func nameOf(sf reflect.StructField) (name string, inline bool) {
	tag, found := sf.Tag.Lookup("yaml")
	if !found {
		tag = sf.Tag.Get("json")
	}
	name, options, _ := strings.Cut(tag, ",")
	if name == "-" {
		return "", false
	}
	return name, options == "inline" && sf.Type.Kind() == reflect.Struct
}

func find(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// isFlag tells a word of the field's enum that YAML reads as a boolean: it is
// written without quotes, and stands in the enum's type as its text.
func (f field) isFlag(word string) bool {
	return (word == "true" || word == "false") && slices.Contains(f.enum, word)
}

// hasFlags reports whether a boolean is among the words of the field's enum.
func (f field) hasFlags() bool { return slices.ContainsFunc(f.enum, f.isFlag) }

// item is what the tags of a list or map say of what is in it: all but the
// bounds, which are those of its count.
func (f field) item() field {
	f.min, f.max, f.def, f.required = "", "", "", false
	return f
}

// bounds are min and max in the unit of a number, duration or size.
func (f field) bounds(t reflect.Type) (least, most int64, err error) {
	least, most = math.MinInt64, math.MaxInt64
	if f.min != "" {
		if least, err = parseNumber(t, f.unit, f.min); err != nil {
			return 0, 0, err
		}
	}
	if f.max != "" {
		most, err = parseNumber(t, f.unit, f.max)
	}
	return least, most, err
}

// advice says what a missing field could be.
func (f field) advice() string {
	if len(f.enum) > 0 {
		return "it is one of: " + strings.Join(f.enum, ", ")
	}
	return ""
}

func (f field) withoutValue() string {
	if f.required {
		return f.advice()
	}
	return "give it one or leave the field out"
}
