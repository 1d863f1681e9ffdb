package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// cached is a folder with one image in it, and its digest.
func cached(t *testing.T) (directory string, image cache.Want) {
	t.Helper()
	directory = filepath.Join(t.TempDir(), "cache")
	folder, err := disk.Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	c, err := cache.Open(t.Context(), folder, cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	scope := cache.Scope{Registry: "registry.example.com", Repository: "app"}
	put := func(kind cache.Kind, mediaType string, data []byte) cache.Want {
		want := cache.Want{Scope: scope, Digest: digest.FromBytes(data), Kind: kind, Size: int64(len(data)), MediaType: mediaType}
		if err := c.Put(want, data); err != nil {
			t.Fatal(err)
		}
		return want
	}
	layer := put(cache.Blob, "", bytes.Repeat([]byte("layer"), 100))
	config := put(cache.Blob, "", []byte("{}"))
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config.Digest, Size: config.Size},
		"layers": []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: layer.Digest, Size: layer.Size}},
	})
	if err != nil {
		t.Fatal(err)
	}
	image = put(cache.Manifest, ocispec.MediaTypeImageManifest, manifest)
	c.SetTag(scope, "v1", cache.Tag{Descriptor: ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size}, At: time.Now()})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return directory, image
}

// says runs a subcommand of cache and gives its exit code and what it printed.
func says(t *testing.T, directory string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"cache", "--directory", directory}, args...), stdio{strings.NewReader(""), &stdout, &stderr})
	return code, stdout.String(), stderr.String()
}

func TestCacheOnAFolder(t *testing.T) {
	t.Parallel()
	directory, image := cached(t)
	const name = "registry.example.com/app:v1"
	for _, step := range []struct {
		args []string
		code int
		has  []string
	}{
		{[]string{"list"}, 0, []string{name, image.Digest.String()[:19], "just now"}},
		{[]string{"list", "registry.example.com/other"}, 0, []string{"nothing is held"}},
		{[]string{"list", "not a name"}, 2, []string{"pattern"}},
		{[]string{"list", "--all", "-o", "json"}, 0, []string{`"kind": "blob"`, image.Digest.String()}},
		{[]string{"stat"}, 0, []string{"1 manifests, 2 blobs", "after a clean end"}},
		{[]string{"prune"}, 2, []string{"say what to drop"}},
		{[]string{"prune", "--unused-for", "soon"}, 2, []string{"30d"}},
		{[]string{"prune", "--to", "much"}, 2, []string{"size such as"}},
		{[]string{"prune", "--all"}, 0, []string{"dropped 0 images", "kept 1"}}, // pulled a moment ago
		{[]string{"pin", name}, 0, nil},
		{[]string{"pin"}, 0, []string{name}},
		{[]string{"list"}, 0, []string{"pinned"}},
		{[]string{"unpin", name}, 0, nil},
		{[]string{"unpin", name}, 2, []string{"is not pinned"}},
		{[]string{"unpin", "a/B"}, 2, []string{"invalid image reference"}},
		{[]string{"scrub"}, 0, []string{"hashed 3 objects", "0 were damaged"}},
		{[]string{"export", "registry.example.com/none:v1", "-f", filepath.Join(directory, "..", "none.tar")}, 2, []string{"registry.example.com/none:v1"}},
		{[]string{"export", name, "-f", filepath.Join(directory, "..", "it.tar")}, 0, nil},
		{[]string{"load", filepath.Join(directory, "..", "it.tar")}, 0, []string{name, "loaded 1 images"}},
		{[]string{"load", filepath.Join(directory, "..", "missing.tar")}, 2, []string{"no such file"}},
		{[]string{"list", "-o", "yaml"}, 2, []string{"neither text nor json"}},
	} {
		code, out, errs := says(t, directory, step.args...)
		if code != step.code {
			t.Errorf("%v: exit code %d, want %d:\n%s%s", step.args, code, step.code, out, errs)
		}
		for _, text := range step.has {
			if !strings.Contains(out+errs, text) {
				t.Errorf("%v: nothing of %q in\n%s%s", step.args, text, out, errs)
			}
		}
	}
}

// What scrub finds is told, and is an exit code of its own.
func TestCacheScrubFinds(t *testing.T) {
	t.Parallel()
	directory, image := cached(t)
	path := filepath.Join(directory, "blobs", "sha256", image.Digest.Encoded())
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", int(image.Size))), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := says(t, directory, "scrub"); code != exitDenied || !strings.Contains(out, "1 were damaged") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// A folder that is held, one that is not there, and a configuration without a
// cache: each error says what to do.
func TestCacheRefusals(t *testing.T) {
	t.Parallel()
	directory, _ := cached(t)
	folder, err := disk.Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	c, err := cache.Open(context.Background(), folder, cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if code, _, errs := says(t, directory, "list"); code != exitUnknown || !strings.Contains(errs, "--socket") {
		t.Errorf("a folder that is held: %d, %s", code, errs)
	}
	if code, _, errs := says(t, filepath.Join(directory, "none"), "list"); code != exitUnknown || !strings.Contains(errs, "no such file") {
		t.Errorf("no folder: %d, %s", code, errs)
	}
	config := filepath.Join(t.TempDir(), "gatehouse.yaml")
	if err := os.WriteFile(config, []byte("version: v1alpha1\nserver: {insecureHTTP: true}\nstores: [{name: a, type: oras}]\npolicy: {rules: [{name: r, images: ['**'], allow: {reason: a, until: 2027-01-31}}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"cache", "list", "-c", config}, stdio{strings.NewReader(""), &stderr, &stderr}); code != exitUnknown || !strings.Contains(stderr.String(), "no section cache") {
		t.Errorf("no section: %d, %s", code, stderr.String())
	}
	if code, _, errs := says(t, directory, "list", "--address", "127.0.0.1:1"); code != exitUnknown || !strings.Contains(errs, "--token-file") {
		t.Errorf("no token: %d, %s", code, errs)
	}
}

// What the socket of a serving process answers is what its cache holds.
func TestCacheBySocket(t *testing.T) {
	t.Parallel()
	directory, image := cached(t)
	folder, err := disk.Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	c, err := cache.Open(context.Background(), folder, cache.Options{Lease: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	listener, err := control.ListenSocket(t.Context(), filepath.Join(directory, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, listener, control.Handler(&localKeeper{cache: c, spool: t.TempDir(), identity: nobody}, slog.New(slog.DiscardHandler)))
	}()
	defer func() { cancel(); <-done }()
	if code, out, errs := says(t, directory, "list"); code != 0 || !strings.Contains(out, image.Digest.String()[:19]) {
		t.Errorf("list: %d, %s%s", code, out, errs)
	}
	exported := filepath.Join(t.TempDir(), "it.tar")
	if code, out, errs := says(t, directory, "export", "registry.example.com/app:v1", "-f", exported); code != 0 {
		t.Errorf("export: %d, %s%s", code, out, errs)
	}
	if code, out, errs := says(t, directory, "load", "--name", "registry.example.com/copy:v2", exported); code != 0 || !strings.Contains(out, "copy:v2") {
		t.Errorf("load: %d, %s%s", code, out, errs)
	}
	if code, out, errs := says(t, directory, "list", "registry.example.com/copy"); code != 0 || !strings.Contains(out, "copy:v2") {
		t.Errorf("list of what was loaded: %d, %s%s", code, out, errs)
	}
}

func TestParseAge(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "0d": 0, "90m": 90 * time.Minute} {
		if got, err := parseAge(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "99999999d", "-1h", "soon"} {
		if got, err := parseAge(text); err == nil {
			t.Errorf("%q was read as %s", text, got)
		}
	}
}
