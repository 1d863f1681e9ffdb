package pull_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// Each client copies an image and an index through gatehouse, byte for byte, and
// once more with the upstream gone; with enforcement it gets the signed ones only
// and reads why.
func TestClients(t *testing.T) {
	t.Parallel()
	copies := map[string]func(t *testing.T) func(t *testing.T, from, to string) outcome{
		"skopeo": func(t *testing.T) func(*testing.T, string, string) outcome {
			skopeo := tool(t, "skopeo")
			return func(t *testing.T, from, to string) outcome {
				return run(t, nil, skopeo, "copy", "--all", "--insecure-policy", "--src-tls-verify=false", "docker://"+from, "oci:"+to+":it")
			}
		},
		"crane": func(t *testing.T) func(*testing.T, string, string) outcome {
			crane := client(t, "crane")
			return func(t *testing.T, from, to string) outcome {
				return run(t, nil, crane, "pull", "--insecure", "--format=oci", from, to)
			}
		},
		"regctl": func(t *testing.T) func(*testing.T, string, string) outcome {
			regctl := client(t, "regctl")
			return func(t *testing.T, from, to string) outcome {
				host, _, _ := strings.Cut(from, "/")
				return run(t, []string{"HOME=" + t.TempDir()}, regctl, "--host", "reg="+host+",tls=disabled", "image", "copy", from, "ocidir://"+to+":it")
			}
		},
	}
	for name, find := range copies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			copy := find(t)
			w := newWorld(t, nil)
			w.copiesTo(t, copy, "signed", w.signed)
			w.copiesTo(t, copy, "unsigned", w.unsigned)
			w.copiesTo(t, copy, "index", w.index)
			w.upstream.SetIntercept(nil)
			w.upstream.Close()
			copy(t, w.through("signed"), filepath.Join(t.TempDir(), "held")).failsWith(t, "a tag while the upstream is down")
			pinned := w.gatehouse.PullAddress() + "/" + repository + "@" + w.signed.Digest.String()
			copy(t, pinned, filepath.Join(t.TempDir(), "held")).succeeds(t, "a digest while the upstream is down")
		})
		t.Run(name+" enforced", func(t *testing.T) {
			t.Parallel()
			copy := find(t)
			w := newWorld(t, process.Map{"enforce": true})
			w.copiesTo(t, copy, "signed", w.signed)
			w.copiesTo(t, copy, "index", w.index)
			copy(t, w.through("unsigned"), filepath.Join(t.TempDir(), "unsigned")).failsWith(t, "unsigned")
		})
	}
}

// copiesTo copies an image into an OCI layout and looks for all its bytes there.
func (w *world) copiesTo(t *testing.T, copy func(t *testing.T, from, to string) outcome, tag string, want ocispec.Descriptor) {
	t.Helper()
	to := filepath.Join(t.TempDir(), tag)
	copy(t, w.through(tag), to).succeeds(t, tag)
	holds(t, to, want)
}

// holds looks for a manifest, and all that it lists, in an OCI layout.
func holds(t *testing.T, layout string, want ocispec.Descriptor) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(layout, "blobs", want.Digest.Algorithm().String(), want.Digest.Encoded()))
	if err != nil || want.Digest.Algorithm().FromBytes(data) != want.Digest {
		t.Errorf("%s is not in %s as it is upstream: %v", want.Digest, layout, err)
		return
	}
	var document struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if strings.HasSuffix(want.MediaType, "+json") && json.Unmarshal(data, &document) == nil {
		for _, child := range append(document.Layers, document.Manifests...) {
			holds(t, layout, child)
		}
		if document.Config != nil && document.Config.Digest != "" && len(document.Layers) > 0 {
			holds(t, layout, ocispec.Descriptor{Digest: document.Config.Digest})
		}
	}
}
