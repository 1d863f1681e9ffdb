package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Target is where an export goes: see [Tar] and [Folder]. It is used once.
type Target interface {
	// begin is called before anything is written.
	begin() error
	// write writes a file of size bytes, all of which content delivers.
	write(name string, size int64, content io.Reader) error
	// end is called once, whether or not all was written.
	end() error
}

// Tar writes a tarball to w, which the caller closes. Its entries have no owner
// and no time, so that equal content makes equal tarballs.
func Tar(w io.Writer) Target { return &tarTarget{tar: tar.NewWriter(w)} }

type tarTarget struct{ tar *tar.Writer }

func (t *tarTarget) begin() error { return nil }

func (t *tarTarget) write(name string, size int64, content io.Reader) error {
	err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	if err != nil {
		return err
	}
	_, err = io.Copy(t.tar, content)
	return err
}

func (t *tarTarget) end() error { return t.tar.Close() }

// Folder writes to a folder, which is made if need be and must be empty. Its index
// is written last.
func Folder(at string) Target { return &folderTarget{path: at} }

type folderTarget struct {
	path string
	root *os.Root
}

func (f *folderTarget) begin() error {
	if err := os.MkdirAll(f.path, 0o755); err != nil { //nolint:gosec // content for anyone to read, as far as the folder above lets them
		return err
	}
	there, err := os.ReadDir(f.path)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return fmt.Errorf("%s: %w", f.path, os.ErrExist)
	}
	f.root, err = os.OpenRoot(f.path)
	return err
}

func (f *folderTarget) write(name string, _ int64, content io.Reader) error {
	if err := f.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

func (f *folderTarget) end() error {
	if f.root == nil {
		return nil
	}
	return f.root.Close()
}

// write writes the layout, each object hashed once more.
func (x *exporting) write(ctx context.Context, to Target) error {
	index, err := json.Marshal(x.index())
	if err != nil {
		return err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	err = to.begin()
	if err == nil {
		err = to.write(layoutFile, int64(len(layout)), bytes.NewReader(layout))
	}
	if err == nil {
		err = x.writeObjects(ctx, to)
	}
	if err == nil {
		err = to.write(indexFile, int64(len(index)), bytes.NewReader(index))
	}
	return errors.Join(err, to.end())
}

func (x *exporting) writeObjects(ctx context.Context, to Target) error {
	slices.SortFunc(x.objects, func(a, b cache.Want) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	p := newProgress(x.opts.Progress, x.total)
	for _, want := range x.objects {
		if err := x.writeObject(ctx, want, to, p); err != nil {
			return fmt.Errorf("%s: %w", want.Digest, err)
		}
	}
	p.end()
	return nil
}

func (x *exporting) writeObject(ctx context.Context, want cache.Want, to Target, p *progress) error {
	held, err := x.from.Get(want)
	if err != nil {
		return err
	}
	hash := want.Digest.Algorithm().Hash()
	counted := io.TeeReader(&patient{ctx: ctx, from: held}, io.MultiWriter(hash, p))
	err = to.write(blobPath(want.Digest), want.Size, counted)
	if err == nil && digest.NewDigest(want.Digest.Algorithm(), hash) != want.Digest {
		err = referrerstore.ErrDigestMismatch
	}
	return errors.Join(err, held.Close())
}
