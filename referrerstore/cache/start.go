package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

// The files of the cache's own folder, and the layout that they stand for.
const (
	lockFile    = "LOCK"
	versionFile = "VERSION"
	cleanFile   = "CLEAN"
	version     = "1"
)

// ErrVersion says that another version of Gatehouse laid out the folder.
var ErrVersion = errors.New("cache: unknown version of the folder")

// Open makes a cache of a folder. What it does in the background ends with ctx or
// Close; hits go on until Close, which must be called. A folder that another
// process writes is disk.ErrLocked, or opened read-only if the options say so; one
// that cannot be written is opened read-only. Damage in the folder is put aside,
// counted and logged, never an error.
func Open(ctx context.Context, folder disk.Folder, opts Options) (*Cache, error) {
	return open(ctx, folder, opts, bootID())
}

// bootID is another one after each start of the system; empty if there is none.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

func open(ctx context.Context, folder disk.Folder, opts Options, boot string) (*Cache, error) {
	c := newCache(ctx, folder, opts.withDefaults(), boot)
	err := c.take()
	if err == nil {
		err = c.load()
	}
	if err == nil {
		c.metrics, err = newMetrics(c, opts.Registerer)
	}
	if err != nil {
		c.cancel(ErrClosed)
		return nil, errors.Join(fmt.Errorf("open cache: %w", err), c.unlock())
	}
	c.begin()
	return c, nil
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&o.Lease, 10*time.Minute)
	set(&o.PruneInterval, time.Minute)
	set(&o.FlushInterval, time.Minute)
	if o.ReplicaBytes <= 0 {
		o.ReplicaBytes = 64 << 20
	}
	if o.ScrubRate <= 0 {
		o.ScrubRate = 8 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func newCache(ctx context.Context, folder disk.Folder, opts Options, boot string) *Cache {
	c := &Cache{
		folder: folder, opts: opts, log: opts.Logger, index: newIndex(), health: new(health), boot: boot,
		replica: newReplica(opts.ReplicaBytes), writer: newWriter(), fast: opts.Durability == Fast,
		pruneWanted: make(chan struct{}, 1), making: make(chan struct{}, 1), salt: random(),
	}
	c.started = c.now()
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.pullsUnderWay.all = make(map[pullKey]*pull)
	c.confirms = flight.NewBounded[pullKey, struct{}](c.ctx, flight.Bounds[pullKey]{Linger: grace, Number: maxLingering, Always: true})
	c.close = sync.OnceValue(c.shut)
	return c
}

// take makes sure that nobody else writes the folder, and lays it out.
func (c *Cache) take() error {
	if c.opts.ReadOnly {
		c.health.at.Store(&condition{state: stateReadOnly, problem: "opened read-only", fixed: true})
		return c.checkVersion()
	}
	err := c.layOut()
	if err != nil && !errors.Is(err, disk.ErrLocked) && disk.ReadOnly(err) {
		c.log.Warn("cache is read-only: the folder cannot be written", slog.Any("error", err))
		c.health.at.Store(&condition{state: stateReadOnly, problem: err.Error(), fixed: true})
		return errors.Join(c.unlock(), c.checkVersion())
	}
	return err
}

func (c *Cache) readOnly() bool {
	now := c.health.at.Load()
	return now != nil && now.fixed
}

func (c *Cache) layOut() (err error) {
	if c.lock, err = c.folder.Lock(lockFile); err != nil {
		return err
	}
	if err := c.checkVersion(); err != nil {
		return err
	}
	for _, dir := range []string{blobsDir + "/sha256", blobsDir + "/sha512", ingestDir, quarantineDir} {
		if err := c.folder.MakeDir(dir); err != nil {
			return err
		}
	}
	if c.opts.Durability == Full {
		if err := c.folder.Sync(blobsDir); err != nil {
			return err
		}
	}
	return c.writeVersion()
}

func (c *Cache) unlock() error {
	if c.lock == nil {
		return nil
	}
	lock := c.lock
	c.lock = nil
	return lock.Close()
}

// checkVersion refuses a folder that is laid out in another way. One that is not
// laid out yet is none.
func (c *Cache) checkVersion() error {
	is, err := c.readFile(versionFile)
	if err != nil || is == "" || is == version {
		return err
	}
	return fmt.Errorf("%w: it is %.20q, this is %q", ErrVersion, is, version)
}

func (c *Cache) writeVersion() error {
	is, err := c.readFile(versionFile)
	if err != nil || is == version {
		return err
	}
	return c.writeFile(versionFile, version)
}

// readFile reads one of the cache's own small files; empty if there is none.
func (c *Cache) readFile(name string) (string, error) {
	const most = 1 << 10
	f, err := c.folder.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	return strings.TrimSpace(string(data)), err
}

// writeFile replaces one in one step.
func (c *Cache) writeFile(name, text string) error {
	draft := c.ingestName()
	f, err := c.folder.Create(draft)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text + "\n"))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := c.folder.Rename(draft, name); err != nil {
		return err
	}
	return c.folder.Sync(".")
}

// load brings into memory what is in the folder.
func (c *Cache) load() error {
	if err := c.takeClean(); err != nil {
		return err
	}
	j, told, err := c.replay()
	if err != nil {
		return err
	}
	foreign, err := c.listBlobs()
	if err != nil {
		return errors.Join(err, j.Close())
	}
	lost := c.forgetMissing()
	if c.readOnly() {
		return nil // the journal was read, and has nothing open that Close would sync
	}
	live := 0
	for range c.snapshot() {
		live++
	}
	c.scribe = c.newScribe(j, j.Size()*int64(live)/int64(max(told, 1)))
	for _, name := range foreign {
		c.putAside(blobsDir+"/"+name, strings.ReplaceAll(name, "/", "-"), errNoObject)
	}
	c.empty(ingestDir)
	c.log.Info("cache opened", slog.Int64("bytes", c.index.bytes.Load()), slog.Bool("clean", c.clean), slog.Int("missing", lost), slog.Int("foreign", len(foreign)))
	return nil
}

var errNoObject = errors.New("its name is not a digest")

// takeClean looks whether the last end was clean, and sees to it that this one is
// not until it is.
func (c *Cache) takeClean() error {
	is, err := c.readFile(cleanFile)
	if err != nil {
		c.log.Warn("cache cannot tell how it ended", slog.Any("error", err))
		is = "unknown" // and to be removed
	}
	durability, boot, _ := strings.Cut(is, " ")
	c.clean = durability == markFull || (durability == markFast && boot != "" && boot == c.boot)
	c.fast = c.fast || (c.clean && durability == markFast)
	if is == "" || c.readOnly() {
		return nil
	}
	if err := c.folder.Remove(cleanFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.folder.Sync(".") // or a power cut would bring it back
}

// What CLEAN says: how safe all is that is held.
const (
	markFull = "full"
	markFast = "fast" // until the system ends
)

// replay reads the journal into memory, and says how many records there were. All
// that it knows is loose until its file was seen.
func (c *Cache) replay() (j *journal.Journal, told int, err error) {
	const attempts = 3 // while somebody else rewrites it
	unknown := 0
	var damage journal.Damage
	for range attempts {
		told, unknown = 0, 0
		j, damage, err = journal.Open(c.folder, journalDir, journal.Options{Sync: c.opts.Durability == Full && !c.readOnly()}, func(line []byte) error {
			if told++; !c.applyLine(line) {
				unknown++
			}
			return nil
		})
		if !c.readOnly() || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err == nil && (damage != journal.Damage{} || unknown > 0) {
		c.log.Warn("cache has lost a part of its journal", slog.Int("torn", damage.Torn), slog.Int("records", damage.Records), slog.Int64("bytes", damage.Bytes), slog.Int("unknown", unknown))
	}
	return j, told, err
}

// listBlobs finds what is there by its name alone. It returns the names that are
// none.
func (c *Cache) listBlobs() (foreign []string, err error) {
	var folders []string
	err = c.folder.List(blobsDir, func(name string, dir bool) error {
		if dir && (name == digest.SHA256.String() || name == digest.SHA512.String()) {
			folders = append(folders, name)
		} else {
			foreign = append(foreign, name)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // an empty folder, and read-only
	}
	for _, algorithm := range folders {
		err = errors.Join(err, c.folder.List(blobsDir+"/"+algorithm, func(name string, dir bool) error {
			if d := digest.Digest(algorithm + ":" + name); !dir && validDigest(d) == nil {
				c.found(d)
			} else {
				foreign = append(foreign, algorithm+"/"+name)
			}
			return nil
		}))
	}
	return foreign, err
}

// found notes that an object's file is there. One that the journal does not know
// is taken in for whichever scope's registry hands it out; it may be anybody's, so
// that a clean end proves nothing of it.
func (c *Cache) found(d digest.Digest) {
	if e := c.index.look(d); e != nil {
		e.loose.Store(false)
		e.proven.Store(c.clean)
		return
	}
	info, err := c.folder.Stat(c.path(d))
	if err != nil {
		return
	}
	e := c.newEntry(d, info.Size(), Blob)
	c.index.insert(e)
	e.release()
}

// forgetMissing forgets what the journal knows and is not there.
func (c *Cache) forgetMissing() (n int) {
	var lost []*entry
	c.index.each(func(e *entry) bool {
		if e.loose.Load() {
			lost = append(lost, e)
		}
		return true
	})
	for _, e := range lost {
		if c.index.expel(e) {
			c.index.bury(e)
		}
	}
	c.missing.Add(int64(len(lost)))
	return len(lost)
}

// empty removes what a crash left on its way.
func (c *Cache) empty(dir string) {
	var all []string
	err := c.folder.List(dir, func(name string, isDir bool) error {
		if !isDir {
			all = append(all, name)
		}
		return nil
	})
	for _, name := range all {
		err = errors.Join(err, c.folder.Remove(dir+"/"+name))
	}
	if err != nil {
		c.log.Warn("cache could not remove what a crash left", slog.Any("error", err))
	}
}
