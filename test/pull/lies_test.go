package pull_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// lie is a way for an upstream to be wrong, and what a client may see of it.
type lie struct {
	name  string
	fault registry.Fault
	whole bool // it is made up for: the client gets all, and it is right
	// spares says that it has no effect where a token is known already, or on a
	// layer.
	spares bool
}

func lies(foreign string) []lie {
	return []lie{
		{"short", registry.Short(7), false, false},
		{"long", registry.Long(7), false, false},
		{"wrong bytes of the right length", registry.WrongDigest(), false, false},
		{"hangs before the header", registry.Hang(), false, false},
		{"stalls in mid-body, then goes on", registry.On(registry.First(1, registry.Stall(300<<10)), registry.Blob), true, false},
		{"breaks off, then goes on", registry.On(registry.First(1, registry.BreakOff(300<<10)), registry.Blob), true, false},
		{"breaks off, and has no ranges", registry.On(registry.Bent(registry.First(1, registry.BreakOff(300<<10)), registry.IgnoreRange()), registry.Blob), true, false},
		{"breaks off always at the same byte", registry.Bent(registry.BreakOff(300<<10), registry.IgnoreRange()), false, false},
		{"no length, and wrong bytes", registry.Bent(registry.Chunked(), registry.WrongDigest()), false, false},
		{"another digest in its header", registry.Header("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64)), true, false},
		{"endless manifest", registry.On(registry.EndlessManifest(), registry.Manifest), false, true},
		{"a foreign realm", registry.ForeignRealm(foreign), false, true},
		{"a redirect to an inner address", registry.RedirectTo(foreign), false, false},
		{"503", registry.Status(http.StatusServiceUnavailable, nil, 1, 1), false, false},
	}
}

// told is what a client was given.
type told struct {
	status int
	bytes  int64
	whole  bool
	err    error
	took   time.Duration
}

// Whatever an upstream lies about, nobody receives all of what is wrong, foreign
// hosts are not asked with anybody's secrets, and the next honest answer is kept.
func TestUpstreamLies(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	secrets := 0
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			secrets++
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer foreign.Close()
	var table strings.Builder
	lines := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(lines, "upstream\tasked for\tstatus\tbytes\tafter\tafterwards")
	t.Run("all", func(t *testing.T) {
		for _, l := range lies(foreign.URL) {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				for asked, result := range liedTo(t, l) {
					mu.Lock()
					fmt.Fprintf(lines, "%s\t%s\t%d\t%d\t%.1fs\tright\n", l.name, asked, result.status, result.bytes, result.took.Seconds())
					mu.Unlock()
				}
			})
		}
	})
	if secrets != 0 {
		t.Errorf("a foreign host was shown credentials %d times", secrets)
	}
	_ = lines.Flush()
	t.Logf("\n%s", table.String())
}

// liedTo asks for a manifest and a large blob while the upstream lies, and again
// when it does not.
func liedTo(t *testing.T, l lie) map[string]told {
	t.Helper()
	upstream, err := registry.Start(registry.Options{BearerAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	layer := upstream.PushLarge(repository, ocispec.MediaTypeImageLayer, 1<<20, 9)
	image, err := upstream.PushImageOf(t.Context(), repository, "v1", layer)
	if err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, process.Config{
		PlainHTTP: []string{upstream.Host()}, PullsAlone: true, Cache: process.Map{"durability": "fast"},
		Registry: process.Map{"upstreams": []string{upstream.Host()}, "default": upstream.Host()},
	})
	base := "http://" + p.PullAddress() + "/v2/"
	found := make(map[string]told)
	for name, o := range map[string]object{
		"manifest": {repository + "/manifests/" + image.Digest.String(), image.Digest},
		"layer":    {repository + "/blobs/" + layer.Digest.String(), layer.Digest},
	} {
		upstream.SetIntercept(l.fault)
		got := receive(t.Context(), base, o)
		found[name] = got
		large := name == "layer"
		switch {
		case errors.Is(got.err, errWrong):
			t.Errorf("%s: %v", name, got.err)
		case l.whole && !got.whole:
			t.Errorf("%s: status %d, %d bytes, %v", name, got.status, got.bytes, got.err)
		case large && !l.whole && got.whole && !l.spares:
			t.Errorf("%s: it was delivered whole", name)
		}
		upstream.SetIntercept(nil)
		again := receive(t.Context(), base, o)
		for range 100 { // a host that failed is left alone for a while
			if again.whole {
				break
			}
			time.Sleep(200 * time.Millisecond)
			again = receive(t.Context(), base, o)
		}
		if !again.whole {
			t.Errorf("%s: afterwards: status %d, %v", name, again.status, again.err)
		}
	}
	return found
}

func receive(ctx context.Context, base string, o object) told {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	begun := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+o.path, nil)
	if err != nil {
		return told{err: err}
	}
	resp, err := client1.Do(req)
	if err != nil {
		return told{err: err, took: time.Since(begun)}
	}
	defer resp.Body.Close()
	verifier := o.digest.Verifier()
	n, err := io.Copy(verifier, resp.Body)
	got := told{status: resp.StatusCode, bytes: n, err: err}
	if err == nil && resp.StatusCode == http.StatusOK {
		if got.whole = verifier.Verified(); !got.whole {
			got.err = errWrong
		}
	}
	got.took = time.Since(begun)
	return got
}
