package rotation

import (
	"errors"
	"time"
)

// Status is how the last pass went. Its zero value is that there was none.
type Status struct {
	At       time.Time // when it began
	Err      error     // what failed
	Served   bool      // the Secret has a certificate that is good now
	Told     bool      // all Providers trust the Secret's bundle
	NotAfter time.Time // when the certificate ends; zero if there is none
}

// Ready is nil if all is as it should be, else an error that says what is not.
func (s Status) Ready() error {
	switch {
	case s.At.IsZero():
		return errors.New("not looked at the cluster yet")
	case s.Err != nil:
		return s.Err
	case !s.Served:
		return errors.New("the Secret has no certificate that is good now")
	case !s.Told:
		return errors.New("a Provider does not have the Secret's bundle yet")
	}
	return nil
}

// Status is how the last pass went.
func (r *Rotator) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// note keeps how a pass went, in the status, the metrics and the log.
func (r *Rotator) note(now time.Time, s state, err error) {
	status := Status{At: now, Err: err, Told: !s.confirmed.IsZero()}
	if s.leaf != nil {
		status.NotAfter = s.leaf.NotAfter
		status.Served = s.chained() && now.Before(s.leaf.NotAfter)
	}
	r.mu.Lock()
	r.status = status
	r.mu.Unlock()
	r.metrics.note(status, s)
	switch {
	case errors.Is(err, ErrConflict):
		r.options.Logger.Debug("somebody else was faster; looking again", "error", err)
	case err != nil:
		r.options.Logger.Error("the certificate or its Providers could not be kept; trying again", "error", err)
	}
}
