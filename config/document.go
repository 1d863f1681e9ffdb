package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds how deep mappings and lists are nested; the deepest
// requirement that a policy may have stays below it.
const maxDepth = 48

// maxKeyBytes bounds a name in a mapping, and with it the paths in messages.
const maxKeyBytes = 253

// parseDocument reads the one document of a file and refuses what YAML has
// beyond plain data. The result is the document's root.
func parseDocument(name string, data []byte) (*yaml.Node, error) {
	whole := func(format string, args ...any) error {
		return Errors{{Position: Position{File: name}, Message: fmt.Sprintf(format, args...)}}
	}
	if len(data) > MaxBytes {
		return nil, whole("the file has %d bytes, at most %d are read", len(data), MaxBytes)
	}
	documents, err := readDocuments(data)
	switch {
	case err != nil:
		return nil, Errors{syntaxError(name, err)}
	case len(documents) == 0 || isNull(root(documents[0])):
		return nil, whole("the file is empty; `gatehouse config example` prints one to start from")
	case len(documents) > 1:
		at := Position{File: name, Line: documents[1].Line, Column: documents[1].Column}
		return nil, Errors{{Position: at, Message: "a second document begins here", Hint: "a configuration is one document"}}
	}
	d := &decoder{file: name}
	d.checkPlain(documents[0], nil)
	return root(documents[0]), d.errs.sorted()
}

// readDocuments reads at most two documents: the second is a mistake.
//
// The library takes any colon inside braces for the one after a name, so that
// {address: :8888} is an error to it though YAML allows it. A text that fails
// is read again with another character in place of such colons, one that YAML
// gives no meaning and the text does not have, which is put back in the nodes.
func readDocuments(data []byte) ([]*yaml.Node, error) {
	const standIn = "\uE000"
	documents, err := streamDocuments(data)
	if err == nil || bytes.Contains(data, []byte(standIn)) || !leadingColon.Match(data) {
		return documents, err
	}
	documents, err = streamDocuments(leadingColon.ReplaceAll(data, []byte("${1}"+standIn+"${2}")))
	for _, document := range documents {
		replaceAll(document, standIn, ":")
	}
	return documents, err
}

// leadingColon finds a colon that begins a value: what comes before ends a
// name or opens an item, and what follows is not the end of a name.
var leadingColon = regexp.MustCompile(`(:[ \t]+|[\[,][ \t]*):([^\s,\[\]{}])`)

func replaceAll(n *yaml.Node, from, to string) {
	n.Value = strings.ReplaceAll(n.Value, from, to)
	for _, inner := range n.Content {
		replaceAll(inner, from, to)
	}
}

// streamDocuments also turns a panic of the YAML library into an error: an
// edit that trips it must not end a running server.
func streamDocuments(data []byte) (documents []*yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	stream := yaml.NewDecoder(bytes.NewReader(data))
	for len(documents) < 2 {
		var document yaml.Node
		if err := stream.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		documents = append(documents, &document)
	}
	return documents, nil
}

func root(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.DocumentNode && len(node.Content) == 1 {
		return node.Content[0]
	}
	return node
}

var (
	yamlMessage = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	// Messages of the library's parser, which counts lines from zero; its
	// scanner counts from one.
	parserMessage = regexp.MustCompile(`^did not find expected (node content|key|'-'|',' or|<)`)
)

// syntaxError finds the place in the text of an error of the YAML library,
// which names no line where that would be the first.
func syntaxError(name string, err error) *Error {
	e := &Error{Position: Position{File: name, Line: 1, Column: 1}, Message: err.Error(), Err: err}
	m := yamlMessage.FindStringSubmatch(err.Error())
	if m == nil {
		return e
	}
	e.Message = "not valid YAML: " + m[2]
	line, _ := strconv.Atoi(m[1])
	if parserMessage.MatchString(m[2]) {
		line++
	}
	e.Line = max(line, 1)
	return e
}

// checkPlain refuses everything in a tree that is not plain data: anchors and
// aliases (which grow without bound), merge keys, tags, names that are not
// text or stand twice, and too deep a nesting. The path is kept as steps, and
// made into text only for a message.
func (d *decoder) checkPlain(n *yaml.Node, path []string) {
	fail := func(at *yaml.Node, message, hint string) { d.fail(at, strings.Join(path, ""), message, hint) }
	switch {
	case len(path) > maxDepth:
		fail(n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
		return
	case n.Kind == yaml.AliasNode:
		fail(n, "the alias "+quote(n.Value)+" is not allowed", "write the value itself")
		return
	case n.Anchor != "":
		fail(n, "the anchor "+quote(n.Anchor)+" is not allowed", "write the value wherever it is needed")
	case n.Style&yaml.TaggedStyle != 0:
		fail(n, "the tag "+quote(n.Tag)+" is not allowed", "write the plain value")
	}
	switch n.Kind {
	case yaml.MappingNode:
		d.checkMapping(n, path)
	case yaml.SequenceNode:
		for i, item := range n.Content {
			d.checkPlain(item, append(path, "["+strconv.Itoa(i)+"]"))
		}
	case yaml.DocumentNode:
		for _, inner := range n.Content {
			d.checkPlain(inner, path)
		}
	default: // a scalar has nothing below it
	}
}

func (d *decoder) checkMapping(n *yaml.Node, path []string) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if message, hint := badKey(key); message != "" {
			d.fail(key, strings.Join(path, ""), message, hint)
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.fail(key, strings.Join(path, ""), fmt.Sprintf("%s stands twice", quote(key.Value)), fmt.Sprintf("it is already in line %d", line))
		}
		seen[key.Value] = key.Line
		d.checkPlain(value, append(path, step(len(path) == 0, key.Value)))
	}
}

func badKey(key *yaml.Node) (message, hint string) {
	switch {
	case key.Tag == "!!merge":
		return `the merge key "<<" is not allowed`, "write the fields themselves"
	case key.Kind != yaml.ScalarNode:
		return "a name must be text, found " + describe(key), ""
	case key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
		return "a name has neither anchor nor tag", ""
	case key.Tag != "!!str":
		return "a name must be text, found " + describe(key), fmt.Sprintf("put it in quotes: %q", shorten(key.Value))
	case key.Value == "":
		return "a name is empty", ""
	case len(key.Value) > maxKeyBytes:
		return fmt.Sprintf("the name %s is longer than %d bytes", quote(key.Value), maxKeyBytes), ""
	}
	return "", ""
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// step is how a name continues a path.
func step(first bool, name string) string {
	switch {
	case !plainName.MatchString(name):
		return "[" + quote(name) + "]"
	case first:
		return name
	default:
		return "." + name
	}
}

func join(path, name string) string { return path + step(path == "", name) }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe names what a node is, for "expected x, found y".
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	case n.Tag == "!!bool":
		return n.Value
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "the number " + shorten(n.Value)
	default:
		return "the text " + quote(n.Value)
	}
}
