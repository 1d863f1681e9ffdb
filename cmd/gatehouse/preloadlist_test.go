package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParsePreloads(t *testing.T) {
	t.Parallel()
	got, err := parsePreloads([]byte("\ufeffa.example/x\n# c\n\n\ta.example/app \nlocalhost/app:v1\na.example/app:latest\nteam/app\napp:v1\na.example/A"))
	if err != nil || len(got) != 6 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, want := range []struct {
		number int
		ref    string // empty if it names none
	}{{1, ""}, {4, "a.example/app:latest"}, {5, "localhost/app:v1"}, {7, ""}, {8, ""}, {9, ""}} {
		if line := got[i]; line.number != want.number || (line.err == nil) != (want.ref != "") || line.err == nil && line.ref.String() != want.ref {
			t.Errorf("%d: %+v", i, line)
		}
	}
	if _, err := parsePreloads([]byte(strings.Repeat("\n", maxPreloadLines))); err != nil {
		t.Error(err)
	}
	if _, err := parsePreloads([]byte(strings.Repeat("\n", maxPreloadLines+1))); err == nil {
		t.Error("there is no bound on lines")
	}
	if _, err := parsePreloads([]byte("a\x00b")); !errors.Is(err, errNotAList) {
		t.Error(err)
	}
	p, log := newTestPreloader(t, nil)
	p.run(t.Context(), []string{writeList(t, strings.Repeat(" ", maxPreloadBytes+1))})
	if !strings.Contains(log.String(), "larger than its bound") {
		t.Error(log.String())
	}
}

func FuzzParsePreloads(f *testing.F) {
	f.Add([]byte("# images\na.example/app:v1\r\nalpine\n\xff\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := parsePreloads(data)
		if err != nil && lines != nil {
			t.Errorf("%v and %v", lines, err)
		}
		last := 0
		for _, line := range lines {
			if line.number <= last || (line.err == nil) == line.ref.IsZero() {
				t.Errorf("%+v behind %d", line, last)
			}
			last = line.number
		}
	})
}

func TestIsArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		data string
		want bool
	}{
		"empty": {"", false}, "short": {"a", false}, "list": {strings.Repeat("a.example/app\n", 100), false}, "gzip": {gzipMagic, true},
		"tar": {strings.Repeat("x", tarOffset) + tarMagic, true}, "cut": {strings.Repeat("x", tarOffset) + "usta", false}, "shifted": {strings.Repeat("x", tarOffset+1) + tarMagic, false},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := isArchive(path); err != nil || got != tt.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
	if got, err := isArchive(dir); err != nil || !got {
		t.Errorf("a folder: %t, %v", got, err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), os.DevNull} {
		if _, err := isArchive(path); err == nil {
			t.Errorf("%s", path)
		}
	}
}

func TestValidateReadsPreload(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	writeBeside(t, s, "images.txt", "")
	edit(t, s, func(text string) string {
		return text + fmt.Sprintf(preloadSections, "cache", s.host, false, false, "images.txt, "+filepath.Dir(s.config))
	})
	if code, stdout, stderr := command(t, "", "config", "validate", s.config); code != exitOK || !strings.Contains(stdout, "is valid") {
		t.Errorf("%d %q", code, stderr)
	}
	edit(t, s, func(text string) string { return strings.Replace(text, "images.txt", "missing.txt, /dev/null", 1) })
	code, _, stderr := command(t, "", "config", "validate", s.config)
	for _, want := range []string{"registry.preload.files[0]", "missing.txt", "registry.preload.files[1]", "neither a file nor a folder"} {
		if code != exitUnknown || !strings.Contains(stderr, want) {
			t.Errorf("%d: no %q in %q", code, want, stderr)
		}
	}
}
