package main

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type paper struct {
	mu     sync.Mutex // guards the fields that follow it
	text   bytes.Buffer
	writes int
	err    error
}

func (p *paper) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	if p.err != nil {
		return 0, p.err
	}
	return p.text.Write(data)
}

func (p *paper) read() (text string, writes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String(), p.writes
}

func TestSinkGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		to := &paper{}
		s := newSink(to)
		logger, err := newLogger(s, "info", "text")
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			logger.Info("request")
		}
		if _, writes := to.read(); writes != 0 {
			t.Errorf("%d writes at once", writes)
		}
		time.Sleep(sinkTime)
		synctest.Wait()
		text, writes := to.read()
		if n := strings.Count(text, "\n"); writes != 1 || n != 10 {
			t.Errorf("%d lines in %d writes, want 10 in 1", n, writes)
		}
		logger.Info("before")
		logger.With("k", 1).WithGroup("g").Warn("now")
		if text, _ = to.read(); !strings.Contains(text, "before") || !strings.HasSuffix(text, "msg=now k=1\n") {
			t.Errorf("a warning waits: %s", text)
		}
		long := strings.Repeat("x", 1000)
		for range 2 * sinkBytes / 1000 {
			logger.Info("long", "text", long)
		}
		time.Sleep(sinkTime) // what is left after the buffer ran over waits no longer
		synctest.Wait()
		if text, _ = to.read(); err != nil || strings.Count(text, long) != 2*sinkBytes/1000 {
			t.Errorf("lines are lost: %v", err)
		}
		to.mu.Lock()
		to.err = errors.New("no room")
		to.mu.Unlock()
		logger.Info("lost")
		if err := s.Flush(); !errors.Is(err, to.err) {
			t.Errorf("%v, want what the write met with", err)
		}
		time.Sleep(time.Minute)
	})
}
