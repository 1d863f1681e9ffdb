package oras

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// pages makes a registry answer the referrers API with pages of its own.
func pages(r *fakeRegistry, answer func(w http.ResponseWriter, page int)) {
	var asked atomic.Int32
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/referrers/") {
			return false
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		answer(w, int(asked.Add(1))-1)
		return true
	})
}

func indexOf(t *testing.T, entries ...ocispec.Descriptor) []byte {
	t.Helper()
	data, err := json.Marshal(ocispec.Index{Manifests: entries})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func someEntries(from, n int) []ocispec.Descriptor {
	entries := make([]ocispec.Descriptor, n)
	for i := range entries {
		entries[i] = ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Size: 100, ArtifactType: "example/a",
			Digest: digest.FromString(fmt.Sprint("entry ", from+i)),
		}
	}
	return entries
}

func TestReferrersLists(t *testing.T) {
	t.Parallel()
	const next = `</v2/app/referrers/next>; rel="next"`
	link := func(w http.ResponseWriter) { w.Header().Set("Link", next) }
	bad := func(change func(*ocispec.Descriptor)) []ocispec.Descriptor {
		entries := someEntries(0, 2)
		change(&entries[1])
		return entries
	}
	huge := strings.Repeat("a", 2*maxAnnotationBytes)
	for _, tt := range []struct {
		name    string
		answer  func(t *testing.T, w http.ResponseWriter, page int)
		entries int
		err     error
		asked   int // at most
	}{
		{"two pages", func(t *testing.T, w http.ResponseWriter, page int) {
			if page == 0 {
				link(w)
			}
			_, _ = w.Write(indexOf(t, someEntries(page*10, 10)...))
		}, 20, nil, 2},
		{"duplicates", func(t *testing.T, w http.ResponseWriter, page int) {
			if page == 0 {
				link(w)
			}
			_, _ = w.Write(indexOf(t, append(someEntries(0, 10), someEntries(5, 10)...)...))
		}, 15, nil, 2},
		{"endless pages", func(t *testing.T, w http.ResponseWriter, page int) {
			link(w)
			_, _ = w.Write(indexOf(t, someEntries(page, 1)...))
		}, maxPages, referrerstore.ErrTooManyReferrers, maxPages},
		{"endless empty pages", func(t *testing.T, w http.ResponseWriter, _ int) {
			link(w)
			_, _ = w.Write(indexOf(t))
		}, 0, referrerstore.ErrTooManyReferrers, maxPages},
		{"too many entries", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, someEntries(0, maxEntries+1)...))
		}, maxEntries, referrerstore.ErrTooManyReferrers, 1},
		{"as many entries as may be", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, someEntries(0, maxEntries)...))
		}, maxEntries, nil, 1},
		{"announced too large", func(_ *testing.T, w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Length", fmt.Sprint(maxPageBytes+1))
			_, _ = io.WriteString(w, "{")
		}, 0, referrerstore.ErrTooManyReferrers, 1},
		{"too large", func(_ *testing.T, w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"x":"`+strings.Repeat("a", maxPageBytes)+`","manifests":[]}`)
		}, 0, referrerstore.ErrTooManyReferrers, 1},
		{"too many values", func(_ *testing.T, w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"manifests":[{}`+strings.Repeat(",{}", maxPageMarks)+`]}`)
		}, 0, referrerstore.ErrTooManyReferrers, 1},
		{"gone after the first page", func(t *testing.T, w http.ResponseWriter, page int) {
			if page > 0 {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			link(w)
			_, _ = w.Write(indexOf(t, someEntries(0, 1)...))
		}, 1, referrerstore.ErrProtocol, 2},
		{"gone after an empty first page", func(t *testing.T, w http.ResponseWriter, page int) {
			if page > 0 {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			link(w)
			_, _ = w.Write(indexOf(t))
		}, 0, referrerstore.ErrProtocol, 2},
		{"broken off", func(t *testing.T, w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Length", "5000")
			_, _ = w.Write(indexOf(t, someEntries(0, 1)...)[:50])
		}, 0, referrerstore.ErrUnavailable, 1},
		{"no JSON", func(_ *testing.T, w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"manifests":[`)
		}, 0, referrerstore.ErrProtocol, 1},
		{"link elsewhere", func(t *testing.T, w http.ResponseWriter, _ int) {
			w.Header().Set("Link", `<http://169.254.169.254/latest>; rel="next"`)
			_, _ = w.Write(indexOf(t, someEntries(0, 1)...))
		}, 1, referrerstore.ErrProtocol, 1},
		{"sha384", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, bad(func(d *ocispec.Descriptor) { d.Digest = digest.SHA384.FromString("x") })...))
		}, 1, referrerstore.ErrProtocol, 1},
		{"no digest", func(_ *testing.T, w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, `{"manifests":[null]}`)
		}, 0, referrerstore.ErrProtocol, 1},
		{"negative size", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, bad(func(d *ocispec.Descriptor) { d.Size = -1 })...))
		}, 1, referrerstore.ErrProtocol, 1},
		{"long type", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, bad(func(d *ocispec.Descriptor) { d.ArtifactType = huge })...))
		}, 1, referrerstore.ErrProtocol, 1},
		{"sha512", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, bad(func(d *ocispec.Descriptor) { d.Digest = digest.SHA512.FromString("x") })...))
		}, 2, nil, 1},
		{"large annotations", func(t *testing.T, w http.ResponseWriter, _ int) {
			_, _ = w.Write(indexOf(t, bad(func(d *ocispec.Descriptor) { d.Annotations = map[string]string{"a": huge} })...))
		}, 2, nil, 1},
		{"forbidden", func(_ *testing.T, w http.ResponseWriter, _ int) { w.WriteHeader(http.StatusForbidden) }, 0, referrerstore.ErrAuthDenied, 1},
		{"limited", func(_ *testing.T, w http.ResponseWriter, _ int) { w.WriteHeader(http.StatusTooManyRequests) }, 0, referrerstore.ErrRateLimited, limitedAttempts},
		{"down", func(_ *testing.T, w http.ResponseWriter, _ int) { w.WriteHeader(http.StatusBadGateway) }, 0, referrerstore.ErrUnavailable, failedAttempts},
		{"unknown repository", func(_ *testing.T, w http.ResponseWriter, _ int) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		}, 0, referrerstore.ErrNotFound, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registryOptions{})
			subject := r.image(t, "app", "v1")
			pages(r, func(w http.ResponseWriter, page int) { tt.answer(t, w, page) })
			budget := referrerstore.NewBudget(64 << 20)
			store := newStore(t, Options{}, Deps{Budget: budget}, r)
			ctx := t.Context()
			if errors.Is(tt.err, referrerstore.ErrRateLimited) {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second) // it never ends otherwise
				defer cancel()
			}
			list, err := collect(ctx, store, subject)
			if len(list) != tt.entries || !errors.Is(err, tt.err) {
				t.Errorf("%d entries, %v; want %d, %v", len(list), err, tt.entries, tt.err)
			}
			if n := r.count("/referrers/"); n > tt.asked {
				t.Errorf("%d requests, want at most %d", n, tt.asked)
			}
			for _, desc := range list {
				if len(desc.Annotations["a"]) > maxAnnotationBytes {
					t.Errorf("annotations of %d bytes are kept", len(desc.Annotations["a"]))
				}
			}
			if held := budget.InUse(); held != 0 {
				t.Errorf("%d bytes of the budget are still held", held)
			}
		})
	}
}

// Entries are handed out while nothing is held: neither bytes of the budget nor
// a request's slot.
func TestReferrersHoldNothing(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	subject := r.image(t, "app", "v1")
	want := r.referrer(t, subject, "example/a", "a")
	budget := referrerstore.NewBudget(1 << 20)
	store := newStore(t, Options{}, Deps{Budget: budget}, r)
	for desc, err := range store.Referrers(t.Context(), subject) {
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, desc); diff != "" {
			t.Error(diff)
		}
		if held := budget.InUse(); held != 0 {
			t.Errorf("%d bytes are held", held)
		}
		if n := underWay(store); n != 0 {
			t.Errorf("%d requests count as under way", n)
		}
	}
}

func TestReferrersWithoutBudget(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	subject := r.image(t, "app", "v1")
	pages(r, func(w http.ResponseWriter, _ int) {
		_, _ = w.Write(indexOf(t, someEntries(0, 900)...))
	})
	budget := referrerstore.NewBudget(128 << 10)
	store := newStore(t, Options{}, Deps{Budget: budget}, r)
	if list, err := collect(t.Context(), store, subject); !errors.Is(err, referrerstore.ErrBusy) {
		t.Errorf("%d entries, %v; want ErrBusy", len(list), err)
	}
	if held := budget.InUse(); held != 0 {
		t.Errorf("%d bytes of the budget are still held", held)
	}
}

// Not parallel, because it looks at the heap of the process. Without bounds
// these lists would decode to 300 MiB each.
func TestHostilePagesStayInBounds(t *testing.T) { //nolint:paralleltest // see above
	const lists = 48
	r := newRegistry(t, registryOptions{})
	subject := r.image(t, "app", "v1")
	bodies := [][]byte{
		[]byte(`{"manifests":[{}` + strings.Repeat(",{}", maxPageBytes/3) + `]}`),
		[]byte(`{"manifests":[{"annotations":{"a":"` + strings.Repeat("b", maxPageBytes-100) + `"}}]}`),
		[]byte(`{"manifests":[{"urls":[""` + strings.Repeat(`,""`, maxPageBytes/3) + `]}]}`),
	}
	pages(r, func(w http.ResponseWriter, page int) {
		w.Header().Set("Link", `</v2/app/referrers/next>; rel="next"`)
		_, _ = w.Write(bodies[page%len(bodies)])
	})
	budget := referrerstore.NewBudget(32 << 20)
	store := newStore(t, Options{}, Deps{Budget: budget}, r)

	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	done := make(chan struct{})
	var peak, held atomic.Int64
	var sampler errgroup.Group
	sampler.Go(func() error {
		for {
			select {
			case <-done:
				return nil
			case <-time.After(2 * time.Millisecond):
				var now runtime.MemStats
				runtime.GC() // what is alive counts
				runtime.ReadMemStats(&now)
				peak.Store(max(peak.Load(), int64(now.HeapAlloc)-int64(before.HeapAlloc)))
				held.Store(max(held.Load(), budget.InUse()))
			}
		}
	})
	var group errgroup.Group
	for range lists {
		group.Go(func() error {
			_, err := collect(t.Context(), store, subject)
			for _, want := range []error{referrerstore.ErrTooManyReferrers, referrerstore.ErrBusy, referrerstore.ErrProtocol} {
				if errors.Is(err, want) {
					return nil
				}
			}
			return fmt.Errorf("not refused: %w", err)
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	close(done)
	_ = sampler.Wait()
	t.Logf("heap grew by %d MiB, the budget held %d MiB", peak.Load()>>20, held.Load()>>20)
	if held.Load() > budget.Size() || budget.InUse() != 0 {
		t.Errorf("the budget held %d bytes of %d and holds %d", held.Load(), budget.Size(), budget.InUse())
	}
	// The server of the test, and connections, are not in the budget.
	if limit := 2 * budget.Size(); peak.Load() > limit {
		t.Errorf("the heap grew by %d bytes, want at most %d", peak.Load(), limit)
	}
}

func FuzzPageScan(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"a\"{,[b"},{}]}`), 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		whole, parts := &pageBody{page: &page{}}, &pageBody{page: &page{}}
		whole.scan(data)
		cut = min(max(cut, 0), len(data))
		parts.scan(data[:cut])
		parts.scan(data[cut:])
		if listed := bytes.Contains(data, []byte(listKey)); (whole.page.lists == 1) != listed || (parts.page.lists == 1) != listed {
			t.Errorf("list %v, seen %d and %d", listed, whole.page.lists, parts.page.lists)
		}
		if whole.marks != parts.marks {
			t.Errorf("%d marks in one piece, %d in two", whole.marks, parts.marks)
		}
		var index ocispec.Index
		if json.Unmarshal(data, &index) == nil && int64(len(index.Manifests)) > whole.marks {
			t.Errorf("%d entries of %d marks", len(index.Manifests), whole.marks)
		}
	})
}

// An answer that is no list is not an empty one: absence would be a verdict.
func TestWhatIsNoListIsNotEmpty(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, contentType, body string
		valid                   bool
	}{
		{"an empty list", ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`, true},
		{"a null list", ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":null}`, true},
		{"an index without the field", ocispec.MediaTypeImageIndex, `{"schemaVersion":2}`, false},
		{"a token", ocispec.MediaTypeImageIndex, `{"token":"x"}`, false},
		{"a page for people", "text/html", `<html>log in</html>`, false},
		{"another JSON", "application/json", `{"manifests":[]}`, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registryOptions{})
			subject := r.image(t, "app", "v1")
			pages(r, func(w http.ResponseWriter, _ int) {
				w.Header().Set("Content-Type", test.contentType)
				_, _ = io.WriteString(w, test.body)
			})
			list, err := collect(t.Context(), newStore(t, Options{}, Deps{}, r), subject)
			if len(list) != 0 || (err == nil) != test.valid || (err != nil && !errors.Is(err, referrerstore.ErrProtocol)) {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}
