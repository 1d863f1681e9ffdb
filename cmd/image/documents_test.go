package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	packageurl "github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"
	"golang.org/x/crypto/x509roots/fallback/bundle"
	"google.golang.org/protobuf/encoding/protojson"
)

// attached reads the one document of a type that refers to a manifest.
func (m made) attached(t *testing.T, subject v1.Hash, artifactType string) []byte {
	t.Helper()
	var found [][]byte
	for _, desc := range m.top.Manifests[1:] {
		if desc.ArtifactType != artifactType {
			continue
		}
		img := m.referrer(t, desc)
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if manifest.ArtifactType != artifactType || manifest.Subject == nil || len(manifest.Layers) != 1 {
			t.Errorf("%s is no referrer of type %s", desc.Digest, artifactType)
			continue
		}
		if manifest.Subject.Digest != subject {
			continue
		}
		layer, err := img.LayerByDigest(manifest.Layers[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		reader, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, data)
	}
	if len(found) != 1 {
		t.Fatalf("%d documents of type %s refer to %s", len(found), artifactType, subject)
	}
	return found[0]
}

func (m made) referrer(t *testing.T, desc v1.Descriptor) v1.Image {
	t.Helper()
	path, err := layoutIndex(m.path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := path.Image(desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// The SBOM of an image is a valid SPDX document that names the image by digest, its
// executable by checksum, and each module with version and package URL.
func TestSBOM(t *testing.T) {
	t.Parallel()
	m := makeHello(t)
	for i, desc := range m.platforms {
		doc := readSPDX(t, m.attached(t, desc.Digest, "application/spdx+json"))
		img, _ := m.image(t, i)
		if got := byName(doc, "registry.example.com/team/hello"); len(got) != 1 || checksum(got[0]) != desc.Digest.Hex {
			t.Errorf("%s is described as %+v", desc.Digest, got)
		}
		if got := byName(doc, "hello"); len(got) != 1 || checksum(got[0]) != binarySum(t, img) || got[0].PackageFileName != "/hello" {
			t.Errorf("the executable is described as %+v", got)
		}
		for name, want := range map[string]string{
			"example.com/hello": "pkg:golang/example.com/hello@v1.2.3",
			"golang.org/x/sync": "pkg:golang/golang.org/x/sync@v0.24.0",
			"stdlib":            "pkg:golang/stdlib@",
			bundleModule:        "pkg:golang/golang.org/x/crypto/x509roots/fallback@v0.0.0-",
		} {
			got := byName(doc, name)
			if len(got) != 1 || !strings.HasPrefix(purl(t, got[0]), want) {
				t.Errorf("%s is described as %+v", name, got)
			}
		}
		if got := byName(doc, "golang.org/x/sync")[0]; !strings.HasPrefix(got.PackageSourceInfo, "go.sum has h1:") ||
			got.PackageDownloadLocation != "https://proxy.golang.org/golang.org/x/sync/@v/v0.24.0.zip" {
			t.Errorf("%+v", got)
		}
		depends(t, doc, "hello", "golang.org/x/sync", common.TypeRelationshipDependsOn)
		depends(t, doc, "hello", "stdlib", common.TypeRelationshipDependsOn)
		depends(t, doc, "hello", "example.com/hello", common.TypeRelationshipGeneratedFrom)
		depends(t, doc, "registry.example.com/team/hello", bundleModule, common.TypeRelationshipContains)
	}
}

// The index's SBOM has both images, and what they share once.
func TestSBOMOfIndex(t *testing.T) {
	t.Parallel()
	m := makeHello(t)
	doc := readSPDX(t, m.attached(t, m.digest, "application/spdx+json"))
	if got := len(byName(doc, "registry.example.com/team/hello")); got != 3 {
		t.Errorf("%d images and indexes", got)
	}
	if got := len(byName(doc, "hello")); got != 2 {
		t.Errorf("%d executables", got)
	}
	if got := len(byName(doc, "golang.org/x/sync")); got != 1 {
		t.Errorf("a module is described %d times", got)
	}
}

func readSPDX(t *testing.T, data []byte) *spdx.Document {
	t.Helper()
	doc, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.CreationInfo.Created != "2026-11-18T11:06:40Z" {
		t.Errorf("%+v", doc)
	}
	described, err := spdxlib.GetDescribedPackageIDs(doc)
	if err != nil || len(described) != 1 {
		t.Errorf("it describes %v, %v", described, err)
	}
	ids := make(map[common.ElementID]bool)
	for _, p := range doc.Packages {
		if ids[p.PackageSPDXIdentifier] || notInID.MatchString(string(p.PackageSPDXIdentifier)) {
			t.Errorf("the identifier %s", p.PackageSPDXIdentifier)
		}
		ids[p.PackageSPDXIdentifier] = true
		if p.FilesAnalyzed || p.PackageDownloadLocation == "" || p.PackageLicenseConcluded == "" {
			t.Errorf("%+v", p)
		}
	}
	return doc
}

func byName(doc *spdx.Document, name string) (found []*spdx.Package) {
	for _, p := range doc.Packages {
		if p.PackageName == name {
			found = append(found, p)
		}
	}
	return found
}

func checksum(p *spdx.Package) string {
	if len(p.PackageChecksums) != 1 || p.PackageChecksums[0].Algorithm != common.SHA256 {
		return ""
	}
	return p.PackageChecksums[0].Value
}

func purl(t *testing.T, p *spdx.Package) string {
	t.Helper()
	text := p.PackageExternalReferences[0].Locator
	if _, err := packageurl.FromString(text); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return text
}

func depends(t *testing.T, doc *spdx.Document, from, to, how string) {
	t.Helper()
	a, b := byName(doc, from), byName(doc, to)
	if len(a) != 1 || len(b) != 1 {
		t.Errorf("%s, %s: %d, %d packages", from, to, len(a), len(b))
		return
	}
	if !slices.ContainsFunc(doc.Relationships, func(r *spdx.Relationship) bool {
		return r.Relationship == how && r.RefA.ElementRefID == a[0].PackageSPDXIdentifier && r.RefB.ElementRefID == b[0].PackageSPDXIdentifier
	}) {
		t.Errorf("nothing says %s %s %s", from, how, to)
	}
}

// binarySum is the checksum of the file in the image's last layer.
func binarySum(t *testing.T, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content(t, layers[len(layers)-1], "hello"))
	return hex.EncodeToString(sum[:])
}

// The provenance is a valid statement about index and images, whose parameters are
// what was asked for.
func TestProvenance(t *testing.T) {
	t.Parallel()
	m := makeHello(t, "-builder-id", "https://example.com/builder")
	data := m.attached(t, m.digest, "application/vnd.in-toto+json")
	statement, provenance := readProvenance(t, data)
	var subjects, platforms []string
	for _, s := range statement.GetSubject() {
		subjects = append(subjects, "sha256:"+s.GetDigest()["sha256"])
	}
	want := []string{m.digest.String()}
	for _, desc := range m.platforms {
		want = append(want, desc.Digest.String())
		if !bytes.Equal(data, m.attached(t, desc.Digest, "application/vnd.in-toto+json")) {
			t.Errorf("%s has another statement", desc.Platform)
		}
	}
	if diff := cmp.Diff(want, subjects); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	if got := provenance.GetRunDetails().GetBuilder().GetId(); got != "https://example.com/builder" {
		t.Errorf("builder %q", got)
	}
	parameters := provenance.GetBuildDefinition().GetExternalParameters().AsMap()
	for _, p := range parameters["platforms"].([]any) {
		platforms = append(platforms, p.(string))
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" || parameters["version"] != "v1.2.3" {
		t.Errorf("parameters %v", parameters)
	}
	dependencies := make(map[string]map[string]string)
	for _, d := range provenance.GetBuildDefinition().GetResolvedDependencies() {
		dependencies[d.GetUri()] = d.GetDigest()
	}
	if got := dependencies["git+"+defaultSource+"@"+commit]["gitCommit"]; got != commit {
		t.Errorf("the sources are %q in %v", got, dependencies)
	}
	if got := dependencies["pkg:golang/golang.org/x/sync@v0.24.0"]["dirHash"]; len(got) != 64 {
		t.Errorf("a module's sum is %q", got)
	}
}

// What the caller's environment adds to the build is told, as the binary has it.
func TestProvenanceOfFlags(t *testing.T) {
	t.Setenv("GOFLAGS", "-buildvcs=false -gcflags=-N")
	m := makeHello(t)
	_, provenance := readProvenance(t, m.attached(t, m.digest, "application/vnd.in-toto+json"))
	builds, _ := provenance.GetBuildDefinition().GetInternalParameters().AsMap()["builds"].([]any)
	if len(builds) != len(m.platforms) {
		t.Fatalf("builds %v", builds)
	}
	for i, architecture := range []string{"amd64", "arm64"} {
		want := map[string]any{"-gcflags": "-N", "CGO_ENABLED": "0", "GOARCH": architecture}
		build, _ := builds[i].(map[string]any)
		settings, _ := build["settings"].(map[string]any)
		for key, value := range want {
			if settings[key] != value {
				t.Errorf("%s is %v, not %v, in %v", key, settings[key], value, build)
			}
		}
		if build["binary"] != "hello" || build["platform"] != "linux/"+architecture {
			t.Errorf("%v", build)
		}
	}
}

// Sources that differ from their commit are not passed off as it.
func TestProvenanceOfModified(t *testing.T) {
	t.Parallel()
	m := makeHello(t, "-revision", commit+"-dirty")
	_, provenance := readProvenance(t, m.attached(t, m.digest, "application/vnd.in-toto+json"))
	if got := provenance.GetBuildDefinition().GetResolvedDependencies()[0]; len(got.GetDigest()) != 0 {
		t.Errorf("the sources are %v", got)
	}
	_, config := m.image(t, 0)
	if got := config.Config.Labels[revisionKey]; got != commit+"-dirty" {
		t.Errorf("the label is %q", got)
	}
}

func readProvenance(t *testing.T, data []byte) (*intoto.Statement, *slsa.Provenance) {
	t.Helper()
	statement, provenance := &intoto.Statement{}, &slsa.Provenance{}
	if err := protojson.Unmarshal(data, statement); err != nil {
		t.Fatal(err)
	}
	if err := statement.Validate(); err != nil || statement.GetPredicateType() != "https://slsa.dev/provenance/v1" {
		t.Errorf("%s: %v", statement.GetPredicateType(), err)
	}
	predicate, err := protojson.Marshal(statement.GetPredicate())
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(predicate, provenance); err != nil {
		t.Fatal(err)
	}
	if err := provenance.Validate(); err != nil {
		t.Error(err)
	}
	return statement, provenance
}

// The file of trusted roots has each root that a PEM file can express, and only those.
func TestCertificates(t *testing.T) {
	t.Parallel()
	data, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !certificate.IsCA {
			t.Errorf("%v, %v", certificate.Subject, err)
		}
		got[string(block.Bytes)] = true
	}
	left := 0
	for root := range bundle.Roots() {
		if got[string(root.Certificate)] != (root.Constraint == nil) {
			t.Errorf("a root is there: %t", got[string(root.Certificate)])
		}
		if root.Constraint != nil {
			left++
		}
	}
	if len(got) < 50 || !x509.NewCertPool().AppendCertsFromPEM(data) {
		t.Errorf("%d roots", len(got))
	}
	t.Logf("%d roots, %d left out", len(got), left)
}

// A module that a folder replaces is part of the sources; one that another module
// replaces is that module.
func TestReplaced(t *testing.T) {
	t.Parallel()
	folder := &debug.Module{Path: "example.com/a", Version: "v1.0.0", Replace: &debug.Module{Path: "../a"}}
	if got := effective(folder); got.Path != "example.com/a" || !isOurs(got) {
		t.Errorf("%+v", got)
	}
	fork := &debug.Module{Path: "example.com/a", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/b", Version: "v2.0.0", Sum: "h1:x"}}
	if got := effective(fork); got.Path != "example.com/b" || isOurs(got) {
		t.Errorf("%+v", got)
	}
	if _, err := dirHash(&debug.Module{Path: "example.com/vendored", Version: "v1.0.0"}); err == nil {
		t.Error("a module without a sum has a hash")
	}
}

// Names that differ only in what an identifier may not have stay apart.
func TestIDs(t *testing.T) {
	t.Parallel()
	if a, b := idOf("Module", "a/b@v1"), idOf("Module", "a-b@v1"); a == b || !strings.HasPrefix(string(a), "Module-a-b-v1-") {
		t.Errorf("%s and %s", a, b)
	}
}
