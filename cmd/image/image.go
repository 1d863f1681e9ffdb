package main

import (
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The annotations of the OCI image specification, which are labels too.
const (
	titleKey       = "org.opencontainers.image.title"
	descriptionKey = "org.opencontainers.image.description"
	sourceKey      = "org.opencontainers.image.source"
	versionKey     = "org.opencontainers.image.version"
	revisionKey    = "org.opencontainers.image.revision"
	licensesKey    = "org.opencontainers.image.licenses"
	createdKey     = "org.opencontainers.image.created"
)

const (
	licence     = "Apache-2.0"
	description = "Verifies what images carry before they run in a Kubernetes cluster"
)

// annotations are those of the index, of each image, and the labels of each image.
func annotations(opts options, src source) map[string]string {
	return map[string]string{
		titleKey: opts.binaries[0].name, descriptionKey: description, sourceKey: opts.source, licensesKey: licence,
		versionKey: src.version, revisionKey: src.label(), createdKey: src.created.Format(time.RFC3339),
	}
}

// platformImage is the image for one platform.
type platformImage struct {
	platform    v1.Platform
	executables []executable
	image       v1.Image
	descriptor  v1.Descriptor
}

// newPlatformImage makes an image of the base's layer and one layer for each
// executable. The base is the same for all platforms.
func newPlatformImage(opts options, src source, base v1.Layer, platform v1.Platform, executables []executable) (platformImage, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	adds := []mutate.Addendum{addendum(src, base, "base", "passwd, group, trusted roots, /tmp")}
	for _, e := range executables {
		layer, err := newLayer([]entry{{path: e.name, mode: 0o755, data: e.data}})
		if err != nil {
			return platformImage{}, err
		}
		adds = append(adds, addendum(src, layer, e.name, "go build "+e.pkg))
	}
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return platformImage{}, fmt.Errorf("add layers: %w", err)
	}
	if img, err = configure(img, opts, src, platform); err != nil {
		return platformImage{}, fmt.Errorf("configure: %w", err)
	}
	desc, err := partial.Descriptor(img)
	if err != nil {
		return platformImage{}, err
	}
	desc.Platform = &platform
	return platformImage{platform: platform, executables: executables, image: img, descriptor: *desc}, nil
}

func addendum(src source, layer v1.Layer, title, how string) mutate.Addendum {
	return mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer, Annotations: map[string]string{titleKey: title},
		History: v1.History{Created: v1.Time{Time: src.created}, CreatedBy: how, Comment: "gatehouse cmd/image"},
	}
}

func configure(img v1.Image, opts options, src source, platform v1.Platform) (v1.Image, error) {
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	labels := annotations(opts, src)
	file.OS, file.Architecture, file.Created = platform.OS, platform.Architecture, v1.Time{Time: src.created}
	file.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", nonroot, nonroot),
		Env:        []string{"PATH=/"},
		Entrypoint: []string{"/" + opts.binaries[0].name},
		Cmd:        []string{"serve", "--config", "/etc/gatehouse/gatehouse.yaml"},
		WorkingDir: "/",
		Labels:     labels,
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, err
	}
	annotated, ok := mutate.Annotations(img, labels).(v1.Image)
	if !ok {
		return nil, fmt.Errorf("annotate: %T is no image any more", img)
	}
	return plain{annotated}, nil
}

// plain is an image that is no artifact. The library would describe it by the type of
// its config, and tools that know no such field in an index would drop it, and with
// it the digest, when they copy.
type plain struct{ v1.Image }

// ArtifactType is what the library asks for when it describes an image.
func (plain) ArtifactType() (string, error) { return "", nil }

// newIndex lists the images, in order.
func newIndex(opts options, src source, images []platformImage) (v1.ImageIndex, error) {
	var adds []mutate.IndexAddendum
	for _, p := range images {
		adds = append(adds, mutate.IndexAddendum{Add: p.image, Descriptor: v1.Descriptor{Platform: &p.platform}})
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...)
	annotated, ok := mutate.Annotations(index, annotations(opts, src)).(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("annotate: %T is no index any more", index)
	}
	return annotated, nil
}
