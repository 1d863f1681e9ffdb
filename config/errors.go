package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a configuration file. Lines and columns count from
// one; zero means that the place is not known.
type Position struct {
	File         string
	Line, Column int
	// Path is the field's name as messages show it, "policy.rules[2].images".
	Path string
}

// String is file:line:column as far as they are known.
func (p Position) String() string {
	var parts []string
	if p.File != "" {
		parts = append(parts, p.File)
	}
	if p.Line > 0 {
		parts = append(parts, fmt.Sprintf("%d:%d", p.Line, p.Column))
	}
	return strings.Join(parts, ":")
}

// At locates an error at this place. A nil error stays nil, and one that
// already names a line is returned as it is.
func (p Position) At(err error) error { return locate(p, p.Path, err) }

// Error is one thing that is wrong with a configuration, and where.
type Error struct {
	Position
	// Message says what is wrong, Hint what to do about it.
	Message, Hint string
	// Err is the cause where another package found it.
	Err error
}

// Error is "file:line:column: path: what is wrong; what to do", on one line.
func (e *Error) Error() string {
	var b strings.Builder
	if place := e.String(); place != "" {
		b.WriteString(place + ": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap gives the cause, nil if this package found the mistake itself.
func (e *Error) Unwrap() error { return e.Err }

// Errors is all that is wrong with a configuration, in the order of its text.
type Errors []*Error

// maxErrors bounds how many mistakes are told: past that a file is not a
// configuration with mistakes but something else.
const maxErrors = 50

// Error has one line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each mistake to errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// sorted gives the mistakes as an error in the order of the text, or nil.
func (e Errors) sorted() error {
	if len(e) == 0 {
		return nil
	}
	e.sort()
	if len(e) > maxErrors {
		rest := &Error{Position: Position{File: e[0].File}, Message: "there are more mistakes than are shown"}
		return append(slices.Clone(e[:maxErrors]), rest)
	}
	return e
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// locate makes an error of another package one of this package. Errors that
// know their own place keep it.
func locate(pos Position, path string, err error) error {
	var located *Error
	if err == nil || (errors.As(err, &located) && located.Line > 0) {
		return err
	}
	pos.Path = path
	return &Error{Position: pos, Message: err.Error(), Err: err}
}

// parentPath drops the last step of a path: ".name" or "[index]".
func parentPath(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// quote shows text from the file in a message: on one line, escaped, short.
func quote(text string) string {
	const most = 64
	if len(text) <= most {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprintf("%q...", text[:most])
}
