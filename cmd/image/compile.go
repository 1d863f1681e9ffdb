package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// executable is a compiled binary.
type executable struct {
	binary
	data   []byte
	sha256 string // of data, in hexadecimal
	info   *debug.BuildInfo
}

// goFlags are those of `make build`.
func goFlags(version string) []string {
	return []string{"-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w -X main.version=" + version}
}

// goEnv fixes what the caller's environment could change about the result. Whether
// the commit is stamped into the binaries is left to GOFLAGS, as in `make build`.
func goEnv(p v1.Platform) []string {
	return []string{"GOOS=" + p.OS, "GOARCH=" + p.Architecture, "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOWORK=off"}
}

// compileAll compiles every binary for every platform: by platform, as the options
// order them. One after the other, because the go command uses all processors.
func compileAll(ctx context.Context, opts options, src source) (compiled [][]executable, err error) {
	dir, err := os.MkdirTemp("", "gatehouse-image-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, platform := range opts.platforms {
		var row []executable
		for _, b := range opts.binaries {
			e, err := compile(ctx, opts.root, dir, b, platform, src.version)
			if err != nil {
				return nil, fmt.Errorf("build %s for %s: %w", b.name, platform, err)
			}
			row = append(row, e)
		}
		compiled = append(compiled, row)
	}
	return compiled, nil
}

func compile(ctx context.Context, root, dir string, b binary, platform v1.Platform, version string) (executable, error) {
	path := filepath.Join(dir, b.name)
	args := append(append([]string{"build"}, goFlags(version)...), "-o", path, b.pkg)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // what to build is the caller's choice
	cmd.Dir = filepath.Join(root, b.folder)
	cmd.Env = append(os.Environ(), goEnv(platform)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return executable{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return executable{}, err
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return executable{}, err
	}
	sum := sha256.Sum256(data)
	return executable{binary: b, data: data, sha256: hex.EncodeToString(sum[:]), info: info}, nil
}
