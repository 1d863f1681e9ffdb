package executor_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// history is what happened to an image: signatures, requests, restarts, outages,
// and hours that went by.
type history struct {
	held
	rule    executor.Policy
	allowed func(good, all int) bool
	terms   executor.DownTerms

	state     string
	away      time.Time // when the registry was last found away by this process
	good, all int
	versions  []version
	wrong     string // what was wrong first: a bubble cannot be left by panic
}

// version is whether the image was allowed from a time on.
type version struct {
	from    time.Time
	allowed bool
}

func newHistory(t *testing.T, rt *rapid.T, terms executor.DownTerms, evaluateAll bool, demand string) *history {
	t.Helper()
	require := map[string]policy.Node{"one": {Verifier: "v"}, "two": atLeast(2), "every": every}[demand]
	allowed := map[string]func(good, all int) bool{
		"one":   func(good, _ int) bool { return good > 0 },
		"two":   func(good, _ int) bool { return good > 1 },
		"every": func(good, all int) bool { return good > 0 && good == all },
	}[demand]
	store, subject := signed()
	y := &history{held: held{site{nil, store, subject}, lastingOf(store)}, rule: ruleFor(t, require, evaluateAll, "v"), allowed: allowed, terms: terms, state: "back"}
	y.versions = []version{{time.Now(), false}}
	y.start(t)
	rt.Logf("%s, evaluate all %v, %+v", demand, evaluateAll, terms)
	return y
}

func (y *history) start(t *testing.T) {
	t.Helper()
	y.Executor = executor.New(t.Context(), []referrerstore.Store{y.last}, []verifier.Verifier{&scripted{name: "v"}}, y.rule, afresh(useHeld(y.terms)))
	y.away = time.Time{}
}

func (y *history) sign(word string) {
	y.all++
	if word == "pass" {
		y.good++
	}
	y.store.AddReferrer(y.subject, sigType, blob(fmt.Sprintf("%s %d", word, y.all)))
	y.versions = append(y.versions, version{time.Now(), y.allowed(y.good, y.all)})
}

// was says whether the image was allowed, or was not, at some moment since.
func (y *history) was(allowed bool, since time.Time) bool {
	for i, v := range y.versions {
		last := i == len(y.versions)-1
		if v.allowed == allowed && (last || !y.versions[i+1].from.Before(since)) {
			return true
		}
	}
	return false
}

// becomes sets how the registry is.
func (y *history) becomes(state string) {
	y.state = state
	switch state {
	case "away":
		y.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
	case "denies":
		y.last.answers(referrerstore.ErrAuthDenied, referrerstore.ErrAuthDenied)
	case "hangs":
		y.last.breaks(hangs)
	default:
		y.last.answers(nil, nil)
	}
}

// fresh is what a registry that says now what is held would lead to.
func (y *history) fresh(t *testing.T) executor.Decision {
	t.Helper()
	store, subject := signed()
	listed, _, _ := y.last.RecallReferrers(y.subject)
	store.List(subject, listed...)
	e := executor.New(t.Context(), []referrerstore.Store{contentOf{store, y.last}}, []verifier.Verifier{&scripted{name: "v"}}, y.rule, executor.Options{})
	defer e.Close()
	got, err := e.Verify(t.Context(), request(t, image))
	if err != nil {
		return executor.Undecided
	}
	return got.Decision
}

// contentOf is one store's lists over another one's content.
type contentOf struct {
	*storetest.Memory
	content referrerstore.Fetcher
}

func (c contentOf) Fetch(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	return c.content.Fetch(ctx, subject, desc, offset)
}

// fault notes what is wrong.
func (y *history) fault(format string, args ...any) {
	if y.wrong == "" {
		y.wrong = fmt.Sprintf(format, args...)
	}
}

func (y *history) ask(t *testing.T, rt *rapid.T, tag bool) {
	t.Helper()
	text := y.pinned()
	if tag {
		text = image
	}
	begun := time.Now()
	result, took, err := y.within(t, text)
	rt.Logf("%s: %v, held %+v, %v", y.state, result.Decision, result.Held, err)
	switch {
	case took > 1900*time.Millisecond:
		y.fault("answered after %s", took)
	case err != nil && (result.Decision != executor.Undecided || result.Held != nil):
		y.fault("%v, held %+v, beside %v", result.Decision, result.Held, err)
	case err != nil && y.state == "back" && y.all == y.good && begun.Sub(y.away) > 20*time.Second: // nothing of the outage lingers
		y.fault("nothing fails, and yet %v", err)
	case err == nil && result.Held != nil:
		y.checkHeld(t, tag, begun, result)
	case err == nil && result.Decision == executor.Allowed && !y.was(true, begun.Add(-time.Hour)):
		y.fault("allowed, which it was not within an hour")
	case err == nil && result.Decision == executor.Denied && !y.was(false, begun.Add(-time.Minute)):
		y.fault("denied (%v), which it was not within a minute", result.Denial)
	}
	if y.state == "away" || y.state == "hangs" {
		y.away = begun
	}
}

func (y *history) checkHeld(t *testing.T, tag bool, begun time.Time, result executor.Result) {
	t.Helper()
	answers := y.state == "back" || y.state == "denies"
	switch {
	case result.Decision != executor.Allowed:
		y.fault("held and yet %v", result.Decision)
	case y.fresh(t) != executor.Allowed:
		y.fault("allowed by what is held; if the registry said that now it would be %v", y.fresh(t))
	case result.Held.Age > y.terms.UseHeld || !y.was(true, begun.Add(-y.terms.UseHeld)):
		y.fault("held for %s, at most %s", result.Held.Age, y.terms.UseHeld)
	case tag && !y.terms.Tags:
		y.fault("a tag, of which nobody said that it may be held")
	case answers && (y.away.IsZero() || begun.Sub(y.away) > 2*time.Minute):
		y.fault("the registry answers, and would have for long")
	}
}

func (y *history) step(t *testing.T, rt *rapid.T, step string) {
	t.Helper()
	switch step {
	case "ask", "ask by tag":
		y.ask(t, rt, step == "ask by tag")
	case "pass", "fail", "doubt":
		y.sign(step)
	case "restart":
		y.Close()
		y.start(t)
	case "30s", "50m", "3h":
		d, err := time.ParseDuration(step)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(d)
	default:
		y.becomes(step)
	}
}

// Whatever happened before: what is held allows only what it would allow if the
// registry said the same now, not for longer than was said, and not against a
// registry that answers. Whatever is decided otherwise is the truth, or was not
// longer ago than a proof is believed, restarts or not.
func TestHeldDecisionsAreThoseOfFreshEvidence(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		terms := executor.DownTerms{
			UseHeld: time.Duration(rapid.IntRange(0, 5).Draw(rt, "hours held")) * time.Hour,
			Tags:    rapid.Bool().Draw(rt, "tags"),
		}
		demand := rapid.SampledFrom([]string{"one", "two", "every"}).Draw(rt, "demand")
		evaluateAll := rapid.Bool().Draw(rt, "evaluate all")
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{
			"ask", "ask", "ask", "ask by tag", "pass", "pass", "fail", "doubt",
			"restart", "away", "denies", "hangs", "back", "back", "30s", "50m", "3h",
		}), 1, 30).Draw(rt, "steps")
		var wrong string
		synctest.Test(t, func(t *testing.T) {
			y := newHistory(t, rt, terms, evaluateAll, demand)
			for _, step := range append([]string{"ask"}, steps...) {
				if y.step(t, rt, step); y.wrong != "" {
					break
				}
			}
			time.Sleep(16 * time.Second) // what lingers has ended
			y.Close()
			wrong = y.wrong
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}
