package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"sync"
	"time"
)

// DefaultInterval is how often [Watch] looks at its files.
const DefaultInterval = 2 * time.Second

// maxWatchedBytes bounds a file that is watched.
const maxWatchedBytes = 16 << 20

// maxUnsettled bounds how many looks in a row may find something new before a
// change is told although the files do not rest.
const maxUnsettled = 5

// WatchOptions says what to watch. Files is required.
type WatchOptions struct {
	// Files lists the paths to look at; it is asked before every look, so
	// that the set may change with the configuration.
	Files func() []string
	// Interval is the time between two looks, [DefaultInterval] if zero.
	Interval time.Duration
	// ReadFile reads a file whole; nil is [ReadFile] with a bound of 16 MiB.
	// Its errors are states like any other: a file that vanishes has changed.
	ReadFile func(path string) ([]byte, error)
	// Seen, if not nil, tells what the loader has read, so that a change
	// between its reading and the first look is not taken for the old state.
	Seen *Seen
}

// Watch looks at the files' content again and again until ctx ends, and calls
// changed once after a change has settled: the next look found it unchanged.
// It reads content rather than listening for events, since files are also
// replaced by renaming, by swapping a symbolic link above them (Kubernetes),
// and on file systems that tell nothing.
//
// The state at the first look, or what Seen holds, is the state that is known.
// Files that join the set later are no change by themselves. The callback runs
// on the goroutine of Watch: no look happens and no second call is made until
// it returns. Watch returns once ctx has ended, having started no goroutine.
func Watch(ctx context.Context, opts WatchOptions, changed func(ctx context.Context)) {
	w := newWatcher(opts)
	interval := opts.Interval
	if interval <= 0 {
		interval = DefaultInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if w.look() && ctx.Err() == nil {
			changed(ctx)
			maps.Copy(w.known, opts.Seen.take())
		}
	}
}

// state is what a file was found to be: the hash of its content, or one of
// two states without content, missing and unreadable.
type state [sha256.Size]byte

func stateOf(data []byte, err error) state {
	switch {
	case err == nil:
		return sha256.Sum256(data)
	case errors.Is(err, fs.ErrNotExist):
		return state{0: 1}
	default:
		return state{0: 2}
	}
}

// watcher compares the files with what is known of them.
type watcher struct {
	files    func() []string
	read     func(string) ([]byte, error)
	known    map[string]state // what was last told, or found at first
	last     map[string]state // what the former look found, if not what is known
	restless int              // looks in a row that found something new
}

func newWatcher(opts WatchOptions) *watcher {
	w := &watcher{files: opts.Files, read: opts.ReadFile}
	if w.read == nil {
		w.read = readWatched
	}
	w.known = w.find()
	maps.Copy(w.known, opts.Seen.take())
	return w
}

func readWatched(path string) ([]byte, error) { return ReadFile(path, maxWatchedBytes) }

func (w *watcher) find() map[string]state {
	found := map[string]state{}
	for _, path := range w.files() {
		if _, twice := found[path]; !twice {
			found[path] = stateOf(w.read(path))
		}
	}
	return found
}

// look reports whether a change has settled, or will not settle, since the
// last one that was told.
func (w *watcher) look() bool {
	found := w.find()
	if !w.differs(found) {
		w.last, w.restless = nil, 0
		return false
	}
	settled := maps.Equal(found, w.last)
	w.last = found
	if w.restless++; !settled && w.restless < maxUnsettled {
		return false
	}
	w.known, w.last, w.restless = found, nil, 0
	return true
}

// differs compares what was found with what is known, and follows the set:
// what left it is forgotten, what joined it is known from here on.
func (w *watcher) differs(found map[string]state) bool {
	maps.DeleteFunc(w.known, func(path string, _ state) bool { _, still := found[path]; return !still })
	differs := false
	for path, is := range found {
		was, known := w.known[path]
		if !known {
			w.known[path] = is
		}
		differs = differs || (known && was != is)
	}
	return differs
}

// Seen remembers what a loader read, for [Watch]. The zero value is ready; it
// is safe for concurrent use.
type Seen struct {
	mu     sync.Mutex // guards the field that follows it
	states map[string]state
}

// ReadFile is [ReadFile], remembering the content's hash under the path, which
// must be the one that Files lists. What could not be read is not remembered
// unless it is missing: another bound may read it.
func (s *Seen) ReadFile(path string, limit int64) ([]byte, error) {
	data, err := ReadFile(path, limit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states == nil {
		s.states = map[string]state{}
	}
	s.states[path] = stateOf(data, err)
	return data, err
}

// take gives what was read since the last call, and forgets it: a later
// failure to load must not bring old states back.
func (s *Seen) take() map[string]state {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	states := s.states
	s.states = nil
	return states
}
