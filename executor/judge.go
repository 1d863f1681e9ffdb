package executor

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// matching are the verifiers for an artifact. One that panics over it is among
// them: what it makes of the artifact is in doubt, and Verify will say so.
func (e *Executor) matching(ctx context.Context, verifiers []verifier.Verifier, artifact ocispec.Descriptor) []verifier.Verifier {
	var matching []verifier.Verifier
	for _, v := range verifiers {
		if e.matches(ctx, v, artifact) {
			matching = append(matching, v)
		}
	}
	return matching
}

func (e *Executor) matches(ctx context.Context, v verifier.Verifier, artifact ocispec.Descriptor) (matches bool) {
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic in a verifier", p, debug.Stack(), "verifier", v.Name(), "artifact", artifact.Digest.String())
			matches = true
		}
	}()
	return v.Matches(artifact)
}

// judgeTraced is judge with a span around it.
func (e *Executor) judgeTraced(ctx context.Context, g *gathering, from source) []verifier.Report {
	ctx, span := e.tracer.start(ctx, "artifact")
	reports := e.judge(ctx, g, from)
	finishArtifact(span, from, reports)
	return reports
}

// judge lets every matching verifier judge one artifact, all at once, over one
// shared reading of it.
func (e *Executor) judge(ctx context.Context, g *gathering, from source) []verifier.Report {
	reports := make([]verifier.Report, len(from.verifiers))
	subject, err := g.await(ctx)
	if err != nil {
		for i, v := range from.verifiers {
			reports[i] = verifier.Report{Verifier: v.Name(), Type: v.Type(), Artifact: from.artifact, Reason: reasonOf(ctx, err)}
		}
		return reports
	}
	content := e.newContent(ctx, from.store, subject, from.artifact)
	defer content.release()
	in := verifier.Input{Subject: subject, Artifact: from.artifact, Content: content, RevocationMayBeStale: g.lenient}
	var group errgroup.Group
	group.SetLimit(len(from.verifiers))
	for i, v := range from.verifiers {
		group.Go(func() error {
			reports[i] = e.verifyOne(ctx, v, in, from.sole)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	return reports
}

// verifyOne calls one verifier. Whatever goes wrong in it is an inconclusive
// report, or a failed one where the artifact itself can never be judged.
func (e *Executor) verifyOne(ctx context.Context, v verifier.Verifier, in verifier.Input, sole bool) (report verifier.Report) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic in a verifier", p, debug.Stack(), "verifier", v.Name(), "artifact", in.Artifact.Digest.String())
			report = verifier.Report{Reason: verifier.Reason{
				Code: verifier.CodeVerificationAborted,
				What: "the verifier stopped on an internal error",
				Do:   "see the log of gatehouse",
			}}
		}
		report.Verifier, report.Type, report.Artifact = v.Name(), v.Type(), in.Artifact
		report.Elapsed = time.Since(start)
		e.metrics.judged(v, report)
	}()
	report, err := v.Verify(ctx, in)
	if err == nil && report.Outcome == verifier.Inconclusive && errors.Is(context.Cause(ctx), errDecided) {
		err = errDecided
	}
	if err != nil {
		return verifier.Report{Outcome: outcomeOf(err, sole), Reason: reasonOf(ctx, err)}
	}
	if report.Outcome == verifier.Passed && report.Statement == "" {
		// A Passed that says nothing cannot be counted: it is no proof.
		return verifier.Report{Reason: verifier.Reason{Code: verifier.CodeVerificationAborted, What: "the verifier proved nothing"}}
	}
	return report
}

// outcomeOf tells what can never pass from what could not be told. A size is
// what a list says: where another store may list the artifact too, it may say
// otherwise.
func outcomeOf(err error, sole bool) verifier.Outcome {
	if errors.Is(err, verifier.ErrNotReferrer) || (sole && errors.Is(err, referrerstore.ErrTooLarge)) {
		return verifier.Failed
	}
	return verifier.Inconclusive
}

func reasonOf(ctx context.Context, err error) verifier.Reason {
	switch {
	case errors.Is(err, verifier.ErrNotReferrer):
		return verifier.Reason{Code: verifier.CodeArtifactMalformed, What: "its manifest does not refer to the image", Err: err}
	case errors.Is(err, referrerstore.ErrTooLarge):
		return verifier.Reason{Code: verifier.CodeArtifactTooLarge, What: "it is larger than the bound for its kind", Err: err}
	case ctx.Err() != nil:
		return verifier.Reason{Code: verifier.CodeArtifactUnavailable, What: "it was not judged in time", Err: context.Cause(ctx)}
	default:
		return verifier.Reason{Code: verifier.CodeArtifactUnavailable, What: "it could not be judged", Err: err}
	}
}
