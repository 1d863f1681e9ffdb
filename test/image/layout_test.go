package image_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The layout is whole: what each descriptor says is there with its size, each blob is
// what its name says, nothing is left over, and each document refers to what is there.
func TestLayout(t *testing.T) {
	t.Parallel()
	l := open(t)
	reached := make(map[digest.Digest]bool)
	for _, desc := range l.top.Manifests {
		l.walk(t, desc, reached)
	}
	entries, err := os.ReadDir(filepath.Join(l.path, ocispec.ImageBlobsDir, "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := digest.NewDigestFromEncoded(digest.SHA256, entry.Name())
		if digest.FromBytes(l.blob(t, name)) != name {
			t.Errorf("%s has other content", name)
		}
		if !reached[name] {
			t.Errorf("nothing describes %s", name)
		}
	}
	if len(entries) < 15 {
		t.Errorf("%d blobs", len(entries))
	}
	var version ocispec.ImageLayout
	data, err := os.ReadFile(filepath.Join(l.path, ocispec.ImageLayoutFile))
	if err != nil || json.Unmarshal(data, &version) != nil || version.Version != ocispec.ImageLayoutVersion {
		t.Errorf("%s is %q, %v", ocispec.ImageLayoutFile, data, err)
	}
}

// walk looks for all that a descriptor leads to.
func (l layout) walk(t *testing.T, desc ocispec.Descriptor, reached map[digest.Digest]bool) {
	t.Helper()
	data := l.blob(t, desc.Digest)
	if int64(len(data)) != desc.Size {
		t.Errorf("%s has %d bytes, not %d", desc.Digest, len(data), desc.Size)
	}
	reached[desc.Digest] = true
	var document struct {
		MediaType    string               `json:"mediaType"`
		ArtifactType string               `json:"artifactType"`
		Config       *ocispec.Descriptor  `json:"config"`
		Layers       []ocispec.Descriptor `json:"layers"`
		Manifests    []ocispec.Descriptor `json:"manifests"`
		Subject      *ocispec.Descriptor  `json:"subject"`
	}
	switch desc.MediaType {
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest:
	default:
		return
	}
	if err := json.Unmarshal(data, &document); err != nil || document.MediaType != desc.MediaType || document.ArtifactType != desc.ArtifactType {
		t.Errorf("%s is described as %s %s, but is %s %s, %v", desc.Digest, desc.MediaType, desc.ArtifactType, document.MediaType, document.ArtifactType, err)
	}
	children := append(document.Layers, document.Manifests...)
	for _, one := range []*ocispec.Descriptor{document.Config, document.Subject} {
		if one != nil {
			children = append(children, *one)
		}
	}
	for _, child := range children {
		l.walk(t, child, reached)
	}
}

// The index and each image have one SBOM and one statement of provenance.
func TestDocuments(t *testing.T) {
	t.Parallel()
	l := open(t)
	got := make(map[digest.Digest]map[string]int)
	for _, desc := range l.top.Manifests {
		if desc.ArtifactType == "" {
			continue
		}
		var manifest ocispec.Manifest
		l.read(t, desc, &manifest)
		if got[manifest.Subject.Digest] == nil {
			got[manifest.Subject.Digest] = make(map[string]int)
		}
		got[manifest.Subject.Digest][desc.ArtifactType]++
	}
	want := make(map[digest.Digest]map[string]int)
	for _, desc := range append([]ocispec.Descriptor{l.image}, l.index.Manifests...) {
		want[desc.Digest] = map[string]int{sbomType: 1, provenanceType: 1}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Both architectures are images of their own that run as nobody in particular.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, architecture := range []string{"amd64", "arm64"} {
		_, manifest, config := l.platform(t, architecture)
		if config.OS != "linux" || config.Architecture != architecture || config.Config.User != "65532:65532" {
			t.Errorf("%s: %+v", architecture, config)
		}
		if len(config.RootFS.DiffIDs) != len(manifest.Layers) || len(config.History) != len(manifest.Layers) {
			t.Errorf("%s: %d layers, %d of them in the configuration, %d in its history", architecture, len(manifest.Layers), len(config.RootFS.DiffIDs), len(config.History))
		}
		var size int64
		for _, layer := range manifest.Layers {
			size += layer.Size
		}
		if size > 40<<20 {
			t.Errorf("%s: %d bytes", architecture, size)
		}
		t.Logf("%s: %d layers, %.2f MiB compressed", architecture, len(manifest.Layers), float64(size)/(1<<20))
	}
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Errorf("there is no image for this machine's %s", runtime.GOARCH)
	}
}
