package control_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keeper answers with what it is made of, and notes what it was asked.
type keeper struct {
	items   []cache.Item
	err     error
	asked   any
	archive []byte
	cut     bool // it fails after half of an archive
	waits   chan struct{}
}

func (k *keeper) Items(_ context.Context, req control.ItemsRequest, each func(cache.Item)) error {
	k.asked = req
	for _, i := range k.items {
		each(i)
	}
	return k.err
}

func (k *keeper) Stats(context.Context) (cache.Stats, error) {
	return cache.Stats{Bytes: 7, State: "ok"}, k.err
}

func (k *keeper) Prune(_ context.Context, req control.PruneRequest, each func(cache.Item)) (cache.Pruned, error) {
	k.asked = req
	for _, i := range k.items {
		each(i)
	}
	return cache.Pruned{Roots: len(k.items), Bytes: 5}, k.err
}

func (k *keeper) Scrub(ctx context.Context, progress func(done, total int64)) (cache.Scrubbed, error) {
	progress(1, 2)
	if k.waits != nil {
		<-ctx.Done()
		close(k.waits)
	}
	return cache.Scrubbed{Objects: 2}, k.err
}

func (k *keeper) Pins(context.Context) ([]cache.Pin, error) { return nil, k.err }

func (k *keeper) Pin(_ context.Context, pin cache.Pin) error {
	k.asked = pin
	return k.err
}

func (k *keeper) Unpin(_ context.Context, pin cache.Pin) (bool, error) {
	k.asked = pin
	return pin.Tag == "there", k.err
}

func (k *keeper) Load(_ context.Context, req control.LoadRequest, archive io.Reader, progress func(done, total int64)) (control.Loaded, error) {
	k.asked = req
	half := make([]byte, 4)
	if _, err := io.ReadFull(archive, half); err != nil {
		return control.Loaded{}, err
	}
	progress(4, 8)
	rest, err := io.ReadAll(archive)
	k.archive = append(half, rest...)
	return control.Loaded{Images: []string{"a/b:c"}, Bytes: int64(len(k.archive))}, errors.Join(err, k.err)
}

func (k *keeper) Export(_ context.Context, req control.ExportRequest, archive io.Writer) error {
	k.asked = req
	_, _ = archive.Write([]byte("half"))
	if k.cut {
		panic(http.ErrAbortHandler)
	}
	if k.err == nil {
		_, _ = archive.Write([]byte("whole"))
	}
	return k.err
}

// reach serves the keeper on a socket and gives a client of it.
func reach(t *testing.T, k *keeper) *control.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := control.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	serve(t, listener, control.Handler(k, slog.New(slog.DiscardHandler)))
	return control.NewClient("unix", path, "")
}

func serve(t *testing.T, listener net.Listener, handler http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = control.Serve(ctx, listener, handler)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func TestItems(t *testing.T) {
	t.Parallel()
	want := []cache.Item{
		{Scope: cache.Scope{Registry: "r", Repository: "a"}, Digest: "sha256:1", Tags: []string{"v1"}, Kind: "manifest", Size: 3, Created: time.Unix(5, 0).UTC(), Pulled: time.Unix(6, 0).UTC()},
		{Digest: "sha256:2", Kind: "blob"},
	}
	k := &keeper{items: want}
	var got []cache.Item
	req := control.ItemsRequest{Match: "a/*", All: true}
	if err := reach(t, k).Items(t.Context(), req, func(i cache.Item) { got = append(got, i) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || k.asked != req {
		t.Errorf("asked %v\n%s", k.asked, diff)
	}
}

// What the keeper fails with reaches whoever asked, for every question.
func TestFailures(t *testing.T) {
	t.Parallel()
	const text = "no space left"
	c := reach(t, &keeper{err: errors.New(text)})
	ask := map[string]func() error{
		"items": func() error { return c.Items(t.Context(), control.ItemsRequest{}, nil) },
		"stats": func() error { _, err := c.Stats(t.Context()); return err },
		"prune": func() error { _, err := c.Prune(t.Context(), control.PruneRequest{}, nil); return err },
		"scrub": func() error { _, err := c.Scrub(t.Context(), nil); return err },
		"pins":  func() error { _, err := c.Pins(t.Context()); return err },
		"pin":   func() error { return c.Pin(t.Context(), cache.Pin{}) },
		"unpin": func() error { _, err := c.Unpin(t.Context(), cache.Pin{}); return err },
		"load": func() error {
			_, err := c.Load(t.Context(), control.LoadRequest{}, strings.NewReader("12345678"), nil)
			return err
		},
		"export": func() error { return c.Export(t.Context(), control.ExportRequest{}, io.Discard) },
	}
	for name, fn := range ask {
		if err := fn(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	k := &keeper{items: []cache.Item{{Digest: "sha256:1"}}}
	c := reach(t, k)
	if stats, err := c.Stats(t.Context()); err != nil || stats.Bytes != 7 || stats.State != "ok" {
		t.Errorf("stats %+v, %v", stats, err)
	}
	n := 0
	req := control.PruneRequest{PulledBefore: time.Unix(9, 0).UTC(), ToBytes: 3, Match: "x", DryRun: true}
	pruned, err := c.Prune(t.Context(), req, func(cache.Item) { n++ })
	if err != nil || n != 1 || pruned.Bytes != 5 || k.asked != req {
		t.Errorf("pruned %+v of %d, asked %+v, %v", pruned, n, k.asked, err)
	}
	var seen [2]int64
	scrubbed, err := c.Scrub(t.Context(), func(done, total int64) { seen = [2]int64{done, total} })
	if err != nil || scrubbed.Objects != 2 || seen != [2]int64{1, 2} {
		t.Errorf("scrubbed %+v, seen %v, %v", scrubbed, seen, err)
	}
	if pins, err := c.Pins(t.Context()); err != nil || len(pins) != 0 {
		t.Errorf("pins %v, %v", pins, err)
	}
	for tag, want := range map[string]bool{"there": true, "not": false} {
		if was, err := c.Unpin(t.Context(), cache.Pin{Tag: tag}); err != nil || was != want {
			t.Errorf("unpin %s: %t, %v", tag, was, err)
		}
	}
}

func TestLoadAndExport(t *testing.T) {
	t.Parallel()
	k := &keeper{}
	c := reach(t, k)
	var told atomic.Int64
	loaded, err := c.Load(t.Context(), control.LoadRequest{Name: "a/b:c"}, strings.NewReader("12345678"), func(done, _ int64) { told.Store(done) })
	if err != nil || loaded.Bytes != 8 || string(k.archive) != "12345678" || told.Load() != 4 {
		t.Errorf("loaded %+v of %q, told %d, %v", loaded, k.archive, told.Load(), err)
	}
	var out bytes.Buffer
	if err := c.Export(t.Context(), control.ExportRequest{Images: []string{"a"}}, &out); err != nil || out.String() != "halfwhole" {
		t.Errorf("%q, %v", out.String(), err)
	}
	k.cut = true
	if err := c.Export(t.Context(), control.ExportRequest{}, io.Discard); err == nil {
		t.Error("half an archive was taken for a whole one")
	}
}

// Whoever leaves ends the work.
func TestLeaving(t *testing.T) {
	t.Parallel()
	k := &keeper{waits: make(chan struct{})}
	c := reach(t, k)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Scrub(ctx, func(int64, int64) { cancel() })
	cancel()
	if err == nil {
		t.Error("it did not fail")
	}
	<-k.waits
}

func TestToken(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var token atomic.Value
	token.Store("secret")
	serve(t, listener, control.TokenHandler(&keeper{}, func() string { return token.Load().(string) }, slog.New(slog.DiscardHandler)))
	at := listener.Addr().String()
	for shown, want := range map[string]error{"secret": nil, "": control.ErrRefused, "secre": control.ErrRefused} {
		if _, err := control.NewClient("tcp", at, shown).Stats(t.Context()); !errors.Is(err, want) {
			t.Errorf("%q: %v", shown, err)
		}
	}
	token.Store("") // of a file that cannot be read
	if _, err := control.NewClient("tcp", at, "").Stats(t.Context()); !errors.Is(err, control.ErrRefused) {
		t.Errorf("without a token to compare with: %v", err)
	}
}

// Whoever has no token gets an answer, and keeps no connection open after it.
func TestRefusedConnectionsEnd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener, control.TokenHandler(&keeper{}, func() string { return "secret" }, slog.New(slog.DiscardHandler)))
	for header, status := range map[string]string{
		"Content-Length: 5":          "401",
		"Content-Length: 0":          "401",
		"Transfer-Encoding: chunked": "401",
		"Authorization: Bearer secret\r\nOrigin: http://evil.example\r\nContent-Length: 5": "403",
		"Authorization: Bearer secret\r\nContent-Length: 0":                                "200",
	} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // only if it fails
		_, _ = io.WriteString(conn, "POST /v1/stats HTTP/1.1\r\nHost: x\r\n"+header+"\r\n\r\n")
		answer, err := io.ReadAll(conn) // to the end, which only the server can make
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+status) {
			t.Errorf("%q: %v, %.60q", header, err, answer)
		}
	}
}

func TestSocketInTheWay(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	first, err := control.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := control.ListenSocket(t.Context(), path); err == nil {
		_ = second.Close()
		t.Error("two listen at one socket")
	}
	_ = first.Close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket stayed")
	}
	// One that a killed process left behind is no hindrance.
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	again, err := control.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := control.ListenSocket(t.Context(), path); err == nil {
		_ = l.Close()
		t.Error("a file was taken for a socket")
	}
}
