package cache

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// However much many manifests at once list, the journal takes it.
func TestLargeRecordsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		on := make(chan struct{})
		folder.Before(func(op disktest.Op) error {
			if op.Kind == "create" {
				<-on
			}
			return nil
		})
		var all []item
		for i := range 2 * writeBatch {
			m := ocispec.Manifest{}
			for j := range maxListed {
				m.Layers = append(m.Layers, ocispec.Descriptor{Digest: digest.SHA512.FromString(fmt.Sprint(i, j))})
			}
			data, _ := json.Marshal(struct {
				Layers []ocispec.Descriptor `json:"layers"`
			}{m.Layers})
			it := served(data, Manifest)
			all = append(all, it)
			if err := c.Put(it.want, data); err != nil {
				t.Fatal(err)
			}
		}
		close(on)
		synctest.Wait()
		if state, problem := c.health.state(); state != stateOK {
			t.Errorf("state %s: %s", state, problem)
		}
		again := openCache(t, folder.Crash(disktest.Kill()), Options{})
		for _, it := range all {
			mustHold(t, again, it.want, it.data)
		}
		again.Close()
		c.Close()
	})
}

// One scope more takes one grant more in the journal, however many there are.
func TestJournalOfManyScopes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openCache(t, disktest.New(), Options{})
		data := noise(100<<10, 1)
		from := newUpstream(data)
		mustObtain(t, c, blobWant(data), data, from)
		synctest.Wait()
		before := c.scribe.journal.Size()
		const scopes = 300
		for i := range scopes {
			want := blobWant(data)
			want.Scope.Repository = fmt.Sprint("app", i)
			mustObtain(t, c, want, data, from)
		}
		synctest.Wait()
		if size := c.scribe.journal.Size() - before; size > scopes*1000 {
			t.Errorf("%d bytes for each scope", size/scopes)
		}
		c.Close()
	})
}

// What is granted while an object is on its way to the disk is known after a kill,
// in whichever order the journal was told.
func TestGrantBeforeTheDiskHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		data := noise(100, 1)
		on := make(chan struct{})
		folder.Before(func(op disktest.Op) error {
			if op.Kind == "syncdir" && op.Name == "blobs/sha256" {
				<-on
			}
			return nil
		})
		if err := c.Put(blobWant(data), data); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		other := blobWant(data)
		other.Scope.Repository = "other"
		if err := c.Put(other, data); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the grant is in the journal
		killed := folder.Crash(disktest.Kill())
		close(on)
		again := openCache(t, killed, Options{})
		mustHold(t, again, other, data)
		again.Close()
		c.Close()
	})
}

// A journal that cannot be rewritten is not tried again with each record.
func TestRewriteIsNotTriedForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		var tried atomic.Int64
		folder.Before(func(op disktest.Op) error {
			if op.Kind == "create" && strings.HasSuffix(op.Name, ".new") {
				tried.Add(1)
				return syscall.EIO
			}
			return nil
		})
		c.scribe.lost.Add(1)
		for i := range 50 {
			c.SetTag(testScope, fmt.Sprint(i), Tag{Descriptor: descriptorOf("x"), At: time.Now()})
			synctest.Wait()
		}
		if n := tried.Load(); n != 1 {
			t.Errorf("tried %d times", n)
		}
		folder.Before(nil)
		time.Sleep(5 * probeInterval)
		synctest.Wait()
		if c.scribe.lost.Load() != c.scribe.healed {
			t.Error("it was not made up for")
		}
		c.Close()
	})
}

// More than the disk takes has the journal rewritten now and then, not all the time.
func TestLostRecordsAreMadeUpForNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		var rewritten atomic.Int64
		folder.Before(func(op disktest.Op) error {
			if op.Kind == "create" && strings.HasSuffix(op.Name, ".new") {
				rewritten.Add(1)
			}
			return nil
		})
		for i := range 180 {
			c.scribe.lost.Add(1)
			c.SetTag(testScope, fmt.Sprint(i), Tag{Descriptor: descriptorOf("x"), At: time.Now()})
			time.Sleep(time.Second)
		}
		if n := rewritten.Load(); n < 3 || n > 4 {
			t.Errorf("rewritten %d times in three minutes", n)
		}
		c.Close()
		if c.scribe.lost.Load() != c.scribe.healed {
			t.Error("Close did not make up for what was lost")
		}
	})
}
