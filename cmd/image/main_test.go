package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The commit's time, so that no test needs git.
	if err := os.Setenv("SOURCE_DATE_EPOCH", "1795000000"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const commit = "0123456789abcdef0123456789abcdef01234567"

// made is a layout of the small program, read by the library.
type made struct {
	path      string
	index     v1.ImageIndex
	digest    v1.Hash
	top       *v1.IndexManifest
	platforms []v1.Descriptor
}

// makeHello makes a layout of testdata/hello for two platforms.
func makeHello(t *testing.T, more ...string) made {
	t.Helper()
	m := made{path: filepath.Join(t.TempDir(), "image")}
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), append(helloArgs(m.path), more...), &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	path, err := layout.FromPath(m.path)
	if err != nil {
		t.Fatal(err)
	}
	top, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if m.top, err = top.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	if m.digest, err = v1.NewHash(strings.TrimSpace(stdout.String())); err != nil {
		t.Fatalf("standard output is no digest: %v", err)
	}
	if m.index, err = top.ImageIndex(m.digest); err != nil {
		t.Fatal(err)
	}
	manifest, err := m.index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	m.platforms = manifest.Manifests
	return m
}

func helloArgs(out string) []string {
	return []string{
		"-root", "testdata", "-out", out, "-name", "registry.example.com/team/hello",
		"-version", "v1.2.3", "-revision", commit, "-binary", "hello=hello:.",
	}
}

// image reads the image for a platform.
func (m made) image(t *testing.T, i int) (v1.Image, *v1.ConfigFile) {
	t.Helper()
	img, err := m.index.Image(m.platforms[i].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return img, config
}

// Two builds of the same sources are the same bytes, and another version is another
// image: the comparison can fail.
func TestReproducible(t *testing.T) {
	t.Parallel()
	one, two, other := makeHello(t), makeHello(t), makeHello(t, "-version", "v1.2.4")
	if one.digest != two.digest {
		t.Errorf("%s, then %s", one.digest, two.digest)
	}
	if diff := cmp.Diff(files(t, one.path), files(t, two.path)); diff != "" {
		t.Errorf("the layouts differ:\n%s", diff)
	}
	if one.digest == other.digest {
		t.Error("another version is the same image")
	}
}

// files are names, modes and content of a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[strings.TrimPrefix(path, dir)+" "+info.Mode().String()] = string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What runs, as whom, for which platforms, and what the labels say.
func TestConfig(t *testing.T) {
	t.Parallel()
	m := makeHello(t)
	var platforms []string
	for i, desc := range m.platforms {
		platforms = append(platforms, desc.Platform.String())
		img, file := m.image(t, i)
		if got := file.OS + "/" + file.Architecture; got != desc.Platform.String() {
			t.Errorf("the configuration of %s says %s", desc.Platform, got)
		}
		want := v1.Config{
			User: "65532:65532", Entrypoint: []string{"/hello"}, Cmd: []string{"serve", "--config", "/etc/gatehouse/gatehouse.yaml"},
			Env: []string{"PATH=/"}, WorkingDir: "/", Labels: labels(),
		}
		if diff := cmp.Diff(want, file.Config); diff != "" {
			t.Errorf("%s (-want +got):\n%s", desc.Platform, diff)
		}
		if got := file.Created.Unix(); got != 1795000000 {
			t.Errorf("created %d", got)
		}
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(labels(), manifest.Annotations); diff != "" {
			t.Errorf("annotations of %s (-want +got):\n%s", desc.Platform, diff)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{refNameKey: "v1.2.3", containerdKey: "registry.example.com/team/hello:v1.2.3"}, m.top.Manifests[0].Annotations); diff != "" {
		t.Error(diff)
	}
}

func labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "hello",
		"org.opencontainers.image.description": "Verifies what images carry before they run in a Kubernetes cluster",
		"org.opencontainers.image.source":      "https://github.com/gatehouse-project/gatehouse",
		"org.opencontainers.image.version":     "v1.2.3",
		"org.opencontainers.image.revision":    commit,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     "2026-11-18T11:06:40Z",
	}
}

// The files of an image, with their owners and modes. The base's layer is the same
// for all platforms.
func TestFiles(t *testing.T) {
	t.Parallel()
	m := makeHello(t)
	var base [2]v1.Hash
	for i := range m.platforms {
		img, _ := m.image(t, i)
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if base[i], err = layers[0].Digest(); err != nil || len(layers) != 2 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		got := make(map[string]string)
		for _, layer := range layers {
			list(t, layer, got)
		}
		want := map[string]string{
			"etc/": "drwxr-xr-x 0:0", "etc/group": "-rw-r--r-- 0:0", "etc/passwd": "-rw-r--r-- 0:0",
			"etc/ssl/": "drwxr-xr-x 0:0", "etc/ssl/certs/": "drwxr-xr-x 0:0", "etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- 0:0",
			"home/": "drwxr-xr-x 0:0", "home/nonroot/": "drwx------ 65532:65532", "tmp/": "dtrwxrwxrwx 0:0",
			"hello": "-rwxr-xr-x 0:0",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if base[0] != base[1] {
		t.Error("the platforms have different bases")
	}
}

func list(t *testing.T, layer v1.Layer, into map[string]string) {
	t.Helper()
	reader, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for archive := tar.NewReader(reader); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.ModTime.Unix() != 0 {
			t.Errorf("%s is of %s", header.Name, header.ModTime)
		}
		into[header.Name] = header.FileInfo().Mode().String() + " " + owner(header)
	}
}

func owner(h *tar.Header) string {
	switch {
	case h.Uid == nonroot && h.Gid == nonroot:
		return "65532:65532"
	case h.Uid == 0 && h.Gid == 0:
		return "0:0"
	default:
		return "somebody"
	}
}

// A layout is replaced as a whole; what is none is left alone.
func TestOut(t *testing.T) {
	t.Parallel()
	m := makeHello(t)
	stale := filepath.Join(m.path, "stale")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(helloArgs(m.path), "-platforms", "linux/amd64")
	if err := run(t.Context(), args, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a former layout's file is there: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := (&release{}).write(other)
	if err == nil || !strings.Contains(err.Error(), "no OCI layout") {
		t.Errorf("a folder of somebody's: %v", err)
	}
	if _, err := os.Stat(filepath.Join(other, "thesis")); err != nil {
		t.Error(err)
	}
}

func TestOptionsRefused(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                                          "-out",
		"-out x y":                                  "unexpected",
		"-out x -binary gatehouse":                  "NAME=DIR:PKG",
		"-out x -binary ../x=.:./x":                 "NAME=DIR:PKG",
		"-out x -binary x=../..:./x":                "NAME=DIR:PKG",
		"-out x -binary x=.:example.com":            "NAME=DIR:PKG",
		"-out x -binary etc=.:./x":                  "folder of the image",
		"-out x -binary a=.:. -binary a=.:./b":      "named twice",
		"-out x -platforms linux":                   "-platforms",
		"-out x -platforms windows/amd64":           "-platforms",
		"-out x -platforms linux/arm/v7":            "-platforms",
		"-out x -platforms linux/amd64,linux/amd64": "named twice",
		"-out x -name gatehouse":                    "-name",
		"-out x -name ghcr.io/a/b:v1":               "-name",
		"-out x -source http://example.com":         "-source",
		"-out x -builder-id=":                       "-builder-id",
		"-out x -nonsense":                          "nonsense",
	} {
		if _, err := parseOptions(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want something of %q", args, err, want)
		}
	}
	if _, err := parseOptions([]string{"-help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
}

func TestSourceRefused(t *testing.T) {
	t.Parallel()
	for _, opts := range []options{
		{version: "v1 -X main.other=1", revision: commit},
		{version: "v1", revision: "main"},
		{version: "v1", revision: commit[1:]},
		{version: "-v1", revision: commit},
	} {
		if s, err := readSource(t.Context(), opts); err == nil {
			t.Errorf("%+v was taken as %+v", opts, s)
		}
	}
	s, err := readSource(t.Context(), options{version: "v1", revision: commit + "-dirty"})
	if err != nil || !s.modified || s.revision != commit || s.label() != commit+"-dirty" {
		t.Errorf("%+v, %v", s, err)
	}
}

// What does not compile is an error that shows the compiler's, and leaves nothing.
func TestBroken(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "image")
	err := run(t.Context(), []string{
		"-root", "testdata", "-out", out, "-version", "v1", "-revision", commit, "-binary", "hello=hello:./none",
	}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "build hello for linux/amd64") || !strings.Contains(err.Error(), "none") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

// layoutIndex is index.json.
func layoutIndex(path string) (v1.ImageIndex, error) { return layout.ImageIndexFromPath(path) }

// content is a file of a layer.
func content(t *testing.T, layer v1.Layer, name string) []byte {
	t.Helper()
	reader, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for archive := tar.NewReader(reader); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if header.Name == name {
			data, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}
