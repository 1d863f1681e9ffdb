package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Binary is a built cmd/gatehouse.
type Binary struct{ path string }

// Path is the executable file.
func (b Binary) Path() string { return b.path }

// builder makes the one binary of this test process, on demand.
var builder struct {
	mu     sync.Mutex // guards the fields that follow it
	dir    string
	binary Binary
	err    error
}

// Build compiles cmd/gatehouse as `make build` does, but for the symbols, which
// stay. The first call in a process builds, the others wait for its outcome;
// an end of ctx is forgotten. [Exit] removes what was built.
func Build(ctx context.Context) (Binary, error) {
	builder.mu.Lock()
	defer builder.mu.Unlock()
	if builder.err != nil || builder.binary.path != "" {
		return builder.binary, builder.err
	}
	binary, err := build(ctx)
	if err != nil {
		err = fmt.Errorf("build gatehouse: %w", err)
		if ctx.Err() == nil {
			builder.err = err
		}
		return Binary{}, err
	}
	builder.binary = binary
	return binary, nil
}

// build is called with builder.mu held.
func build(ctx context.Context) (Binary, error) {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return Binary{}, err
	}
	if err := consult(root); err != nil {
		return Binary{}, err
	}
	if builder.dir == "" {
		if builder.dir, err = os.MkdirTemp("", "gatehouse-test-"); err != nil {
			return Binary{}, err
		}
	}
	path := filepath.Join(builder.dir, "gatehouse")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace",
		"-ldflags", "-X main.version=test", "-o", path, "./cmd/gatehouse")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binary{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return Binary{path: path}, nil
}

// ModuleRoot is the folder of the module that the test binary runs in.
func ModuleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if filepath.Base(file) != "go.mod" {
		return "", errors.New("find the module: not inside of one")
	}
	return filepath.Dir(file), nil
}

// consult looks at every source file, for its effect on the go command: that
// notes which files a test looks at, and repeats a former result of the test
// only while they are unchanged. It does not see what another process reads.
func consult(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		switch {
		case entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata"):
			return filepath.SkipDir
		case entry.IsDir() || strings.HasSuffix(name, "_test.go"):
			return nil
		case strings.HasSuffix(name, ".go") || name == "go.mod" || name == "go.sum":
			_, err := os.Stat(path)
			return err
		}
		return nil
	})
}

// Exit removes what [Build] built and ends the test binary. It is what TestMain
// gives to goleak.Cleanup, or calls with the code of m.Run.
func Exit(code int) {
	if err := Remove(); err != nil && code == 0 {
		code = 1
	}
	os.Exit(code)
}

// Remove deletes what [Build] built. Processes that run go on.
func Remove() error {
	builder.mu.Lock()
	defer builder.mu.Unlock()
	dir := builder.dir
	builder.dir, builder.binary, builder.err = "", Binary{}, nil
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}
