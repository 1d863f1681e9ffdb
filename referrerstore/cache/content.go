package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// Content is content that is handed out: whole, or still arriving behind its
// reader. It is an io.ReadSeeker, as http.ServeContent wants it, for one
// goroutine. The bytes at its end are handed out only once all of it has been
// proven to have the digest; if it has not, or cannot be had any more, Read
// fails and the content must be taken as worthless. Whoever got it closes it.
type Content struct {
	digest    digest.Digest
	mediaType string
	created   int64 // Unix seconds
	total     int64 // -1 while body knows better
	held      bool
	inMemory  bool
	closed    bool
	data      []byte // all of it, if inMemory
	body      body   // else
	entry     *entry // that is not dropped before Close; nil if it has none
	at        int64
}

// body is content that is not in memory.
type body interface {
	// readAt reads at least one byte, and waits for it; io.EOF says that there is
	// none behind the offset.
	readAt(p []byte, offset int64) (int, error)
	// size is the number of bytes, -1 while that is not known.
	size() int64
	close() error
}

// Digest is what the bytes have.
func (c *Content) Digest() digest.Digest { return c.digest }

// Size is the number of bytes, -1 while the registry has not said.
func (c *Content) Size() int64 {
	if c.total < 0 && c.body != nil {
		c.total = c.body.size()
	}
	return c.total
}

// MediaType is that of a manifest, as its scope's registry says; empty for blobs.
func (c *Content) MediaType() string { return c.mediaType }

// Created is when the content came into the cache.
func (c *Content) Created() time.Time { return moment(c.created) }

// Held says that it was there before it was asked for.
func (c *Content) Held() bool { return c.held }

// Bytes are all bytes of content that is held in memory, not to be changed;
// false if it is not.
func (c *Content) Bytes() ([]byte, bool) { return c.data, c.inMemory }

// File is the file of whole and proven content, positioned at its start, for
// whoever can send a file by sendfile; false if there is none. It is closed with
// the content.
func (c *Content) File() (*os.File, bool) {
	inner := c.body
	if r, ok := inner.(*rescued); ok && r.own == nil {
		inner = r.body
	}
	whole, ok := inner.(*wholeFile)
	if !ok {
		return nil, false
	}
	f, ok := whole.file.(*os.File)
	return f, ok
}

// Read implements io.Reader. On content that is still arriving it waits for
// bytes until the context of Obtain ends.
func (c *Content) Read(p []byte) (int, error) {
	n, err := c.read(p)
	c.at += int64(n)
	return n, err
}

func (c *Content) read(p []byte) (int, error) {
	switch {
	case c.closed:
		return 0, fs.ErrClosed
	case len(p) == 0:
		return 0, nil
	case !c.inMemory:
		return c.body.readAt(p, c.at)
	case c.at >= int64(len(c.data)):
		return 0, io.EOF
	default:
		return copy(p, c.data[c.at:]), nil
	}
}

var errSeek = errors.New("cache: cannot seek there")

// Seek implements io.Seeker; it does not wait. io.SeekEnd needs a known size.
func (c *Content) Seek(offset int64, whence int) (int64, error) {
	from := int64(0)
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		from = c.at
	case io.SeekEnd:
		if from = c.Size(); from < 0 {
			return 0, fmt.Errorf("%w: the size is not known yet", errSeek)
		}
	default:
		return 0, fmt.Errorf("%w: whence %d", errSeek, whence)
	}
	if from+offset < 0 {
		return 0, fmt.Errorf("%w: before the start", errSeek)
	}
	c.at = from + offset
	return c.at, nil
}

// Close lets go of the content. A pull that only it followed ends after a grace.
func (c *Content) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	var err error
	if c.body != nil {
		err = c.body.close()
	}
	if c.entry != nil {
		c.entry.release()
	}
	return err
}
