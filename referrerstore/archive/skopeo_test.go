package archive

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// skopeo runs the tool of that name, which is no part of what is tested. The tests
// that need it are skipped on machines that do not have it, and only there.
func skopeo(t *testing.T, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo, an outside tool, is not installed here")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"--insecure-policy"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("skopeo %v: %v: %s", args, err, complaints.String())
	}
	return out
}

// runnable adds an image whose layer is a real one: skopeo unpacks it.
func (t tree) runnable(seed string) ocispec.Descriptor {
	layer := tree{seed: bytes.Repeat([]byte(seed), 100_000)}.tar()
	diff := digest.FromBytes(layer)
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config: t.json(ocispec.MediaTypeImageConfig, ocispec.Image{
			Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}},
		}),
		Layers: []ocispec.Descriptor{t.blob(ocispec.MediaTypeImageLayerGzip, zipped(layer))},
	}
	m.SchemaVersion = 2
	return t.json(m.MediaType, m)
}

// What skopeo writes as docker save does is loaded.
func TestLoadOfSkopeo(t *testing.T) {
	t.Parallel()
	content := newTree()
	content.list(called(content.runnable("seed"), ocispec.AnnotationRefName, "v1"))
	at := filepath.Join(t.TempDir(), "saved.tar")
	skopeo(t, "copy", "oci:"+content.folder(t)+":v1", "docker-archive:"+at+":"+app)
	c := openCache(t)
	loaded, err := load(t, at, c, Options{})
	if err != nil || len(loaded.Images) != 1 || loaded.Images[0].Reference != parse(t, app) {
		t.Fatalf("%+v, %v", loaded, err)
	}
	expectDocker(t, c, loaded.Images[0])

	packed, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	again, err := load(t, write(t, zipped(packed)), openCache(t), Options{})
	if err != nil || again.Images[0].Descriptor.Digest != loaded.Images[0].Descriptor.Digest {
		t.Errorf("compressed: %+v, %v", again, err)
	}
}

// What is exported skopeo reads, as a folder and as a tarball.
func TestSkopeoReadsExport(t *testing.T) {
	t.Parallel()
	content := newTree()
	image := content.runnable("seed")
	content.list(named(image, app))
	c := openCache(t)
	if _, err := load(t, content.folder(t), c, Options{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var packed bytes.Buffer
	for _, to := range []Target{Folder(filepath.Join(dir, "layout")), Tar(&packed)} {
		if _, err := Export(t.Context(), c, []Item{{Reference: parse(t, app)}}, to, ExportOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "layout.tar"), packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"oci:" + dir + "/layout:v1", "oci-archive:" + dir + "/layout.tar:v1"} {
		if raw := skopeo(t, "inspect", "--raw", from); digest.FromBytes(raw) != image.Digest {
			t.Errorf("%s: another manifest: %s", from, raw)
		}
		skopeo(t, "copy", from, "dir:"+t.TempDir())
	}
}
