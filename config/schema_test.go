package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/gatehouse-project/gatehouse/config"
)

func components() map[string]map[string]any {
	return map[string]map[string]any{
		"stores":    {"oras": orasOptions{}},
		"verifiers": {"notation": &notationOptions{}},
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := config.Schema(components())
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// plain is what an editor's YAML 1.2 reader makes of a text: dates are text.
func plain(t *testing.T, n *yaml.Node) any {
	t.Helper()
	switch n.Kind {
	case yaml.DocumentNode:
		return plain(t, n.Content[0])
	case yaml.MappingNode:
		all := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			all[n.Content[i].Value] = plain(t, n.Content[i+1])
		}
		return all
	case yaml.SequenceNode:
		all := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			all = append(all, plain(t, item))
		}
		return all
	}
	var value any
	if n.Tag == "!!timestamp" {
		return n.Value
	}
	if err := n.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// What the decoder accepts, the schema accepts.
func TestSchemaAcceptsGood(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	for _, name := range append(files(t, "testdata/good/*.yaml", 5), "example.yaml") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// What YAML allows here and the library does not: see readDocuments.
		data = bytes.ReplaceAll(data, []byte(" :8888}"), []byte(` ":8888"}`))
		if err := schema.Validate(plain(t, node(t, string(data)))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The bad files whose mistake a schema can see: all but those on how fields
// fit each other, on ranges of durations and sizes, and on the text of YAML.
func TestSchemaRefusesBad(t *testing.T) {
	t.Parallel()
	schema, seen := compileSchema(t), 0
	for _, name := range files(t, "testdata/bad/*.yaml", 45) {
		kind, _, _ := strings.Cut(filepath.Base(name), "_")
		switch kind {
		case "unknown", "kind", "enum", "later", "version", "number", "text", "sections":
		default:
			if !strings.HasSuffix(name, "/server_missing.yaml") && !strings.HasSuffix(name, "/policy_missing.yaml") {
				continue
			}
		}
		seen++
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// The library reads True as a boolean; to YAML 1.2 it is one as well.
		switch filepath.Base(name) {
		case "kind_capital_bool.yaml", "kind_enforce_capital.yaml":
			continue
		}
		if err := schema.Validate(plain(t, node(t, string(data)))); err == nil {
			t.Errorf("%s is valid to the schema", name)
		}
	}
	if seen < 45 {
		t.Errorf("%d files", seen)
	}
}

func TestSchemaOfOptions(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	const frame = "{version: v1alpha1, server: {insecureHTTP: true}, stores: [{name: a, type: oras, %s}], policy: {rules: [{name: all, images: ['**'], require: {verifier: n}}]}}"
	for options, valid := range map[string]bool{
		`hosts: [a]`: true, `hostz: [a]`: false, `hosts: a`: false, `hosts: ['']`: false, `ca: {a: [b]}`: true, `ca: {a: b}`: false,
		`credentials: [{hosts: ['*'], type: dockerConfig}]`:          true,
		`credentials: [{hosts: ['*'], type: keychain}]`:              false,
		`credentials: [{hosts: ['*']}]`:                              false,
		`credentials: [{hosts: [], type: dockerConfig}]`:             false,
		`credentials: [{hosts: ['*'], type: dockerConfig, file: x}]`: false,
	} {
		err := schema.Validate(plain(t, node(t, strings.Replace(frame, "%s", options, 1))))
		if (err == nil) != valid {
			t.Errorf("%s: valid should be %v: %v", options, valid, err)
		}
	}
	if err := schema.Validate(plain(t, node(t, strings.Replace(frame, "type: oras, %s", "type: other", 1)))); err == nil {
		t.Error("an unknown type is valid to the schema")
	}
}

func TestSchemaIsDeterministic(t *testing.T) {
	t.Parallel()
	first, err := config.Schema(components())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := config.Schema(components())
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the text changed: %v", err)
		}
	}
}

func TestSchemaRefusesTypes(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]any{
		"nil": nil, "no struct": 5,
		"interface": struct {
			A any `yaml:"a"`
		}{},
		"bound": struct {
			A int `yaml:"a" max:"x"`
		}{},
		"count": struct {
			A []int `yaml:"a" min:"x"`
		}{},
	} {
		if _, err := config.Schema(map[string]map[string]any{"stores": {"oras": options}}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Every field says what it means, and stands under its path once.
func TestFields(t *testing.T) {
	t.Parallel()
	byPath := map[string]config.FieldDoc{}
	for _, f := range config.Fields() {
		if _, twice := byPath[f.Path]; twice || f.Doc == "" {
			t.Errorf("%+v is listed twice or says nothing", f)
		}
		byPath[f.Path] = f
	}
	for path, want := range map[string]config.FieldDoc{
		"version":                         {Type: "text", Required: true},
		"server.verifyTimeout":            {Type: "duration", Default: "1900ms"},
		"server.tls.clientNames":          {Type: "list of text"},
		"server.limits.bodyBytes":         {Type: "size", Default: "1MiB"},
		"server.limits.keys":              {Type: "number", Default: "1000"},
		"server.insecureHTTP":             {Type: "true or false", Default: "false"},
		"stores[].name":                   {Type: "text", Required: true},
		"governor.perHost":                {Type: "section"},
		"policy.rules":                    {Type: "list of section", Required: true},
		"policy.rules[].allow.until":      {Type: "text", Required: true},
		"policy.rules[].require.anyOf":    {Type: "list of section"},
		"policy.rules[].require.verifier": {Type: "text"},
		"governor.background.maxDuration": {Type: "duration", Default: "15s"},
		"trust.certificates[].inline":     {Type: "text"},
		"server.tls.insecureAnyClient":    {Type: "true or false", Default: "false"},
		"policy.rules[].require.atLeast":  {Type: "number"},
		"server.limits.inFlightBytes":     {Type: "size", Default: "64MiB"},
		"admin.address":                   {Type: "text", Default: ":8888"},
		"server":                          {Type: "section"},
		"cache.directory":                 {Type: "text", Required: true},
		"cache.minFreeBytes":              {Type: "size", Default: "0B"},
		"cache.onRegistryDown[].useHeld":  {Type: "duration", Required: true},
		"registry.enforce":                {Type: "false, warn or true", Default: "false"},
		"registry.tls.clientNames":        {Type: "list of text"},
	} {
		got := byPath[path]
		if got.Type != want.Type || got.Default != want.Default || got.Required != want.Required {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if _, deep := byPath["policy.rules[].require.anyOf[].verifier"]; deep {
		t.Error("a type within itself is listed again")
	}
	var paths []string
	for _, f := range config.OptionFields("stores[]", &orasOptions{}) {
		paths = append(paths, f.Path+" "+f.Type)
	}
	if got := strings.Join(paths, "\n"); !strings.Contains(got, "stores[].credentials[].hosts list of text") || !strings.Contains(got, "stores[].ca map to list of text") {
		t.Errorf("options:\n%s", got)
	}
}
