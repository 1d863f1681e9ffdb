// Package results holds what benchmarks found, between the run that measured
// it and the pictures that are drawn of it.
//
// A [Result] has figures, each beside its floor and its bar where it has them,
// and series of points. [Result.Table] writes one for people, [Save] and [Load]
// keep many in one JSON file. Nothing here measures or draws.
package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Result is what one experiment found.
type Result struct {
	// Name identifies the experiment among others, "seed/cold" for example.
	Name string `json:"name"`
	// Note says under what circumstances, in a clause or two; may be empty.
	Note    string   `json:"note,omitempty"`
	Figures []Figure `json:"figures"`
	Series  []Series `json:"series,omitempty"`
}

// Figure is one number. Floor and bars are nil where there is none.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	// Unit is "ms", "MiB" or the like, empty for a count.
	Unit string `json:"unit,omitempty"`
	// Floor is the least that can be, measured in the same run or counted from
	// what the protocol demands.
	Floor *float64 `json:"floor,omitempty"`
	// AtMost and AtLeast are the bar that the figure must meet.
	AtMost  *float64 `json:"atMost,omitempty"`
	AtLeast *float64 `json:"atLeast,omitempty"`
}

// Series is a line of points (x, y).
type Series struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"`
}

// Add appends a figure.
func (r *Result) Add(figures ...Figure) { r.Figures = append(r.Figures, figures...) }

// Value finds a figure's value by name; false says that there is none.
func (r Result) Value(name string) (float64, bool) {
	for _, f := range r.Figures {
		if f.Name == name {
			return f.Value, true
		}
	}
	return 0, false
}

// Missed are the names of the figures that do not meet their bar.
func (r Result) Missed() []string {
	var missed []string
	for _, f := range r.Figures {
		if !f.Met() {
			missed = append(missed, f.Name)
		}
	}
	return missed
}

// Met tells whether the figure meets its bar, if it has one.
func (f Figure) Met() bool {
	return (f.AtMost == nil || f.Value <= *f.AtMost) && (f.AtLeast == nil || f.Value >= *f.AtLeast)
}

// Table writes the figures, a line each.
func (r Result) Table(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "\n%s\n", r.Name); err != nil {
		return err
	}
	if r.Note != "" {
		if _, err := fmt.Fprintf(w, "  %s\n", r.Note); err != nil {
			return err
		}
	}
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(columns, "  \tvalue\tfloor\tx floor\tbar\t\n") // errors come with Flush
	for _, f := range r.Figures {
		_, _ = fmt.Fprintf(columns, "  %s\t%s\n", f.Name, strings.Join(f.cells(), "\t"))
	}
	return columns.Flush()
}

// cells are a figure's columns after its name.
func (f Figure) cells() []string {
	cells := []string{number(f.Value, f.Unit), "", "", "", ""}
	if f.Floor != nil {
		cells[1] = number(*f.Floor, f.Unit)
		if *f.Floor > 0 {
			cells[2] = strconv.FormatFloat(f.Value / *f.Floor, 'f', 2, 64)
		}
	}
	switch {
	case f.AtMost != nil:
		cells[3] = "at most " + number(*f.AtMost, f.Unit)
	case f.AtLeast != nil:
		cells[3] = "at least " + number(*f.AtLeast, f.Unit)
	}
	if !f.Met() {
		cells[4] = "MISSED"
	}
	return cells
}

// number writes whole numbers whole, and others with as many digits as tell.
func number(v float64, unit string) string {
	decimals := 0
	if v != float64(int64(v)) {
		decimals = 1
		if v < 10 {
			decimals = 2
		}
	}
	return strings.TrimSpace(strconv.FormatFloat(v, 'f', decimals, 64) + " " + unit)
}

// Load reads a file that [Save] wrote. A file that does not exist has no
// results.
func Load(path string) ([]Result, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load results: %w", err)
	}
	var all []Result
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("load results %s: %w", path, err)
	}
	return all, nil
}

// Save puts a result into a file of results, in place of one of the same name
// if there is one. The file is exchanged as a whole; two writers at once lose
// one result.
func Save(path string, result Result) error {
	all, err := Load(path)
	if err != nil {
		return err
	}
	at := len(all)
	for i, r := range all {
		if r.Name == result.Name {
			at = i
		}
	}
	all = append(all[:at], append([]Result{result}, all[min(at+1, len(all)):]...)...)
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("save result %s: %w", result.Name, err)
	}
	next := path + ".next"
	if err := os.WriteFile(next, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("save result %s: %w", result.Name, err)
	}
	return os.Rename(next, path)
}

// Find finds a result by name; false says that there is none.
func Find(all []Result, name string) (Result, bool) {
	for _, r := range all {
		if r.Name == name {
			return r, true
		}
	}
	return Result{}, false
}
