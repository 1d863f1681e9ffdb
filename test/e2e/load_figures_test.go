package e2e

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// durations are a sample of times.
type durations []time.Duration

// at is the least time that a share of all do not exceed; 0 of none.
func (d durations) at(share float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[max(int(math.Ceil(share*float64(len(sorted))))-1, 0)]
}

func (d durations) most() time.Duration { return d.at(1) }

// spread is median, p95, least and most, for a row.
func (d durations) spread() []string {
	return []string{millis(d.at(0.5)), millis(d.at(0.95)), millis(d.at(0)), millis(d.most())}
}

// millis keeps a digit where there are few.
func millis(d time.Duration) string {
	if d < 20*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// figures is what these tests measure, as Markdown: printed, and written to the
// file that GATEHOUSE_E2E_OUT names.
var figures chapters

type chapters struct {
	mu  sync.Mutex // guards the field that follows it
	all []string
}

// add enters a section with a table.
func (c *chapters) add(t *testing.T, title, about string, header []string, rows ...[]string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	text := markdown(title, about, header, rows)
	c.all = append(c.all, text)
	t.Log("\n" + text)
	path := os.Getenv("GATEHOUSE_E2E_OUT")
	if path == "" {
		return
	}
	if err := os.WriteFile(path, []byte(c.text()), 0o644); err != nil {
		t.Error(err)
	}
}

// text is called with mu held.
func (c *chapters) text() string {
	return fmt.Sprintf(`# End to end

Written by `+"`make e2e`"+` with `+"`GATEHOUSE_E2E_OUT`"+` set to a file's path, on %s with %d cores for all of it: etcd, the API
server, Gatekeeper, Gatehouse, the registries and the clients, each a process on loopback but for registries and clients, which are the test's
own. kubectl's times are those of the command, from its start to its end.

`, time.Now().Format(time.DateOnly), runtime.NumCPU()) + strings.Join(c.all, "\n")
}

func markdown(title, about string, header []string, rows [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n", title, about)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(header)
	line(slices.Repeat([]string{"---"}, len(header)))
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

func TestDurations(t *testing.T) {
	var d durations
	if d.at(0.5) != 0 || d.most() != 0 {
		t.Error("nothing takes time")
	}
	for i := range 20 {
		d = append(d, time.Duration(20-i)*time.Second)
	}
	if d.at(0) != time.Second || d.at(0.5) != 10*time.Second || d.at(0.95) != 19*time.Second || d.most() != 20*time.Second {
		t.Errorf("least %s, median %s, p95 %s, most %s", d.at(0), d.at(0.5), d.at(0.95), d.most())
	}
	if got := markdown("T", "a", []string{"x", "y"}, [][]string{{"1", "2"}}); got != "## T\n\na\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n" {
		t.Errorf("%q", got)
	}
}
