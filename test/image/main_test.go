package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// tag is that of the layout.
const tag = "test"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		made.mu.Lock()
		defer made.mu.Unlock()
		if made.dir != "" {
			_ = os.RemoveAll(made.dir) // a folder for temporary files
		}
		process.Exit(code)
	}))
}

// made is the one layout of this test binary.
var made struct {
	mu   sync.Mutex // guards the fields that follow it
	dir  string
	path string
	err  error
}

// layout is an OCI layout of the release image.
type layout struct {
	path  string
	top   ocispec.Index
	image ocispec.Descriptor // the index of the platforms' images
	index ocispec.Index
}

// open builds the layout, once, and reads what stands at its top.
func open(t *testing.T) layout {
	t.Helper()
	// This also notes all sources, so that go test repeats no former result of other ones.
	if _, err := process.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	path, err := build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := layout{path: path}
	data, err := os.ReadFile(filepath.Join(path, ocispec.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &l.top); err != nil {
		t.Fatal(err)
	}
	for _, desc := range l.top.Manifests {
		if desc.Annotations[ocispec.AnnotationRefName] == tag {
			l.image = desc
		}
	}
	l.read(t, l.image, &l.index)
	return l
}

func build(ctx context.Context) (string, error) {
	made.mu.Lock()
	defer made.mu.Unlock()
	if made.path != "" || made.err != nil {
		return made.path, made.err
	}
	if made.path = os.Getenv("GATEHOUSE_IMAGE_LAYOUT"); made.path != "" {
		return made.path, nil
	}
	if made.dir, made.err = os.MkdirTemp("", "gatehouse-image-"); made.err != nil {
		return "", made.err
	}
	path := filepath.Join(made.dir, "image")
	cmd := exec.CommandContext(ctx, "go", "-C", "../../cmd/image", "run", ".", "-out", path, "-version", tag)
	if out, err := cmd.CombinedOutput(); err != nil {
		made.err = fmt.Errorf("make the image: %w: %s", err, bytes.TrimSpace(out))
		return "", made.err
	}
	made.path = path
	return path, nil
}

// blob is the content that a descriptor describes, by its name alone.
func (l layout) blob(t *testing.T, d digest.Digest) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(l.path, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (l layout) read(t *testing.T, desc ocispec.Descriptor, into any) {
	t.Helper()
	if desc.Digest == "" {
		t.Fatal("the layout has no such manifest")
	}
	if err := json.Unmarshal(l.blob(t, desc.Digest), into); err != nil {
		t.Fatalf("%s: %v", desc.Digest, err)
	}
}

// platform is the manifest and the configuration for one architecture.
func (l layout) platform(t *testing.T, architecture string) (ocispec.Descriptor, ocispec.Manifest, ocispec.Image) {
	t.Helper()
	for _, desc := range l.index.Manifests {
		if desc.Platform != nil && desc.Platform.OS == "linux" && desc.Platform.Architecture == architecture {
			var manifest ocispec.Manifest
			var config ocispec.Image
			l.read(t, desc, &manifest)
			l.read(t, manifest.Config, &config)
			return desc, manifest, config
		}
	}
	t.Fatalf("there is no image for linux/%s", architecture)
	return ocispec.Descriptor{}, ocispec.Manifest{}, ocispec.Image{}
}

// missing skips a test for want of a tool, or fails it where all must be there.
func missing(t *testing.T, what string, err error) {
	t.Helper()
	if os.Getenv("GATEHOUSE_TEST_TOOLS") == "required" {
		t.Fatalf("%s is not there: %v", what, err)
	}
	t.Skipf("%s is not there: %v", what, err)
}
