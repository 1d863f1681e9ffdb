package oras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxPages, maxPageBytes and maxEntries bound a list of referrers.
	maxPages     = 32
	maxPageBytes = 3 << 19 // 1.5 MiB
	maxEntries   = 1000
	// maxPageMarks bounds the values in a page: without it a page of "{},"
	// would decode to eighty times its size. An entry of a real list has
	// about ten. A page at both bounds costs just less than 8 MiB, which is
	// the share of the budget that every host has.
	maxPageMarks = 13 << 10

	// What decoding costs: a buffer that doubles holds up to three times the
	// bytes while it grows, and each value may become a descriptor.
	costOfByte = 3
	costOfMark = 256
	// pageShare is taken at the start, and again as a page grows.
	pageShare = 64 << 10
)

var errPageBound = fmt.Errorf("%w: a page of more than %d bytes or %d values", referrerstore.ErrTooManyReferrers, maxPageBytes, maxPageMarks)

// page is what the current page of a list of referrers costs. The first share
// is waited for, before anything is sent; more is taken only if it is there,
// because whoever holds bytes of the budget must not wait for others. It is
// used by one call at a time.
type page struct {
	budget *referrerstore.HostBudget
	held   int64
	body   io.Closer
	begun  int // pages asked for
	bodies int // answers with a body
	lists  int // those that have a list of manifests in them
}

// begin takes the first share for a new page; what the one before held is given
// back.
func (p *page) begin(ctx context.Context) error {
	p.release()
	share := min(pageShare, p.budget.Size())
	if err := p.budget.Acquire(ctx, share); err != nil {
		return fmt.Errorf("read a list: %w", err)
	}
	p.held = share
	p.begun++
	return nil
}

// attach makes the answer's body pay for itself.
func (p *page) attach(resp *http.Response) error {
	if resp.ContentLength > maxPageBytes {
		return fmt.Errorf("%w: it announces %d", errPageBound, resp.ContentLength)
	}
	resp.Body = &pageBody{ReadCloser: resp.Body, page: p}
	p.body = resp.Body
	p.bodies++
	return nil
}

// grow makes sure that what is held covers the cost.
func (p *page) grow(cost int64) error {
	if cost <= p.held {
		return nil
	}
	more := max(cost-p.held, pageShare)
	if !p.budget.TryAcquire(more) {
		return fmt.Errorf("read a list: %w", referrerstore.ErrBusy)
	}
	p.held += more
	return nil
}

// release closes the page's body and gives back what it held: a decoded page is
// small, and whoever it is handed to may take his time.
func (p *page) release() {
	if p.body != nil {
		_ = p.body.Close() // it was read, or an error says why not
		p.body = nil
	}
	p.budget.Release(p.held)
	p.held = 0
}

// pageBody counts what is read of a page: bytes, and the marks outside of
// strings that begin a value.
type pageBody struct {
	io.ReadCloser
	page *page

	bytes, marks int64
	matched      int // bytes of listKey that the last ones read are
	inString     bool
	escaped      bool
	ended        bool
	closed       bool
}

func (b *pageBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes += int64(n)
	b.scan(p[:n])
	b.ended = err != nil
	if b.bytes > maxPageBytes || b.marks > maxPageMarks {
		return 0, errPageBound
	}
	if grown := b.page.grow(b.bytes*costOfByte + b.marks*costOfMark); grown != nil {
		return 0, grown
	}
	return n, err
}

func (b *pageBody) scan(p []byte) {
	for _, c := range p {
		b.match(c)
		switch {
		case b.escaped:
			b.escaped = false
		case b.inString:
			b.escaped = c == '\\'
			b.inString = c != '"'
		case c == '"':
			b.inString = true
		case c == '{' || c == '[' || c == ',':
			b.marks++
		}
	}
}

// listKey is the field without which an image index is none. Decoded, an answer
// without it looks like an empty list.
const listKey = `"manifests"`

func (b *pageBody) match(c byte) {
	switch {
	case b.matched == len(listKey):
	case c == listKey[b.matched]:
		if b.matched++; b.matched == len(listKey) {
			b.page.lists++
		}
	case c == listKey[0]:
		b.matched = 1
	default:
		b.matched = 0
	}
}

// Close reads what may be left of a body that was decoded, so that its
// connection can be used again.
func (b *pageBody) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	if !b.ended {
		_, err := io.CopyN(io.Discard, b.ReadCloser, maxDrainBytes)
		if err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(err, b.ReadCloser.Close())
		}
	}
	return b.ReadCloser.Close()
}
