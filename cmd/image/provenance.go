package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// statementType is the media type of in-toto statements.
	statementType = "application/vnd.in-toto+json"
	// predicateType is SLSA's provenance.
	predicateType = "https://slsa.dev/provenance/v1"
	// predicateKey tells what a statement is about without reading it.
	predicateKey = "in-toto.io/predicate-type"
	// buildType says what the parameters mean: it leads to a section of the README.
	buildType = defaultSource + "/blob/main/cmd/image/README.md#build-type"
)

// newProvenance is an in-toto statement that says from what, and by whom, the index
// and its images were made. It is not signed here.
func newProvenance(r *release) (document, error) {
	predicate, err := newPredicate(r)
	if err != nil {
		return document{}, err
	}
	statement := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: predicateType, Predicate: predicate}
	for _, desc := range append([]v1.Descriptor{r.descriptor}, r.descriptors()...) {
		statement.Subject = append(statement.Subject, &intoto.ResourceDescriptor{
			Name: r.opts.name, Uri: imageURL(r.opts, desc), MediaType: string(desc.MediaType),
			Digest: map[string]string{desc.Digest.Algorithm: desc.Digest.Hex},
		})
	}
	if err := statement.Validate(); err != nil {
		return document{}, err
	}
	content, err := protojson.Marshal(statement)
	if err != nil {
		return document{}, err
	}
	// The library puts spaces in at random, so that nobody relies on its bytes.
	var compact bytes.Buffer
	if err := json.Compact(&compact, content); err != nil {
		return document{}, err
	}
	marks := r.documentAnnotations()
	maps.Copy(marks, map[string]string{predicateKey: predicateType})
	return document{kind: statementType, file: "provenance.intoto.json", content: compact.Bytes(), annotations: marks}, nil
}

func (r *release) descriptors() []v1.Descriptor {
	found := make([]v1.Descriptor, len(r.platforms))
	for i, p := range r.platforms {
		found[i] = p.descriptor
	}
	return found
}

// newPredicate is the provenance as a general JSON object.
func newPredicate(r *release) (*structpb.Struct, error) {
	external, err := structpb.NewStruct(externalParameters(r))
	if err != nil {
		return nil, err
	}
	internal, err := structpb.NewStruct(internalParameters(r))
	if err != nil {
		return nil, err
	}
	dependencies, err := resolvedDependencies(r)
	if err != nil {
		return nil, err
	}
	provenance := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType: buildType, ExternalParameters: external, InternalParameters: internal, ResolvedDependencies: dependencies,
		},
		// Without times: they would make each build another.
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: r.opts.builderID}},
	}
	if err := provenance.Validate(); err != nil {
		return nil, err
	}
	data, err := protojson.Marshal(provenance)
	if err != nil {
		return nil, err
	}
	predicate := &structpb.Struct{}
	return predicate, protojson.Unmarshal(data, predicate)
}

// externalParameters are what whoever builds can choose.
func externalParameters(r *release) map[string]any {
	var binaries, platforms []any
	for _, b := range r.opts.binaries {
		binaries = append(binaries, map[string]any{"name": b.name, "module": b.folder, "package": b.pkg})
	}
	for _, p := range r.opts.platforms {
		platforms = append(platforms, p.String())
	}
	return map[string]any{
		"source":   map[string]any{"uri": "git+" + r.opts.source, "revision": r.src.label()},
		"name":     r.opts.name,
		"version":  r.src.version,
		"created":  r.src.created.Unix(),
		"binaries": binaries, "platforms": platforms,
	}
}

// internalParameters are what this command sets, and what each binary says that it was
// built with: the caller's environment may have added to it.
func internalParameters(r *release) map[string]any {
	var flags, environment []any
	for _, flag := range goFlags(r.src.version) {
		flags = append(flags, flag)
	}
	for _, variable := range goEnv(v1.Platform{}) {
		if _, value, _ := strings.Cut(variable, "="); value != "" { // not the platform
			environment = append(environment, variable)
		}
	}
	return map[string]any{"flags": flags, "environment": environment, "builds": builds(r)}
}

// builds are the settings of each binary, read from it.
func builds(r *release) (all []any) {
	for _, p := range r.platforms {
		for _, e := range p.executables {
			settings := make(map[string]any, len(e.info.Settings))
			for _, s := range e.info.Settings {
				settings[s.Key] = s.Value
			}
			all = append(all, map[string]any{"platform": p.platform.String(), "binary": e.name, "settings": settings})
		}
	}
	return all
}

// resolvedDependencies are the commit, the toolchain and all modules.
func resolvedDependencies(r *release) ([]*intoto.ResourceDescriptor, error) {
	sources := &intoto.ResourceDescriptor{Uri: "git+" + r.opts.source + "@" + r.src.revision}
	if !r.src.modified { // else the commit is not what was built
		sources.Digest = map[string]string{"gitCommit": r.src.revision}
	}
	found := []*intoto.ResourceDescriptor{
		sources,
		{Name: "go", Uri: stdlibURL(r.platforms[0].executables[0].info.GoVersion)},
	}
	modules, err := r.modules()
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		if isOurs(m) {
			continue // part of the sources
		}
		digest, err := dirHash(m)
		if err != nil {
			return nil, err
		}
		found = append(found, &intoto.ResourceDescriptor{Name: m.Path, Uri: moduleURL(m.Path, m.Version), Digest: digest})
	}
	return found, nil
}

// dirHash is a module's sum as in-toto writes it: in hexadecimal, without "h1:".
func dirHash(m *debug.Module) (map[string]string, error) {
	text, found := strings.CutPrefix(m.Sum, "h1:")
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !found {
		return nil, fmt.Errorf("%s has the sum %q, which is not one of go.sum", m.Path, m.Sum)
	}
	return map[string]string{"dirHash": hex.EncodeToString(sum)}, nil
}
