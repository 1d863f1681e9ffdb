package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/archive"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// An image that is held is written as a layout, and read again.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	folder, _ := disk.Open(dir + "/cache")
	held, err := cache.Open(ctx, folder, cache.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer held.Close()

	ref, _ := referrerstore.ParseReference("registry.example.com/app:v1")
	scope := cache.Scope{Registry: ref.Registry, Repository: ref.Repository}
	manifest := []byte(`{"schemaVersion":2,"layers":[]}`)
	want := cache.Want{
		Scope: scope, Digest: digest.FromBytes(manifest), Kind: cache.Manifest, Size: int64(len(manifest)),
		MediaType: "application/vnd.oci.image.manifest.v1+json",
	}
	fmt.Println(held.Put(want, manifest))
	item := archive.Item{Reference: ref.Pinned(want.Digest)}

	var layout bytes.Buffer
	exported, err := archive.Export(ctx, held, []archive.Item{item}, archive.Tar(&layout), archive.ExportOptions{})
	fmt.Println(exported.Objects, err)

	path := dir + "/layout.tar"
	_ = os.WriteFile(path, layout.Bytes(), 0o600)
	from, err := archive.Open(ctx, path, archive.OpenOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer from.Close()
	loaded, err := archive.Load(ctx, from, held, archive.Options{Name: "registry.example.com/copy:v1"})
	fmt.Println(loaded.Images[0].Reference, err)
	// Output:
	// <nil>
	// 1 <nil>
	// registry.example.com/copy:v1 <nil>
}
