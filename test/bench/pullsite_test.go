package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// besideEnv makes the test binary a server that Gatehouse is compared with:
// "registry" is go-containerregistry's in memory, "files:DIR" serves a folder.
const besideEnv = "GATEHOUSE_BENCH_BESIDE"

func besideCommand(tb testing.TB, what string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(must(os.Executable())(tb))
	cmd.Env = append(os.Environ(), besideEnv+"="+what)
	return cmd
}

func beside(what string, to io.Writer) int {
	logger := slog.New(slog.NewJSONHandler(to, nil))
	var handler http.Handler
	if dir, ok := strings.CutPrefix(what, "files:"); ok {
		handler = http.FileServer(http.Dir(dir))
	} else {
		handler = ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	}
	return untilTold(&http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}, logger)
}

const (
	// pullRepository is where all images are, pullers how many pull at once.
	pullRepository = "team/app"
	pullers        = 10
	// blobsEach and blobBytes are what an image has beside its manifest, the
	// config among them.
	blobsEach = 5
	blobBytes = 2 << 10
)

// pulled is an image as it is pulled: its blobs in order.
type pulledImage struct {
	tag      string
	manifest []byte
	blobs    [][]byte
	digests  []digest.Digest
}

// makeImages makes n images of five small blobs, no two of which are the same.
func makeImages(tb testing.TB, n int) []pulledImage {
	tb.Helper()
	images := make([]pulledImage, n)
	source := rand.NewChaCha8([32]byte{1})
	for i := range images {
		image := pulledImage{tag: fmt.Sprintf("v%d", i)}
		manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
		for b := range blobsEach {
			data := make([]byte, blobBytes)
			_, _ = source.Read(data)
			d := digest.FromBytes(data)
			image.blobs, image.digests = append(image.blobs, data), append(image.digests, d)
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: blobBytes}
			if b == 0 {
				desc.MediaType = ocispec.MediaTypeImageConfig
				manifest.Config = desc
				continue
			}
			manifest.Layers = append(manifest.Layers, desc)
		}
		image.manifest = must(json.Marshal(manifest))(tb)
		images[i] = image
	}
	return images
}

// pushAll puts images into a registry that is written to by HTTP.
func pushAll(tb testing.TB, address string, images []pulledImage) {
	tb.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pullers}}
	defer client.CloseIdleConnections()
	base := "http://" + address + "/v2/" + pullRepository
	for _, image := range images {
		for i, data := range image.blobs {
			put(tb, client, http.MethodPost, base+"/blobs/uploads/?digest="+image.digests[i].String(), "application/octet-stream", data)
		}
		put(tb, client, http.MethodPut, base+"/manifests/"+image.tag, ocispec.MediaTypeImageManifest, image.manifest)
	}
}

func put(tb testing.TB, client *http.Client, method, url, mediaType string, data []byte) {
	tb.Helper()
	req := must(http.NewRequestWithContext(tb.Context(), method, url, bytes.NewReader(data)))(tb)
	req.Header.Set("Content-Type", mediaType)
	resp := must(client.Do(req))(tb)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		tb.Fatalf("%s %s: %s", method, url, resp.Status)
	}
}

// pushTo puts images into a registry of this process.
func pushTo(tb testing.TB, r *registry.Registry, images []pulledImage) {
	tb.Helper()
	for _, image := range images {
		for _, data := range image.blobs {
			must(r.PushBlob(tb.Context(), pullRepository, ocispec.MediaTypeImageLayer, data))(tb)
		}
		must(r.PushManifest(tb.Context(), pullRepository, image.tag, ocispec.MediaTypeImageManifest, image.manifest))(tb)
	}
}

// pullGate starts Gatehouse as a process that only serves pulls of one upstream.
func pullGate(tb testing.TB, upstream string, cache process.Map) (launched, string) {
	tb.Helper()
	binary := must(process.Build(tb.Context()))(tb)
	config := write(tb, process.Config{
		PlainHTTP: []string{upstream}, Cache: cache, PullsAlone: true,
		Registry: process.Map{
			"upstreams": []string{upstream}, "default": upstream,
			"tagPolicies": []process.Map{{"upstreams": []string{upstream}, "policy": "interval", "interval": "1h"}},
		},
	}, "")
	return launch(tb, exec.Command(binary.Path(), "serve", "--config", config)), config
}

// client pulls on one connection.
type puller struct {
	http *http.Client
	base string
	buf  []byte
}

func newPuller(address string) *puller {
	return &puller{
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1, MaxConnsPerHost: 1, DisableCompression: true}},
		base: "http://" + address + "/v2/" + pullRepository, buf: make([]byte, 64<<10),
	}
}

func (p *puller) close() { p.http.CloseIdleConnections() }

// pull gets the manifest and all blobs and looks at every byte.
func (p *puller) pull(ctx context.Context, image pulledImage) error {
	if err := p.get(ctx, "/manifests/"+image.tag, image.manifest); err != nil {
		return err
	}
	for i, d := range image.digests {
		if err := p.get(ctx, "/blobs/"+d.String(), image.blobs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *puller) get(ctx context.Context, path string, want []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.ReadFull(resp.Body, p.buf[:len(want)+1])
	if resp.StatusCode != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(p.buf[:n], want) {
		return fmt.Errorf("%s: %s, %d bytes of %d, %w", path, resp.Status, n, len(want), err)
	}
	return nil
}

// pulls are what a round of pulling found.
type pulls struct {
	rate     float64 // images a second
	p50, p99 time.Duration
	worst    time.Duration
}

// pullEach lets all pullers pull each image once.
func pullEach(tb testing.TB, address string, images []pulledImage) pulls {
	tb.Helper()
	queue := make(chan pulledImage, len(images))
	for _, image := range images {
		queue <- image
	}
	close(queue)
	return pullAll(tb, address, func(int) (pulledImage, bool) {
		image, ok := <-queue
		return image, ok
	})
}

// pullFor lets all pullers pull images at random for a time.
func pullFor(tb testing.TB, address string, images []pulledImage, lasting time.Duration) pulls {
	tb.Helper()
	end := time.Now().Add(lasting)
	return pullAll(tb, address, func(int) (pulledImage, bool) {
		return images[rand.IntN(len(images))], time.Now().Before(end)
	})
}

func pullAll(tb testing.TB, address string, next func(puller int) (pulledImage, bool)) pulls {
	tb.Helper()
	times := make([][]time.Duration, pullers)
	var group errgroup.Group
	start := time.Now()
	for i := range pullers {
		group.Go(func() error {
			p := newPuller(address)
			defer p.close()
			for image, ok := next(i); ok; image, ok = next(i) {
				began := time.Now()
				if err := p.pull(tb.Context(), image); err != nil {
					return err
				}
				times[i] = append(times[i], time.Since(began))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		tb.Fatal(err)
	}
	took := time.Since(start)
	all := slices.Concat(times...)
	slices.Sort(all)
	if len(all) == 0 {
		tb.Fatal("nothing was pulled")
	}
	return pulls{
		rate: float64(len(all)) / took.Seconds(),
		p50:  all[len(all)/2], p99: all[len(all)*99/100], worst: all[len(all)-1],
	}
}
