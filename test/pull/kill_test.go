package pull_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// killsEnv says how often the process is killed; make soak sets it to 1000.
const killsEnv = "GATEHOUSE_TEST_KILLS"

// object is something that can be pulled by digest.
type object struct {
	path   string
	digest digest.Digest
}

// A process that is killed at any moment under load never serves a wrong byte
// afterwards, and has everything that was on its disk.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 12
	if text := os.Getenv(killsEnv); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, durability := range []string{"full", "fast"} {
		t.Run(durability, func(t *testing.T) {
			t.Parallel()
			killed(t, durability, rounds/2)
		})
	}
}

func killed(t *testing.T, durability string, rounds int) {
	upstream, err := registry.Start(registry.Options{Latency: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	objects := material(t, upstream, 60)
	config, err := process.Config{
		PlainHTTP: []string{upstream.Host()}, PullsAlone: true, Cache: process.Map{"durability": durability},
		Registry: process.Map{"upstreams": []string{upstream.Host()}, "default": upstream.Host()},
	}.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	binary, err := process.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keeper := control.NewClient("unix", filepath.Join(filepath.Dir(config), "cache", "control.sock"), "")
	committed := make(map[object]bool)
	var served, lost int
	for round := range rounds {
		p, err := binary.Serve(t.Context(), config)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		base := "http://" + p.PullAddress() + "/v2/"
		upstream.SetIntercept(away)
		for o := range committed {
			if err := pullObject(t.Context(), base, o); err != nil {
				lost++
				t.Errorf("round %d: of %d on the disk: %v", round, len(committed), err)
			}
			served++
		}
		upstream.SetIntercept(nil)
		maps.Copy(committed, settle(t, base, keeper, objects))
		underLoad(t, base, objects, func() { p.Kill() })
		if t.Failed() {
			t.Fatalf("log:\n%s", p.Log())
		}
		if len(committed) == len(objects) { // begin anew
			committed = make(map[object]bool)
			if err := os.RemoveAll(filepath.Join(filepath.Dir(config), "cache")); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%s: killed %d times, %d objects served from the disk afterwards, %d lost", durability, rounds, served, lost)
}

// away answers as a registry in trouble.
func away(w http.ResponseWriter, _ *http.Request) bool {
	w.WriteHeader(http.StatusServiceUnavailable)
	return true
}

// material pushes images, each with a layer of a size from nothing to 2 MiB.
func material(t *testing.T, upstream *registry.Registry, n int) []object {
	t.Helper()
	var objects []object
	source := rand.NewChaCha8([32]byte{7})
	for i := range n {
		data := make([]byte, rand.New(source).IntN(8)*rand.New(source).IntN(256<<10))
		_, _ = source.Read(data)
		layer, err := upstream.PushBlob(t.Context(), repository, ocispec.MediaTypeImageLayer, data)
		if err != nil {
			t.Fatal(err)
		}
		image, err := upstream.PushImageOf(t.Context(), repository, fmt.Sprintf("v%d", i), layer)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects,
			object{repository + "/manifests/" + image.Digest.String(), image.Digest},
			object{repository + "/blobs/" + layer.Digest.String(), layer.Digest})
	}
	return slices.CompactFunc(objects, func(a, b object) bool { return a == b })
}

// settle pulls some objects and waits until they are on the disk.
func settle(t *testing.T, base string, keeper *control.Client, objects []object) map[object]bool {
	t.Helper()
	some := make(map[object]bool)
	for range 3 + rand.IntN(10) {
		o := objects[rand.IntN(len(objects))]
		if err := pullObject(t.Context(), base, o); err != nil {
			t.Fatal(err)
		}
		some[o] = true
	}
	for range 1000 {
		stats, err := keeper.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stats.Unwritten == 0 && stats.Pulls == 0 {
			return some
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the disk does not follow")
	return nil
}

// underLoad kills while eight clients pull, at a random moment. What they get to
// its end is right.
func underLoad(t *testing.T, base string, objects []object, kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			for ctx.Err() == nil {
				if err := pullObject(ctx, base, objects[rand.IntN(len(objects))]); errors.Is(err, errWrong) {
					return err
				}
			}
			return nil
		})
	}
	time.Sleep(rand.N(120 * time.Millisecond))
	kill()
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

var errWrong = errors.New("wrong bytes were served as whole")

// pullObject pulls what has a digest and hashes it.
func pullObject(ctx context.Context, base string, o object) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+o.path, nil)
	if err != nil {
		return err
	}
	resp, err := client1.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	verifier := o.digest.Verifier()
	_, err = io.Copy(verifier, resp.Body)
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", o.path, resp.Status)
	case err != nil:
		return fmt.Errorf("%s: %w", o.path, err)
	case !verifier.Verified():
		return fmt.Errorf("%s: %w", o.path, errWrong)
	}
	return nil
}

// client1 opens a connection for each request: the process behind it changes.
var client1 = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// Pulls of the same images, and pruning them all the while, go together: not one
// pull fails. GATEHOUSE_TEST_PRUNING says for how long.
func TestPruneAndPull(t *testing.T) {
	t.Parallel()
	lasting := 4 * time.Second
	if text := os.Getenv("GATEHOUSE_TEST_PRUNING"); text != "" {
		var err error
		if lasting, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	upstream, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	objects := material(t, upstream, 30)
	p := process.Start(t, process.Config{
		PlainHTTP: []string{upstream.Host()}, PullsAlone: true,
		Cache:    process.Map{"lease": "1s", "durability": "fast"},
		Registry: process.Map{"upstreams": []string{upstream.Host()}, "default": upstream.Host()},
	})
	socket := socketOf(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	var group errgroup.Group
	var mu sync.Mutex
	pulls, dropped := 0, 0
	for range 6 {
		group.Go(func() error {
			for ctx.Err() == nil {
				if err := pullObject(t.Context(), "http://"+p.PullAddress()+"/v2/", objects[rand.IntN(len(objects))]); err != nil {
					return err
				}
				mu.Lock()
				pulls++
				mu.Unlock()
			}
			return nil
		})
	}
	group.Go(func() error {
		keeper := control.NewClient("unix", socket, "")
		for ctx.Err() == nil {
			pruned, err := keeper.Prune(t.Context(), control.PruneRequest{All: true}, nil)
			if err != nil {
				return err
			}
			mu.Lock()
			dropped += pruned.Objects
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if dropped == 0 || pulls == 0 {
		t.Errorf("%d pulls, %d objects dropped", pulls, dropped)
	}
	t.Logf("%d pulls, %d objects dropped meanwhile, not one failed", pulls, dropped)
}

// socketOf is the control socket of a process, beside its configuration.
func socketOf(t *testing.T, p *process.Process) string {
	t.Helper()
	var line struct {
		Config string `json:"config"`
	}
	decoder := json.NewDecoder(bytes.NewReader(p.Log()))
	for decoder.Decode(&line) == nil {
		if line.Config != "" {
			return filepath.Join(filepath.Dir(line.Config), "cache", "control.sock")
		}
	}
	t.Fatal("the log does not say where the configuration is")
	return ""
}
