package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// nonroot is the user that the image runs as, and its group.
const nonroot = 65532

const (
	passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n" //nolint:gosec // no password in it
	group  = "root:x:0:\nnonroot:x:65532:\n"
)

// entry is a file of the image, or a folder if its path ends in a slash.
type entry struct {
	path  string
	mode  int64
	owner int // user and group
	data  []byte
}

// baseEntries are all that the image has beside binaries. There is no nsswitch.conf:
// without one Go's resolver asks /etc/hosts first and then DNS, as it should.
// /tmp is for `gatehouse demo`; with a read-only root file system nothing writes there.
func baseEntries() ([]entry, error) {
	roots, err := certificates()
	if err != nil {
		return nil, err
	}
	return []entry{
		{path: "etc/", mode: 0o755},
		{path: "etc/group", mode: 0o644, data: []byte(group)},
		{path: "etc/passwd", mode: 0o644, data: []byte(passwd)},
		{path: "etc/ssl/", mode: 0o755},
		{path: "etc/ssl/certs/", mode: 0o755},
		{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: roots},
		{path: "home/", mode: 0o755},
		{path: "home/nonroot/", mode: 0o700, owner: nonroot},
		{path: "tmp/", mode: 0o1777},
	}, nil
}

// newLayer makes a layer of the entries, which come in the order of a tar file. All
// times are the epoch, so that a layer changes only with what is in it.
func newLayer(entries []entry) (v1.Layer, error) {
	var compressed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(zip)
	for _, e := range entries {
		if err := e.write(archive); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", e.path, err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	// It is compressed here, and once: given a plain tar, the library would compress
	// it again each time it is read.
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(compressed.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

func (e entry) write(archive *tar.Writer) error {
	header := &tar.Header{
		Name: e.path, Mode: e.mode, Uid: e.owner, Gid: e.owner, Size: int64(len(e.data)),
		ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR, Typeflag: tar.TypeReg,
	}
	if e.data == nil {
		header.Typeflag = tar.TypeDir
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(e.data)
	return err
}
