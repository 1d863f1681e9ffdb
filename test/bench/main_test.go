package bench

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
)

func TestMain(m *testing.M) {
	if answer := os.Getenv(echoEnv); answer != "" {
		os.Exit(echo(answer, os.Stderr))
	}
	if what := os.Getenv(besideEnv); what != "" {
		os.Exit(beside(what, os.Stderr))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(process.Exit))
}

// outEnv names the file that takes the results of benchmarks, none if empty.
const outEnv = "GATEHOUSE_BENCH_OUT"

// publish shows the result of a benchmark on standard output, because the
// testing package cuts what benchmarks log, and adds it to the file.
func publish(b *testing.B, r results.Result) {
	b.Helper()
	var table strings.Builder
	if err := r.Table(&table); err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stdout.WriteString(table.String()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op") // it has the means of the machine in it, not only ours
	b.ReportMetric(float64(len(r.Missed())), "bars-missed")
	if path := os.Getenv(outEnv); path != "" {
		if err := results.Save(path, r); err != nil {
			b.Fatal(err)
		}
	}
}

// size is a number of things from the environment, GATEHOUSE_BENCH_NAME, or
// what a benchmark uses without it.
func size(tb testing.TB, name string, otherwise int) int {
	tb.Helper()
	text := os.Getenv("GATEHOUSE_BENCH_" + name)
	if text == "" {
		return otherwise
	}
	n := must(strconv.Atoi(text))(tb)
	if n < 1 {
		tb.Fatalf("GATEHOUSE_BENCH_%s is %d", name, n)
	}
	return n
}

// span is a duration from the environment, as size is a number.
func span(tb testing.TB, name string, otherwise time.Duration) time.Duration {
	tb.Helper()
	text := os.Getenv("GATEHOUSE_BENCH_" + name)
	if text == "" {
		return otherwise
	}
	return must(time.ParseDuration(text))(tb)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
