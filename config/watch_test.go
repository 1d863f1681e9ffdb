package config_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/config"
)

// disk is a set of files in memory. A file without content cannot be read.
type disk struct {
	mu    sync.Mutex
	files map[string][]byte
	reads int
}

func (d *disk) write(name, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[name] = []byte(text)
}

func (d *disk) block(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[name] = nil
}

func (d *disk) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, name)
}

func (d *disk) read(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	switch data, found := d.files[name]; {
	case !found:
		return nil, fs.ErrNotExist
	case data == nil:
		return nil, fs.ErrPermission
	default:
		return data, nil
	}
}

const every = time.Second

// watching runs Watch over files of a disk, in a bubble of its own time, and
// tells the steps how many changes were told so far.
func watching(t *testing.T, paths func() []string, steps func(t *testing.T, d *disk, told func() int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{files: map[string][]byte{"a": []byte("1"), "b": []byte("1")}}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		count, ended := 0, make(chan struct{})
		go func() {
			defer close(ended)
			config.Watch(ctx, config.WatchOptions{Files: paths, Interval: every, ReadFile: d.read}, func(context.Context) {
				mu.Lock()
				defer mu.Unlock()
				count++
			})
		}()
		synctest.Wait()
		time.Sleep(every / 2) // between two looks from here on
		steps(t, d, func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return count
		})
		cancel()
		<-ended
	})
}

func both() []string { return []string{"a", "b", "a"} }

func expect(t *testing.T, told func() int, want int, when string) {
	t.Helper()
	if got := told(); got != want {
		t.Errorf("%s: %d changes told, want %d", when, got, want)
	}
}

func TestWatchTellsSettledChanges(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(d *disk){
		"write":      func(d *disk) { d.write("b", "2") },
		"vanish":     func(d *disk) { d.remove("a") },
		"unreadable": func(d *disk) { d.block("a") },
		"both":       func(d *disk) { d.write("a", "2"); d.write("b", "2") },
		"emptied":    func(d *disk) { d.write("a", "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			watching(t, both, func(t *testing.T, d *disk, told func() int) {
				time.Sleep(10 * every)
				expect(t, told, 0, "at rest")
				change(d)
				time.Sleep(every)
				expect(t, told, 0, "seen once")
				time.Sleep(every)
				expect(t, told, 1, "seen twice")
				time.Sleep(10 * every)
				expect(t, told, 1, "at rest again")
				d.write("a", "1")
				d.write("b", "1")
				time.Sleep(2 * every)
				expect(t, told, 2, "changed back")
			})
		})
	}
}

// An editor writes in steps, or removes a file before it puts the new one.
func TestWatchWaitsForRest(t *testing.T) {
	t.Parallel()
	watching(t, both, func(t *testing.T, d *disk, told func() int) {
		d.remove("a")
		time.Sleep(every)
		d.write("a", "half")
		time.Sleep(every)
		d.write("a", "whole")
		time.Sleep(every)
		expect(t, told, 0, "while it changes")
		time.Sleep(every)
		expect(t, told, 1, "settled")
	})
}

func TestWatchIgnoresWhatCameBack(t *testing.T) {
	t.Parallel()
	watching(t, both, func(t *testing.T, d *disk, told func() int) {
		d.remove("a")
		time.Sleep(every)
		d.write("a", "1")
		time.Sleep(5 * every)
		expect(t, told, 0, "the old content is back")
	})
}

// A file that never rests must not keep all others from being read again.
func TestWatchTellsRestlessFiles(t *testing.T) {
	t.Parallel()
	watching(t, both, func(t *testing.T, d *disk, told func() int) {
		for i := range 10 {
			d.write("a", "new "+strconv.Itoa(i))
			time.Sleep(every)
		}
		expect(t, told, 2, "after ten changes")
	})
}

func TestWatchFollowsTheSet(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	paths := []string{"a"}
	set := func(to ...string) { mu.Lock(); defer mu.Unlock(); paths = to }
	get := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(paths) }
	watching(t, get, func(t *testing.T, d *disk, told func() int) {
		d.write("b", "not watched")
		time.Sleep(3 * every)
		expect(t, told, 0, "a file outside the set")
		set("a", "b")
		time.Sleep(3 * every)
		expect(t, told, 0, "a file that joined")
		d.write("b", "2")
		time.Sleep(2 * every)
		expect(t, told, 1, "a file that joined and changed")
		set("a")
		d.write("b", "3")
		time.Sleep(2 * every)
		set("a", "b")
		time.Sleep(3 * every)
		expect(t, told, 1, "a file that left and came back")
	})
}

func TestWatchInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{files: map[string][]byte{}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*config.DefaultInterval+time.Second)
		defer cancel()
		config.Watch(ctx, config.WatchOptions{Files: func() []string { return []string{"a"} }, ReadFile: d.read}, func(context.Context) { t.Error("told") })
		if d.reads != 11 { // at first, and at ten ticks
			t.Errorf("%d reads", d.reads)
		}
	})
}

// What changed between the loader's reading and the first look is a change.
func TestWatchKnowsWhatWasSeen(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a")
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("old")
	synctest.Test(t, func(t *testing.T) {
		var seen config.Seen
		load := func() string {
			data, err := seen.ReadFile(name, 10)
			if err != nil {
				t.Error(err)
			}
			return string(data)
		}
		if _, err := seen.ReadFile(name, 1); err == nil {
			t.Error("the bound was passed")
		}
		loaded := map[int]string{0: load()}
		write("new")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		config.Watch(ctx, config.WatchOptions{Files: func() []string { return []string{name} }, Interval: every, Seen: &seen}, func(context.Context) {
			loaded[len(loaded)] = load()
			if len(loaded) == 2 {
				write("newer") // after it was read, before the next look
			}
		})
		want := map[int]string{0: "old", 1: "new", 2: "newer"}
		if !maps.Equal(loaded, want) {
			t.Errorf("loaded %v, want %v", loaded, want)
		}
	})
}

// Kubernetes swaps a symbolic link above the files; others rename over them.
func TestWatchReal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for _, version := range []string{"v1", "v2"} {
		check(os.Mkdir(filepath.Join(dir, version), 0o700))
		check(os.WriteFile(filepath.Join(dir, version, "f"), []byte(version), 0o600))
	}
	check(os.Symlink("v1", filepath.Join(dir, "data")))
	name := filepath.Join(dir, "data", "f")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			time.Sleep(5*every + every/2)
			check(os.Symlink("v2", filepath.Join(dir, "next")))
			check(os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")))
			time.Sleep(5 * every)
			check(os.WriteFile(filepath.Join(dir, "v2", "tmp"), []byte("v3"), 0o600))
			check(os.Rename(filepath.Join(dir, "v2", "tmp"), filepath.Join(dir, "v2", "f")))
		}()
		var loaded []string
		config.Watch(ctx, config.WatchOptions{Files: func() []string { return []string{name} }, Interval: every}, func(context.Context) {
			data, err := config.ReadFile(name, 10)
			check(err)
			loaded = append(loaded, string(data))
		})
		if !slices.Equal(loaded, []string{"v2", "v3"}) {
			t.Errorf("loaded %q", loaded)
		}
	})
}
