// Package canary proves images of which the verdict is known beforehand, again and
// again, and tells the outcome as metrics: a gate that lets everything through, or
// nothing, is noticed before it decides on what matters.
//
//   - canary.go makes a [Canary] and runs it, round after round.
//   - outcome.go says what a result means for an image that must pass or fail.
//   - metrics.go is what is told: labels are of the configured images and of
//     fixed sets.
//
// Every round proves anew, see [executor.Executor.Prove]: the registry is asked,
// signatures are checked, and no proof is remembered. What it does not do: change
// any answer. It watches, and somebody has to watch its metrics.
package canary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxImages bounds each of the two lists, and with them the series.
	maxImages = 20
	// atOnce bounds the images that are proven at the same time.
	atOnce = 8

	defaultInterval = 30 * time.Second
	// defaultTimeout is long against an admission: the background lane waits
	// for whoever is being admitted.
	defaultTimeout = 10 * time.Second
)

// Prover decides on an image as if nothing were known of it. An error says that no
// verdict was reached. It must be safe for concurrent use.
type Prover interface {
	Prove(ctx context.Context, req executor.Request) (executor.Result, error)
}

var _ Prover = (*executor.Executor)(nil)

// Options of a Canary. Some image must be named; all else may be left out.
type Options struct {
	// MustPass and MustFail are references as a pod's author would write them, at
	// most 20 of each, none twice. An image that must fail has to exist.
	MustPass, MustFail []string
	// Namespace is the Kubernetes namespace that all are judged for; may be empty.
	Namespace string
	// Interval is from the begin of one round to that of the next; 0 means 30 s.
	// A round that takes longer delays the next one.
	Interval time.Duration
	// Timeout is how long one image may take; 0 means 10 s, or Interval if that is
	// shorter. An image that takes longer has no verdict.
	Timeout time.Duration

	// Logger receives a line when an image's outcome changes; nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Canary proves its images again and again while it runs.
type Canary struct {
	prover  Prover
	opts    Options
	birds   []*bird
	metrics *metrics
}

// bird is one image and what is known of it.
type bird struct {
	image    string // as it was written
	request  executor.Request
	expected expectation
	last     outcome // only [Canary.Run]'s rounds touch it, one after the other
}

// New makes a canary. An image that is no reference, stands there twice, or is one
// too many is an error that names its list and index, as MustPass[0] does.
func New(prover Prover, opts Options) (*Canary, error) {
	opts = opts.withDefaults()
	c := &Canary{prover: prover, opts: opts}
	seen := make(map[referrerstore.Reference]string)
	err := errors.Join(c.add("mustPass", opts.MustPass, mustPass, seen), c.add("mustFail", opts.MustFail, mustFail, seen))
	if err != nil {
		return nil, err
	}
	if len(c.birds) == 0 {
		return nil, errors.New("the canary names no image: add mustPass or mustFail")
	}
	c.metrics = newMetrics(opts.Registerer, c.birds, opts.Interval)
	return c, nil
}

func (c *Canary) add(list string, images []string, expected expectation, seen map[referrerstore.Reference]string) error {
	var errs []error
	for i, image := range images {
		at := fmt.Sprintf("%s[%d]", list, i)
		ref, err := referrerstore.ParseReference(image)
		switch former := seen[ref]; {
		case i >= maxImages:
			return errors.Join(append(errs, fmt.Errorf("%s: there are %d images, at most %d", at, len(images), maxImages))...)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
			continue
		case former != "":
			errs = append(errs, fmt.Errorf("%s: it is the same image as %s", at, former))
			continue
		}
		seen[ref] = at
		request := executor.Request{Reference: ref, Namespace: c.opts.Namespace, Lane: referrerstore.LaneBackground}
		c.birds = append(c.birds, &bird{image: image, request: request, expected: expected, last: asExpected})
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.Interval <= 0 {
		o.Interval = defaultInterval
	}
	if o.Timeout <= 0 {
		o.Timeout = min(defaultTimeout, o.Interval)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Run proves all images at once, and again every interval, until ctx ends; nothing
// goes on once it has returned. It is called once.
func (c *Canary) Run(ctx context.Context) {
	ticker := time.NewTicker(c.opts.Interval) // which drops the ticks of a slow round
	defer ticker.Stop()
	for ctx.Err() == nil { // a tick may have come together with its end
		c.round(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// round proves every image once. What ctx's end cut off says nothing.
func (c *Canary) round(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, b := range c.birds {
		group.Go(func() error {
			c.prove(ctx, b)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	if ctx.Err() == nil {
		c.metrics.last.SetToCurrentTime()
	}
}

func (c *Canary) prove(ctx context.Context, b *bird) {
	limited, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	begun := time.Now()
	result, err := c.prover.Prove(limited, b.request)
	if ctx.Err() != nil {
		return
	}
	came := b.expected.judge(result, err)
	c.metrics.observe(b, came, time.Since(begun))
	if came != b.last {
		c.tell(ctx, b, came, executor.Explain(result, err))
	}
	b.last = came
}

// tell logs a change. The texts are those that people read in answers.
func (c *Canary) tell(ctx context.Context, b *bird, came outcome, why executor.Explanation) {
	attrs := []slog.Attr{
		slog.String("image", b.image), slog.String("expected", string(b.expected)), slog.String("outcome", string(came)),
		slog.String("code", string(why.Code)), slog.String("reason", why.Line()),
	}
	switch came {
	case asExpected:
		c.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "a canary image is as it must be again", attrs...)
	case unexpected:
		c.opts.Logger.LogAttrs(ctx, slog.LevelError, "a canary image is not as it must be", attrs...)
	case noVerdict:
		c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "a canary image could not be proven", attrs...)
	}
}
