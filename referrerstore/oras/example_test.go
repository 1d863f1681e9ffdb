package oras_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
)

func ExampleStore() {
	ctx := context.Background()
	backend := ocimem.New()
	server := httptest.NewServer(ociserver.New(backend, nil))
	defer server.Close()
	host := server.Listener.Addr().String()
	config := ociregistry.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: digest.FromString("{}"), Size: 2}
	_, _ = backend.PushBlob(ctx, "app", config, strings.NewReader("{}"))
	_, _ = backend.PushManifest(ctx, "app", "v1", fmt.Appendf(nil,
		`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[]}`, config.MediaType, config.Digest),
		"application/vnd.oci.image.manifest.v1+json")

	store, err := oras.New(ctx, "registry", oras.Options{PlainHTTP: []string{host}}, oras.Deps{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	ref, _ := referrerstore.ParseReference(host + "/app:v1")
	subject, err := store.Resolve(ctx, ref)
	fmt.Println(subject.Descriptor.MediaType, err)
	data, err := referrerstore.ReadAll(ctx, store, subject, subject.Descriptor, 1<<20)
	fmt.Println(len(data) == int(subject.Descriptor.Size), err)
	pulled, err := store.PullManifest(ctx, ref)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pulled.Body.Close()
	fmt.Println(pulled.Digest == subject.Descriptor.Digest, pulled.Size == subject.Descriptor.Size)
	// Output:
	// application/vnd.oci.image.manifest.v1+json <nil>
	// true <nil>
	// true true
}
