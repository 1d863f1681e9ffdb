package results_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
)

func TestSave(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "results.json")
	a := results.Result{Name: "a", Figures: []results.Figure{{Name: "n", Value: 1, AtMost: new(0.0)}}}
	b := results.Result{Name: "b", Note: "as ever", Figures: []results.Figure{}, Series: []results.Series{{Name: "s", Points: [][2]float64{{0, 1}}}}}
	newer := results.Result{Name: "a", Figures: []results.Figure{{Name: "n", Value: 2, Floor: new(1.5)}}}
	for _, r := range []results.Result{a, b, newer} {
		if err := results.Save(path, r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := results.Load(path)
	if diff := cmp.Diff([]results.Result{newer, b}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if found, ok := results.Find(got, "a"); !ok || !cmp.Equal(found, newer) {
		t.Errorf("found %+v", found)
	}
	if _, ok := results.Find(got, "c"); ok {
		t.Error("found what nobody saved")
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := results.Save(path, a); err == nil {
		t.Error("saved into a file that is none of results")
	}
}

func TestBars(t *testing.T) {
	t.Parallel()
	r := results.Result{Figures: []results.Figure{
		{Name: "free", Value: 9},
		{Name: "none asked", Value: 0, AtMost: new(0.0)},
		{Name: "one too many", Value: 1, AtMost: new(0.0)},
		{Name: "enough", Value: 35, AtLeast: new(35.0)},
		{Name: "too few", Value: 34, AtLeast: new(35.0)},
	}}
	if diff := cmp.Diff([]string{"one too many", "too few"}, r.Missed()); diff != "" {
		t.Error(diff)
	}
	if v, ok := r.Value("enough"); v != 35 || !ok {
		t.Errorf("value %v %t", v, ok)
	}
	if _, ok := r.Value("other"); ok {
		t.Error("a figure that is not there")
	}
}

func ExampleResult_Table() {
	r := results.Result{Name: "seed/cold", Note: "25 ms away", Figures: []results.Figure{
		{Name: "time", Value: 180.25, Unit: "ms", Floor: new(150.0), AtMost: new(180.0)},
		{Name: "requests", Value: 54, Floor: new(54.0), AtMost: new(54.0)},
		{Name: "keys", Value: 100, AtLeast: new(35.0)},
	}}
	var table strings.Builder
	if err := r.Table(&table); err != nil {
		panic(err)
	}
	for line := range strings.Lines(table.String()) {
		fmt.Println(strings.TrimRight(line, " \n"))
	}
	// Output:
	//
	// seed/cold
	//   25 ms away
	//             value     floor   x floor  bar
	//   time      180.2 ms  150 ms  1.20     at most 180 ms  MISSED
	//   requests  54        54      1.00     at most 54
	//   keys      100                        at least 35
}
