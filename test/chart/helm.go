package chart

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// tool is where the go command left helm, on demand.
var tool struct {
	mu   sync.Mutex // guards the fields that follow it
	path string
	err  error
}

// Helm gives the path of the helm executable. The first call in a process builds it,
// unless the go command has it in its cache, which takes minutes; the others wait. An end
// of ctx is forgotten, another failure is not.
func Helm(ctx context.Context) (string, error) {
	tool.mu.Lock()
	defer tool.mu.Unlock()
	if tool.path != "" || tool.err != nil {
		return tool.path, tool.err
	}
	path, err := buildHelm(ctx)
	if err != nil {
		err = fmt.Errorf("build helm: %w", err)
		if ctx.Err() == nil {
			tool.err = err
		}
		return "", err
	}
	tool.path = path
	return path, nil
}

// buildHelm is called with tool.mu held.
func buildHelm(ctx context.Context) (string, error) {
	root, err := process.ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	out, err := run(ctx, "go", "-C", filepath.Join(root, "test", "e2e", "tools", "helm"), "tool", "-n", "helm")
	return strings.TrimSpace(out), err
}

// Dir is the folder of the chart.
func Dir(ctx context.Context) (string, error) {
	root, err := process.ModuleRoot(ctx)
	return filepath.Join(root, "charts", "gatehouse"), err
}

// run gives what a command writes to its standard output. Its error is what it writes
// beside that.
func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(name), err, bytes.TrimSpace(told.Bytes()))
	}
	return out.String(), nil
}

// consult reads the chart, for its effect on the go command: that notes which files a test
// reads, and repeats a former result only while they are unchanged. It does not see what
// helm reads.
func consult(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		_, err = os.ReadFile(path)
		return err
	})
}
