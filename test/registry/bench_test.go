package registry_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

// BenchmarkBlob is what a request costs that does nothing special: the floor
// under everything measured with this registry, client included.
func BenchmarkBlob(b *testing.B) {
	for name, opts := range map[string]registry.Options{"anonymous": {}, "token": {BearerAuth: true}} {
		b.Run(name, func(b *testing.B) {
			r := start(b, opts)
			c := client(b, r)
			desc := must(b)(r.PushBlob(b.Context(), "app", "text/plain", make([]byte, 1<<16)))
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, r.URL()+"/v2/app/blobs/"+desc.Digest.String(), nil)
			if err != nil {
				b.Fatal(err)
			}
			if opts.BearerAuth {
				req.Header = bearer(b, c, r, "repository:app:pull")
			}
			b.SetBytes(desc.Size)
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, res.Body)
				if err != nil || n != desc.Size {
					b.Fatal(n, err)
				}
				_ = res.Body.Close()
			}
		})
	}
}
