package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/gatehouse-project/gatehouse/executor/canary"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// newCanary makes what proves images of a known verdict again and again; nil if
// the configuration names none.
func (l *live) newCanary(logger *slog.Logger) (*canary.Canary, error) {
	c := l.config.Canary
	if c == nil {
		return nil, nil //nolint:nilnil // none is no error
	}
	if err := errors.Join(l.provable("mustPass", c.MustPass), l.provable("mustFail", c.MustFail)); err != nil {
		return nil, err
	}
	made, err := canary.New(l.executor, canary.Options{
		MustPass: c.MustPass, MustFail: c.MustFail, Namespace: c.Namespace,
		Interval: c.Interval, Logger: logger, Registerer: l.metrics,
	})
	return made, l.config.At("canary", err)
}

// provable refuses images that no round could come to a verdict on: a host that no
// store names gets no background work, which all of a canary's is.
func (l *live) provable(list string, images []string) error {
	var errs []error
	pulled := l.isUpstream()
	for i, image := range images {
		ref, err := referrerstore.ParseReference(image)
		if err == nil && !pulled(ref.Registry) {
			err = l.named(ref.Registry)
		}
		errs = append(errs, l.config.At(fmt.Sprintf("canary.%s[%d]", list, i), err))
	}
	return errors.Join(errs...)
}

func (l *live) named(host string) error {
	at := slices.IndexFunc(l.stores, func(s store) bool { return s.Serves(host) })
	if at < 0 || l.stores[at].Names(host) { // that no store serves it is a verdict
		return nil
	}
	return fmt.Errorf("store %q serves %s without naming it, and gets nothing proven in the background there: add it to stores[%d].hosts", l.stores[at].Name(), host, at)
}
