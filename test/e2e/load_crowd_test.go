package e2e

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
)

// ask is a Pod that somebody wants, and what has to come of it.
type ask struct {
	about  string
	images []string
	// denial is what the denial has to say, as a regular expression; empty if the
	// Pod has to be admitted.
	denial string
	// either takes both for right.
	either bool
}

// outcome is what came of an ask.
type outcome struct {
	ask
	begun, ended time.Time
	admitted     bool
	message      string // of the denial
	warnings     []string
	err          error // no answer at all
}

// right says that it came out as it has to.
func (o outcome) right() bool {
	switch {
	case o.err != nil:
		return false
	case o.admitted:
		return o.denial == "" || o.either
	default:
		return o.denial != "" && regexp.MustCompile(o.denial).MatchString(o.message)
	}
}

// breach says that a Pod was admitted that must not be.
func (o outcome) breach() bool { return o.admitted && o.denial != "" && !o.either }

func (o outcome) elapsed() time.Duration { return o.ended.Sub(o.begun) }

func (o outcome) String() string {
	saw := "admitted"
	if !o.admitted {
		saw = o.message
	}
	if o.err != nil {
		saw = o.err.Error()
	}
	return fmt.Sprintf("%s, begun %s, after %d ms: %s", o.about, o.begun.Format("15:04:05.000"), o.elapsed().Milliseconds(), saw)
}

// podObject is what [world.pod] writes, for the API.
func (w *world) podObject(name string, images []string) map[string]any {
	containers := make([]map[string]any, len(images))
	for i, image := range images {
		containers[i] = map[string]any{"name": fmt.Sprintf("c%d", i), "image": image}
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": w.namespace},
		"spec": map[string]any{"containers": containers},
	}
}

func (w *world) podsPath() string { return "/api/v1/namespaces/" + w.namespace + "/pods" }

// create asks for a Pod; dry makes none.
func (w *world) create(ctx context.Context, api *cluster.API, name string, a ask, dry bool) outcome {
	path := w.podsPath()
	if dry {
		path += "?dryRun=All"
	}
	o := outcome{ask: a, begun: time.Now()}
	answer, err := api.Do(ctx, http.MethodPost, path, w.podObject(name, a.images))
	o.ended = time.Now()
	o.admitted, o.message, o.warnings, o.err = err == nil && answer.OK(), answer.Message(), answer.Warnings, err
	return o
}

// remove deletes all objects of a collection, so that no audit of another test
// finds them.
func (w *world) remove(path string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), time.Minute)
	defer cancel()
	answer, err := w.api.Do(ctx, http.MethodDelete, path+"?gracePeriodSeconds=0", nil)
	w.ok(err)
	if !answer.OK() {
		w.t.Error(answer.Message())
	}
}

// crowd are clients, each with connections of its own.
func (w *world) crowd(n int) []*cluster.API {
	w.t.Helper()
	apis := make([]*cluster.API, n)
	for i := range apis {
		apis[i] = must(w.API())(w.t)
		w.t.Cleanup(apis[i].Close)
	}
	return apis
}

// load are clients that ask again and again.
type load struct {
	stop  func()
	group sync.WaitGroup
	mu    sync.Mutex // guards the field that follows it
	all   []outcome
}

// load lets clients ask for Pods, without making them, until end is called. Which
// ones next says, of a client and of how often it has asked; it is called by all
// at once.
func (w *world) load(clients int, next func(client, i int) ask) *load {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	l := &load{stop: stop}
	for client, api := range w.crowd(clients) {
		l.group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				// What has begun is not broken off by the end of the load.
				o := w.create(w.t.Context(), api, fmt.Sprintf("load-%d-%d", client, i), next(client, i), true)
				l.add(o)
				pause(ctx, breath)
			}
		})
	}
	w.t.Cleanup(func() { l.end() })
	return l
}

// breath is what a client of a load takes between two Pods.
const breath = 10 * time.Millisecond

func (l *load) add(o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, o)
}

// soFar are the outcomes until now.
func (l *load) soFar() outcomes {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// end stops the clients and gives all outcomes.
func (l *load) end() outcomes {
	l.stop()
	l.group.Wait()
	return l.soFar()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

type outcomes []outcome

func (all outcomes) where(is func(outcome) bool) outcomes {
	var some outcomes
	for _, o := range all {
		if is(o) {
			some = append(some, o)
		}
	}
	return some
}

func (all outcomes) breaches() outcomes { return all.where(outcome.breach) }

func (all outcomes) wrong() outcomes { return all.where(func(o outcome) bool { return !o.right() }) }

// between are those that were under way at some time between two.
func (all outcomes) between(from, to time.Time) outcomes {
	return all.where(func(o outcome) bool { return !o.ended.Before(from) && !o.begun.After(to) })
}

func (all outcomes) durations() durations {
	var d durations
	for _, o := range all {
		d = append(d, o.elapsed())
	}
	return d
}

// String counts.
func (all outcomes) String() string {
	admitted := len(all.where(func(o outcome) bool { return o.admitted }))
	return fmt.Sprintf("%d pods asked for: %d admitted, %d denied, %d not as it has to be; slowest %d ms",
		len(all), admitted, len(all)-admitted, len(all.wrong()), all.durations().most().Milliseconds())
}

// examples are the first few, for messages.
func (all outcomes) examples() string {
	var b strings.Builder
	for _, o := range all[:min(len(all), 4)] {
		b.WriteString("\n  " + o.String())
	}
	return b.String()
}

// flawless asserts that all came out as it has to, tells it, and gives the row of
// the figures.
func (w *world) flawless(section, about string, all outcomes) []string {
	w.t.Helper()
	table.add(section, about, all.String(), all.durations().most())
	if wrong := all.wrong(); len(wrong) > 0 {
		w.t.Errorf("%s: %s: %s:%s", section, about, all, wrong.examples())
	}
	if !slices.ContainsFunc(all, func(o outcome) bool { return o.admitted }) || !slices.ContainsFunc(all, func(o outcome) bool { return !o.admitted }) {
		w.t.Errorf("%s: %s: not both admissions and denials were seen: %s", section, about, all)
	}
	return changeRow(section+": "+about, all, 0)
}

// changeRow is a row of the figures on what happens under load.
func changeRow(about string, all outcomes, failed int) []string {
	return []string{about, fmt.Sprint(len(all)), fmt.Sprint(failed), fmt.Sprint(len(all.breaches())), millis(all.durations().at(0.5)), millis(all.durations().most())}
}

// tellChanges enters such rows.
func tellChanges(t *testing.T, title, about string, rows [][]string) {
	t.Helper()
	figures.add(t, title, about, []string{"What happened", "Pods asked for meanwhile", "Denied for it", "Admitted wrongly", "A pod: median", "most"}, rows...)
}

func TestOutcome(t *testing.T) {
	for _, test := range []struct {
		outcome
		right, breach bool
	}{
		{outcome{admitted: true}, true, false},
		{outcome{message: "x"}, false, false},
		{outcome{ask: ask{denial: "A|B"}, message: "B: no"}, true, false},
		{outcome{ask: ask{denial: "A|B"}, message: "C: no"}, false, false},
		{outcome{ask: ask{denial: "A"}, admitted: true}, false, true},
		{outcome{ask: ask{denial: "A", either: true}, admitted: true}, true, false},
		{outcome{err: context.Canceled}, false, false},
	} {
		if test.outcome.right() != test.right || test.outcome.breach() != test.breach {
			t.Errorf("%+v: right %t, breach %t", test.outcome, test.outcome.right(), test.outcome.breach())
		}
	}
}
