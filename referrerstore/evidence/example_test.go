package evidence_test

import (
	"context"
	"fmt"
	"os"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/evidence"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// The registry is asked once for what a digest names; what it said is recalled.
func ExampleStore() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	folder, _ := disk.Open(dir)
	held, err := cache.Open(ctx, folder, cache.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer held.Close()

	inner := storetest.New("registry")
	subject := inner.AddImage("registry.example.com/app:v1")
	store := evidence.New(inner, held, evidence.Options{})
	for range 3 {
		_, err = referrerstore.ReadAll(ctx, store, subject, subject.Descriptor, 1<<20)
	}
	fmt.Println(inner.Counts().Fetch, err)
	_, err = store.Resolve(ctx, subject.Reference)
	recalled, _, known := store.RecallSubject(subject.Reference)
	fmt.Println(recalled.Descriptor.Digest == subject.Descriptor.Digest, known, err)
	// Output:
	// 1 <nil>
	// true true <nil>
}
