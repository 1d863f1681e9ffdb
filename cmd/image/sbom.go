package main

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"
)

// spdxType is the media type of SPDX documents in JSON.
const spdxType = "application/spdx+json"

// bill is an SPDX 2.3 document while it is written. What an executable is made of is
// read from the executable itself, never from go.mod.
type bill struct {
	release *release
	doc     *spdx.Document
	known   map[common.ElementID]bool
	related map[spdx.Relationship]bool
}

// newBill describes one platform's image, or, if it is nil, the index with all images.
func newBill(r *release, only *platformImage) (document, error) {
	b := &bill{release: r, known: make(map[common.ElementID]bool), related: make(map[spdx.Relationship]bool)}
	subject, images := r.descriptor, r.platforms
	if only != nil {
		subject, images = only.descriptor, []platformImage{*only}
	}
	b.doc = b.begin(subject)
	top := b.add(imagePackage(r, subject))
	b.relate("DOCUMENT", common.TypeRelationshipDescribe, top)
	for _, p := range images {
		id := b.add(imagePackage(r, p.descriptor))
		if id != top {
			b.relate(top, common.TypeRelationshipContains, id)
		}
		if err := b.addContents(id, p); err != nil {
			return document{}, err
		}
	}
	content, err := b.encode()
	return document{kind: spdxType, file: "sbom.spdx.json", content: content, annotations: r.documentAnnotations()}, err
}

// begin makes the document without packages. Its namespace is of one manifest, and so
// as unique as that.
func (b *bill) begin(subject v1.Descriptor) *spdx.Document {
	r := b.release
	return &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      r.opts.name + "@" + subject.Digest.String(),
		DocumentNamespace: fmt.Sprintf("%s/spdx/%s/%s-%s", r.opts.source, r.opts.name, subject.Digest.Algorithm, subject.Digest.Hex),
		CreationInfo: &spdx.CreationInfo{
			Created: r.src.created.Format(time.RFC3339),
			Creators: []common.Creator{
				{CreatorType: "Organization", Creator: "Gatehouse project"},
				{CreatorType: "Tool", Creator: "gatehouse-image-" + r.src.version},
			},
		},
	}
}

// addContents adds what an image has in it.
func (b *bill) addContents(image common.ElementID, p platformImage) error {
	roots, err := bundleVersion()
	if err != nil {
		return err
	}
	pkg := modulePackage(b.release, roots)
	pkg.PackageComment = "/etc/ssl/certs/ca-certificates.crt is made of it."
	b.relate(image, common.TypeRelationshipContains, b.add(pkg))
	for _, e := range p.executables {
		id := b.add(executablePackage(b.release, p.platform, e))
		b.relate(image, common.TypeRelationshipContains, id)
		main := b.add(modulePackage(b.release, &debug.Module{Path: e.info.Main.Path}))
		b.relate(id, common.TypeRelationshipGeneratedFrom, main)
		b.relate(id, common.TypeRelationshipDependsOn, b.add(stdlibPackage(e.info.GoVersion)))
		for _, m := range e.info.Deps {
			b.relate(id, common.TypeRelationshipDependsOn, b.add(modulePackage(b.release, m)))
		}
	}
	return nil
}

// add adds a package unless it is there.
func (b *bill) add(p *spdx.Package) common.ElementID {
	if id := p.PackageSPDXIdentifier; !b.known[id] {
		b.known[id] = true
		b.doc.Packages = append(b.doc.Packages, p)
	}
	return p.PackageSPDXIdentifier
}

func (b *bill) relate(from common.ElementID, how string, to common.ElementID) {
	r := spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, Relationship: how, RefB: common.DocElementID{ElementRefID: to},
	}
	if !b.related[r] {
		b.related[r] = true
		b.doc.Relationships = append(b.doc.Relationships, &r)
	}
}

func (b *bill) encode() ([]byte, error) {
	if err := spdxlib.ValidateDocument(b.doc); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err := spdxjson.Write(b.doc, &out, spdxjson.EscapeHTML(false))
	return out.Bytes(), err
}

// modules are those of all executables and of the trusted roots, each once, by path
// and version.
func (r *release) modules() ([]*debug.Module, error) {
	roots, err := bundleVersion()
	if err != nil {
		return nil, err
	}
	found := []*debug.Module{roots}
	for _, p := range r.platforms {
		for _, e := range p.executables {
			found = append(found, e.info.Deps...)
		}
	}
	for i, m := range found {
		found[i] = effective(m)
	}
	slices.SortFunc(found, func(a, b *debug.Module) int {
		return strings.Compare(a.Path+"@"+a.Version, b.Path+"@"+b.Version)
	})
	return slices.CompactFunc(found, func(a, b *debug.Module) bool { return a.Path == b.Path && a.Version == b.Version }), nil
}

// effective is the module that was built with, where another was replaced. One that a
// folder replaces has no version any more.
func effective(m *debug.Module) *debug.Module {
	switch {
	case m.Replace == nil:
		return m
	case m.Replace.Version == "":
		return &debug.Module{Path: m.Path}
	default:
		return m.Replace
	}
}
