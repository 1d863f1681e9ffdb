package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// The states of the disk, as [Stats] and metrics name them.
const (
	stateOK       = "ok"
	stateReadOnly = "read-only"
	stateFull     = "full"
	stateFailing  = "failing"
)

func states() []string { return []string{stateOK, stateReadOnly, stateFull, stateFailing} }

const (
	// probeInterval is how often a disk that did not take what was written is
	// tried again, and probesNeeded how often in a row it must do.
	probeInterval = 10 * time.Second
	probesNeeded  = 2
)

// health is whether the disk takes what is written. While it does not, hits go
// on and misses pass through.
type health struct {
	at atomic.Pointer[condition] // nil: ok
}

// condition is what is wrong, and does not change.
type condition struct {
	state   string
	problem string
	fixed   bool // for the life of this process: opened without the right to write
}

// ok says whether it is worth while to write.
func (h *health) ok() bool { return h.at.Load() == nil }

// state names it and says what is wrong.
func (h *health) state() (state, problem string) {
	if c := h.at.Load(); c != nil {
		return c.state, c.problem
	}
	return stateOK, ""
}

// failed notes that the disk did not do what it was asked to. What is no fault of
// the disk, such as the end of a context or a name that is not there, is none.
func (c *Cache) failed(op string, err error) {
	state := stateFailing
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrClosed), errors.Is(err, ErrReadOnly), errors.Is(err, errLingered), errors.Is(err, fs.ErrInvalid):
		return
	case disk.Full(err), errors.Is(err, errStillFull):
		state = stateFull
	case disk.ReadOnly(err):
		state = stateReadOnly
	}
	before := c.health.at.Load()
	if before != nil && before.fixed {
		return
	}
	if c.health.at.CompareAndSwap(before, &condition{state: state, problem: fmt.Sprintf("%s: %v", op, err)}) && (before == nil || before.state != state) {
		c.log.Warn("cache does not keep what is pulled: the disk does not take it", slog.String("state", state), slog.String("operation", op), slog.Any("error", err))
	}
	if state == stateFull {
		c.pruneNow()
	}
}

// probeLoop tries again to write while the disk is not ok.
func (c *Cache) probeLoop(ctx context.Context) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	good := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.tighten()
		now := c.health.at.Load()
		if now == nil || now.fixed {
			good = 0
			continue
		}
		if err := c.probe(now.state); err != nil {
			c.failed("probe", err)
			good = 0
			continue
		}
		if good++; good >= probesNeeded && c.health.at.CompareAndSwap(now, nil) {
			c.log.Info("cache keeps again what is pulled", slog.String("state", stateOK))
			c.recovered()
		}
	}
}

// recovered brings to the disk what it did not take.
func (c *Cache) recovered() {
	c.tighten()
	select {
	case c.scribe.again <- struct{}{}:
	default:
	}
}

var errStillFull = errors.New("there is hardly any room")

// probe writes a file and removes it. A disk that was full must have some more
// room than that, so that it is not full again at once.
func (c *Cache) probe(state string) error {
	const room, part = 8 << 20, 20
	if state == stateFull {
		c.pruneNow()
		free, size, err := c.folder.Free()
		if err != nil {
			return err
		}
		if free < c.opts.MinFreeBytes+min(room, size/part) {
			return fmt.Errorf("%w: %d bytes", errStillFull, free)
		}
	}
	return c.tryWrite(make([]byte, 4<<10))
}

func (c *Cache) tryWrite(data []byte) error {
	name := c.ingestName()
	f, err := c.folder.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), c.folder.Remove(name))
}
