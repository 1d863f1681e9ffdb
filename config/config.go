// Package config reads the one file that tells Gatehouse what to do.
//
// [Load] and [Parse] turn YAML into a [Config]: strict (a field that is not
// known is an error that names its place and the nearest valid name), exact in
// case, one document, bounded in size and depth, without anchors, aliases or
// tags, and validated whole. Every problem is reported at once, as [Errors] of
// located [Error] values. Nothing is half read: there is a valid Config or
// none.
//
// The struct tags of the types here are the single description of the file.
// The decoder reads them (yaml, default, required, enum, min, max, unit,
// pattern, items), [Schema] prints them as JSON Schema for editors, and
// [Fields] lists them with their documentation, so that the three agree.
// Stores and verifiers are known here by name and type alone; what else they
// can be told is a struct of their own package with tags of the same kind,
// filled by [Component.Decode].
//
// [Watch] calls back when the file, or one that it names, has changed.
//
// This package opens no file but the one it is asked to load or watch, and
// imports no other package of Gatehouse.
package config

import (
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// MaxBytes bounds the text of a configuration file.
const MaxBytes = 1 << 20

//go:embed example.yaml
var example string

// Example is a complete configuration with comments, valid as it stands.
func Example() string { return example }

// Load reads and parses the file at path, of at most [MaxBytes].
func Load(path string) (*Config, error) {
	data, err := ReadFile(path, MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a configuration. The name is the file's path: it stands in
// messages, and relative paths in the configuration start at its directory.
// An error is [Errors] with all that is wrong, in the order of the text.
func Parse(name string, data []byte) (*Config, error) {
	root, err := parseDocument(name, data)
	if err != nil {
		return nil, err
	}
	d := &decoder{file: name, places: map[string]Position{}}
	if !d.checkVersion(root) {
		return nil, d.errs.sorted()
	}
	cfg := &Config{file: name, places: d.places, Sum: sha256.Sum256(data)}
	d.value(root, reflect.ValueOf(cfg).Elem(), field{}, "")
	if root.Kind == yaml.MappingNode {
		d.errs = append(d.errs, check(cfg, d.errs)...)
	}
	if err := d.errs.sorted(); err != nil {
		return nil, err
	}
	cfg.Warnings = warnings(cfg)
	return cfg, nil
}

// checkVersion comes first: in a file of another version every other message
// would mislead.
func (d *decoder) checkVersion(root *yaml.Node) bool {
	version := lookup(root, "version")
	if version == nil || version.Kind != yaml.ScalarNode || isNull(version) || version.Value == Version {
		return true
	}
	d.fail(version, "version", quote(version.Value)+" is not a supported version", "this build reads "+Version)
	return false
}

// Dir is the directory of the configuration file.
func (c *Config) Dir() string { return filepath.Dir(c.file) }

// File is the name that the configuration was read under.
func (c *Config) File() string { return c.file }

// Path resolves a path that the configuration names: absolute as it stands,
// relative from the directory of the file.
func (c *Config) Path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir(), p)
}

// Files lists the files that the configuration consists of, resolved: itself,
// and those named by server, cache (its token), registry (all but what it
// preloads) and trust. Components know their own.
func (c *Config) Files() []string {
	named := c.Server.TLS.files()
	if c.Cache != nil && c.Cache.Control.TokenFile != "" {
		named = append(named, c.Cache.Control.TokenFile)
	}
	if c.Registry != nil {
		named = append(append(named, c.Registry.TLS.files()...), c.Registry.Clients.TokenFiles...)
	}
	for _, set := range c.Trust.Certificates {
		named = append(named, set.Files...)
	}
	files := []string{c.file}
	for _, file := range named {
		files = append(files, c.Path(file))
	}
	return files
}

func (t *TLS) files() []string {
	switch {
	case t == nil:
		return nil
	case t.ClientCA == "":
		return []string{t.Certificate, t.Key}
	default:
		return []string{t.Certificate, t.Key, t.ClientCA}
	}
}

// At locates an error of another package in the file. The path is written as
// messages show it ("policy.rules[2].images"); where the file does not have
// it, the nearest enclosing field stands in. A nil error stays nil, and one
// that already names a line is returned as it is.
func (c *Config) At(path string, err error) error {
	return locate(c.Place(path), path, err)
}

// Place is where the field stands in the file, or the nearest field around it.
func (c *Config) Place(path string) Position {
	for at := path; ; at = parentPath(at) {
		if pos, ok := c.places[at]; ok {
			return pos
		}
		if at == "" {
			return Position{File: c.file}
		}
	}
}

// ErrTooLarge says that a file has more bytes than its bound.
var ErrTooLarge = errors.New("the file is larger than its bound")

// ReadFile reads a regular file of at most limit bytes, through symbolic
// links. More is [ErrTooLarge]; what is not a regular file is refused before
// it is opened, since a pipe would hold the reader for ever.
func ReadFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w of %d bytes", path, ErrTooLarge, limit)
	}
	return data, nil
}
