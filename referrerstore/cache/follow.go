package cache

import (
	"context"
	"errors"
	"math"
)

// following is content that is read behind a pull.
type following struct {
	ctx  context.Context //nolint:containedctx // that of Obtain
	pull *pull
	want Want
	from Source
	stop func()
	read bool     // some of it was handed out
	own  *Content // its reader's own pull, once the shared one cannot be kept
}

func (f *following) readAt(p []byte, offset int64) (int, error) {
	if f.own == nil {
		n, err := f.pull.readAt(f.ctx, p, offset)
		f.read = f.read || n > 0
		if !errors.Is(err, errPassed) {
			return n, err
		}
		if err := f.pass(); err != nil {
			return 0, err
		}
	}
	return f.own.body.readAt(p, offset)
}

// pass begins its reader's own pull. What was handed out before is not proven yet
// and must be the beginning of what comes now.
func (f *following) pass() (err error) {
	var begins beginning
	if f.read {
		if begins, err = f.pull.beginning(f.ctx); err != nil {
			return err
		}
	}
	if f.own, err = passBehind(f.ctx, f.want, f.from, begins); err != nil {
		return err
	}
	f.pull.cache.count(f.want.Kind, outcomePassed)
	return nil
}

// beginning is what all that the pull brought has in common with the content; none
// if it is proven. It waits for the pull to end.
func (p *pull) beginning(ctx context.Context) (beginning, error) {
	for {
		_, _, changed, err := p.look(math.MaxInt64)
		switch {
		case errors.Is(err, errPassed):
			return p.begun(), nil
		case err != nil:
			return beginning{}, err
		case changed == nil:
			return beginning{}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return beginning{}, context.Cause(ctx)
		}
	}
}

func (p *pull) begun() beginning {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begins
}

func (f *following) size() int64 {
	f.pull.mu.Lock()
	defer f.pull.mu.Unlock()
	if f.pull.proven {
		return f.pull.written
	}
	return f.pull.size
}

func (f *following) close() error {
	f.stop()
	f.pull.leave()
	if f.own != nil {
		return f.own.Close()
	}
	return nil
}
