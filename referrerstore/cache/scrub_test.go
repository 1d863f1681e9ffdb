package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

func TestScrub(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		opts := quiet()
		opts.ReplicaBytes = 1
		c := mustOpen(t, ctx, folder, opts)
		defer c.Close()
		app := appScope("app")
		put := func(data string) digest.Digest { return mustPut(t, c, app, Blob, []byte(data)) }
		good, wrong, cut, gone, long := put("good"), put("wrong"), put("cut off"), put("gone"), put(strings.Repeat("long", 200_000))
		synctest.Wait()
		folder.Put(c.path(wrong), []byte("wRong"))
		folder.Put(c.path(cut), []byte("cut"))
		if err := folder.Remove(c.path(gone)); err != nil {
			t.Fatal(err)
		}
		foreign := digest.FromString("foreign")
		folder.Put(c.path(foreign), []byte("foreign"))
		folder.Put(blobsDir+"/sha256/README", []byte("hello"))
		time.Sleep(settled)
		fresh := digest.FromString("fresh")
		folder.Put(c.path(fresh), []byte("about to be known"))

		reader, err := c.Get(Want{Scope: app, Digest: long, Kind: Blob, Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		var done, total []int64
		found, err := c.Scrub(ctx, func(d, all int64) { done, total = append(done, d), append(total, all) })
		if err != nil {
			t.Fatal(err)
		}
		want := Scrubbed{Objects: 5, Bytes: found.Bytes, Quarantined: 2, Missing: 1, Foreign: 2}
		if diff := cmp.Diff(want, found); diff != "" || found.Bytes < 800_000 {
			t.Errorf("found (-want +got): %s", diff)
		}
		if len(done) < 5 || !slices.IsSorted(done) || done[len(done)-1] > total[0] {
			t.Errorf("progress %v of %v", done, total)
		}
		for d, held := range map[digest.Digest]bool{good: true, wrong: false, cut: false, gone: false, long: true} {
			if has(c, d) != held {
				t.Errorf("%s: held is %v", d, !held)
			}
		}
		if _, there := folder.Bytes(c.path(fresh)); !there {
			t.Error("a file that has just come was put aside")
		}
		if err := folder.Remove(c.path(fresh)); err != nil {
			t.Fatal(err)
		}
		aside := slices.DeleteFunc(folder.Names(), func(name string) bool { return !strings.HasPrefix(name, quarantineDir+"/") })
		if len(aside) != 4 || c.Stats().Quarantined != 4 {
			t.Errorf("%d put aside: %v", c.Stats().Quarantined, aside)
		}
		if data, err := io.ReadAll(reader); err != nil || len(data) != 800_000 {
			t.Errorf("a reader under way: %d bytes, %v", len(data), err)
		}
		reader.Close()
		synctest.Wait()
		checkIndex(t, c, folder.Names())
		if found, err := c.Scrub(ctx, nil); err != nil || found.Quarantined+found.Missing+found.Foreign != 0 {
			t.Errorf("again: %+v, %v", found, err)
		}
	})
}

// TestScrubWhileRead: what is wrong is put aside though somebody reads it.
func TestScrubWhileRead(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		c := mustOpen(t, ctx, folder, quiet())
		defer c.Close()
		data := bytes.Repeat([]byte("x"), 200_000)
		d := mustPut(t, c, appScope("app"), Blob, data)
		synctest.Wait()
		reader, err := c.Get(Want{Scope: appScope("app"), Digest: d, Kind: Blob, Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		folder.Put(c.path(d), append(data[:len(data)-1:len(data)-1], 'y'))
		if found, err := c.Scrub(ctx, nil); err != nil || found.Quarantined != 1 || has(c, d) {
			t.Errorf("%+v, %v", found, err)
		}
		if c.index.bytes.Load() != 0 {
			t.Errorf("%d bytes are held", c.index.bytes.Load())
		}
	})
}

func TestScrubOfAFailingDisk(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		c := mustOpen(t, ctx, folder, quiet())
		defer c.Close()
		d := mustPut(t, c, appScope("app"), Blob, []byte("content"))
		synctest.Wait()
		folder.FailAt(folder.Ops()+1, syscall.EIO)
		if _, err := c.Scrub(ctx, nil); !errors.Is(err, syscall.EIO) || !has(c, d) {
			t.Errorf("%v, held %v", err, has(c, d))
		}
		folder.Heal()
		stopped, stop := context.WithCancel(ctx)
		stop()
		if _, err := c.Scrub(stopped, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("stopped: %v", err)
		}
	})
}

// TestScrubLoop proves what was not since an unclean end, at its rate, and looks at
// all again after a day.
func TestScrubLoop(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		opts := quiet()
		opts.ScrubRate = 1 << 20
		c := mustOpen(t, ctx, folder, opts)
		var all []digest.Digest
		for i := range 4 {
			all = append(all, mustPut(t, c, appScope("app"), Blob, bytes.Repeat([]byte{byte(i)}, 1<<20)))
		}
		synctest.Wait()
		crashed := folder.Crash(disktest.Kill())
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = mustOpen(t, ctx, crashed, opts)
		defer c.Close()
		if got := c.Stats().Unverified; got != 4 {
			t.Fatalf("%d are not verified after a crash", got)
		}
		time.Sleep(2 * time.Second)
		if got := c.Stats().Unverified; got == 0 || got == 4 {
			t.Errorf("%d of 4 MiB are not verified after 2 s at 1 MiB/s", got)
		}
		time.Sleep(10 * time.Second)
		if got := c.Stats().Unverified; got != 0 {
			t.Errorf("%d are not verified", got)
		}
		crashed.Put(c.path(all[0]), bytes.Repeat([]byte{9}, 1<<20))
		time.Sleep(scrubDelay)
		if has(c, all[0]) || !has(c, all[1]) {
			t.Error("a day later: what is wrong was not found")
		}
		crashed.Put(c.path(all[1]), bytes.Repeat([]byte{9}, 1<<20))
		time.Sleep(scrubInterval + time.Minute)
		if has(c, all[1]) {
			t.Error("a week later: what is wrong was not found")
		}
	})
}

func TestItems(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		app, mine := appScope("app"), Scope{Registry: "r.io", Repository: "app", Identity: "me"}
		layer := mustPut(t, c, app, Blob, []byte("layer"))
		first := manifest(false, "first", "", layer)
		second := manifest(false, "second", "", layer, digest.FromString("not held"))
		whole := manifest(true, "index", "", mustPut(t, c, app, Manifest, first), mustPut(t, c, app, Manifest, second))
		index := mustPut(t, c, app, Manifest, whole)
		mustPut(t, c, mine, Manifest, whole)
		lone := mustPut(t, c, app, Manifest, manifest(false, "lone", ""))
		c.SetTag(app, "v2", tagTo(index))
		c.SetTag(app, "v1", tagTo(index))
		if err := c.Pin(ctx, Pin{Registry: "r.io", Repository: "app", Tag: "v1"}); err != nil {
			t.Fatal(err)
		}
		now := time.Now().UTC()
		total := int64(len("layer") + len(first) + len(second) + len(whole))
		items := func(f Filter) (all []Item) {
			all = slices.SortedFunc(c.Items(f), func(a, b Item) int {
				return strings.Compare(a.Scope.Identity+string(a.Digest), b.Scope.Identity+string(b.Digest))
			})
			return all
		}
		match, err := ParseMatch("r.io/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		item := Item{
			Scope: app, Digest: index, Tags: []string{"v1", "v2"}, Kind: "index", MediaType: ocispec.MediaTypeImageManifest,
			Size: int64(len(whole)), Total: total, Created: now, Pulled: now, Pinned: true,
		}
		if diff := cmp.Diff([]Item{item}, items(Filter{Match: match})); diff != "" {
			t.Errorf("by tag (-want +got): %s", diff)
		}
		if got := items(Filter{}); len(got) != 3 || got[0].Scope != mine || len(got[0].Tags) != 0 || !slices.ContainsFunc(got, func(i Item) bool { return i.Digest == lone && i.Total == i.Size && !i.Pinned }) {
			t.Errorf("roots: %+v", got)
		}
		if got := items(Filter{All: true}); len(got) != 6 {
			t.Errorf("all: %+v", got)
		}
		for range c.Items(Filter{All: true}) {
			break
		}
		stats := c.Stats()
		if stats.Manifests != 4 || stats.Blobs != 1 || stats.Pins != 1 || stats.Bytes != total+int64(len(manifest(false, "lone", ""))) || stats.State != stateOK || stats.Unverified != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// TestForgetEvidence: what was said long ago of content that is not held goes, with
// the lists that nobody knows any more.
func TestForgetEvidence(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		opts := quiet()
		c := mustOpen(t, ctx, folder, opts)
		defer c.Close()
		app, pinned := appScope("app"), appScope("pinned")
		held := mustPut(t, c, app, Manifest, manifest(false, "held", ""))
		unheld := digest.FromString("not held")
		if err := c.Pin(ctx, Pin{Registry: "r.io", Repository: "pinned", Tag: "other"}); err != nil {
			t.Fatal(err)
		}
		listOf := func(text string) []ocispec.Descriptor {
			return []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(text), Size: 1}}
		}
		at := time.Now().Add(2*time.Hour - maxEvidenceAge)
		long := func(d digest.Digest) Tag {
			is := tagTo(d)
			is.At = at
			return is
		}
		for _, scope := range []Scope{app, pinned} {
			c.SetTag(scope, "held", long(held))
			c.SetTag(scope, "unheld", long(unheld))
			c.SetSubject(scope, long(unheld))
			c.SetReferrers(scope, unheld, listOf(scope.Repository), at)
		}
		c.SetReferrers(app, held, listOf("superseded"), at)
		c.SetReferrers(app, held, listOf("of held"), at.Add(time.Minute))
		synctest.Wait()
		if got := c.Stats().Lists; got != 4 {
			t.Fatalf("%d lists", got)
		}
		time.Sleep(time.Hour)
		c.forgetEvidence(ctx)
		if _, known := c.Tag(app, "unheld"); !known || c.Stats().Lists != 3 {
			t.Fatalf("an hour before: tag %v, %d lists", known, c.Stats().Lists)
		}
		time.Sleep(2 * time.Hour)
		c.forgetEvidence(ctx)
		for _, tt := range []struct {
			scope Scope
			tag   string
			want  bool
		}{{app, "held", true}, {app, "unheld", false}, {pinned, "held", true}, {pinned, "unheld", true}} {
			if _, known := c.Tag(tt.scope, tt.tag); known != tt.want {
				t.Errorf("%s of %s: known is %v", tt.tag, tt.scope.Repository, known)
			}
		}
		for scope, want := range map[Scope]bool{app: false, pinned: true} {
			_, subject := c.Subject(scope, unheld)
			_, _, list := c.Referrers(scope, unheld)
			if subject != want || list != want {
				t.Errorf("%s: subject %v, list %v", scope.Repository, subject, list)
			}
		}
		if _, _, known := c.Referrers(app, held); !known || c.Stats().Lists != 2 {
			t.Errorf("of what is held: %v, %d lists", known, c.Stats().Lists)
		}
		synctest.Wait()
		checkIndex(t, c, folder.Names())
	})
}

// TestTooMuchEvidence: the oldest goes.
func TestTooMuchEvidence(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		c := mustOpen(t, ctx, disktest.New(), quiet())
		defer c.Close()
		app := appScope("app")
		for i := range 100 {
			c.SetSubject(app, tagTo(digest.FromBytes([]byte{byte(i)})))
			time.Sleep(time.Second)
		}
		f := forgetting{cache: c, keeper: newKeeper(c.index, &c.pins, nil), old: time.Now().Add(-maxEvidenceAge)}
		f.count(100, 90)
		f.forget(ctx, c.index.scope(app))
		if f.forgotten != 0 {
			t.Errorf("%d forgotten of what is not too many", f.forgotten)
		}
		f.count(99, 90)
		f.forget(ctx, c.index.scope(app))
		_, first := c.Subject(app, digest.FromBytes([]byte{0}))
		_, last := c.Subject(app, digest.FromBytes([]byte{99}))
		if f.forgotten != 10 || first || !last {
			t.Errorf("%d forgotten, first %v, last %v", f.forgotten, first, last)
		}
	})
}
