package pull_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// On a disk that is full, what is held is served on, what is not passes through
// whole and right, and status and readiness say so. Once there is room the cache
// takes in again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	upstream, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	objects := material(t, upstream, 40) // 30 MiB or so
	dir := t.TempDir()
	small := filepath.Join(dir, "cache")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=6m"); err != nil {
		missing(t, "the right to mount a small file system", err)
	}
	defer func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	}()
	config, err := process.Config{
		PlainHTTP: []string{upstream.Host()}, PullsAlone: true,
		Cache:    process.Map{"directory": small, "maxBytes": "1GiB"},
		Registry: process.Map{"upstreams": []string{upstream.Host()}, "default": upstream.Host()},
	}.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := process.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := binary.Serve(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	base, keeper := "http://"+p.PullAddress()+"/v2/", control.NewClient("unix", filepath.Join(small, "control.sock"), "")
	for range 2 { // the second time some are held
		for _, o := range objects {
			if err := pullObject(t.Context(), base, o); err != nil {
				t.Errorf("%v\n%s", err, p.Log())
			}
		}
	}
	stats, err := keeper.Stats(t.Context())
	if err != nil || stats.State == "ok" || stats.Problem == "" || stats.Bytes == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	if status, detail, err := p.Ready(t.Context()); err != nil || status != 200 || detail["cache"] == nil {
		t.Errorf("readiness %d, %v, %v", status, detail, err)
	}
	t.Logf("%d bytes held, state %s: %s", stats.Bytes, stats.State, stats.Problem)
	if err := syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if stats, err = keeper.Stats(t.Context()); err == nil && stats.State == "ok" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("with room it stays %s: %s", stats.State, stats.Problem)
}
