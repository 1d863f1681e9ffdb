// Package notation verifies Notary Project signatures, JWS and COSE, through
// notation-go.
//
// [New] compiles [Options] against a snapshot of trusted certificates: the
// trust policy document, as notation's users write it, becomes statements with
// a verifier of notation-go's each, and what is not safe is refused then.
//
// [Verifier.Verify] reads a signature's manifest and its one envelope, refuses
// what is beyond the bounds before any library decodes it, lets notation-go
// verify it against the one resolved descriptor, and judges. That the library
// reports no error is not yet a pass: integrity, authenticity and the
// descriptor are looked at again.
//
// Revocation is checked by validators that keep the raw result for each call,
// ask only about chains that reached a trusted root, and are bounded in time,
// number and bytes; responses are kept until they end. The README beside this
// file has the options and the meaning of each outcome.
//
// What it does not do: plug-ins (a signature that demands one fails), and
// policy (how many signatures are enough is decided above it).
package notation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// Type is the verifier's type in a configuration and in reports.
const Type = "notation"

// ArtifactType is the type of the artifacts that it judges.
const ArtifactType = registry.ArtifactTypeNotation

// Deps is what a verifier needs of its surroundings.
type Deps struct {
	// Trust is the snapshot that trust stores are looked up in.
	Trust *trust.Snapshot
	// HTTPClient asks OCSP responders and fetches revocation lists. It guards
	// where it goes by itself; size and time are bounded here. It is needed
	// unless revocation is off.
	HTTPClient *http.Client
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
	// Tracer receives a span of each call of the library; nil makes none.
	Tracer trace.TracerProvider
}

// Verifier judges Notary Project signatures. It is immutable but for the cache
// of revocation responses, holds no goroutine, and needs no closing: a new
// configuration makes a new one.
type Verifier struct {
	name   string
	policy policy
	tracer trace.Tracer // nil makes no spans
}

var _ verifier.Verifier = (*Verifier)(nil)

// New makes a verifier, or says what the options lack with [ErrOptions].
func New(name string, opts Options, deps Deps) (*Verifier, error) {
	opts.Revocation = opts.Revocation.withDefaults()
	if err := checkRevocation(opts.Revocation, deps); err != nil {
		return nil, fmt.Errorf("notation %s: %w: %w", name, ErrOptions, err)
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	deps.Logger = deps.Logger.With("verifier", name)
	m, err := newMetrics(name, deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("notation %s: metrics: %w", name, err)
	}
	checks, err := newChecker(opts.Revocation, deps, m)
	if err != nil {
		return nil, fmt.Errorf("notation %s: revocation: %w", name, err)
	}
	compiled, err := compile(opts, deps.Trust, checks)
	if err != nil {
		return nil, fmt.Errorf("notation %s: %w", name, err)
	}
	return &Verifier{name: name, policy: compiled, tracer: newTracer(deps.Tracer)}, nil
}

func checkRevocation(opts RevocationOptions, deps Deps) error {
	switch {
	case opts.Mode != RevocationEnforce && opts.Mode != RevocationLog && opts.Mode != RevocationOff:
		return fmt.Errorf("revocation.mode %q is none of %s, %s and %s", opts.Mode, RevocationEnforce, RevocationLog, RevocationOff)
	case opts.Timeout < 0:
		return fmt.Errorf("revocation.timeout %s is negative", opts.Timeout)
	case opts.CacheBytes < minCacheBytes:
		return fmt.Errorf("revocation.cacheBytes is %d, at least %d", opts.CacheBytes, minCacheBytes)
	case deps.HTTPClient == nil && opts.Mode != RevocationOff:
		return errors.New("revocation needs an HTTP client")
	default:
		return nil
	}
}

// Name implements [verifier.Verifier].
func (v *Verifier) Name() string { return v.name }

// Type implements [verifier.Verifier].
func (v *Verifier) Type() string { return Type }

// Matches implements [verifier.Verifier]: the referrer is listed as a Notary
// Project signature. Registries that list a manifest without an artifact type
// by the media type of its config do so in the same field.
func (v *Verifier) Matches(referrer ocispec.Descriptor) bool {
	return referrer.ArtifactType == ArtifactType
}

// Verify implements [verifier.Verifier]. Errors are those of the content and
// of the context; everything else is a report.
func (v *Verifier) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	if ctx.Err() != nil {
		return verifier.Report{}, context.Cause(ctx)
	}
	report, err := v.verify(ctx, in)
	if err != nil {
		return verifier.Report{}, fmt.Errorf("verify signature %s: %w", in.Artifact.Digest, err)
	}
	if report.Outcome == verifier.Inconclusive && ctx.Err() != nil {
		return verifier.Report{}, context.Cause(ctx)
	}
	report.Verifier, report.Type, report.Artifact = v.name, Type, in.Artifact
	return report, nil
}

func (v *Verifier) verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	s := v.policy.applicable(in.Subject.Reference)
	if s == nil {
		return failed(reasonNoStatement(in.Subject.Reference)), nil
	}
	layer, reason, err := envelopeOf(ctx, in)
	if err != nil || reason.Code != "" {
		return failed(reason), err
	}
	envelope, err := in.Content.Blob(ctx, layer, maxEnvelopeBytes)
	if err != nil {
		return verifier.Report{}, err
	}
	if err := inspect(layer.MediaType, envelope); err != nil {
		return failed(reasonEnvelope(err)), nil
	}
	q := newInquiry(s)
	q.lenient = in.RevocationMayBeStale
	ctx, span := v.start(ctx)
	defer span.End()
	outcome, err := s.verifier.Verify(q.in(ctx), in.Subject.Descriptor, envelope, notation.VerifierVerifyOptions{
		ArtifactReference:  artifactReference(in.Subject),
		SignatureMediaType: layer.MediaType,
	})
	return (&judgement{statement: s, inquiry: q, outcome: outcome, err: err, subject: in.Subject.Descriptor}).report(), nil
}

func newTracer(provider trace.TracerProvider) trace.Tracer {
	if provider == nil {
		return nil
	}
	return provider.Tracer("github.com/gatehouse-project/gatehouse/verifier/notation")
}

// start begins the span of a call of the library, with what it asks about
// revocation.
func (v *Verifier) start(ctx context.Context) (context.Context, trace.Span) {
	if v.tracer == nil {
		return ctx, noop.Span{}
	}
	return v.tracer.Start(ctx, "check signature")
}

// envelopeOf finds the one layer of a signature's manifest.
func envelopeOf(ctx context.Context, in verifier.Input) (ocispec.Descriptor, verifier.Reason, error) {
	manifest, err := in.Content.Manifest(ctx)
	if err != nil {
		return ocispec.Descriptor{}, verifier.Reason{}, err
	}
	if manifest.ArtifactType != ArtifactType && manifest.Config.MediaType != ArtifactType {
		return ocispec.Descriptor{}, reasonMalformed("its manifest is not that of a Notary Project signature"), nil
	}
	if n := len(manifest.Layers); n != 1 {
		return ocispec.Descriptor{}, reasonMalformed(fmt.Sprintf("its manifest has %d layers, not the one envelope", n)), nil
	}
	layer := manifest.Layers[0]
	if !isEnvelope(layer.MediaType) {
		return ocispec.Descriptor{}, reasonMalformed("its layer's media type is not that of a JWS or COSE envelope"), nil
	}
	if layer.Size > maxEnvelopeBytes {
		return ocispec.Descriptor{}, reasonTooLarge(layer.Size), nil
	}
	return layer, verifier.Reason{}, nil
}

// artifactReference names the subject for notation-go, whose grammar has no
// IPv6 hosts. The statement is chosen already and has every repository in
// scope, so a stand-in for such a host changes nothing.
func artifactReference(subject referrerstore.Subject) string {
	if strings.HasPrefix(subject.Reference.Registry, "[") {
		subject.Reference.Registry = "ipv6.invalid"
	}
	return subject.String()
}
