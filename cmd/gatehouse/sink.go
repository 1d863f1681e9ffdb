package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// sinkBytes are gathered before they are written, and for sinkTime at the
	// longest: a line for each of twenty thousand requests a second would
	// cost as many calls of the system.
	sinkBytes = 32 << 10
	sinkTime  = 100 * time.Millisecond
)

// sink gathers lines of the log and writes many at once. It is safe for
// concurrent use. Whoever made it flushes it at the end.
type sink struct {
	to io.Writer

	mu     sync.Mutex // guards the fields that follow it
	lines  []byte
	timer  *time.Timer // armed while there are lines
	failed error
}

func newSink(to io.Writer) *sink {
	s := &sink{to: to, lines: make([]byte, 0, sinkBytes)}
	s.timer = time.AfterFunc(time.Hour, func() { _ = s.Flush() }) // the next Write tells
	s.timer.Stop()
	return s
}

// Write takes a line, and reports what an earlier one met with.
func (s *sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines)+len(line) > sinkBytes {
		s.flush()
	}
	if len(s.lines) == 0 {
		s.timer.Reset(sinkTime)
	}
	s.lines = append(s.lines, line...)
	err := s.failed
	s.failed = nil
	return len(line), err
}

// Flush writes what was gathered.
func (s *sink) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
	return s.failed
}

// flush is called with mu held, across the write: lines must not overtake each
// other, and whoever logs faster than can be written has to wait.
func (s *sink) flush() {
	s.timer.Stop()
	if len(s.lines) == 0 {
		return
	}
	_, err := s.to.Write(s.lines)
	s.failed = errors.Join(s.failed, err)
	s.lines = s.lines[:0]
}

// prompt writes warnings and errors, and what was gathered before them, at once.
type prompt struct {
	slog.Handler
	lines *sink
}

func (p prompt) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		err = errors.Join(err, p.lines.Flush())
	}
	return err
}

func (p prompt) WithAttrs(attrs []slog.Attr) slog.Handler {
	return prompt{p.Handler.WithAttrs(attrs), p.lines}
}

func (p prompt) WithGroup(name string) slog.Handler {
	return prompt{p.Handler.WithGroup(name), p.lines}
}
