package registry_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
)

// BenchmarkHeld answers for a small blob and a small manifest that are held, over
// connections, beside a bare handler that writes as many bytes.
func BenchmarkHeld(b *testing.B) {
	w := newWorld(b, nil)
	reg := registry.New(context.Background(), w.cache, registry.Options{})
	defer reg.Close()
	reg.Swap(&w.snap)
	blob := w.blob(b, ocispec.MediaTypeImageLayer, noise(1, 2<<10))
	image := w.image(b, "v1", noise(2, 100))
	bare := http.HandlerFunc(func(to http.ResponseWriter, _ *http.Request) {
		to.Header().Set("Content-Type", "application/octet-stream")
		_, _ = to.Write(noise(1, 2<<10))
	})
	for _, bench := range []struct {
		name, path string
		handler    http.Handler
	}{
		{"bare", "/", bare},
		{"blob", blobs(blob.Digest), reg},
		{"manifest", manifests(image.Descriptor.Digest), reg},
	} {
		b.Run(bench.name, func(b *testing.B) {
			url := "http://" + listen(b, bench.handler) + bench.path
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				client := &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
				for pb.Next() {
					resp, err := client.Get(url)
					if err != nil || resp.StatusCode != http.StatusOK {
						b.Errorf("%v, %v", resp, err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		})
	}
}

// listen serves a handler until the benchmark ends.
func listen(b *testing.B, handler http.Handler) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	b.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return listener.Addr().String()
}
