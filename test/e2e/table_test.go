package e2e

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
	lg "charm.land/lipgloss/v2/table"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
)

// table is what the user saw in each case. Whoever adds a row has asserted it.
var table rows

type rows struct {
	mu  sync.Mutex // guards the field that follows it
	all [][]string
}

// add enters what a user saw in a case.
func (r *rows) add(section, about, saw string, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, []string{section, about, saw, fmt.Sprintf("%d ms", after.Milliseconds())})
}

// saw enters the outcome of a command.
func (r *rows) saw(section, about string, o cluster.Output) {
	r.add(section, about, gist(o.String()), o.Elapsed)
}

// gist is the part of a message that a table has room for: of a denial, from
// where Gatekeeper quotes the template.
func gist(text string) string {
	if _, rest, found := strings.Cut(text, "denied the request: "); found {
		text = "denied: " + rest
	}
	return executor.Clip(executor.OneLine(text), 240)
}

func (r *rows) print(to io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		return
	}
	t := lg.New().Headers("CASE", "WHAT WAS DONE", "WHAT THE USER SAW", "AFTER").Border(lipgloss.NormalBorder()).BorderRow(true).Width(160).
		StyleFunc(func(int, int) lipgloss.Style { return lipgloss.NewStyle().Padding(0, 1) }).Rows(r.all...)
	_, _ = fmt.Fprintln(to, t.String()) // standard output
}
