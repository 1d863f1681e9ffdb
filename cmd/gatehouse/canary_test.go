package main

import (
	"log/slog"
	"strings"
	"testing"
)

// Images of hosts that the configuration names, be it as one that speaks plain
// HTTP or that is pulled through, have a canary.
func TestCanaryOfNamedHosts(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	edit(t, s, func(text string) string {
		text = strings.Replace(text, "type: oras\n", "type: oras\n    hosts: [\"**\", \"registry.example\"]\n", 1)
		return strings.Replace(text, "policy:\n", "canary: {mustPass: [\""+s.scenes[0].image+"\"], mustFail: [registry.example/app, pulled.example/app]}\n"+
			"cache: {directory: cache}\nregistry: {address: '127.0.0.1:0', insecureHTTP: true, upstreams: [pulled.example]}\npolicy:\n", 1)
	})
	g, err := newGate(t.Context(), s.config, slog.New(slog.DiscardHandler), gateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g.close()
}
