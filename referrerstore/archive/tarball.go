package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxLinks bounds a chain of links in a tarball.
const maxLinks = 8

// tarball is a tarball with its table of contents.
type tarball struct {
	file  *os.File
	temp  bool // removed at the end
	table map[string]entry
}

// entry is a regular file in a tarball, or a link to one.
type entry struct {
	offset, size int64
	link         string // the name linked to; empty for a file
}

// openTarball takes f over.
func openTarball(ctx context.Context, f *os.File, opts OpenOptions) (files, error) {
	t := &tarball{file: f}
	err := t.unpack(ctx, opts)
	if err == nil {
		t.table, err = contents(ctx, t.file)
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// unpack replaces a compressed file by a temporary one that is not: content is
// read in the order in which images list it.
func (t *tarball) unpack(ctx context.Context, opts OpenOptions) error {
	magic := make([]byte, 2)
	if _, err := t.file.ReadAt(magic, 0); err != nil {
		return fmt.Errorf("%w: it is too short", ErrInvalid)
	}
	if !isGzip(magic) {
		return nil
	}
	temp, err := os.CreateTemp(opts.TempDir, "gatehouse-archive-*")
	if err != nil {
		return err
	}
	packed := t.file
	t.file, t.temp = temp, true
	return errors.Join(gunzip(ctx, temp, packed, opts.MaxBytes), packed.Close())
}

func isGzip(start []byte) bool { return bytes.HasPrefix(start, []byte{0x1f, 0x8b}) }

func gunzip(ctx context.Context, to io.Writer, packed io.Reader, limit int64) error {
	if limit == 0 {
		limit = maxUnpacked
	}
	zip, err := gzip.NewReader(&patient{ctx: ctx, from: packed})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	n, err := io.Copy(to, io.LimitReader(zip, limit+1))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if n > limit {
		return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrInvalid, limit)
	}
	return nil
}

// contents reads a tarball's headers. Of several entries of a name the last
// counts, as for whoever unpacks it.
func contents(ctx context.Context, f *os.File) (map[string]entry, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	table := make(map[string]entry)
	reader := tar.NewReader(f)
	for number := 0; ; number++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		header, err := reader.Next()
		switch {
		case errors.Is(err, io.EOF):
			return table, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		case number == maxEntries:
			return nil, fmt.Errorf("%w: more than %d entries", ErrInvalid, maxEntries)
		}
		offset, err := f.Seek(0, io.SeekCurrent) // package tar reads no further than the header
		if err != nil {
			return nil, err
		}
		if err := note(table, header, offset, info.Size()); err != nil {
			return nil, err
		}
	}
}

// note takes an entry into the table if it is one that can be read from here.
func note(table map[string]entry, header *tar.Header, offset, end int64) error {
	name, ok := cleanName(header.Name)
	if !ok {
		return nil
	}
	switch header.Typeflag {
	case tar.TypeReg:
		if isSparse(header) {
			return fmt.Errorf("%w: %q is a sparse file", ErrInvalid, name)
		}
		if header.Size < 0 || header.Size > end-offset {
			return fmt.Errorf("%w: %q ends behind the archive", ErrInvalid, name)
		}
		table[name] = entry{offset: offset, size: header.Size}
	case tar.TypeLink:
		if to, ok := cleanName(header.Linkname); ok {
			table[name] = entry{link: to}
		}
	case tar.TypeSymlink:
		to, ok := cleanName(path.Join(path.Dir(name), header.Linkname)) //nolint:gosec // a key of the table, never a path of the system
		if ok && !path.IsAbs(header.Linkname) {
			table[name] = entry{link: to}
		}
	}
	return nil
}

// isSparse says that a file's bytes do not lie together.
func isSparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// cleanName is the one spelling of a name; false if it is none of a file within
// the archive, or longer than any that is asked for, or not fit to be shown.
func cleanName(name string) (string, bool) {
	if len(name) > maxNameBytes || strings.Map(printable, name) != name {
		return "", false
	}
	name = path.Clean(strings.TrimPrefix(name, "/"))
	return name, name != "." && fs.ValidPath(name)
}

func (t *tarball) open(name string) (file, error) {
	at := name
	for range maxLinks {
		e, ok := t.table[at]
		switch {
		case !ok:
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		case e.link == "":
			return section{io.NewSectionReader(t.file, e.offset, e.size)}, nil
		}
		at = e.link
	}
	return nil, fmt.Errorf("%w: %q is a link of more than %d links", ErrInvalid, name, maxLinks)
}

func (t *tarball) close() error {
	err := t.file.Close()
	if t.temp {
		err = errors.Join(err, os.Remove(t.file.Name()))
	}
	return err
}

// section is a file in a tarball, which stays open.
type section struct{ *io.SectionReader }

func (s section) size() int64 { return s.Size() }
func (section) Close() error  { return nil }
