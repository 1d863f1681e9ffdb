package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

func TestPruneTakesAlong(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		c := mustOpen(t, ctx, folder, quiet())
		defer c.Close()
		app := appScope("app")
		base := mustPut(t, c, app, Blob, []byte("base"))
		own := mustPut(t, c, app, Blob, []byte("own"))
		image := mustPut(t, c, app, Manifest, manifest(false, "image", "", own, base))
		index := mustPut(t, c, app, Manifest, manifest(true, "index", "", image))
		payload := mustPut(t, c, app, Blob, []byte("payload"))
		signature := mustPut(t, c, app, Manifest, manifest(false, "signature", image, payload))
		other := mustPut(t, c, app, Manifest, manifest(false, "other", "", base))
		c.SetTag(app, "v1", tagTo(index))
		time.Sleep(time.Hour)
		readAll(t, c, app, Manifest, other)
		time.Sleep(time.Hour)

		var named []Item
		req := PruneRequest{PulledBefore: time.Now().Add(-90 * time.Minute), DryRun: true}
		dry, err := c.Prune(ctx, req, func(i Item) { named = append(named, i) })
		if err != nil || !has(c, index) {
			t.Fatalf("dry run: %v, held %v", err, has(c, index))
		}
		req.DryRun = false
		done := mustPrune(t, c, req)
		dry.DryRun = false
		if diff := cmp.Diff(dry, done); diff != "" {
			t.Errorf("the dry run said otherwise (-dry +real): %s", diff)
		}
		if done.Roots != 1 || done.Objects != 5 {
			t.Errorf("pruned %+v", done)
		}
		if len(named) != 1 || named[0].Digest != index || named[0].Kind != "index" || cmp.Diff(named[0].Tags, []string{"v1"}) != "" {
			t.Errorf("named %+v", named)
		}
		for _, d := range []digest.Digest{index, image, own, signature, payload} {
			if has(c, d) {
				t.Errorf("%s is still held", d)
			}
		}
		if !has(c, other) || !has(c, base) {
			t.Error("what another image lists has gone")
		}
		if _, known := c.Tag(app, "v1"); known {
			t.Error("the tag is still known")
		}
		synctest.Wait()
		checkIndex(t, c, folder.Names())
	})
}

// TestMaxAge holds that cut-offs are worked out anew in each run (W14).
func TestMaxAge(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		opts := quiet()
		opts.MaxAge, opts.PruneInterval = time.Hour, time.Minute
		c := mustOpen(t, ctx, disktest.New(), opts)
		defer c.Close()
		app := appScope("app")
		for round := range 3 {
			d := mustPut(t, c, app, Manifest, manifest(false, fmt.Sprint(round), ""))
			time.Sleep(59 * time.Minute)
			if !has(c, d) {
				t.Fatalf("round %d: gone before its time", round)
			}
			readAll(t, c, app, Manifest, d)
			time.Sleep(59 * time.Minute)
			if !has(c, d) {
				t.Fatalf("round %d: gone an hour after it came, though it was pulled since", round)
			}
			time.Sleep(3 * time.Minute)
			if has(c, d) {
				t.Fatalf("round %d: still held", round)
			}
		}
	})
}

func TestMaxBytes(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		const size, number = 10_000, 100
		opts := quiet()
		opts.MaxBytes, opts.PruneInterval = size*number, time.Minute
		c := mustOpen(t, ctx, disktest.New(), opts)
		defer c.Close()
		app := appScope("app")
		var all []digest.Digest
		add := func(n int) {
			for range n {
				layer := mustPut(t, c, app, Blob, bytes.Repeat([]byte{byte(len(all))}, size))
				mustPut(t, c, app, Manifest, manifest(false, "image", "", layer))
				all = append(all, layer)
				time.Sleep(time.Minute + time.Second)
			}
		}
		add(85)
		time.Sleep(2 * time.Hour)
		if !has(c, all[0]) {
			t.Fatal("pruned below nine tenths")
		}
		add(5)
		time.Sleep(11 * time.Minute)
		// What came after it was begun, at most two images, is on top.
		if got := c.index.bytes.Load(); got > opts.MaxBytes/10*8+3*size || got < opts.MaxBytes/10*7 {
			t.Errorf("%d bytes are held, want about %d", got, opts.MaxBytes/10*8)
		}
		if has(c, all[0]) || !has(c, all[len(all)-1]) {
			t.Error("it is not the longest unused that has gone")
		}
	})
}

func TestToFree(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		folder.Capacity(1 << 20)
		c := mustOpen(t, ctx, folder, quiet())
		defer c.Close()
		app := appScope("app")
		for i := range 8 {
			mustPut(t, c, app, Blob, bytes.Repeat([]byte{byte(i)}, 100_000))
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Hour)
		free, _, _ := folder.Free()
		done := mustPrune(t, c, PruneRequest{ToFree: free + 250_000})
		if done.Objects != 3 {
			t.Errorf("pruned %+v, want 3 objects", done)
		}
		if now, _, _ := folder.Free(); now < free+250_000 {
			t.Errorf("%d bytes are free, had %d", now, free)
		}
	})
}

func TestZeroRequestDropsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		d := mustPut(t, c, appScope("app"), Manifest, manifest(false, "image", ""))
		time.Sleep(time.Hour)
		if done := mustPrune(t, c, PruneRequest{}); done != (Pruned{}) || !has(c, d) {
			t.Errorf("pruned %+v", done)
		}
	})
}

func TestLease(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		app := appScope("app")
		layer := mustPut(t, c, app, Blob, []byte("layer"))
		image := mustPut(t, c, app, Manifest, manifest(false, "image", "", layer))
		time.Sleep(9 * time.Minute)
		readAll(t, c, app, Manifest, image)
		time.Sleep(9 * time.Minute)
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Kept != 1 || done.Objects != 0 {
			t.Fatalf("within its lease: %+v", done)
		}
		readAll(t, c, app, Blob, layer) // its only image is in use
		time.Sleep(9 * time.Minute)
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Kept != 1 || !has(c, layer) {
			t.Fatalf("while its layers are pulled: %+v", done)
		}
		time.Sleep(2 * time.Minute)
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Roots != 1 || done.Objects != 2 {
			t.Fatalf("after its lease: %+v", done)
		}
	})
}

// TestReadersFinish: what is being read stays, and is read to its end.
func TestReadersFinish(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		c := mustOpen(t, ctx, folder, quiet())
		defer c.Close()
		app := appScope("app")
		data := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
		layer := mustPut(t, c, app, Blob, data)
		image := mustPut(t, c, app, Manifest, manifest(false, "image", "", layer))
		synctest.Wait()
		content, err := c.Get(Want{Scope: app, Digest: layer, Kind: Blob, Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1000)
		if _, err := io.ReadFull(content, got); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Objects != 1 || has(c, image) || !has(c, layer) {
			t.Fatalf("pruned %+v", done)
		}
		rest, err := io.ReadAll(content)
		if err != nil || !bytes.Equal(append(got, rest...), data) {
			t.Fatalf("read %d bytes, %v", len(got)+len(rest), err)
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Objects != 1 || has(c, layer) {
			t.Fatalf("once it was read: %+v", done)
		}
		synctest.Wait()
		checkIndex(t, c, folder.Names())
	})
}

func TestPinsAndKeep(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		opts := quiet()
		opts.Keep = func(_, repository string) bool { return repository == "kept" }
		c := mustOpen(t, ctx, folder, opts)
		app := appScope("app")
		put := func(scope Scope, name string, subject digest.Digest) digest.Digest {
			return mustPut(t, c, scope, Manifest, manifest(false, name, subject, mustPut(t, c, scope, Blob, []byte(name))))
		}
		byDigest, byTag, moved, kept := put(app, "by digest", ""), put(app, "by tag", ""), put(app, "moved", ""), put(appScope("kept"), "kept", "")
		child := put(app, "child", "")
		signature := put(app, "signature", child) // of what a pinned index lists, which need not be held
		tagged := put(app, "tagged signature", "")
		index := mustPut(t, c, app, Manifest, manifest(true, "index", "", child))
		c.SetTag(app, "v1", tagTo(moved))
		c.SetTag(app, "v1", tagTo(byTag))
		c.SetTag(app, "sha256-"+byTag.Encoded()+".sig", tagTo(tagged))
		for _, pin := range []Pin{
			{Registry: "r.io", Repository: "app", Tag: "v1"},
			{Registry: "r.io", Repository: "app", Digest: byDigest},
			{Registry: "r.io", Repository: "app", Digest: index},
		} {
			if err := c.Pin(ctx, pin); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Hour)
		pins := c.Pins()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = mustOpen(t, ctx, folder, opts) // pins are there after a restart
		defer c.Close()
		if diff := cmp.Diff(pins, c.Pins()); diff != "" || len(pins) != 3 {
			t.Fatalf("pins of %d after a restart: %s", len(pins), diff)
		}
		if done := mustPrune(t, c, PruneRequest{All: true}); has(c, moved) || done.Roots != 1 || done.Objects != 2 {
			t.Errorf("pruned %+v", done)
		}
		for name, d := range map[string]digest.Digest{
			"by digest": byDigest, "by tag": byTag, "kept": kept, "child": child, "signature": signature, "tagged": tagged, "index": index,
		} {
			if !has(c, d) {
				t.Errorf("%s has gone", name)
			}
		}
		if removed, err := c.Unpin(ctx, pins[0]); !removed || err != nil {
			t.Fatal(removed, err)
		}
		if removed, err := c.Unpin(ctx, pins[0]); removed || err != nil {
			t.Fatal(removed, err)
		}
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Objects == 0 {
			t.Error("nothing goes that is pinned no more")
		}
	})
}

func TestPinRefuses(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		c := mustOpen(t, ctx, folder, quiet())
		defer c.Close()
		for _, pin := range []Pin{
			{},
			{Registry: "r.io", Repository: "app"},
			{Registry: "r.io", Tag: "v1"},
			{Repository: "app", Tag: "v1"},
			{Registry: "r.io", Repository: "app", Digest: "sha256:short"},
			{Registry: "r.io", Repository: "app", Tag: "v1", Digest: digest.FromString("x")},
		} {
			if err := c.Pin(ctx, pin); !errors.Is(err, ErrPin) {
				t.Errorf("%+v: %v", pin, err)
			}
		}
		folder.FailFrom(1, disktest.ErrCrashed)
		if err := c.Pin(ctx, Pin{Registry: "r.io", Repository: "app", Tag: "v1"}); err == nil || len(c.Pins()) != 0 {
			t.Errorf("the disk did not take it: %v, %d pins", err, len(c.Pins()))
		}
		folder.Heal()
	})
}

// TestSignatureGoesNoSooner: an artifact is used as long as its subject is.
func TestSignatureGoesNoSooner(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		opts := quiet()
		opts.MaxAge, opts.PruneInterval = time.Hour, time.Minute
		c := mustOpen(t, ctx, disktest.New(), opts)
		defer c.Close()
		app := appScope("app")
		image := mustPut(t, c, app, Manifest, manifest(false, "image", ""))
		index := mustPut(t, c, app, Manifest, manifest(true, "index", "", image))
		ofImage := mustPut(t, c, app, Manifest, manifest(false, "of image", image))
		ofIndex := mustPut(t, c, app, Manifest, manifest(false, "of index", index))
		for range 5 {
			time.Sleep(50 * time.Minute)
			readAll(t, c, app, Manifest, index)
			if !has(c, ofImage) || !has(c, ofIndex) {
				t.Fatal("a signature was dropped before its image")
			}
		}
		time.Sleep(62 * time.Minute)
		for _, d := range []digest.Digest{image, index, ofImage, ofIndex} {
			if has(c, d) {
				t.Errorf("%s is still held", d)
			}
		}
	})
}

// TestRoundOfSubjectsGoes: manifests that hold each other, by what they list and
// what they refer to, are dropped nevertheless.
func TestRoundOfSubjectsGoes(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		app := appScope("app")
		s := mustPut(t, c, app, Manifest, manifest(false, "s", ""))
		u := mustPut(t, c, app, Manifest, manifest(false, "u", ""))
		mustPut(t, c, app, Manifest, manifest(true, "r", s, u))
		mustPut(t, c, app, Manifest, manifest(true, "q", u, s))
		time.Sleep(time.Hour)
		if done := mustPrune(t, c, PruneRequest{All: true}); done.Objects != 4 {
			t.Errorf("pruned %+v", done)
		}
	})
}

func TestMatchTakesNothingFromOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		app, other := appScope("app"), appScope("other")
		image := manifest(false, "image", "")
		d := mustPut(t, c, app, Manifest, image)
		c.SetTag(app, "v1", tagTo(d))
		c.SetTag(app, "v2", tagTo(d))
		mine := mustPut(t, c, app, Manifest, manifest(false, "mine", ""))
		c.SetTag(app, "v3", tagTo(mine))
		shared := mustPut(t, c, app, Manifest, manifest(false, "shared", ""))
		mustPut(t, c, other, Manifest, manifest(false, "shared", ""))
		time.Sleep(time.Hour)
		prune := func(pattern string) Pruned {
			match, err := ParseMatch(pattern)
			if err != nil {
				t.Fatal(err)
			}
			return mustPrune(t, c, PruneRequest{Match: match})
		}
		if done := prune("r.io/app:v1"); done.Objects != 0 {
			t.Errorf("another tag led to it: %+v", done)
		}
		if done := prune("r.io/app:v[1-3]"); done.Objects != 0 {
			t.Errorf("that is no pattern: %+v", done)
		}
		if done := prune("r.io/app:v*"); done.Objects != 2 || has(c, d) || has(c, mine) || !has(c, shared) {
			t.Errorf("both tags: %+v", done)
		}
		if done := prune("r.io/app"); done.Objects != 0 || !has(c, shared) {
			t.Errorf("another repository has it: %+v", done)
		}
		if done := prune("r.io/**"); done.Objects != 1 {
			t.Errorf("all repositories: %+v", done)
		}
	})
}

// TestOrphans: a blob may wait for its manifest, but not when there is no other
// way to make room.
func TestOrphans(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		app := appScope("app")
		old := mustPut(t, c, app, Blob, []byte("old"))
		time.Sleep(50 * time.Minute)
		image := mustPut(t, c, app, Manifest, manifest(false, "image", ""))
		time.Sleep(5 * time.Minute)
		if done := mustPrune(t, c, PruneRequest{PulledBefore: time.Now()}); done.Objects != 0 || done.Kept != 2 {
			t.Errorf("within their grace: %+v", done)
		}
		if done := mustPrune(t, c, PruneRequest{ToBytes: 1}); has(c, old) || !has(c, image) || done.Objects != 1 {
			t.Errorf("when room was needed: %+v", done)
		}
	})
}
