package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// script brings in objects of all sorts until the disk is gone, and says which of
// them were committed before that.
type script struct {
	small, large, manifest, beyond []byte
}

func newScript() script {
	layer := noise(150<<10, 1)
	return script{
		small: noise(1000, 2), large: layer, beyond: noise(90<<10, 3),
		manifest: []byte(`{"layers":[{"digest":"` + digest.FromBytes(layer).String() + `"}]}`),
	}
}

func (s script) wants() map[*Want][]byte {
	manifest := manifestWant(s.manifest)
	small, large, beyond := blobWant(s.small), blobWant(s.large), blobWant(s.beyond)
	return map[*Want][]byte{&manifest: s.manifest, &small: s.small, &large: s.large, &beyond: s.beyond}
}

var crashAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// run returns what is sure to survive: what was at rest when the disk still was.
func (s script) run(ctx context.Context, folder *disktest.Folder, opts Options, alive func() bool) (committed []Want) {
	c, err := Open(ctx, folder, opts)
	if err != nil {
		return nil
	}
	note := func(want Want) {
		synctest.Wait()
		if alive() {
			committed = append(committed, want)
		}
	}
	get := func(want Want, data []byte) {
		if got, err := read(c.Obtain(ctx, want, newUpstream(data))); err != nil || !bytes.Equal(got, data) {
			panic(fmt.Sprintf("obtain: %d bytes, %v", len(got), err))
		}
		note(want)
	}
	get(manifestWant(s.manifest), s.manifest)
	get(blobWant(s.large), s.large)
	c.SetTag(testScope, "v1", Tag{Descriptor: ocispec.Descriptor{Digest: digest.FromBytes(s.manifest)}, At: crashAt})
	get(blobWant(s.small), s.small)
	c.SetReferrers(testScope, digest.FromBytes(s.manifest), nil, crashAt)
	get(blobWant(s.beyond), s.beyond)
	c.Close()
	return committed
}

// After a crash at any operation nothing wrong is served, and what was committed
// is there: with Full after a power cut, with Fast after a kill.
func TestCrashAtEachOperation(t *testing.T) {
	t.Parallel()
	s := newScript()
	for name, tt := range map[string]struct {
		opts  Options
		crash []disktest.Mode
		sure  bool
	}{
		"full, power cut": {Options{}, []disktest.Mode{disktest.PowerCut(0), disktest.PowerCut(1), disktest.PowerCut(7), disktest.PowerCut(8)}, true},
		"full, kill":      {Options{}, []disktest.Mode{disktest.Kill()}, true},
		"fast, kill":      {Options{Durability: Fast}, []disktest.Mode{disktest.Kill()}, true},
		"fast, power cut": {Options{Durability: Fast}, []disktest.Mode{disktest.PowerCut(0), disktest.PowerCut(1), disktest.PowerCut(7), disktest.PowerCut(8)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for k, ops := 1, 1; k <= ops; k++ {
				synctest.Test(t, func(t *testing.T) {
					folder := disktest.New()
					folder.FailFrom(k, disktest.ErrCrashed)
					committed := s.run(t.Context(), folder, tt.opts, func() bool { return folder.Ops() < k })
					ops = max(ops, folder.Ops())
					for i, mode := range tt.crash {
						s.check(t, folder.Crash(mode), tt.opts, committed, tt.sure)
						if t.Failed() {
							t.Fatalf("crashed at operation %d, mode %d:\n%s", k, i, folder.Log())
						}
					}
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}

func (s script) check(t *testing.T, folder *disktest.Folder, opts Options, committed []Want, sure bool) {
	t.Helper()
	c, err := open(t.Context(), folder, opts, "another boot")
	if err != nil {
		t.Errorf("open after the crash: %v", err)
		return
	}
	defer c.Close()
	for want, data := range s.wants() {
		got, err := read(c.Get(*want))
		switch {
		case errors.Is(err, referrerstore.ErrNotFound):
			for _, sure_ := range committed {
				if sure && sure_ == *want {
					t.Errorf("%d bytes were committed and are not there", len(data))
				}
			}
		case errors.Is(err, referrerstore.ErrDigestMismatch):
			if sure || len(got) > max(0, len(data)-holdBack) {
				t.Errorf("read %d of %d bytes: %v", len(got), len(data), err)
			}
		case err != nil || !bytes.Equal(got, data):
			t.Errorf("%d of %d bytes: %v", len(got), len(data), err)
		}
		mustObtain(t, c, *want, data, newUpstream(data))
		synctest.Wait()
		mustHold(t, c, *want, data)
	}
	if is, known := c.Tag(testScope, "v1"); known && (is.Descriptor.Digest != digest.FromBytes(s.manifest) || !is.At.Equal(crashAt)) {
		t.Errorf("the tag leads to %+v", is)
	}
	folder.List(ingestDir, func(name string, _ bool) error {
		t.Errorf("%s is left", name)
		return nil
	})
}
