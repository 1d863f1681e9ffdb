package rotation

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Pauses of the loop.
const (
	pauseAfterError = time.Second // doubled with each error in a row, at most Resync
	pauseWhenBusy   = time.Second // after each of many changes in a row
	busy            = 16          // changes in a row from which on something undoes them
)

// Rotator keeps one Secret and the Providers that trust it. Run it once; its
// other methods may be called concurrently.
type Rotator struct {
	cluster   Cluster
	providers []string
	maker     *maker
	options   Options
	metrics   *metrics

	// Since when all Providers have which bundle. Of the loop alone. A process
	// that starts in the middle of a roll-over waits anew.
	toldBundle string
	toldSince  time.Time

	mu     sync.Mutex // guards status
	status Status
}

// New is a Rotator for the named Providers and a certificate with names: the first
// is its common name, all are DNS names in it. One of them has to be the host in
// the Providers' URL, or Gatekeeper refuses the certificate. It fails on options that
// contradict each other.
func New(cluster Cluster, providers, names []string, options Options) (*Rotator, error) {
	if cluster == nil || len(providers) == 0 || len(names) == 0 {
		return nil, errors.New("a cluster, a Provider and a DNS name are required")
	}
	o := options.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	return &Rotator{
		cluster: cluster, providers: slices.Clone(providers), maker: newMaker(names, o),
		options: o, metrics: newMetrics(o.Registerer),
	}, nil
}

// Run keeps the Secret and the Providers until ctx ends, and returns nil then. It looks
// at them every Options.Resync, when a step is due, and when wake has something,
// which may be nil. What fails is logged and tried again.
func (r *Rotator) Run(ctx context.Context, wake <-chan struct{}) error {
	var errs, changes int
	for ctx.Err() == nil {
		next, err := r.pass(ctx)
		var pause time.Duration
		switch {
		case err != nil:
			errs, changes = errs+1, 0
			pause = r.pauseAfter(err, errs)
		case next.do != actNothing:
			errs, changes = 0, changes+1
			if changes >= busy {
				pause = pauseWhenBusy
			}
		default:
			errs, changes = 0, 0
			pause = r.untilDue(next.due)
		}
		sleep(ctx, pause, wake)
	}
	return nil
}

// sleep ends when d is over, when wake has something, or with ctx.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

func (r *Rotator) pauseAfter(err error, inARow int) time.Duration {
	if errors.Is(err, ErrConflict) && inARow < busy {
		return 50 * time.Millisecond
	}
	return min(pauseAfterError<<min(inARow-1, 10), r.options.Resync)
}

func (r *Rotator) untilDue(due time.Time) time.Duration {
	if due.IsZero() {
		return r.options.Resync
	}
	return min(max(time.Until(due), time.Millisecond), r.options.Resync)
}

// pass looks at the cluster once and does one step.
func (r *Rotator) pass(ctx context.Context) (step, error) {
	now := time.Now()
	s, err := r.read(ctx, now)
	if ctx.Err() != nil {
		return step{}, ctx.Err() // the end of the process is no failure
	}
	if err != nil && s.secret.Version == "" {
		r.note(now, s, err)
		return step{}, err
	}
	next := r.plan(now, s)
	err = errors.Join(err, r.do(ctx, now, next, s))
	r.note(now, s, err)
	return next, err
}

// read reads the Providers and then the Secret. In this order, because Providers are
// written on the version that was read: a bundle of an outdated Secret can then
// never replace that of a later one. With an error the state has what could be
// read; its Secret has no version if that could not be.
func (r *Rotator) read(ctx context.Context, now time.Time) (state, error) {
	var found []Provider
	var failed error
	for _, name := range r.providers {
		p, err := r.cluster.Provider(ctx, name)
		switch {
		case errors.Is(err, ErrNotFound): // nobody asks through it
			r.options.Logger.WarnContext(ctx, "there is no such Provider; it gets its bundle when there is", "provider", name)
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("read Provider %s: %w", name, err))
		default:
			found = append(found, p)
		}
	}
	secret, err := r.cluster.Secret(ctx)
	if err != nil {
		return state{}, errors.Join(failed, fmt.Errorf("read Secret: %w", err))
	}
	s := readState(secret, found, failed != nil)
	s.confirmed = r.confirm(now, s)
	return s, failed
}

// confirm keeps since when all Providers have had the present bundle.
func (r *Rotator) confirm(now time.Time, s state) time.Time {
	bundle := s.wanted()
	switch {
	case s.unread || len(s.untold()) > 0:
		r.toldBundle, r.toldSince = "", time.Time{}
	case r.toldBundle != bundle:
		r.toldBundle, r.toldSince = bundle, now
	}
	return r.toldSince
}

// do does a step and logs it.
func (r *Rotator) do(ctx context.Context, now time.Time, next step, s state) error {
	var err error
	switch next.do {
	case actNothing, actHold:
		return nil // what could not be read is the pass's error
	case actAuthority:
		err = r.renewAuthority(ctx, now, s)
	case actTrust:
		err = r.trust(ctx, s)
	case actIssue:
		err = r.issue(ctx, now, s)
	case actRetire:
		err = r.setSecret(ctx, s, map[string][]byte{KeyBundle: s.authority.CertPEM})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", next.do, err)
	}
	r.metrics.steps.WithLabelValues(string(next.do)).Inc()
	r.options.Logger.InfoContext(ctx, "step done", "step", string(next.do), "why", next.why)
	return nil
}

// renewAuthority writes a new authority before those that are trusted, and leaves
// the certificate as it is.
func (r *Rotator) renewAuthority(ctx context.Context, now time.Time, s state) error {
	made, err := r.maker.authority(now)
	if err != nil {
		return err
	}
	bundle := append([]*x509.Certificate{made.Cert}, s.trusted(now)...)
	return r.setSecret(ctx, s, map[string][]byte{KeyBundle: encodeBundle(bundle), KeyAuthorityKey: made.KeyPEM})
}

// trust gives the bundle to all Providers that have another one. One that cannot be
// written does not keep it from the others.
func (r *Rotator) trust(ctx context.Context, s state) error {
	wanted := s.wanted()
	var failed error
	for _, p := range s.untold() {
		if err := r.cluster.Trust(ctx, p, wanted); err != nil {
			failed = errors.Join(failed, fmt.Errorf("write Provider %s: %w", p.Name, err))
		}
	}
	return failed
}

func (r *Rotator) issue(ctx context.Context, now time.Time, s state) error {
	cert, key, err := r.maker.certificate(s.authority, now)
	if err != nil {
		return err
	}
	return r.setSecret(ctx, s, map[string][]byte{KeyCertificate: cert, KeyCertificateKey: key})
}

func (r *Rotator) setSecret(ctx context.Context, s state, data map[string][]byte) error {
	for key, value := range data {
		if bytes.Equal(s.secret.Data[key], value) {
			delete(data, key)
		}
	}
	if err := r.cluster.SetSecret(ctx, s.secret.Version, data); err != nil {
		return fmt.Errorf("write Secret: %w", err)
	}
	return nil
}
