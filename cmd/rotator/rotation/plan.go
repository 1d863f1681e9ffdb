package rotation

import (
	"crypto/x509"
	"slices"
	"time"
)

// action is one step of the plan. Each changes one thing in the cluster, after
// which everything is read anew.
type action string

const (
	actNothing   action = "nothing"   // until step.due, or until something changes
	actHold      action = "hold"      // a Provider must be readable first
	actAuthority action = "authority" // make an authority beside those that are trusted
	actTrust     action = "trust"     // give the Providers the bundle
	actIssue     action = "issue"     // write a certificate of the authority
	actRetire    action = "retire"    // take former authorities out of the bundle
)

// step is what to do, and why, as an attribute of the log line.
type step struct {
	do  action
	why string
	due time.Time // with actNothing: when something will be to do; zero if only a change can make it so
}

// plan says what is to be done next. It is the whole order of a rotation: see the
// package's comment.
func (r *Rotator) plan(now time.Time, s state) step {
	if why := r.authorityDue(now, s); why != "" {
		if s.unread && s.authority == nil {
			return step{do: actHold, why: "without all Providers it is unknown what they trust"}
		}
		return step{do: actAuthority, why: why}
	}
	if why := r.certificateDue(now, s); why != "" {
		return step{do: actIssue, why: why}
	}
	if len(s.untold()) > 0 {
		return step{do: actTrust, why: "a Provider has another bundle than the Secret"}
	}
	switch {
	case s.ours():
		return r.retire(now, s)
	case s.unread:
		return step{do: actHold, why: "without all Providers it is unknown what they trust"}
	default:
		return r.takeOver(now, s)
	}
}

// authorityDue says why a new authority is needed; empty if it is not.
func (r *Rotator) authorityDue(now time.Time, s state) string {
	switch {
	case s.authority == nil:
		return "the Secret has no authority with its key"
	case !slices.Contains(s.authority.Cert.DNSNames, r.options.CAName):
		return "the authority has another name"
	case r.ending(now, s.authority.Cert):
		return "the authority is about to end"
	}
	return ""
}

// certificateDue says why a certificate is to be written whatever the Providers
// have: they trust the authority already, or there is nothing to lose.
func (r *Rotator) certificateDue(now time.Time, s state) string {
	switch {
	case s.chained() && !now.Before(s.leaf.NotAfter):
		return "the certificate has ended"
	case s.ours() && r.ending(now, s.leaf):
		return "the certificate is about to end"
	case s.ours() && !slices.Equal(s.leaf.DNSNames, r.maker.names()):
		return "the certificate has other names"
	}
	return ""
}

// takeOver is the step to a certificate of the authority, which all Providers
// have: at once if nobody can present another one, else after a time.
func (r *Rotator) takeOver(now time.Time, s state) step {
	wait, why := r.options.Settle, "all Providers trust the authority"
	switch {
	case len(s.bundle) == 1:
		wait, why = 0, "there is no certificate yet"
	case !s.chained():
		wait, why = min(settleLost, r.options.Settle), "the Secret has lost its certificate"
	}
	if due := s.confirmed.Add(wait); now.Before(due) {
		return step{do: actNothing, due: due}
	}
	return step{do: actIssue, why: why}
}

// retire ends a roll-over when it is time. Before and without one it says when
// something will be to do.
func (r *Rotator) retire(now time.Time, s state) step {
	due := s.authority.Cert.NotAfter
	if s.leaf.NotAfter.Before(due) {
		due = s.leaf.NotAfter
	}
	due = due.Add(-r.options.RenewBefore)
	if len(s.bundle) > 1 {
		end := issuedAt(s.leaf).Add(r.options.Overlap)
		if !now.Before(end) {
			return step{do: actRetire, why: "servers had time to take up the new certificate"}
		}
		if end.Before(due) {
			due = end
		}
	}
	return step{do: actNothing, due: due}
}

// ending says that a certificate is to be exchanged by now.
func (r *Rotator) ending(now time.Time, cert *x509.Certificate) bool {
	return !now.Before(cert.NotAfter.Add(-r.options.RenewBefore))
}
