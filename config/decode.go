package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Decode fills what into points to from a node of the file, as strictly as
// the file itself is read. Fields are named by their yaml tag (or, for types
// of other modules, their json tag); fields without either are left alone.
//
// It knows structs, pointers, slices, maps with text keys, bool, text,
// integers, [time.Duration] from text such as "500ms", byte sizes from "8MiB"
// or a plain number (integers tagged unit:"bytes"), whatever implements
// [encoding.TextUnmarshaler], and [yaml.Node] for a part to be decoded later.
// A field of type [Position] is given the place of its struct.
//
// Further tags: default (used where the field is absent and still zero),
// required, enum (comma-separated), pattern, and min and max, which bound the
// value of a number, duration or size and the count of a list or map. A field
// without a value (null), an empty text and an empty text in a list are
// errors: what is not meant is left out.
//
// An error is [Errors] with lines but without the file's name; for a component
// use [Component.Decode], which knows it. A node of kind zero, as of an absent
// field, fills in defaults only.
func Decode(node *yaml.Node, into any) error {
	return (&decoder{}).decode(node, into, "")
}

// Decode fills a component's options: Options, with messages that name the
// file and the component. The target has no fields for name and type.
func (c Component) Decode(into any) error {
	d := &decoder{file: c.Pos.File, root: c.Pos.Path, aside: []string{"name", "type"}}
	return d.decode(&c.Options, into, c.Pos.Path)
}

// decoder fills one value. It goes on after a mistake and collects them all.
type decoder struct {
	file   string
	root   string              // path of the value
	aside  []string            // names valid at the root that are decoded elsewhere
	places map[string]Position // where each path stands; nil if nobody asks
	errs   Errors
}

func (d *decoder) decode(node *yaml.Node, into any, path string) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("decode into %T: not a pointer to something", into)
	}
	if node.Kind == 0 {
		d.fillAbsent(target.Elem(), field{})
		return d.errs.sorted()
	}
	d.checkPlain(node, nil)
	if len(d.errs) == 0 {
		d.value(root(node), target.Elem(), field{}, path)
	}
	return d.errs.sorted()
}

// maxCollected bounds the mistakes kept; maxErrors of them are shown.
const maxCollected = 1000

// fail notes a mistake at a node.
func (d *decoder) fail(n *yaml.Node, path, message, hint string) {
	if len(d.errs) >= maxCollected {
		return
	}
	pos := Position{File: d.file, Line: n.Line, Column: n.Column, Path: path}
	d.errs = append(d.errs, &Error{Position: pos, Message: message, Hint: hint})
}

func (d *decoder) place(n *yaml.Node, path string) Position {
	pos := Position{File: d.file, Line: n.Line, Column: n.Column, Path: path}
	if d.places != nil {
		d.places[path] = pos
	}
	return pos
}

// value fills v from the node; f holds the tags of the field that v is, or is
// an item of.
func (d *decoder) value(n *yaml.Node, v reflect.Value, f field, path string) {
	pos := d.place(n, path)
	switch t := v.Type(); {
	case t == typeOf[yaml.Node]():
		v.Set(reflect.ValueOf(*n))
	case isNull(n):
		d.fail(n, path, "has no value", f.withoutValue())
	case t.Kind() == reflect.Pointer:
		target := reflect.New(t.Elem())
		d.value(n, target.Elem(), f, path)
		v.Set(target)
	case t == typeOf[Component]():
		d.component(n, v, path)
	case isText(t):
		d.text(n, v, f, path)
	case t.Kind() == reflect.Struct:
		d.structure(n, v, pos)
	case t.Kind() == reflect.Slice:
		d.slice(n, v, f, path)
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		d.mapping(n, v, f, path)
	default:
		d.scalar(n, v, f, path)
	}
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(typeOf[encoding.TextUnmarshaler]())
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, pos Position) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, pos.Path, "expected a mapping, found "+describe(n), "")
		return
	}
	fields := fieldsOf(v.Type())
	present := make(map[string]bool, len(fields))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		f, known := find(fields, key.Value)
		if !known {
			d.unknown(key, fields, pos.Path)
			continue
		}
		present[f.name] = true
		if isNull(value) {
			value = &yaml.Node{Kind: value.Kind, Tag: value.Tag, Line: key.Line, Column: key.Column}
		}
		d.value(value, v.FieldByIndex(f.index), f, join(pos.Path, f.name))
	}
	for _, f := range fields {
		if present[f.name] {
			continue
		}
		if f.required {
			d.fail(n, join(pos.Path, f.name), "is required", f.advice())
		}
		d.fillAbsent(v.FieldByIndex(f.index), f)
	}
	setPosition(v, pos)
}

func (d *decoder) unknown(key *yaml.Node, fields []field, path string) {
	valid := make([]string, 0, len(fields)+len(d.aside))
	for _, f := range fields {
		valid = append(valid, f.name)
	}
	if path == d.root {
		valid = append(valid, d.aside...)
	}
	d.fail(key, path, "unknown field "+quote(key.Value), suggest(key.Value, valid))
}

// fillAbsent gives a field that the file does not have its default, and those
// of the struct that it may be.
func (d *decoder) fillAbsent(v reflect.Value, f field) {
	switch {
	case f.def != "" && v.IsZero():
		if err := setDefault(v, f); err != nil {
			d.errs = append(d.errs, &Error{Message: fmt.Sprintf("default of %s in %s: %v", f.name, v.Type(), err)})
		}
	case v.Kind() == reflect.Struct && !isText(v.Type()) && v.Type() != typeOf[yaml.Node]():
		for _, inner := range fieldsOf(v.Type()) {
			d.fillAbsent(v.FieldByIndex(inner.index), inner)
		}
	}
}

func setDefault(v reflect.Value, f field) error {
	if isText(v.Type()) {
		return setText(v, f.def)
	}
	return setScalar(v, f, f.def)
}

func setPosition(v reflect.Value, pos Position) {
	for i := range v.NumField() {
		if v.Type().Field(i).Type == typeOf[Position]() && v.Type().Field(i).IsExported() {
			v.Field(i).Set(reflect.ValueOf(pos))
		}
	}
}

func (d *decoder) slice(n *yaml.Node, v reflect.Value, f field, path string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "expected a list, found "+describe(n), "")
		return
	}
	if !d.count(n, len(n.Content), f, path) {
		return
	}
	items := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, items.Index(i), f.item(), path+"["+strconv.Itoa(i)+"]")
	}
	v.Set(items)
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, f field, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "expected a mapping, found "+describe(n), "")
		return
	}
	if !d.count(n, len(n.Content)/2, f, path) {
		return
	}
	entries := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		entry := reflect.New(v.Type().Elem()).Elem()
		d.value(n.Content[i+1], entry, f.item(), join(path, n.Content[i].Value))
		entries.SetMapIndex(reflect.ValueOf(n.Content[i].Value).Convert(v.Type().Key()), entry)
	}
	v.Set(entries)
}

// count holds a list or map to its bounds before anything is made for it.
func (d *decoder) count(n *yaml.Node, count int, f field, path string) bool {
	least, most, err := f.bounds(typeOf[int]())
	switch {
	case err != nil:
		d.fail(n, path, err.Error(), "")
	case count == 0 && least > 0:
		d.fail(n, path, "is empty", "")
	case int64(count) < least:
		d.fail(n, path, fmt.Sprintf("has %d entries, at least %s are needed", count, f.min), "")
	case int64(count) > most:
		d.fail(n, path, fmt.Sprintf("has %d entries, at most %s are allowed", count, f.max), "")
	default:
		return true
	}
	return false
}

// component splits what every component has from what its type knows.
func (d *decoder) component(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "expected a mapping with name and type, found "+describe(n), "")
		return
	}
	head, options := *n, *n
	head.Content, options.Content = nil, nil
	named, typed := lookup(n, "name") != nil, lookup(n, "type") != nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		// A slip of a missing name or type is not left for an option.
		slip := (!named && isClose(key, "name")) || (!typed && isClose(key, "type"))
		if key == "name" || key == "type" || slip {
			head.Content = append(head.Content, n.Content[i], n.Content[i+1])
		} else {
			options.Content = append(options.Content, n.Content[i], n.Content[i+1])
		}
	}
	d.structure(&head, v, d.place(n, path))
	v.FieldByName("Options").Set(reflect.ValueOf(options))
}

// lookup finds the value of a name in a mapping, nil if there is none.
func lookup(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Kind == yaml.MappingNode && mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}
