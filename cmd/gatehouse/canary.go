package main

import (
	"log/slog"

	"github.com/gatehouse-project/gatehouse/executor/canary"
)

// newCanary makes what proves images of a known verdict again and again; nil if
// the configuration names none.
func (l *live) newCanary(logger *slog.Logger) (*canary.Canary, error) {
	c := l.config.Canary
	if c == nil {
		return nil, nil //nolint:nilnil // none is no error
	}
	made, err := canary.New(l.executor, canary.Options{
		MustPass: c.MustPass, MustFail: c.MustFail, Namespace: c.Namespace,
		Interval: c.Interval, Logger: logger, Registerer: l.metrics,
	})
	return made, l.config.At("canary", err)
}
