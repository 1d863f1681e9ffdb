package main

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"regexp"
	"runtime/debug"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	packageurl "github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"golang.org/x/mod/module"
)

// noAssertion is SPDX's word for what nobody looked at.
const noAssertion = "NOASSERTION"

// notInID is what an SPDX identifier may not have.
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// idOf makes an identifier that people can read and that no two names share.
func idOf(kind, name string) common.ElementID {
	sum := sha256.Sum256([]byte(name))
	return common.ElementID(kind + "-" + strings.Trim(notInID.ReplaceAllString(name, "-"), "-") + "-" + hex.EncodeToString(sum[:4]))
}

// newPackage has what all packages need. Its files are not listed.
func newPackage(id common.ElementID, name, version, purpose, purl string) *spdx.Package {
	return &spdx.Package{
		PackageSPDXIdentifier: id, PackageName: name, PackageVersion: version, PrimaryPackagePurpose: purpose,
		PackageDownloadLocation: noAssertion, PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion,
		PackageCopyrightText: noAssertion,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
		}},
	}
}

// imagePackage is an image or an index. Its checksum is the manifest's.
func imagePackage(r *release, desc v1.Descriptor) *spdx.Package {
	p := newPackage(idOf("Image", desc.Digest.String()), r.opts.name, r.src.version, "CONTAINER", imageURL(r.opts, desc))
	p.PackageLicenseDeclared = licence
	p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: desc.Digest.Hex}}
	if desc.Platform != nil {
		p.PackageSummary = desc.Platform.String()
	}
	return p
}

// imageURL is the package URL of an image in its registry.
func imageURL(opts options, desc v1.Descriptor) string {
	qualifiers := map[string]string{"repository_url": opts.name}
	if desc.Platform != nil {
		qualifiers["arch"], qualifiers["os"] = desc.Platform.Architecture, desc.Platform.OS
	}
	return packageurl.NewPackageURL(packageurl.TypeOCI, "", path.Base(opts.name), desc.Digest.String(),
		packageurl.QualifiersFromMap(qualifiers), "").ToString()
}

// executablePackage is a file of an image.
func executablePackage(r *release, platform v1.Platform, e executable) *spdx.Package {
	purl := packageurl.NewPackageURL(packageurl.TypeGeneric, "", e.name, r.src.version,
		packageurl.QualifiersFromMap(map[string]string{"arch": platform.Architecture, "os": platform.OS}), "").ToString()
	p := newPackage(idOf("Executable", e.name+"-"+platform.String()), e.name, r.src.version, "APPLICATION", purl)
	p.PackageFileName = "/" + e.name
	p.PackageSummary = platform.String()
	p.PackageLicenseDeclared = licence
	p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: e.sha256}}
	return p
}

// stdlibPackage is Go's standard library and runtime, by `runtime.Version()`.
func stdlibPackage(goVersion string) *spdx.Package {
	version := strings.TrimPrefix(goVersion, "go")
	p := newPackage(idOf("Module", "stdlib@"+version), "stdlib", version, "LIBRARY", stdlibURL(goVersion))
	p.PackageLicenseDeclared = "BSD-3-Clause"
	return p
}

func stdlibURL(goVersion string) string {
	return packageurl.NewPackageURL(packageurl.TypeGolang, "", "stdlib", strings.TrimPrefix(goVersion, "go"), nil, "").ToString()
}

// modulePackage is a Go module. The sum that go.sum has is of a list of files, so it
// is no checksum of anything that can be downloaded: it stands in the source
// information.
func modulePackage(r *release, m *debug.Module) *spdx.Package {
	m = effective(m)
	version := m.Version
	ours := isOurs(m)
	if ours {
		version = r.src.version
	}
	p := newPackage(idOf("Module", m.Path+"@"+version), m.Path, version, "LIBRARY", moduleURL(m.Path, version))
	if m.Sum != "" {
		p.PackageSourceInfo = "go.sum has " + m.Sum
	}
	if ours {
		p.PackageDownloadLocation = "git+" + r.opts.source + "@" + r.src.revision
		p.PackageLicenseDeclared = licence
		return p
	}
	p.PackageDownloadLocation = downloadLocation(m)
	return p
}

// isOurs says that a module is of the sources themselves: it is what was built, or in
// a folder beside that. Neither has a version of its own.
func isOurs(m *debug.Module) bool { return m.Version == "" }

// downloadLocation is where Go's module proxy has a module.
func downloadLocation(m *debug.Module) string {
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return noAssertion
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return noAssertion
	}
	return "https://proxy.golang.org/" + escaped + "/@v/" + version + ".zip"
}

func moduleURL(modulePath, version string) string {
	namespace, name := path.Split(modulePath)
	return packageurl.NewPackageURL(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), name, version, nil, "").ToString()
}
