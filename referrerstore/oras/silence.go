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
	// and connecting included.
	headerSilence = 10 * time.Second
	// bodySilence is for a Read of a body; time between two does not count.
	bodySilence = 30 * time.Second

	// The work of a judgement goes on behind its caller's deadline, and whoever
	// asks again joins it: of a request that is lost, everybody would wait for as
	// long as package guard lets it. So it is given up after lostFactor times
	// what is usual for the host, lostLeast at the least, lostUnknown where
	// nothing usual is known, and sent again. Each next one has twice as long: a
	// registry that is always as slow has to come to an end of it too.
	lostFactor  = 8
	lostLeast   = 2 * time.Second
	lostUnknown = 5 * time.Second
)

// silence is how long a registry may say nothing before a request is given up.
type silence struct{ header, body time.Duration }

// watch gives up one request whose registry is silent for too long. A nil watch
// lets it be. It is used by one goroutine at a time.
type watch struct {
	body   time.Duration
	cancel context.CancelCauseFunc
	timer  *time.Timer
	bored  atomic.Bool
}

// watch begins to watch a request, which is to be sent now with the context that
// it returns, to a host whose answers usually take so long. Whoever calls it
// calls end.
func (s *Store) watch(ctx context.Context, of *call, usual time.Duration) (context.Context, *watch) {
	allowed := s.silence
	if of.purpose() != pulling {
		allowed = judged(usual, attemptOf(ctx))
	}
	own, cancel := context.WithCancelCause(ctx)
	w := &watch{body: allowed.body, cancel: cancel}
	w.timer = time.AfterFunc(allowed.header, func() {
		w.bored.Store(true)
		cancel(errSilent)
	})
	return own, w
}

// judged is how long a registry may say nothing to an attempt of a judgement,
// counted from one.
func judged(usual time.Duration, attempt int) silence {
	most := max(lostLeast, lostFactor*usual)
	if usual == 0 {
		most = lostUnknown
	}
	most <<= attempt - 1
	return silence{header: most, body: most}
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
