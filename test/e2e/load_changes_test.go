package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const loadClients = 4

// noVerdict is what a denial says for want of a verdict.
const noVerdict = "DEADLINE_EXCEEDED|REGISTRY_UNAVAILABLE|RATE_LIMITED|BUSY"

// TestLoadChanges has something happen while pods are asked for.
func TestLoadChanges(t *testing.T) {
	// Four clients that wait for three seconds each, two at once, are done within
	// the webhook's ten.
	w := begin(t, settings{registries: 2, provider: 3})
	gauges := w.gauges()
	next := w.mixed()
	rows := [][]string{w.restartUnderLoad(next), w.freezeUnderLoad(next), w.slowRegistryUnderLoad(next)}
	rows = append(rows, w.configureUnderLoad(next)...)
	gauges.allAnswered()
	tellChanges(t, "Restarts, delays and edits under load", fmt.Sprintf(`%d clients ask for pods all the time, half of them with an image that nobody signed or that a stranger did; the webhook has 10 s,
the Provider %d s, Gatekeeper's cache is off. "Denied for it" are pods that what happens kept from a verdict.`, loadClients, w.providerTimeout()), rows)
}

// mixed are pods of signed images and of others, in turns.
func (w *world) mixed() func(client, i int) ask {
	w.t.Helper()
	signed := []string{w.signed(0, "load/app", "1"), w.signed(0, "load/app", "2"), w.signed(0, "load/side", "1")}
	unsigned, _ := w.image(0, "load/app", "unsigned")
	stranger := w.strange(0, "load/app", "stranger")
	asks := []ask{
		{about: "signed", images: signed},
		{about: "unsigned", images: []string{signed[0], unsigned}, denial: "SIGNATURE_NOT_FOUND"},
		{about: "signed, one", images: signed[:1]},
		{about: "stranger", images: []string{stranger, signed[1]}, denial: "SIGNER_UNTRUSTED"},
	}
	return func(client, i int) ask { return asks[(client+i)%len(asks)] }
}

// settle lets a load run without anything that happens.
func settle() { time.Sleep(400 * time.Millisecond) }

// restartUnderLoad ends the process, leaves it away for a second, and starts it
// where it was.
func (w *world) restartUnderLoad(next func(client, i int) ask) []string {
	w.t.Helper()
	l := w.load(loadClients, next)
	settle()
	from := time.Now()
	w.ok(w.process.Stop())
	ended := time.Now()
	time.Sleep(time.Second)
	w.serve()
	to := time.Now()
	settle()
	return w.gap("provider restarted", fmt.Sprintf("SIGTERM, which took %s, and a start after a second", millis(ended.Sub(from))), l.end(), from, to)
}

// freezeUnderLoad stops the process for longer than the Provider's timeout. It
// accepts connections and says nothing.
func (w *world) freezeUnderLoad(next func(client, i int) ask) []string {
	w.t.Helper()
	pid := must(os.FindProcess(w.pid()))(w.t)
	l := w.load(loadClients, next)
	settle()
	from := time.Now()
	w.ok(pid.Signal(syscall.SIGSTOP))
	time.Sleep(time.Duration(w.providerTimeout())*time.Second + time.Second)
	w.ok(pid.Signal(syscall.SIGCONT))
	to := time.Now()
	settle()
	return w.gap("provider hangs", fmt.Sprintf("SIGSTOP for %d s, with a Provider's timeout of %d s", w.providerTimeout()+1, w.providerTimeout()), l.end(), from, to)
}

// gap asserts that nothing was admitted wrongly at any time, that who was denied
// between two times was told why, and that before and after all was well.
func (w *world) gap(section, about string, all outcomes, from, to time.Time) []string {
	w.t.Helper()
	if breaches := all.breaches(); len(breaches) > 0 {
		w.t.Errorf("%s: %d admitted wrongly:%s", section, len(breaches), breaches.examples())
	}
	during := all.between(from, to)
	for _, o := range all.wrong() {
		if o.ended.Before(from) || o.begun.After(to) {
			w.t.Errorf("%s: before or after: %s", section, o)
		}
		if o.err != nil || !strings.Contains(o.message, "denied the request: [gatehouse-pods]") {
			w.t.Errorf("%s: no reason: %s", section, o)
		}
	}
	failed := during.wrong()
	if len(failed) == 0 {
		w.t.Errorf("%s: nobody noticed: %s", section, all)
	}
	table.add(section, about, fmt.Sprintf("%d pods asked for meanwhile, %d of them denied for it, none admitted wrongly", len(during), len(failed)), to.Sub(from))
	if signed := failed.where(func(o outcome) bool { return o.denial == "" }); len(signed) > 0 {
		table.add(section, "a pod with signed images meanwhile", gist(signed.longest().message), signed.longest().elapsed())
	}
	after := all.where(func(o outcome) bool { return o.begun.After(to) })
	w.flawless(section, "pods asked for afterwards", after)
	return changeRow(section+": "+about, during, len(failed))
}

// longest is the one that took the most time.
func (all outcomes) longest() (most outcome) {
	for _, o := range all {
		if o.elapsed() >= most.elapsed() {
			most = o
		}
	}
	return most
}

// pid is the process's, by what it logs at its start.
func (w *world) pid() int {
	w.t.Helper()
	for line := range bytes.Lines(w.process.Log()) {
		var serving struct {
			Message string `json:"msg"`
			PID     int    `json:"pid"`
		}
		if json.Unmarshal(line, &serving) == nil && serving.Message == "serving" {
			return serving.PID
		}
	}
	w.t.Fatal("the process does not say its id")
	return 0
}

// slowRegistryUnderLoad has every third pod wait for a registry that is slower
// than the process may be.
func (w *world) slowRegistryUnderLoad(next func(client, i int) ask) []string {
	w.t.Helper()
	slow := ask{about: "of a slow registry", images: []string{w.signed(1, "slow/app", "1")}, denial: noVerdict}
	w.registries[1].SetIntercept(func(_ http.ResponseWriter, r *http.Request) bool {
		pause(r.Context(), 10*time.Second)
		return false
	})
	defer w.registries[1].SetIntercept(nil)
	l := w.load(loadClients, func(client, i int) ask {
		if client == 0 {
			return slow
		}
		return next(client, i)
	})
	time.Sleep(time.Duration(w.providerTimeout())*time.Second + 2*time.Second)
	all := l.end()
	late := all.where(func(o outcome) bool { return o.about == slow.about })
	table.add("registry slow", "pods of a registry that answers after 10 s", gist(late.longest().message), late.longest().elapsed())
	w.flawless("registry slow", "pods of it and of another registry", all)
	return changeRow("one of two registries answers after 10 s, the process has 2.7 s", all, len(late))
}

// configureUnderLoad exchanges the policy, then adds a signer, and takes it away
// again.
func (w *world) configureUnderLoad(next func(client, i int) ask) (rows [][]string) {
	w.t.Helper()
	const section = "configuration"
	before := w.config
	w.config.Rules = `[{name: exchanged, images: ["**"], require: {verifier: notation, every: true}}]`
	rows = append(rows, w.flawless(section, "policy exchanged", w.editUnderLoad(next)))

	w.config.Roots = map[string][]byte{"acme.crt": w.people.acme.PEM(), "stranger.crt": w.people.stranger.PEM()}
	all := w.editUnderLoad(func(client, i int) ask {
		a := next(client, i)
		a.either = a.about == "stranger"
		return a
	})
	rows = append(rows, w.flawless(section, "signer added", all))
	strangers := all.where(func(o outcome) bool { return o.about == "stranger" })
	if first, last := strangers[0], strangers[len(strangers)-1]; first.admitted || !last.admitted {
		w.t.Errorf("%s: the signer that was added: at first %s; at last %s", section, first, last)
	}
	w.config = before
	must(w.config.Write(w.dir))(w.t)
	return rows
}

// editUnderLoad writes the configuration while pods are asked for, and goes on
// until it is live.
func (w *world) editUnderLoad(next func(client, i int) ask) outcomes {
	w.t.Helper()
	l := w.load(loadClients, next)
	settle()
	generation := w.generation()
	must(w.config.Write(w.dir))(w.t)
	w.eventually("the edit is live", func() bool { return w.generation() > generation })
	settle()
	return l.end()
}

func (w *world) generation() float64 {
	w.t.Helper()
	return must(w.process.Metrics(w.t.Context()))(w.t)["gatehouse_config_generation"]
}
