package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// files are what an archive consists of, by names with slashes. All methods are
// safe for concurrent use.
type files interface {
	// open opens a regular file, fs.ErrNotExist if there is none.
	open(name string) (file, error)
	close() error
}

// file is an open file of known size.
type file interface {
	io.ReaderAt
	io.Closer
	size() int64
}

// Archive is an open archive. It is safe for concurrent use.
type Archive struct{ files files }

// OpenOptions of an archive. The zero value works.
type OpenOptions struct {
	// TempDir is where a compressed tarball is unpacked to, as one file that
	// Close removes; empty is the system's.
	TempDir string
	// MaxBytes bounds what a compressed tarball unpacks to; 0 is 64 GiB.
	MaxBytes int64
}

// Open opens a folder or a file: an OCI image layout, or a tarball of one or by
// docker save, compressed with gzip or not. A tarball is read once to know what is
// in it. Errors are ErrInvalid, those of reading, or the cause of ctx's end.
func Open(ctx context.Context, path string, opts OpenOptions) (*Archive, error) {
	f, err := openFiles(ctx, path, opts)
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", path, err)
	}
	return &Archive{files: f}, nil
}

func openFiles(ctx context.Context, path string, opts OpenOptions) (files, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		return folder{root}, nil
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: neither a file nor a folder", ErrInvalid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return openTarball(ctx, f, opts)
}

// Close closes what Open opened.
func (a *Archive) Close() error { return a.files.close() }

// folder is a layout as a folder. No link leads out of it.
type folder struct{ root *os.Root }

func (d folder) open(name string) (file, error) {
	// Before it is opened: opening a pipe would wait for its writer.
	info, err := d.root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no file", ErrInvalid, name)
	}
	if err != nil {
		return nil, err
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	return plainFile{f, info.Size()}, nil
}

func (d folder) close() error { return d.root.Close() }

type plainFile struct {
	*os.File
	bytes int64
}

func (f plainFile) size() int64 { return f.bytes }

// readFile reads a file of at most maxDocument bytes.
func readFile(from files, name string) ([]byte, error) {
	f, err := from.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	if f.size() > maxDocument {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d", ErrInvalid, name, f.size(), maxDocument)
	}
	data := make([]byte, f.size())
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, f.size()), data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// readBlob reads content of a layout, which has the size and digest listed.
func readBlob(from files, desc ocispec.Descriptor) ([]byte, error) {
	data, err := readFile(from, blobPath(desc.Digest))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != desc.Size || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("%s: %w", desc.Digest, referrerstore.ErrDigestMismatch)
	}
	return data, nil
}

// sum hashes a file.
func sum(ctx context.Context, f file, algorithm digest.Algorithm) (digest.Digest, error) {
	hash := algorithm.Hash()
	_, err := io.Copy(hash, &patient{ctx: ctx, from: io.NewSectionReader(f, 0, f.size())})
	return digest.NewDigest(algorithm, hash), err
}

// patient is a reader that ends with its context.
type patient struct {
	ctx  context.Context //nolint:containedctx // of the call that reads
	from io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	return p.from.Read(b)
}

// isAbsent says that there is no such file.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// inMemory is a file that the archive does not have, but should.
func inMemory(data []byte) file {
	return section{io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))}
}
