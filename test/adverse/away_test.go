package adverse

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// absence is what becomes of images while their registry is away. An hour is
// shortened: what was proven is believed for a second here.
type absence struct {
	allowed, held int           // of pinned images, and of those how many from held evidence
	tags          int           // of tags allowed
	unsigned      int           // allowed, of one unsigned image
	slowest       time.Duration // answer
	codes         string        // of what was not allowed
}

// With useHeld every pinned image that was proven is admitted while its registry is
// unreachable, late, or answers 5xx or 429; without it none; and none when it says
// no.
func TestRegistryAway(t *testing.T) {
	t.Parallel()
	always := func(status int) registry.Fault { return registry.Status(status, nil, 1, 1) }
	const images = 10
	kinds := []struct {
		name  string
		fault registry.Fault // nil closes the registry
		away  bool           // and so held evidence may decide
	}{
		{"connection refused", nil, true},
		{"hangs", registry.Hang(), true},
		{"resets", registry.Reset(), true},
		{"503", always(http.StatusServiceUnavailable), true},
		{"429", always(http.StatusTooManyRequests), true},
		{"401", always(http.StatusUnauthorized), false},
		{"403", always(http.StatusForbidden), false},
		{"404", always(http.StatusNotFound), false},
	}
	modes := []struct {
		name string
		down []process.Map
		tags bool
	}{
		{"off", nil, false},
		{"useHeld", []process.Map{{"registries": []string{"**"}, "useHeld": "1h"}}, false},
		{"useHeld, tags", []process.Map{{"registries": []string{"**"}, "useHeld": "1h", "tags": true}}, true},
		{"too old", []process.Map{{"registries": []string{"**"}, "useHeld": "1s"}}, false},
	}
	found := make([][]absence, len(kinds))
	for i := range kinds {
		found[i] = make([]absence, len(modes))
	}
	t.Run("all", func(t *testing.T) {
		for i, kind := range kinds {
			for j, mode := range modes {
				if mode.name == "too old" && kind.name != "503" {
					continue // one is enough
				}
				t.Run(kind.name+", "+mode.name, func(t *testing.T) {
					t.Parallel()
					got := whileAway(t, kind.fault, mode.down, images)
					found[i][j] = got
					pinned, tags := 0, 0
					if kind.away && mode.down != nil && mode.name != "too old" {
						pinned = images
						if mode.tags {
							tags = images
						}
					}
					if got.allowed != pinned || got.held != pinned || got.tags != tags || got.unsigned != 0 {
						t.Errorf("%+v, want %d pinned and %d tags", got, pinned, tags)
					}
				})
			}
		}
	})
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "registry\tonRegistryDown\tpinned\ttags\tslowest\totherwise")
	for i, kind := range kinds {
		for j, mode := range modes {
			a := found[i][j]
			if a.slowest == 0 {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%d of %d\t%d of %d\t%.2fs\t%s\n", kind.name, mode.name, a.allowed, images, a.tags, images, a.slowest.Seconds(), a.codes)
		}
	}
	_ = w.Flush()
	t.Logf("\n%s", table.String())
}

// whileAway proves images, lets their registry fail, starts the process anew so
// that it knows nothing but what it holds, and asks again.
func whileAway(t *testing.T, fault registry.Fault, down []process.Map, images int) absence {
	t.Helper()
	s := newSite(t, registry.Options{})
	var pinned, tagged []string
	for i := range images {
		tag := fmt.Sprintf("v%d", i)
		key, desc := s.image(t, tag)
		s.sign(t, desc, s.people.acmeSigner, signing.SignOptions{}, nil)
		pinned, tagged = append(pinned, s.Host()+"/app@"+desc.Digest.String()), append(tagged, key)
	}
	_, unsigned := s.image(t, "unsigned")
	stranger := s.Host() + "/app@" + unsigned.Digest.String()
	c := config(t, s)
	c.Cache = process.Map{}
	if down != nil {
		c.Cache["onRegistryDown"] = down
	}
	c.Sections = process.Map{
		"proofs": process.Map{"ttl": "1s", "deniedTTL": "0s", "absentTTL": "0s", "listTTL": "1s"},
		"tags":   process.Map{"ttl": "0s"},
	}
	path := must(c.Write(t.TempDir()))(t)
	binary := must(process.Build(t.Context()))(t)
	p := must(binary.Serve(t.Context(), path))(t)
	all := append(append([]string{stranger}, pinned...), tagged...)
	answer := must(p.Ask(t.Context(), all...))(t)
	for _, key := range append(pinned, tagged...) {
		if end := endOf(t, answer, key); !end.allowed {
			t.Fatalf("%s: %+v", key, end)
		}
	}
	time.Sleep(100 * time.Millisecond) // what was found out is on its way to the disk
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if s.SetIntercept(fault); fault == nil {
		s.Close()
	}
	time.Sleep(1100 * time.Millisecond) // nothing is as young any more as is believed without asking
	p = binary.Start(t, path)
	return absence{}.ask(t, p, pinned, tagged, stranger)
}

func (a absence) ask(t *testing.T, p *process.Process, pinned, tagged []string, stranger string) absence {
	t.Helper()
	for _, set := range []struct {
		keys []string
		into *int
	}{{pinned, &a.allowed}, {tagged, &a.tags}, {[]string{stranger}, &a.unsigned}} {
		began := time.Now()
		answer := must(p.Ask(t.Context(), set.keys...))(t)
		a.slowest = max(a.slowest, time.Since(began))
		for _, key := range set.keys {
			end := endOf(t, answer, key)
			switch {
			case !end.allowed && !strings.Contains(a.codes, end.code):
				a.codes = strings.TrimPrefix(a.codes+", "+end.code, ", ")
			case end.allowed:
				*set.into++
			}
			if item, found := answer.Item(key); found && end.allowed && set.into == &a.allowed && item.Value.Held != nil {
				a.held++
			}
		}
	}
	return a
}

// A process that is started anew with what it held proves pinned images again
// without a request to their registry; then it asks for their lists behind that.
func TestWarmRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{BearerAuth: true})
	var keys []string
	for i := range 10 {
		_, desc := s.image(t, fmt.Sprintf("v%d", i))
		for range 3 {
			s.sign(t, desc, s.people.acmeSigner, signing.SignOptions{}, nil)
		}
		keys = append(keys, s.Host()+"/app@"+desc.Digest.String())
	}
	c := config(t, s)
	c.Cache = process.Map{}
	path := must(c.Write(t.TempDir()))(t)
	binary := must(process.Build(t.Context()))(t)
	for round := range 3 {
		p := must(binary.Serve(t.Context(), path))(t)
		answer := must(p.Ask(t.Context(), keys...))(t)
		for _, key := range keys {
			if end := endOf(t, answer, key); !end.allowed {
				t.Errorf("round %d: %s: %+v", round, key, end)
			}
		}
		asked := s.Stats().Total
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		if (asked == 0) != (round > 0) {
			t.Errorf("round %d: %d requests to the registry", round, asked)
		}
		s.ResetStats()
	}
}
