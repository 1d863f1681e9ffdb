package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// nonroot is the image's user.
const nonroot = 65532

// What is in the image needs nothing that is not: it runs with the image as its root,
// as the image's user, and shows all verdicts of the demo right.
func TestRuns(t *testing.T) {
	t.Parallel()
	l := open(t)
	_, manifest, config := l.platform(t, runtime.GOARCH)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, layer := range manifest.Layers {
		l.extract(t, layer, config.RootFS.DiffIDs[i], root)
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"version"}, "gatehouse " + tag + " go1."},
		{[]string{"demo", "--once", "--address", "127.0.0.1:0"}, "SIGNATURE"},
	} {
		out, err := inside(t, root, config.Config, tt.args...)
		if err != nil || !strings.Contains(out, tt.says) {
			t.Errorf("%v: %v\n%s", tt.args, err, out)
		}
	}
}

// inside runs the image's entry point with the image as the root of its file system.
// Who may not change the root runs the file where it was put.
func inside(t *testing.T, root string, config ocispec.ImageConfig, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := config.Entrypoint[0]
	if os.Geteuid() != 0 {
		cmd := exec.CommandContext(ctx, filepath.Join(root, path), args...)
		cmd.Env = append(config.Env, "TMPDIR="+filepath.Join(root, "tmp"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	cmd := exec.CommandContext(ctx, path, append(config.Entrypoint[1:], args...)...)
	cmd.Env, cmd.Dir = config.Env, config.WorkingDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nonroot, Gid: nonroot}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// extract puts a layer into a folder, as a runtime does, and checks its content.
func (l layout) extract(t *testing.T, layer ocispec.Descriptor, diffID digest.Digest, root string) {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(l.blob(t, layer.Digest)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(plain); got != diffID {
		t.Errorf("the layer %s has the content %s, not %s", layer.Digest, got, diffID)
	}
	for archive := tar.NewReader(bytes.NewReader(plain)); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := place(root, header, archive); err != nil {
			t.Fatalf("%s: %v", header.Name, err)
		}
	}
}

func place(root string, header *tar.Header, content io.Reader) error {
	if !filepath.IsLocal(header.Name) {
		return errors.New("leads out of the image")
	}
	path := filepath.Join(root, header.Name)
	var err error
	switch header.Typeflag {
	case tar.TypeDir:
		err = os.Mkdir(path, 0o700)
	case tar.TypeReg:
		var data []byte
		if data, err = io.ReadAll(content); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
	default:
		err = errors.New("neither a file nor a folder")
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(path, header.Uid, header.Gid)
	}
	return errors.Join(err, os.Chmod(path, header.FileInfo().Mode()))
}
