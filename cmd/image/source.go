package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// source is what the sources are, apart from their content.
type source struct {
	version  string
	revision string // 40 hexadecimal digits
	modified bool   // files differ from the revision
	created  time.Time
}

const dirty = "-dirty"

var (
	revisionForm = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// versionForm is what a tag of an image may be, which is also safe as a word of
	// the linker's flags.
	versionForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
)

// label is the revision as people read it.
func (s source) label() string {
	if s.modified {
		return s.revision + dirty
	}
	return s.revision
}

// readSource asks git for what the options leave open. With -version, -revision and
// SOURCE_DATE_EPOCH given it needs no git.
func readSource(ctx context.Context, opts options) (source, error) {
	s := source{version: opts.version}
	var err error
	if s.version == "" {
		if s.version, err = git(ctx, opts.root, "describe", "--tags", "--always", "--dirty"); err != nil {
			return source{}, fmt.Errorf("say -version: %w", err)
		}
	}
	if !versionForm.MatchString(s.version) {
		return source{}, fmt.Errorf("-version: %q cannot be a tag", s.version)
	}
	if s.revision, s.modified, err = revision(ctx, opts); err != nil {
		return source{}, fmt.Errorf("say -revision: %w", err)
	}
	if s.created, err = created(ctx, opts); err != nil {
		return source{}, fmt.Errorf("set SOURCE_DATE_EPOCH: %w", err)
	}
	return s, nil
}

func revision(ctx context.Context, opts options) (commit string, modified bool, err error) {
	if opts.revision != "" {
		commit, modified = strings.CutSuffix(opts.revision, dirty)
	} else {
		if commit, err = git(ctx, opts.root, "rev-parse", "HEAD"); err != nil {
			return "", false, err
		}
		changes, err := git(ctx, opts.root, "status", "--porcelain")
		if err != nil {
			return "", false, err
		}
		modified = changes != ""
	}
	if !revisionForm.MatchString(commit) {
		return "", false, fmt.Errorf("%q is not a commit of 40 digits", commit)
	}
	return commit, modified, nil
}

// created is SOURCE_DATE_EPOCH, or the time of the commit.
func created(ctx context.Context, opts options) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		if text, err = git(ctx, opts.root, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, err
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("%q is not a number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...) //nolint:gosec // the arguments are constants
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return "", fmt.Errorf("git %s in %s: %w", args[0], dir, err)
	}
	return strings.TrimSpace(string(out)), nil
}
