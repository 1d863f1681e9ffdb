package cluster

import (
	"context"
	"slices"
	"strings"
	"testing"
)

// TestAwait has another program answer where one that has ended should.
func TestAwait(t *testing.T) {
	t.Parallel()
	answered := func(context.Context) error { return nil }
	lives, err := run(t.TempDir(), "lives", "/bin/sh", nil, "-c", "exec sleep 600")
	if err != nil {
		t.Fatal(err)
	}
	if err := lives.await(t.Context(), answered); err != nil {
		t.Errorf("a program that runs and is ready: %v", err)
	}
	if err := lives.stop(); err != nil {
		t.Error(err)
	}
	ended, err := run(t.TempDir(), "ended", "/bin/sh", nil, "-c", "echo port is taken; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	<-ended.exited
	if err := ended.await(t.Context(), answered); err == nil || !strings.Contains(err.Error(), "port is taken") {
		t.Errorf("a program that has ended: %v", err)
	}
}

// TestStartFails has a program that does not start: that is told, and what runs
// already is ended.
func TestStartFails(t *testing.T) {
	t.Parallel()
	for name, tools := range map[string]Tools{"no such program": {Etcd: "/no/such/etcd"}, "it ends": {Etcd: "/bin/false"}} {
		if c, err := Start(t.Context(), t.TempDir(), tools); err == nil || c != nil || !strings.Contains(err.Error(), "etcd") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEnvironment: what steers the cluster of whoever runs the tests steers
// nothing here.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"KUBECONFIG", "HELM_KUBECONTEXT", "ETCD_NAME", "GATEHOUSE_KEPT"} {
		t.Setenv(name, "theirs")
	}
	c := &Cluster{dir: t.TempDir()}
	o, err := c.command(t.Context(), "", "/usr/bin/env")
	if err != nil || !o.OK() {
		t.Fatal(o, err)
	}
	var theirs []string
	for line := range strings.Lines(o.Stdout) {
		if name, found := strings.CutSuffix(strings.TrimSpace(line), "=theirs"); found {
			theirs = append(theirs, name)
		}
	}
	if !slices.Equal(theirs, []string{"GATEHOUSE_KEPT"}) {
		t.Errorf("%q reach the programs", theirs)
	}
}
