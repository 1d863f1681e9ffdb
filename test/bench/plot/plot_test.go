package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
)

// sample has something for every picture.
func sample() []results.Result {
	timed := []results.Figure{
		{Name: "time", Value: 180, Floor: new(150.0), AtMost: new(180.0)},
		{Name: "six round trips", Value: 140},
		{Name: "crypto", Value: 10},
		{Name: "requests", Value: 54, Floor: new(54.0), AtMost: new(54.0)},
	}
	rates := []results.Figure{{Name: "images", Value: 6, Floor: new(10.0)}, {Name: "share", Value: 0.6, AtLeast: new(0.5)}}
	curve := []results.Series{{Name: "curve", Points: [][2]float64{{0, 0}, {10, 5000}, {20, 10_000}}}}
	return []results.Result{
		{Name: "seed/cold", Figures: timed},
		{Name: "seed/one", Figures: timed},
		{Name: "throttled/burst10-retry-after", Series: curve},
		{Name: "warm", Figures: []results.Figure{{Name: "answers", Value: 9, Floor: new(10.0)}, {Name: "p99", Value: 3, Floor: new(2.0)}}},
		{Name: "restart/defaults", Series: curve},
		{Name: "pulls/cached", Figures: rates},
		{Name: "pulls/cold", Figures: rates},
		{Name: "pulls/far", Figures: rates},
		{Name: "pulls/layer", Figures: []results.Figure{{Name: "held", Value: 9, Floor: new(10.0), AtLeast: new(8.0)}}},
		{Name: "memory/absent", Figures: []results.Figure{{Name: "idle", Value: 20}}, Series: curve},
	}
}

func TestDraw(t *testing.T) {
	t.Parallel()
	in, out := filepath.Join(t.TempDir(), "results.json"), filepath.Join(t.TempDir(), "pictures")
	for _, r := range sample() {
		if err := results.Save(in, r); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	if err := draw(in, out, &log); err != nil || log.String() != "" {
		t.Fatalf("%v\n%s", err, &log)
	}
	for _, p := range pictures() {
		data, err := os.ReadFile(filepath.Join(out, p.file))
		if err != nil {
			t.Error(err)
			continue
		}
		if err := wellFormed(string(data)); err != nil || strings.Contains(string(data), "NaN") || strings.Contains(string(data), "Inf") {
			t.Errorf("%s: %v\n%s", p.file, err, data)
		}
	}
}

// TestDrawNothing leaves a picture without results as it was.
func TestDrawNothing(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	var log strings.Builder
	if err := draw(filepath.Join(out, "none.json"), out, &log); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(out)
	if err != nil || len(files) != 0 || strings.Count(log.String(), "no results") != len(pictures()) {
		t.Errorf("%v, %v\n%s", files, err, &log)
	}
}

func wellFormed(text string) error {
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		highest float64
		want    []float64
	}{
		{60, []float64{0, 10, 20, 30, 40, 50, 60}},
		{1.5, []float64{0, 0.25, 0.5, 0.75, 1, 1.25, 1.5}},
		{10_000, []float64{0, 2000, 4000, 6000, 8000, 10_000}},
		{61, []float64{0, 20, 40, 60, 80}},
		{0, []float64{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1}},
	} {
		if diff := cmp.Diff(test.want, ticks(test.highest, 6)); diff != "" {
			t.Errorf("%v: %s", test.highest, diff)
		}
	}
}

// TestEscapes keeps a name from becoming markup.
func TestEscapes(t *testing.T) {
	t.Parallel()
	text := stacks{title: `<a & "b">`, parts: []string{"<c>"}, rows: []stack{{name: "<d>", values: []float64{1}, note: "&", bar: -1}}}.String()
	if err := wellFormed(text); err != nil || strings.Contains(text, "<c>") || strings.Contains(text, "<d>") {
		t.Errorf("%v\n%s", err, text)
	}
}

func Example_short() {
	fmt.Println(short(0), short(1.5), short(0.85), short(154.79), short(1302), short(10_000), short(200_000))
	// Output: 0 1.5 0.85 155 1302 10,000 200,000
}
