package oras

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Whoever pulls sets no deadline, because no one knows how long a layer takes.
// What a registry may not do is to say nothing at all.
const (
	// headerSilence is from sending a request to its answer's header, redirects
	// and connecting included. Judgements have deadlines of their own, and
	// package guard's bound beyond them.
	headerSilence = 10 * time.Second
	// bodySilence is for a Read of a body; time between two does not count.
	bodySilence = 30 * time.Second
)

// silence is how long a registry may say nothing before a pull is given up.
type silence struct{ header, body time.Duration }

// watch gives up one request whose registry is silent for too long. A nil watch
// lets it be. It is used by one goroutine at a time.
type watch struct {
	body   time.Duration
	cancel context.CancelCauseFunc
	timer  *time.Timer
	bored  atomic.Bool
}

// watch begins to watch a request of a pull, which is to be sent now with the
// context that it returns. Whoever calls it calls end.
func (s *Store) watch(ctx context.Context, of *call) (context.Context, *watch) {
	if of.purpose() != pulling {
		return ctx, nil
	}
	own, cancel := context.WithCancelCause(ctx)
	w := &watch{body: s.silence.body, cancel: cancel}
	w.timer = time.AfterFunc(s.silence.header, func() {
		w.bored.Store(true)
		cancel(errSilent)
	})
	return own, w
}

var errSilent = fmt.Errorf("%w: nothing comes for too long", referrerstore.ErrUnavailable)

// rest stops the time until something is waited for again.
func (w *watch) rest() {
	if w != nil {
		w.timer.Stop()
	}
}

// read reads from a body for as long as the registry may be silent.
func (w *watch) read(from io.Reader, p []byte) (int, error) {
	if w != nil {
		w.timer.Reset(w.body)
		defer w.timer.Stop()
	}
	return from.Read(p)
}

// explain puts the reason in place of an error that the watch caused.
func (w *watch) explain(err error) error {
	if err != nil && w != nil && w.bored.Load() {
		return errSilent
	}
	return err
}

func (w *watch) end() {
	if w != nil {
		w.timer.Stop()
		w.cancel(nil)
	}
}
