package credential

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

const (
	// findTimeout bounds one question to a source.
	findTimeout = 10 * time.Second
	// defaultLife is how long credentials are kept that do not say when they
	// end; maxLife bounds what others say.
	defaultLife = 5 * time.Minute
	maxLife     = 24 * time.Hour
	// maxLeeway bounds how long before their end they are not used any more;
	// less is a tenth of their life.
	maxLeeway = time.Minute
	// renewPause is how long after a renewal that failed the next begins.
	renewPause = 30 * time.Second
	// forgetPause is how often at most those who were refused can have
	// credentials asked for anew: anybody can ask for an image that is denied.
	forgetPause = 10 * time.Second
	// maxKept bounds the credentials of one keeper.
	maxKept = 1024
)

var errTooLate = errors.New("no answer within 10s")

// Held is a credential that is kept for a while: until its time Until it may
// be used. It is immutable.
type Held struct {
	Credential

	key string
}

// Keeper asks one source, and keeps what it answers. Use [Table.For].
type Keeper struct {
	identity string
	source   Source
	scope    scope
	flights  *flight.Group[string, *Held]
	renewals sync.WaitGroup // those who wait for renewals; grows only while !closed

	mu     sync.Mutex // guards the fields that follow it; never held across a call
	closed bool
	kept   map[string]*slot
}

// slot is what is kept under one key. Its fields are guarded by Keeper.mu.
type slot struct {
	held      *Held     // nil if forgotten
	renewAt   time.Time // from then on a use begins a renewal
	forgotten time.Time // when it was last forgotten
}

func keep(ctx context.Context, source Source, where scope) *Keeper {
	return &Keeper{
		source: source, scope: where,
		flights: flight.New[string, *Held](ctx), kept: make(map[string]*slot),
	}
}

// Identity names whose credentials they are, within one table: it tells apart
// what was obtained with them.
func (k *Keeper) Identity() string { return k.identity }

func (k *Keeper) serves(host string) bool {
	_, known := k.source.Key(host)
	if known && k.scope.matches(host) {
		return true
	}
	names, ok := k.source.(Namer)
	return ok && k.scope.named && names.Names(host)
}

// Get is the credential for a canonical host that the keeper serves, kept or
// asked for by one flight for all who want it. Old says that it was kept from
// before and may be out of date: whoever is refused with it calls
// [Keeper.Forget] and may ask again.
func (k *Keeper) Get(ctx context.Context, host string) (cred *Held, old bool, err error) {
	key, known := k.source.Key(host)
	if !known {
		return nil, false, fmt.Errorf("%w: %s has no credentials for %s", referrerstore.ErrAuthDenied, k.identity, host)
	}
	if held, old := k.look(ctx, key, host); held != nil {
		return held, old, nil
	}
	held, err := k.flights.Do(ctx, key, func(ctx context.Context) (*Held, error) { return k.find(ctx, key, host) })
	return held, false, err
}

// look finds what can still be used, and begins its renewal if it is due.
func (k *Keeper) look(ctx context.Context, key, host string) (held *Held, old bool) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.kept[key]
	if s == nil || s.held == nil || !now.Before(s.held.Until) {
		return nil, false
	}
	if !now.Before(s.renewAt) && !k.closed {
		s.renewAt = now.Add(renewPause)
		ctx = context.WithoutCancel(ctx) // it is not for this caller alone
		k.renewals.Go(func() {
			_, _ = k.flights.Do(ctx, key, func(ctx context.Context) (*Held, error) { return k.ask(ctx, key, host) })
		})
	}
	return s.held, now.Sub(s.forgotten) >= forgetPause
}

// find asks unless another flight was faster.
func (k *Keeper) find(ctx context.Context, key, host string) (*Held, error) {
	k.mu.Lock()
	s := k.kept[key]
	if s != nil && s.held != nil && time.Now().Before(s.held.Until) {
		defer k.mu.Unlock()
		return s.held, nil
	}
	k.mu.Unlock()
	return k.ask(ctx, key, host)
}

func (k *Keeper) ask(ctx context.Context, key, host string) (*Held, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, findTimeout, errTooLate)
	defer cancel()
	now := time.Now()
	cred, err := k.source.Find(ctx, host)
	if err != nil {
		return nil, k.explain(ctx, err)
	}
	held, renewAt, err := begin(cred, key, now)
	if err != nil {
		return nil, k.explain(ctx, err)
	}
	k.put(held, renewAt)
	return held, nil
}

// begin bounds the life of a credential that was asked for at a time.
func begin(cred Credential, key string, now time.Time) (held *Held, renewAt time.Time, err error) {
	life, leeway := defaultLife, time.Duration(0)
	if !cred.Until.IsZero() {
		life = min(cred.Until.Sub(now), maxLife)
		leeway = min(life/10, maxLeeway)
	}
	if life <= 0 {
		return nil, time.Time{}, errors.New("what it answers has ended already")
	}
	usable := life - leeway
	cred.Until = now.Add(usable)
	return &Held{Credential: cred, key: key}, now.Add(usable / 5 * 4), nil
}

func (k *Keeper) put(held *Held, renewAt time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.kept[held.key]
	if s == nil {
		for key := range k.kept {
			if len(k.kept) < maxKept {
				break
			}
			delete(k.kept, key) // any: it is asked for again when wanted
		}
		s = &slot{}
		k.kept[held.key] = s
	}
	s.held, s.renewAt = held, renewAt
}

// Forget drops what a registry or token service did not accept, unless another
// has taken its place, or one was dropped a moment ago. A nil one is none.
func (k *Keeper) Forget(cred *Held) {
	if k == nil || cred == nil {
		return
	}
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.kept[cred.key]
	if s != nil && s.held == cred && now.Sub(s.forgotten) >= forgetPause {
		s.held, s.forgotten = nil, now
	}
}

// explain says who failed, and gives the error its sentinel.
func (k *Keeper) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	switch {
	case errors.Is(err, flight.ErrClosed):
		return fmt.Errorf("%w: %s: %w", referrerstore.ErrUnavailable, k.identity, err)
	case classified(err):
		return fmt.Errorf("%s: %w", k.identity, err)
	default:
		return fmt.Errorf("%w: %s: %w", referrerstore.ErrAuthDenied, k.identity, err)
	}
}

func classified(err error) bool {
	for _, sentinel := range []error{
		referrerstore.ErrAuthDenied, referrerstore.ErrRateLimited, referrerstore.ErrUnavailable,
		referrerstore.ErrRefused, referrerstore.ErrProtocol,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

// close ends the keeper's flights and waits for them.
func (k *Keeper) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.flights.Close()
	k.renewals.Wait()
}
