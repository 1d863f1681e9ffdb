package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxPreloadBytes and maxPreloadLines bound a list of images.
	maxPreloadBytes = 1 << 20
	maxPreloadLines = 10_000
)

// What archives begin with: gzip, and at an offset a tarball.
const (
	gzipMagic = "\x1f\x8b"
	tarMagic  = "ustar"
	tarOffset = 257
)

// isArchive tells an archive from a list of images.
func isArchive(file string) (bool, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return false, err
	case info.IsDir():
		return true, nil
	case !info.Mode().IsRegular(): // opening a pipe would wait for its writer
		return false, fmt.Errorf("%s: neither a file nor a folder", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, tarOffset+len(tarMagic))
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	head = head[:n]
	return bytes.HasPrefix(head, []byte(gzipMagic)) || (n > tarOffset && string(head[tarOffset:]) == tarMagic), nil
}

// preloadLine is a line of a list of images: one, or why it names none.
type preloadLine struct {
	number int
	ref    referrerstore.Reference
	err    error
}

var errNotAList = errors.New("neither a list of images nor an archive")

// parsePreloads reads a list of images: one full reference a line. Blank lines and
// those that begin with # are left out, and so is an image that is there before.
func parsePreloads(data []byte) ([]preloadLine, error) {
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, errNotAList
	}
	var all []preloadLine
	seen := make(map[referrerstore.Reference]bool)
	number := 0
	for text := range strings.Lines(string(data)) {
		if number++; number > maxPreloadLines {
			return nil, fmt.Errorf("more than %d lines", maxPreloadLines)
		}
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		ref, err := fullReference(text)
		if err == nil && seen[ref] {
			continue
		}
		seen[ref] = true
		all = append(all, preloadLine{number: number, ref: ref, err: err})
	}
	return all, nil
}

// fullReference is a reference that names its registry: what is pulled for a whole
// cluster is not guessed.
func fullReference(text string) (referrerstore.Reference, error) {
	ref, err := referrerstore.ParseReference(text)
	if err != nil {
		return referrerstore.Reference{}, err
	}
	first, _, path := strings.Cut(text, "/")
	if !path || !referrerstore.LooksLikeHost(first) {
		return referrerstore.Reference{}, fmt.Errorf("it does not name its registry; if that is meant, write %s", ref)
	}
	return ref, nil
}
