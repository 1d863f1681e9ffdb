package registry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

func Example() {
	path, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(path)
	folder, err := disk.Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer folder.Close()
	contents, err := cache.Open(context.Background(), folder, cache.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer contents.Close()

	store := storetest.New("upstream")
	store.AddImage("registry.example.com/team/app:v1")

	reg := registry.New(context.Background(), contents, registry.Options{})
	defer reg.Close()
	reg.Swap(&registry.Snapshot{Upstreams: map[string]registry.Upstream{"registry.example.com": {Store: store}}})
	server := httptest.NewServer(reg)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()

	for _, query := range []string{"?ns=registry.example.com", "?ns=elsewhere.example", ""} {
		resp, err := http.Get(server.URL + "/v2/team/app/manifests/v1" + query)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	fmt.Println(store.Counts().PullManifest, "pull")
	// Output:
	// 200 application/vnd.oci.image.manifest.v1+json
	// 403 application/json
	// 404 application/json
	// 1 pull
}
