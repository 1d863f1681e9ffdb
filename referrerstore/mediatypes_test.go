package referrerstore_test

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func TestIsManifest(t *testing.T) {
	t.Parallel()
	for _, mediaType := range referrerstore.ManifestMediaTypes() {
		if !referrerstore.IsManifest(mediaType) {
			t.Errorf("%s is none", mediaType)
		}
	}
	for _, mediaType := range []string{"", ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip, "application/json", referrerstore.MediaTypeDockerManifest + "x"} {
		if referrerstore.IsManifest(mediaType) {
			t.Errorf("%q is one", mediaType)
		}
	}
}
