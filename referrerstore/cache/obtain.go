package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

var (
	// errAgain says that what was missing is there now.
	errAgain = errors.New("cache: look again")
	// errNoPull says that nobody pulls it.
	errNoPull = errors.New("cache: no pull to join")
)

// Obtain answers from what is held, or by one pull that all who want the same
// share. It returns as soon as the registry's header is there (at once for what is
// held): the content may still be arriving. A caller that leaves does not
// disturb the others; a pull that nobody follows goes on for a grace. Errors
// reach all who wait and are then forgotten.
func (c *Cache) Obtain(ctx context.Context, want Want, from Source) (*Content, error) {
	const attempts = 8 // what comes may go again, but not for ever
	for range attempts {
		content, outcome, err := c.obtainOnce(ctx, want, from)
		if errors.Is(err, errAgain) {
			continue
		}
		if err != nil {
			c.count(want.Kind, outcomeFailed)
			return nil, obtainError(want, err)
		}
		c.count(want.Kind, outcome)
		return content, nil
	}
	c.count(want.Kind, outcomePassed)
	return pass(ctx, want, from)
}

// obtainOnce is one attempt of Obtain, with what became of it. It is errAgain if
// what is held has changed meanwhile.
func (c *Cache) obtainOnce(ctx context.Context, want Want, from Source) (content *Content, outcome string, err error) {
	outcome = outcomeHit
	content, err = c.get(want)
	if err == nil && content.body != nil {
		if proving, ok := content.body.(*provingFile); ok {
			proving.ctx = ctx
		}
		content.body = &rescued{body: content.body, ctx: ctx, want: want, from: from}
	}
	// Whether a digest is a manifest is for its registry to say, also if it handed
	// out the same as a blob.
	if errors.Is(err, referrerstore.ErrNotFound) || errors.Is(err, ErrKind) && want.Kind == Manifest {
		content, outcome, err = c.fetch(ctx, want, from)
	}
	if errors.Is(err, errUnreadable) || errors.Is(err, errPassed) {
		outcome = outcomePassed
		content, err = pass(ctx, want, from)
	}
	return content, outcome, err
}

// obtainError names the content, once.
func obtainError(want Want, err error) error {
	return fmt.Errorf("obtain %s of %s/%s: %w", want.Digest, want.Scope.Registry, want.Scope.Repository, err)
}

// fetch brings in what is not held for the scope. It is errAgain if it then is.
func (c *Cache) fetch(ctx context.Context, want Want, from Source) (content *Content, outcome string, err error) {
	if ctx.Err() != nil {
		return nil, outcomeFailed, context.Cause(ctx)
	}
	// Whoever pulls it for the scope makes it known before he grants it, and grants it
	// before his pull is over: in that order it is looked for here.
	content, outcome, err = c.obtainPull(ctx, want, from, false)
	if !errors.Is(err, errNoPull) {
		return content, outcome, err
	}
	e := c.index.look(want.Digest)
	switch {
	case e == nil, yields(e, want.Kind), c.index.orphan(e) && (e.kind != want.Kind || want.sizeIs(e.size) != nil):
		return c.obtainPull(ctx, want, from, true)
	case e.kind != want.Kind: // only another scope's registry says so
		return nil, outcomePassed, errPassed
	case want.Kind == Manifest && want.MediaType == "" && e.mediaType == "":
		return c.obtainPull(ctx, want, from, true) // what it is, only an answer says
	}
	if err := want.sizeIs(e.size); err != nil {
		return nil, outcomeFailed, err
	}
	if _, granted := c.index.scope(want.Scope).grants(want.Digest); granted {
		return nil, "", errAgain
	}
	if err := c.confirm(ctx, want, from); err != nil {
		return nil, outcomeFailed, err
	}
	return nil, outcomeConfirmed, errAgain
}

// yields says whether an object gives way to one of another kind: a blob to a
// manifest, or whoever has a manifest's bytes for a blob would keep it from being
// held.
func yields(e *entry, to Kind) bool { return e.kind == Blob && to == Manifest }

// confirm asks the registry whether it would hand out what came by way of another
// scope, once for all who ask at the same time, and grants it.
func (c *Cache) confirm(ctx context.Context, want Want, from Source) error {
	key := pullKey{scope: want.Scope, digest: want.Digest, kind: want.Kind}
	_, err := c.confirms.Do(ctx, key, func(ctx context.Context) (struct{}, error) {
		if err := from.Confirm(ctx, want); err != nil {
			return struct{}{}, err
		}
		if e := c.index.acquire(want.Digest); e != nil {
			c.grant(want.Scope, e, mediaTypeOf(want, e.mediaType))
			e.release()
		}
		return struct{}{}, nil
	})
	if errors.Is(err, flight.ErrClosed) {
		return ErrClosed
	}
	return err
}

// grant notes that the scope's registry hands out an acquired object.
func (c *Cache) grant(scope Scope, e *entry, mediaType string) {
	if before, granted := c.index.scope(scope).grants(e.digest); granted && before == mediaType {
		return
	}
	if c.index.grant(scope, e, mediaType) {
		// The journal may not know the object yet, and a grant of none says nothing.
		c.note(putRecord(e), grantRecord(scope, e, mediaType))
	}
}

// obtainPull waits for the header of a pull that is under way, or begins one; it is
// errNoPull if it may not.
func (c *Cache) obtainPull(ctx context.Context, want Want, from Source, begin bool) (content *Content, outcome string, err error) {
	if begin && !c.mayKeep(want) {
		return nil, outcomePassed, errPassed
	}
	p, joined, err := c.join(want, from, begin)
	if err != nil {
		return nil, outcomeFailed, err
	}
	outcome = outcomePulled
	if joined {
		outcome = outcomeShared
	}
	stop := p.attend(ctx)
	content, err = p.await(ctx, want, from, stop)
	if err != nil {
		stop()
		p.leave()
	}
	return content, outcome, err
}

// mayKeep says, as far as it is known before the registry is asked, whether there
// is any use in more than one reader's pull.
func (c *Cache) mayKeep(want Want) bool {
	if want.Kind != Blob || want.Size <= MaxReplicated {
		return true
	}
	return c.health.ok() && (c.opts.MaxBytes == 0 || want.Size <= c.opts.MaxBytes)
}

// Put keeps content that the caller has whole in memory, of at most MaxManifest
// bytes and does not change any more, on the word of the scope's registry. It is
// there for Get when Put returns; the disk follows. ErrDigestMismatch if it is not
// what want says, ErrKind if the digest is known to be something else; a blob becomes
// a manifest if that is what it is said to be.
func (c *Cache) Put(want Want, data []byte) error {
	if c.closed.Load() {
		return ErrClosed
	}
	if err := want.check(); err != nil {
		return err
	}
	if len(data) > MaxManifest {
		return fmt.Errorf("put %s: %w: %d bytes, at most %d", want.Digest, referrerstore.ErrTooLarge, len(data), MaxManifest)
	}
	if err := errors.Join(want.sizeIs(int64(len(data))), verify(want.Digest, data)); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if !c.keep(c.ctx, want, data, mediaTypeOf(want, want.MediaType)) {
		return fmt.Errorf("put %s: %w", want.Digest, ErrKind)
	}
	return nil
}
