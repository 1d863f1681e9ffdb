package executor

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// plan is a request with what the policy and the configuration say of it, found
// without I/O. It is immutable.
type plan struct {
	req     Request
	rule    Rule
	serving []referrerstore.Store
	about   proofKey // without a digest
	unnamed bool     // the configuration does not name the host
	recent  *recent
	allowed prometheus.Counter // of subjects that the rule allowed by reports
	down    DownTerms
}

// plan finds the rule and the stores for a request, or what it found before.
// Where they alone decide, the result is whole.
func (e *Executor) plan(req Request, now time.Time) (*plan, Result, bool) {
	key := req.canonical()
	if pl, ok := e.memory.plans.GetIfPresent(key); ok {
		if pl.req == req {
			return pl, Result{}, false
		}
		return pl.as(req), Result{}, false
	}
	pl, result, decided := e.newPlan(req, now)
	if !decided {
		e.memory.plans.Set(key, pl.as(key))
	}
	return pl, result, decided
}

// as is the plan of a request that differs from its own only in who asks.
func (p *plan) as(req Request) *plan {
	if p.req == req {
		return p
	}
	other := *p
	other.req = req
	return &other
}

func (e *Executor) newPlan(req Request, now time.Time) (*plan, Result, bool) {
	result := Result{Request: req}
	rule, found, err := e.policy.Match(req.Reference, req.Namespace)
	if err != nil {
		return nil, result.denied(err), true
	}
	if !found {
		return nil, result.denied(ErrNoRule), true
	}
	result.Rule = rule.Name
	if rule.Exemption != nil {
		return nil, exempt(result, rule.Exemption, now), true
	}
	serving := e.serving(req.Reference.Registry)
	if len(serving) == 0 {
		return nil, result.denied(ErrNoStore), true
	}
	if req.deniesTag() {
		return nil, result.denied(ErrUnpinned), true
	}
	pl := e.planFor(req, rule, serving)
	pl.allowed = e.metrics.allowed(rule.Name)
	return pl, result, false
}

// planFor is the plan of a request that takes work.
func (e *Executor) planFor(req Request, rule Rule, serving []referrerstore.Store) *plan {
	host := req.Reference.Registry
	pl := &plan{req: req, rule: rule, serving: serving, recent: &recent{}, about: proofKey{registry: host, repository: req.Reference.Repository, rule: rule.Name}}
	pl.about.identity = identity(serving, host)
	pl.unnamed = referrerstore.About(serving[0], host).Unnamed && (e.opts.Named == nil || !e.opts.Named(host))
	if e.opts.Down != nil {
		pl.down = e.opts.Down(host)
	}
	return pl
}

// identity is whose credentials the stores show to the host.
func identity(serving []referrerstore.Store, host string) string {
	if len(serving) == 1 {
		return referrerstore.About(serving[0], host).Identity
	}
	var all strings.Builder
	for _, s := range serving {
		all.WriteString(s.Name() + "=" + referrerstore.About(s, host).Identity + ",")
	}
	return all.String()
}

func (p *plan) result() Result { return Result{Request: p.req, Rule: p.rule.Name} }

func (p *plan) key(subject referrerstore.Subject) proofKey {
	key := p.about
	key.digest = subject.Descriptor.Digest
	return key
}

func exempt(result Result, exemption *Exemption, now time.Time) Result {
	result.Exemption = exemption
	if !now.Before(exemption.Until) {
		return result.denied(ErrExemptionEnded)
	}
	result.Decision = Allowed
	return result
}

func (e *Executor) serving(host string) []referrerstore.Store {
	var serving []referrerstore.Store
	for _, s := range e.stores {
		if s.Serves(host) {
			serving = append(serving, s)
		}
	}
	return serving
}
