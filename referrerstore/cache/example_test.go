package cache_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// hello is a repository of one blob.
type hello struct{}

func (hello) Pull(_ context.Context, _ cache.Want, offset int64) (referrerstore.Pulled, error) {
	fmt.Println("the registry is asked")
	const text = "hello"
	return referrerstore.Pulled{Body: io.NopCloser(strings.NewReader(text[offset:])), Offset: offset, Size: int64(len(text))}, nil
}

func (hello) Confirm(context.Context, cache.Want) error { return nil }

func Example() {
	if err := run(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// the registry is asked
	// hello, held: false
	// hello, held: true
}

func run(ctx context.Context) error {
	path, err := os.MkdirTemp("", "cache")
	if err != nil {
		return err
	}
	defer os.RemoveAll(path)
	folder, err := disk.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	c, err := cache.Open(ctx, folder, cache.Options{MaxBytes: 1 << 30})
	if err != nil {
		return err
	}
	want := cache.Want{
		Scope:  cache.Scope{Registry: "registry.example.com", Repository: "app"},
		Digest: digest.FromString("hello"), Size: -1,
	}
	for range 2 {
		content, err := c.Obtain(ctx, want, hello{})
		if err != nil {
			return err
		}
		text, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		fmt.Printf("%s, held: %v\n", text, content.Held())
		content.Close()
	}
	return c.Close()
}
