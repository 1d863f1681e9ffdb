package oras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func TestParseContentRange(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]span{
		"bytes 0-0/1":      {0, 0, 1},
		"bytes 5-9/10":     {5, 9, 10},
		"BYTES 5-9/10":     {5, 9, 10},
		"bytes 5-9/*":      {5, 9, -1},
		"bytes */10":       {-1, -1, 10},
		"bytes */0":        {-1, -1, 0},
		"bytes 5-9/9":      {},
		"bytes 9-5/10":     {},
		"bytes 5-/10":      {},
		"bytes -5/10":      {},
		"bytes 5-9":        {},
		"bytes 5-9/":       {},
		"bytes */*":        {},
		"bytes=5-9/10":     {},
		"bytes +5-9/10":    {},
		"bytes 5-9/-10":    {},
		"bytes 0x5-0x9/10": {},
		"bytes  5-9/10":    {},
		"items 5-9/10":     {},
		"":                 {},
		"bytes 0-9223372036854775807/9223372036854775808": {},
		"bytes 0-4611686018427387904/4611686018427387905": {},
	} {
		got, err := parseContentRange(text)
		if (err != nil) != (want == span{}) || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, text := range []string{"bytes 5-9/10", "bytes */10", "bytes 5-9/*", "bytes 0-18446744073709551615/*", "bytes"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseContentRange(text)
		if err != nil {
			return
		}
		written := fmt.Sprintf("%d-%d", s.first, s.last)
		if s.first < 0 {
			written = "*"
		}
		if again, err := parseContentRange(fmt.Sprintf("bytes %s/%s", written, strings.Replace(fmt.Sprint(s.total), "-1", "*", 1))); err != nil || again != s {
			t.Errorf("%q: %+v, and %+v, %v", text, s, again, err)
		}
		if s.first >= 0 && (s.last < s.first || (s.total >= 0 && s.last >= s.total) || s.last-s.first+1 <= 0) {
			t.Errorf("%q: %+v", text, s)
		}
	})
}

func TestOneContentRange(t *testing.T) {
	t.Parallel()
	for _, values := range [][]string{nil, {"bytes 5-9/10", "bytes 5-9/10"}, {"nonsense"}} {
		if _, err := contentRange(&http.Response{Header: http.Header{"Content-Range": values}}); !errors.Is(err, referrerstore.ErrProtocol) {
			t.Errorf("%q: %v, want ErrProtocol", values, err)
		}
	}
}

func TestPromised(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		has  string
		size int64
		most int64
		want string
		err  error
	}{
		{"as announced", "12345", 5, 0, "12345", nil},
		{"nothing", "", 0, 0, "", nil},
		{"less", "123", 5, 0, "123", referrerstore.ErrBrokenOff},
		{"more", "123456", 5, 0, "12345", referrerstore.ErrProtocol},
		{"not announced", "123", -1, 5, "123", nil},
		{"up to the bound", "12345", -1, 5, "12345", nil},
		{"above the bound", "123456", -1, 5, "12345", referrerstore.ErrTooLarge},
	} {
		for _, shape := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader,
		} {
			body := promise(io.NopCloser(shape(strings.NewReader(tt.has))), tt.size, tt.most, errManifest)
			got, err := io.ReadAll(body)
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%s: %q, %v", tt.name, got, err)
			}
			if n, again := body.Read(make([]byte, 8)); n != 0 || (err != nil && again != err) || (err == nil && again != io.EOF) { //nolint:errorlint // the very same
				t.Errorf("%s: behind its end %d bytes, %v", tt.name, n, again)
			}
		}
	}
}

// slowBody brings a byte after each of the waits.
type slowBody struct {
	ctx   context.Context
	waits []time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	if len(b.waits) == 0 {
		return 0, io.EOF
	}
	timer := time.NewTimer(b.waits[0])
	defer timer.Stop()
	b.waits = b.waits[1:]
	select {
	case <-timer.C:
		p[0] = 'x'
		return 1, nil
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

func (b *slowBody) Close() error { return nil }

// What counts is how long a registry says nothing while somebody listens.
func TestWatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		header time.Duration
		waits  []time.Duration
		pause  time.Duration // between reads
		read   int
		err    error
	}{
		{"slow for long", 9 * time.Second, []time.Duration{29 * time.Second, 29 * time.Second, 29 * time.Second}, 0, 3, nil},
		{"slow reader", 0, []time.Duration{time.Second, time.Second}, time.Hour, 2, nil},
		{"stalls", 0, []time.Duration{time.Second, 31 * time.Second}, 0, 1, referrerstore.ErrBrokenOff},
		{"stalls at once", 0, []time.Duration{time.Hour}, 0, 0, referrerstore.ErrBrokenOff},
		{"no header", 11 * time.Second, nil, 0, 0, errSilent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &Store{silence: silence{header: headerSilence, body: bodySilence}}
				ctx, w := store.watch(t.Context(), &call{kind: kindPullBlob}, 0)
				defer w.end()
				time.Sleep(tt.header)
				synctest.Wait()
				w.rest()
				if ctx.Err() != nil {
					if err := w.explain(ctx.Err()); err != tt.err { //nolint:errorlint // it replaces it
						t.Errorf("%v, want %v", err, tt.err)
					}
					return
				}
				b := &body{ReadCloser: &slowBody{ctx, tt.waits}, ctx: t.Context(), watch: w, free: func() {}, span: noop.Span{}}
				read := 0
				for {
					n, err := b.Read(make([]byte, 8))
					read += n
					time.Sleep(tt.pause)
					if errors.Is(err, io.EOF) {
						err = nil
					} else if err == nil {
						continue
					}
					if read != tt.read || !errors.Is(err, tt.err) {
						t.Errorf("%d bytes, %v; want %d, %v", read, err, tt.read, tt.err)
					}
					return
				}
			})
		})
	}
}

// The work of a judgement has no deadline of its own: a request that is lost is
// given up after a time that its host never takes.
func TestJudgementsAreWatched(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		usual   time.Duration
		attempt int
		want    time.Duration
	}{
		{0, 1, 5 * time.Second},
		{0, 3, 20 * time.Second},
		{time.Millisecond, 1, 2 * time.Second},
		{250 * time.Millisecond, 2, 4 * time.Second},
		{time.Second, 1, 8 * time.Second},
	} {
		for _, of := range []*call{nil, {kind: kindResolve}, {kind: kindBlob}, {kind: kindChallenge}} {
			synctest.Test(t, func(t *testing.T) {
				store := &Store{silence: silence{header: headerSilence, body: bodySilence}}
				ctx, w := store.watch(context.WithValue(t.Context(), attemptKey{}, tt.attempt), of, tt.usual)
				defer w.end()
				begun := time.Now()
				<-ctx.Done()
				if took := time.Since(begun); took != tt.want || !errors.Is(w.explain(ctx.Err()), referrerstore.ErrUnavailable) {
					t.Errorf("%+v, attempt %d, usually %s: given up after %s, want %s", of, tt.attempt, tt.usual, took, tt.want)
				}
			})
		}
	}
}
