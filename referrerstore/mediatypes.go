package referrerstore

import (
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of manifests beside those of the image specification: Docker's
// (schema version 2), and those of artifacts before image-spec 1.1.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeArtifact       = "application/vnd.oci.artifact.manifest.v1+json"
	MediaTypeORAS           = "application/vnd.cncf.oras.artifact.manifest.v1+json"
)

// ManifestMediaTypes are those that registries serve as manifests, and so what is
// asked for where one is wanted.
func ManifestMediaTypes() []string {
	return []string{
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		MediaTypeDockerManifest, MediaTypeDockerIndex, MediaTypeArtifact, MediaTypeORAS,
	}
}

// IsManifest says whether registries serve the media type as a manifest; all else
// is a blob.
func IsManifest(mediaType string) bool { return slices.Contains(ManifestMediaTypes(), mediaType) }
