package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	soakTime    = 10 * time.Second
	soakClients = 8
)

// soak asks for pods of images at random while the process is restarted again and
// again: whatever was admitted has signed images only.
func (w *world) soak() {
	w.t.Helper()
	next := w.random()
	gauges := w.gauges()
	l := w.load(soakClients, next)
	restarts := 0
	for until := time.Now().Add(soakTime); time.Now().Before(until); restarts++ {
		time.Sleep(time.Second)
		w.ok(w.process.Stop())
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		w.serve()
	}
	settled := time.Now()
	time.Sleep(time.Second)
	all := l.end()
	if breaches := all.breaches(); len(breaches) > 0 {
		w.t.Errorf("soak: %d admitted wrongly:%s", len(breaches), breaches.examples())
	}
	if wrong := all.where(func(o outcome) bool { return o.begun.After(settled) }).wrong(); len(wrong) > 0 {
		w.t.Errorf("soak: after the last restart: %s", wrong.examples())
	}
	gauges.allAnswered()
	admitted := len(all.where(func(o outcome) bool { return o.admitted }))
	if admitted == 0 || admitted == len(all) {
		w.t.Errorf("soak: %s", all)
	}
	away := all.wrong()
	for _, o := range away {
		if o.err != nil || !strings.Contains(o.message, "denied the request: [gatehouse-pods]") || strings.Contains(o.message, "SIGN") {
			w.t.Errorf("soak: denied, and not for want of a provider: %s", o)
		}
	}
	about := fmt.Sprintf("%d clients, %d restarts, pods of one to five images at random", soakClients, restarts)
	table.add("soak", about, fmt.Sprintf("%d pods admitted, all of signed images only; %d denied rightly, %d for want of a provider", admitted, len(all)-admitted-len(away), len(away)), all.durations().most())
	tellChanges(w.t, "Restarts at random", "The process is ended every second and started up to 0.3 s later; Gatekeeper's cache is off.", [][]string{changeRow(about, all, len(away))})
}

// random are pods of one to five images, of which some are not signed.
func (w *world) random() func(client, i int) ask {
	w.t.Helper()
	const each = 15
	var signed, bad []string
	for i := range each {
		signed = append(signed, w.signed(0, fmt.Sprintf("soak/app%d", i), "signed"))
		unsigned, _ := w.image(0, fmt.Sprintf("soak/app%d", i), "unsigned")
		bad = append(bad, unsigned, w.strange(0, fmt.Sprintf("soak/app%d", i), "stranger"))
	}
	return func(int, int) ask {
		a := ask{about: "signed"}
		for range 1 + rand.IntN(5) {
			if rand.IntN(5) > 0 {
				a.images = append(a.images, signed[rand.IntN(len(signed))])
				continue
			}
			a.images = append(a.images, bad[rand.IntN(len(bad))])
			a.about, a.denial = "not all signed", "SIGNATURE_NOT_FOUND|SIGNER_UNTRUSTED"
		}
		return a
	}
}
