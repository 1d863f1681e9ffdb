package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// layerBytes is the one layer of a large image; firstTries how often its first
// byte is waited for.
const (
	layerBytes = 256 << 20
	firstTries = 20
)

// BenchmarkLayer pulls an image of one large layer: how soon the layer flows that
// is not held yet, beside the upstream's own, and how fast it does once it is,
// beside a server of plain files.
func BenchmarkLayer(b *testing.B) {
	bytes := size(b, "LAYER_MIB", layerBytes>>20) << 20
	for b.Loop() {
		publish(b, layer(b, bytes, firstTries, pairs))
	}
}

// TestLayer does the same with a small one.
func TestLayer(t *testing.T) {
	t.Parallel()
	r := layer(t, 1<<20, 1, 1)
	if first, _ := r.Value("first byte"); first <= 0 {
		t.Errorf("%+v", r)
	}
}

func layer(tb testing.TB, bytes, tries, rounds int) results.Result {
	tb.Helper()
	data := make([]byte, bytes)
	_, _ = rand.Read(data)
	image := largeImage(tb, data)
	upstream := launch(tb, besideCommand(tb, "registry"))
	pushAll(tb, upstream.address, []pulledImage{image})
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "layer"), data, 0o600); err != nil {
		tb.Fatal(err)
	}
	files := launch(tb, besideCommand(tb, "files:"+dir))
	gate, config := pullGate(tb, upstream.address, process.Map{"lease": "1s"})

	var own, ours []float64
	for range tries {
		own = append(own, millis(firstByte(tb, upstream.address, image)))
		ours = append(ours, millis(firstByte(tb, gate.pulls, image)))
		empty(tb, config)
	}
	firstByte(tb, gate.pulls, image)
	var plain, held []float64
	path := "/v2/" + pullRepository + "/blobs/" + image.digests[1].String()
	for range rounds {
		plain = append(plain, download(tb, files.address, "/layer", bytes))
		held = append(held, download(tb, gate.pulls, path, bytes))
	}
	r := results.Result{Name: "pulls/layer", Note: fmt.Sprintf("a layer of %d MiB, upstream on loopback; medians of %d first bytes, in turns with the upstream's own, and of %d downloads, in turns with net/http's file server", bytes>>20, tries, rounds)}
	r.Add(
		results.Figure{Name: "first byte", Value: median(ours), Unit: "ms", Floor: new(median(own)), AtMost: new(median(own) + 5)},
		results.Figure{Name: "first byte of upstream", Value: median(own), Unit: "ms"},
		results.Figure{Name: "held", Value: median(held), Unit: "MiB/s", Floor: new(median(plain)), AtLeast: new(0.8 * median(plain))},
		results.Figure{Name: "plain file", Value: median(plain), Unit: "MiB/s"},
	)
	return r
}

func largeImage(tb testing.TB, layer []byte) pulledImage {
	tb.Helper()
	config := []byte("{}")
	image := pulledImage{tag: "large", blobs: [][]byte{config, layer}, digests: []digest.Digest{digest.FromBytes(config), digest.FromBytes(layer)}}
	image.manifest = must(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: image.digests[0], Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: image.digests[1], Size: int64(len(layer))}},
	}))(tb)
	return image
}

// firstByte is how long it takes from asking for the manifest to the first byte of
// the layer. The rest is read too: what is left would go on behind.
func firstByte(tb testing.TB, address string, image pulledImage) time.Duration {
	tb.Helper()
	p := newPuller(address)
	defer p.close()
	if err := p.get(tb.Context(), "/manifests/none", nil); err == nil { // connects
		tb.Fatal("there is a manifest of the tag none")
	}
	began := time.Now()
	if err := p.get(tb.Context(), "/manifests/"+image.tag, image.manifest); err != nil {
		tb.Fatal(err)
	}
	resp := fetch(tb, p.http, p.base+"/blobs/"+image.digests[1].String())
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, p.buf[:1]); err != nil {
		tb.Fatal(err)
	}
	took := time.Since(began)
	verifier := image.digests[1].Verifier()
	_, _ = verifier.Write(p.buf[:1])
	if _, err := io.Copy(verifier, resp.Body); err != nil || !verifier.Verified() {
		tb.Fatalf("the layer is not what it was: %v", err)
	}
	return took
}

func fetch(tb testing.TB, client *http.Client, url string) *http.Response {
	tb.Helper()
	resp := must(client.Do(must(http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil))(tb)))(tb)
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("%s: %s", url, resp.Status)
	}
	return resp
}

// empty drops all that the cache holds; what was pulled within a second stays, and
// so it is asked until nothing does.
func empty(tb testing.TB, config string) {
	tb.Helper()
	binary := must(process.Build(tb.Context()))(tb)
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		out, err := exec.CommandContext(tb.Context(), binary.Path(), "cache", "prune", "--all", "-o", "json", "--config", config).Output()
		if err != nil {
			tb.Fatalf("%v: %s", err, out)
		}
		var left struct {
			Kept int `json:"kept"`
		}
		if err := json.Unmarshal(out, &left); err != nil {
			tb.Fatal(err)
		}
		if left.Kept == 0 {
			return
		}
	}
	tb.Fatal("the cache does not become empty")
}

// download is the rate of reading a whole answer, in MiB a second.
func download(tb testing.TB, address, path string, want int) float64 {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	req := must(http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil))(tb)
	began := time.Now()
	resp := must(client.Do(req))(tb)
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
	if err != nil || n != int64(want) {
		tb.Fatalf("%d bytes of %d: %v", n, want, err)
	}
	return float64(n) / (1 << 20) / time.Since(began).Seconds()
}
