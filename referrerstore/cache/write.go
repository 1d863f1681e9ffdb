package cache

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

const (
	// maxUnwritten bounds the bytes in memory that wait for the disk, and
	// maxWrites the objects.
	maxUnwritten = 32 << 20
	maxWrites    = 4096
	// writeBatch is how many are synced together, and writeAtOnce how many of
	// them are written at the same time.
	writeBatch  = 64
	writeAtOnce = 4
)

// writer brings small objects to the disk behind those who were answered. One
// goroutine takes from its queue until close.
type writer struct {
	queue chan *entry // acquired, and released by whoever takes them
	bytes atomic.Int64
	quit  chan struct{}
	done  chan struct{}
	stop  context.CancelFunc // leaves what waits unwritten
}

func newWriter() *writer {
	return &writer{queue: make(chan *entry, maxWrites), quit: make(chan struct{}), done: make(chan struct{})}
}

// unwritten is how many bytes wait for the disk.
func (c *Cache) unwritten() int64 { return c.writer.bytes.Load() }

// write has an acquired entry brought to the disk some time soon, and releases it
// then. What there is no room for in the queue is held by the replica only.
func (c *Cache) write(e *entry) {
	if c.scribe == nil || !c.health.ok() || !c.enqueue(e) {
		c.loosen(e)
	}
}

func (c *Cache) enqueue(e *entry) bool {
	if c.writer.bytes.Add(e.size) <= maxUnwritten {
		select {
		case c.writer.queue <- e:
			return true
		default:
		}
	}
	c.writer.bytes.Add(-e.size)
	return false
}

// loosen leaves an acquired entry to the replica, and releases it. What is too
// large for that is forgotten.
func (c *Cache) loosen(e *entry) {
	defer e.release()
	e.loose.Store(true)
	e.unwritten.Store(nil)
	if e.size > MaxReplicated {
		c.drop(e, "the disk does not take it")
	}
}

// tighten forgets what neither disk nor replica holds, and has the rest written if
// the disk takes it again.
func (c *Cache) tighten() {
	c.index.each(func(e *entry) bool {
		if !e.loose.Load() {
			return true
		}
		if now := c.index.acquire(e.digest); now != e {
			if now != nil {
				now.release()
			}
			return true
		}
		data, held := c.replica.get(e.digest)
		switch {
		case !held:
			c.drop(e, "the replica does not hold it")
			e.release()
		case c.scribe != nil && c.health.ok():
			e.unwritten.Store(&data)
			e.loose.Store(false)
			c.write(e)
		default:
			e.release()
		}
		return true
	})
}

func (c *Cache) writeLoop(ctx context.Context) {
	defer close(c.writer.done)
	for {
		select {
		case e := <-c.writer.queue:
			c.store(ctx, c.writer.gather(e))
		case <-c.writer.quit:
			for {
				select {
				case e := <-c.writer.queue:
					c.store(ctx, c.writer.gather(e))
				default:
					return
				}
			}
		}
	}
}

func (w *writer) gather(first *entry) []*entry {
	batch := []*entry{first}
	for len(batch) < writeBatch {
		select {
		case e := <-w.queue:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// close writes what waits, until stop.
func (w *writer) close() {
	close(w.quit)
	<-w.done
}

// store brings a batch to the disk and releases it. Its records are one commit.
func (c *Cache) store(ctx context.Context, batch []*entry) {
	written := c.storeFiles(ctx, batch)
	var records []record
	for i, e := range batch {
		if written[i] && c.index.look(e.digest) == e { // and not something else by now
			records = append(records, c.records(e)...)
		}
	}
	if len(records) > 0 {
		if err := c.commit(ctx, records...); err != nil {
			c.failed("commit journal", err) // they are there until the next start
		}
	}
	for i, e := range batch {
		c.writer.bytes.Add(-e.size)
		if !written[i] {
			c.loosen(e)
			continue
		}
		e.unwritten.Store(nil)
		e.release()
	}
}

// storeFiles says which of a batch are where they belong.
func (c *Cache) storeFiles(ctx context.Context, batch []*entry) []bool {
	written := make([]bool, len(batch))
	if ctx.Err() != nil || !c.health.ok() || !c.makeRoom(ctx) {
		return written
	}
	var group errgroup.Group
	group.SetLimit(writeAtOnce)
	for i, e := range batch {
		group.Go(func() error {
			err := c.storeFile(e)
			c.failed("write "+blobsDir, err)
			written[i] = err == nil
			return nil
		})
	}
	group.Wait() //nolint:errcheck,gosec // each has its own result
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		of := func(e *entry) bool { return e.digest.Algorithm() == algorithm }
		at := slices.IndexFunc(batch, of)
		if at < 0 {
			continue
		}
		if err := c.syncDir(batch[at].digest); err != nil {
			c.failed("sync "+blobsDir, err)
			for i, e := range batch {
				written[i] = written[i] && !of(e)
			}
		}
	}
	return written
}

// storeFile writes one object and moves it to its place.
func (c *Cache) storeFile(e *entry) error {
	data := e.unwritten.Load()
	if data == nil {
		return errors.New("nothing to write") // it is in no queue then
	}
	name := c.ingestName()
	f, err := c.folder.Create(name)
	if err != nil {
		return err
	}
	err = errors.Join(c.fill(f, *data), f.Close())
	if err == nil {
		err = c.folder.Rename(name, c.path(e.digest))
	}
	if err != nil {
		c.folder.Remove(name) //nolint:errcheck,gosec // the next start removes it
	}
	return err
}

func (c *Cache) fill(f disk.File, data []byte) error {
	n, err := f.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err == nil && c.opts.Durability == Full {
		err = f.Sync()
	}
	return err
}
