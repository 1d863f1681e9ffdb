package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

const (
	// grace is how long a pull goes on that nobody follows, unless more than half
	// of it has come.
	grace = 30 * time.Second
	// maxLingering bounds the pulls that do so.
	maxLingering = 64
)

var errLingered = errors.New("cache: nobody came back for the content")

// pullKey is what one pull is for.
type pullKey struct {
	scope  Scope
	digest digest.Digest
	kind   Kind
}

// pulls are those under way.
type pulls struct {
	running sync.WaitGroup

	mu        sync.Mutex // guards the fields that follow it, and those that pull says
	closed    bool
	all       map[pullKey]*pull
	lingering int
}

// pull brings content from its registry to all who follow it. It lives on the
// cache's time, not on that of any of them.
type pull struct {
	cache  *Cache
	key    pullKey
	want   Want // of the first who came
	from   Source
	ctx    context.Context //nolint:containedctx // its own time
	cancel context.CancelCauseFunc
	work   *referrerstore.Work

	// Guarded by pulls.mu.
	followers int
	over      bool
	linger    *time.Timer // while nobody follows

	// Set before header is closed, and not changed after it.
	header    chan struct{}
	size      int64 // -1 if the registry does not say
	guessed   bool  // nor did it say this: the first who came was told so
	mediaType string
	created   int64
	data      []byte // the whole of it, if it is small
	again     bool   // it is held already

	mu      sync.Mutex // guards the fields that follow it
	file    disk.File  // that it is written to
	written int64
	before  int64 // written when its grace ended last
	proven  bool  // written is all, and has the digest
	begins  beginning
	err     error
	changed chan struct{} // closed at the next change; nil if nobody waits for one
}

// join finds the pull that is under way for the same, or begins one if it may; else
// it is errNoPull. The caller leaves it.
func (c *Cache) join(want Want, from Source, begin bool) (p *pull, joined bool, err error) {
	all := &c.pullsUnderWay
	key := pullKey{scope: want.Scope, digest: want.Digest, kind: want.Kind}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.closed {
		return nil, false, ErrClosed
	}
	p, joined = all.all[key]
	if !joined && !begin {
		return nil, false, errNoPull
	}
	if !joined {
		p = c.newPull(key, want, from)
		all.all[key] = p
		all.running.Go(p.run)
	}
	p.followers++
	if p.linger != nil {
		p.stay()
	}
	return p, joined, nil
}

func (c *Cache) newPull(key pullKey, want Want, from Source) *pull {
	work := referrerstore.NewWork(c.now(), referrerstore.LaneBackground)
	ctx, cancel := context.WithCancelCause(referrerstore.WithWork(c.ctx, work))
	return &pull{
		cache: c, key: key, want: want, from: from, ctx: ctx, cancel: cancel, work: work,
		header: make(chan struct{}), size: -1, created: c.now().Unix(),
	}
}

// pulls is how many are under way.
func (c *Cache) pulls() int {
	c.pullsUnderWay.mu.Lock()
	defer c.pullsUnderWay.mu.Unlock()
	return len(c.pullsUnderWay.all)
}

// attend makes the pull as pressing as the caller's work until stop.
func (p *pull) attend(ctx context.Context) (stop func()) {
	work := referrerstore.WorkOf(ctx)
	if work == nil {
		p.work.SetLane(referrerstore.LaneAdmission)
		return func() {}
	}
	return p.work.Follow(work)
}

// leave ends what join began.
func (p *pull) leave() {
	all := &p.cache.pullsUnderWay
	all.mu.Lock()
	p.followers--
	last := p.followers == 0
	switch {
	case !last || p.over:
	case all.lingering < maxLingering:
		all.lingering++
		p.work.SetLane(referrerstore.LaneBackground)
		var timer *time.Timer
		timer = time.AfterFunc(grace, func() { p.giveUp(&timer) })
		p.linger = timer
	default:
		p.abandon()
	}
	over := last && p.over
	all.mu.Unlock()
	if over {
		p.closeFile()
	}
}

// stay ends the grace: somebody follows again, or it is over. Like abandon, it is
// called with pulls.mu held.
func (p *pull) stay() {
	p.linger.Stop()
	p.linger = nil
	p.cache.pullsUnderWay.lingering--
}

// abandon cancels it, after which nobody finds it any more.
func (p *pull) abandon() {
	p.forget()
	p.cancel(errLingered)
}

func (p *pull) forget() {
	if all := p.cache.pullsUnderWay.all; all[p.key] == p {
		delete(all, p.key)
	}
}

// giveUp ends a pull at the end of its grace, unless most of it has come and it
// still moves. It is the timer's, which may fire while somebody comes or the pull
// ends.
func (p *pull) giveUp(timer **time.Timer) {
	all := &p.cache.pullsUnderWay
	all.mu.Lock()
	defer all.mu.Unlock()
	if p.linger == nil || p.linger != *timer {
		return
	}
	if p.nearlyDone() {
		p.linger.Reset(grace)
		return
	}
	p.stay()
	p.abandon()
}

func (p *pull) nearlyDone() bool {
	select {
	case <-p.header:
	default:
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	moved := p.written > p.before
	p.before = p.written
	return p.proven || (p.size > 0 && p.written > p.size/2 && moved)
}

// run pulls, whatever the source does.
func (p *pull) run() {
	err := flight.ErrExited // stands if the source ends this goroutine
	defer func() {
		if cause := recover(); cause != nil {
			err = &flight.PanicError{Value: cause, Stack: debug.Stack()}
		}
		p.end(err)
	}()
	err = p.pull()
}

// end tells all who wait how it went, and forgets it.
func (p *pull) end(err error) {
	if err != nil && !errors.Is(err, errPassed) && p.ctx.Err() != nil {
		err = context.Cause(p.ctx)
	}
	p.cancel(nil)
	// It is forgotten before its waiters know: whoever asks again after that begins
	// another, and does not meet this one's error.
	all := &p.cache.pullsUnderWay
	all.mu.Lock()
	p.over = true
	if p.linger != nil {
		p.stay()
	}
	p.forget()
	alone := p.followers == 0
	all.mu.Unlock()
	p.change(func() { p.err = errors.Join(p.err, err) })
	p.announce()
	if alone {
		p.closeFile()
	}
}

// announce lets those go on who wait for the header.
func (p *pull) announce() {
	select {
	case <-p.header:
	default:
		close(p.header)
	}
}

// change does something to the fields that mu guards, and wakes who waits for it.
func (p *pull) change(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *pull) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// closeFile is called once nobody reads or writes it any more.
func (p *pull) closeFile() {
	p.mu.Lock()
	f := p.file
	p.file = nil
	p.mu.Unlock()
	if f != nil {
		f.Close() //nolint:gosec // what was to be synced is
	}
}

// await waits for the header and makes content of what follows it.
func (p *pull) await(ctx context.Context, want Want, from Source, stop func()) (*Content, error) {
	select {
	case <-p.header:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if p.guessed && want.Size != p.size {
		return nil, errPassed // who of the two was told wrong, each finds out alone
	}
	if err := p.failure(); err != nil {
		return nil, err
	}
	if p.again {
		return nil, errAgain
	}
	if err := want.sizeIs(p.size); err != nil {
		return nil, err
	}
	content := &Content{digest: want.Digest, mediaType: p.mediaType, created: p.created, total: p.size}
	if p.data != nil {
		content.data, content.inMemory = p.data, true
		stop()
		p.leave()
		return content, nil
	}
	content.body = &following{ctx: ctx, pull: p, want: want, from: from, stop: stop}
	return content, nil
}

// readAt reads what has come, and waits for it. It is errPassed if it will not be
// had from here.
func (p *pull) readAt(ctx context.Context, b []byte, offset int64) (int, error) {
	for {
		open, file, changed, err := p.look(offset)
		switch {
		case err != nil:
			return 0, err
		case offset < open:
			n, err := file.ReadAt(b[:min(int64(len(b)), open-offset)], offset)
			if n > 0 {
				return n, nil
			}
			p.cache.failed("read "+ingestDir, err)
			return 0, fmt.Errorf("%w: %w", errPassed, err)
		case changed == nil:
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// look says up to where the file may be read, and gives what to wait for if that
// is not beyond the offset; nil if no more comes.
func (p *pull) look(offset int64) (open int64, file disk.File, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return 0, nil, nil, p.err
	case p.proven:
		return p.written, p.file, nil, nil
	case p.size >= 0:
		open = min(p.written, p.size-holdBack)
	default:
		open = p.written - holdBack
	}
	if offset >= open && p.changed == nil {
		p.changed = make(chan struct{})
	}
	return open, p.file, p.changed, nil
}
