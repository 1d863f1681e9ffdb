package main

import (
	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
)

// snapshot is what the server reads of a configuration.
func (g *gate) snapshot(l *live) *httpserver.Snapshot {
	s := l.config.Server
	snapshot := &httpserver.Snapshot{
		Decider:       l.executor,
		Generation:    l.number,
		VerifyTimeout: s.VerifyTimeout,
		MutateTimeout: s.MutateTimeout,
		Limits:        httpserver.Limits{BodyBytes: s.Limits.BodyBytes, Keys: s.Limits.Keys, KeyBytes: s.Limits.KeyBytes},
		AnswerBytes:   l.config.Proofs.MaxBytes / answersShare,
	}
	if g.opts.wrap != nil {
		snapshot.Decider = g.opts.wrap(snapshot.Decider)
	}
	if s.OnFailure == config.OnFailureValue {
		snapshot.OnFailure = httpserver.FailureIsValue
	}
	if s.MutateTo == config.MutateToTagAndDigest {
		snapshot.MutateTo = httpserver.MutateToTagAndDigest
	}
	switch s.Unpinned {
	case config.UnpinnedWarn:
		snapshot.Unpinned = executor.UnpinnedWarn
	case config.UnpinnedDeny:
		snapshot.Unpinned = executor.UnpinnedDeny
	case config.UnpinnedAllow:
	}
	switch s.NamespaceFrom {
	case config.NamespaceFromKey:
		snapshot.NamespaceFrom = httpserver.NamespaceFromKey
	case config.NamespaceFromPath:
		snapshot.NamespaceFrom = httpserver.NamespaceFromPath
	case config.NamespaceFromNone:
	}
	return snapshot
}
