package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// errUnreadable says that content is held but that the disk does not give it.
var errUnreadable = errors.New("cache: held, but the disk does not give it")

// Get answers from what is held for the scope, verified before it is handed out
// if the last end was not clean. referrerstore.ErrNotFound says that it is not
// held there; ErrKind that it is something else. It waits for no network and no
// other caller. The caller closes the content.
func (c *Cache) Get(want Want) (*Content, error) {
	content, err := c.get(want)
	switch {
	case err == nil:
		c.count(want.Kind, outcomeHit)
	case errors.Is(err, errUnreadable):
		err = fmt.Errorf("content %s: %w: %w", want.Digest, referrerstore.ErrNotFound, err)
	}
	return content, err
}

// errMiss is a miss, made once: most callers go on to pull.
var errMiss = fmt.Errorf("cache: %w", referrerstore.ErrNotFound)

func (c *Cache) get(want Want) (*Content, error) {
	if c.closed.Load() {
		return nil, ErrClosed
	}
	if err := want.check(); err != nil {
		return nil, err
	}
	mediaType, granted := c.index.scope(want.Scope).grants(want.Digest)
	if !granted {
		return nil, errMiss
	}
	e := c.index.acquire(want.Digest)
	if e == nil {
		return nil, errMiss
	}
	content, err := c.open(e, want)
	if err != nil {
		e.release()
		return nil, err
	}
	content.mediaType = mediaType
	c.index.touch(e, c.now().Unix())
	return content, nil
}

// check refuses what cannot be: digests become names of files.
func (w Want) check() error {
	if w.Kind >= kinds {
		return fmt.Errorf("cache: kind %d: %w", w.Kind, ErrKind)
	}
	return validDigest(w.Digest)
}

// sizeIs says whether the size is the one that was wanted.
func (w Want) sizeIs(size int64) error {
	if w.Size >= 0 && size >= 0 && w.Size != size {
		return fmt.Errorf("content %s: %w: it has %d bytes, wanted %d", w.Digest, referrerstore.ErrDigestMismatch, size, w.Size)
	}
	return nil
}

// open makes content of an acquired entry, which it takes over if there is no
// error.
func (c *Cache) open(e *entry, want Want) (*Content, error) {
	if e.kind != want.Kind {
		return nil, fmt.Errorf("content %s: %w: it is a %s", e.digest, ErrKind, e.kind.name())
	}
	if err := want.sizeIs(e.size); err != nil {
		return nil, err
	}
	content := &Content{digest: e.digest, total: e.size, created: e.created, held: true, entry: e}
	if data := e.unwritten.Load(); data != nil {
		content.data, content.inMemory = *data, true
		return content, nil
	}
	if e.size <= MaxReplicated {
		data, err := c.small(e)
		content.data, content.inMemory = data, true
		return content, err
	}
	body, err := c.large(e)
	content.body = body
	return content, err
}

// small reads an object by way of the replica. What comes from its file is hashed,
// always.
func (c *Cache) small(e *entry) ([]byte, error) {
	if data, held := c.replica.get(e.digest); held {
		return data, nil
	}
	f, err := c.openFile(e)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readExactly(f, e.size)
	if err == nil {
		err = verify(e.digest, data)
	}
	if err != nil {
		return nil, c.unreadable(e, err)
	}
	e.proven.Store(true)
	c.replica.put(e.digest, data)
	return data, nil
}

// large opens the file of an object that is too large for the replica.
func (c *Cache) large(e *entry) (body, error) {
	f, err := c.openFile(e)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != e.size {
		err = fmt.Errorf("%w: its file has %d bytes, not %d", referrerstore.ErrDigestMismatch, info.Size(), e.size)
	}
	if err != nil {
		return nil, errors.Join(c.unreadable(e, err), f.Close())
	}
	if e.proven.Load() {
		return &wholeFile{cache: c, entry: e, file: f}, nil
	}
	return &provingFile{wholeFile: wholeFile{cache: c, entry: e, file: f}, hash: newHash(e.digest)}, nil
}

func (c *Cache) openFile(e *entry) (disk.File, error) {
	f, err := c.folder.Open(c.path(e.digest))
	if err != nil {
		return nil, c.unreadable(e, err)
	}
	return f, nil
}

// unreadable says what becomes of an object that could not be read: one that is
// not there, or not what its name says, is a miss from now on.
func (c *Cache) unreadable(e *entry, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.drop(e, "its file is gone")
		return errMiss
	case errors.Is(err, referrerstore.ErrDigestMismatch):
		c.quarantine(e, err)
		return errMiss
	default:
		c.failed("read "+blobsDir, err)
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
}

// drop forgets an object that has no file.
func (c *Cache) drop(e *entry, why string) {
	if !c.index.expel(e) {
		return
	}
	c.replica.drop(e.digest)
	if !e.loose.Load() {
		c.missing.Add(1)
		c.note(record{Kind: recordDrop, Digest: e.digest})
		c.log.Warn("cache lost an object", slog.String("digest", e.digest.String()), slog.String("reason", why))
	}
	c.index.bury(e)
}

// quarantine puts an object aside that is not what its name says. Whoever reads
// it goes on; nobody else gets it.
func (c *Cache) quarantine(e *entry, why error) {
	if !c.index.expel(e) {
		return
	}
	c.replica.drop(e.digest)
	c.putAside(c.path(e.digest), e.digest.Encoded(), why)
	c.note(record{Kind: recordDrop, Digest: e.digest})
	c.index.bury(e)
}

// putAside moves a file that is not what its name says, and counts it. It stays
// where it is if the disk does not let it be moved: then it is met again.
func (c *Cache) putAside(path, name string, why error) {
	c.quarantined.Add(1)
	c.log.Warn("cache puts a file aside", slog.String("file", path), slog.Any("error", why))
	if c.scribe == nil || c.closed.Load() {
		return // the folder is another's
	}
	if err := c.folder.Rename(path, quarantineDir+"/"+safeName(name)+"-"+random()); err != nil {
		c.failed("put aside", err)
	}
}

// safeName cuts a name that anybody may have given to what is short.
func safeName(name string) string {
	const long = 100
	return strings.ToValidUTF8(name[:min(len(name), long)], "_")
}

// Doubt says that somebody read bytes that are not those of the digest: they are
// hashed again before anybody else gets their end, and put aside if they are wrong.
func (c *Cache) Doubt(d digest.Digest) {
	if e := c.index.look(d); e != nil && e.unwritten.Load() == nil {
		e.proven.Store(false)
		c.replica.drop(d)
	}
}

const (
	// maxParents bounds the parents that are told of a digest, and maxLooked those
	// of all scopes that are looked at: anybody who may push can list it.
	maxParents = 1024
	maxLooked  = 16 << 10
)

// Parents are manifests and indexes known in the scope that list the digest, as
// config, layer or manifest, those that came last first: all, or of very many some.
// Referrers do not count as children of their subject.
func (c *Cache) Parents(scope Scope, of digest.Digest) []Parent {
	in := c.index.scope(scope)
	if in == nil {
		return nil
	}
	var all []Parent
	looked := 0
	c.index.eachKin(byList, of, func(e *entry) bool {
		if mediaType, granted := in.grants(e.digest); granted && e.kind == Manifest {
			all = append(all, e.parent(mediaType))
		}
		looked++
		return len(all) < maxParents && looked < maxLooked
	})
	return all
}

// About describes a manifest that is held in the scope.
func (c *Cache) About(scope Scope, manifest digest.Digest) (Parent, bool) {
	mediaType, granted := c.index.scope(scope).grants(manifest)
	if !granted {
		return Parent{}, false
	}
	e := c.index.look(manifest)
	if e == nil || e.kind != Manifest {
		return Parent{}, false
	}
	return e.parent(mediaType), true
}

func (e *entry) parent(mediaType string) Parent {
	return Parent{
		Digest: e.digest, MediaType: cmp.Or(mediaType, e.mediaType), Index: e.index && !e.ambiguous,
		Ambiguous: e.ambiguous, Subject: e.subject,
	}
}

// time is the moment of Unix seconds.
func moment(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
