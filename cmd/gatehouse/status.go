package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// status is what /status tells of a process. Fields are only added.
type status struct {
	// At is the moment, by the process's clock, that all the others are of.
	At            time.Time             `json:"at"`
	Version       string                `json:"version"`
	Configuration configurationStatus   `json:"configuration"`
	Hosts         []governor.HostStatus `json:"hosts"`
	executor.Status
}

type configurationStatus struct {
	File string `json:"file"`
	// Generation counts the configurations that went live; Name is a hash of
	// this one, the same in every process with the same files.
	Generation uint64    `json:"generation"`
	Name       string    `json:"name"`
	Since      time.Time `json:"since,omitzero"`
	// Refused says why what is on disk is not what is live.
	Refused string `json:"refused,omitempty"`
}

// status is what /status shows.
func (g *gate) status() any {
	s := status{At: time.Now(), Version: versionText(), Hosts: []governor.HostStatus{}}
	s.Configuration = configurationStatus{File: g.path}
	if err := g.refused(); err != nil {
		s.Configuration.Refused = err.Error()
	}
	if l := g.live.Load(); l != nil {
		s.Configuration.Generation, s.Configuration.Name, s.Configuration.Since = l.number, l.name, l.since
		s.Hosts, s.Status = l.governor.Status(), l.executor.Status()
	}
	return s
}

const (
	// The bounds on asking another process.
	statusTime     = 5 * time.Second
	maxStatusBytes = 1 << 20
	// maxCellBytes cuts names in the table.
	maxCellBytes = 48
)

func statusCommand(std stdio) *cobra.Command {
	var admin, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what a serving gatehouse holds and does",
		Long: `Status asks a running "gatehouse serve" at its admin.address, and shows the live
configuration, the proofs that it holds, and for each registry host how many
requests are under way and wait, how fast it may be asked, whether it is paused or
given up for a while, and its last error.`,
		Example: `  gatehouse status
  gatehouse status --admin 10.0.0.7:8888
  kubectl port-forward deployment/gatehouse 8888 & gatehouse status -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q is neither text nor json", output)
			}
			text, err := askStatus(cmd.Context(), admin)
			if err != nil {
				return err
			}
			return printStatus(std.out, admin, text, output)
		},
	}
	cmd.Flags().StringVar(&admin, "admin", "127.0.0.1:8888", "admin.address of the process, host:port")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// askStatus fetches /status: the admin listener speaks plain HTTP, and no proxy
// stands before it.
func askStatus(ctx context.Context, admin string) ([]byte, error) {
	host, port, err := net.SplitHostPort(admin)
	if err != nil {
		return nil, fmt.Errorf("--admin: %q is not host:port", admin)
	}
	if host == "" { // as in admin.address
		host = "127.0.0.1"
	}
	at := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: "/status"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("--admin: %q is not host:port", admin)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		Timeout:       statusTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, unreachable(admin, err)
	}
	defer func() { _ = resp.Body.Close() }() // read, or an error already
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s answers, but has no /status: name the admin.address of a gatehouse of this version with --admin", admin)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers with status %d: name the admin.address of a serving gatehouse with --admin", admin, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxStatusBytes+1))
	if err != nil {
		return nil, unreachable(admin, err)
	}
	if len(text) > maxStatusBytes {
		return nil, fmt.Errorf("%s answers with more than %d KiB: it is no gatehouse", admin, maxStatusBytes>>10)
	}
	return text, nil
}

// unreachable says what to do about a process that does not answer.
func unreachable(admin string, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s: start gatehouse serve, or name its admin.address with --admin (in a cluster, first: kubectl port-forward deployment/gatehouse 8888)", admin)
	case ok && timeout.Timeout():
		return fmt.Errorf("no answer from %s within %s: name the admin.address of a serving gatehouse with --admin, and see that nothing keeps you from it", admin, statusTime)
	default:
		return fmt.Errorf("ask %s: %s: name the admin.address of a serving gatehouse with --admin", admin, executor.OneLine(err.Error()))
	}
}

// printStatus prints the answer as it is, or for people.
func printStatus(out io.Writer, admin string, text []byte, output string) error {
	var s status
	if err := json.Unmarshal(text, &s); err != nil || s.At.IsZero() {
		return fmt.Errorf("what %s answers is not the status of a gatehouse: name its admin.address with --admin", admin)
	}
	if output == "json" {
		var indented bytes.Buffer
		if err := json.Indent(&indented, bytes.TrimSpace(text), "", "  "); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, indented.String())
		return err
	}
	_, err := io.WriteString(out, s.text(admin))
	return err
}

// text is for people: some lines, and a table of hosts.
func (s status) text(admin string) string {
	var b bytes.Buffer
	c := s.Configuration
	fmt.Fprintf(&b, "gatehouse %s at %s, %s\n\n", executor.OneLine(s.Version), admin, s.At.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "configuration  generation %d, live for %s, from %s (%.12s)\n", c.Generation, s.age(c.Since), executor.OneLine(c.File), executor.OneLine(c.Name))
	if c.Refused != "" {
		fmt.Fprintf(&b, "               REFUSED what is on disk now: %s\n", executor.OneLine(c.Refused))
	}
	fmt.Fprintf(&b, "subjects       %d worked on, %d of them in the background\n", s.Subjects.UnderWay, s.Subjects.Background)
	fmt.Fprintf(&b, "proofs         %s\n", s.proofs())
	if len(s.Hosts) == 0 {
		b.WriteString("hosts          none has been asked yet\n")
		return b.String()
	}
	b.WriteString("\n" + s.hosts() + "\n")
	return b.String()
}

func (s status) proofs() string {
	p := s.Proofs
	if p.Number == 0 {
		return "none"
	}
	text := fmt.Sprintf("%d, %s; the oldest %s old, the newest %s", p.Number, size(p.Bytes), s.age(p.Oldest), s.age(p.Newest))
	if p.Refreshing > 0 {
		text += fmt.Sprintf("; %d being proven again", p.Refreshing)
	}
	return text
}

// hosts is the table, and below it what went wrong last.
func (s status) hosts() string {
	t := table.New().Border(lipgloss.NormalBorder()).
		Headers("HOST", "KIND", "AS", "IN FLIGHT", "WAITING", "RATE", "PAUSED", "BREAKER", "USUAL").
		StyleFunc(func(int, int) lipgloss.Style { return lipgloss.NewStyle().Padding(0, 1) })
	var unnamed, errs string
	for _, h := range s.Hosts {
		host := executor.Clip(executor.OneLine(h.Host), maxCellBytes)
		if !h.Named {
			host += " *"
			unnamed = "\n* not named in stores[].hosts: shares few places, and gets no background work"
		}
		t.Row(host, executor.OneLine(h.Kind), dash(executor.Clip(executor.OneLine(h.Identity), maxCellBytes)),
			fmt.Sprintf("%d of %d", h.InFlight, h.Limit), waiting(h.Waiting), rate(h),
			dash(s.until("until", h.PausedUntil)), s.breaker(h.Breaker), usual(h.UsualLatencyMillis))
		if h.LastError != "" {
			errs += fmt.Sprintf("\nlast error of %s, %s, %s ago: %s", host, executor.OneLine(h.Kind), s.age(h.LastErrorAt),
				executor.Clip(executor.OneLine(h.LastError), executor.MaxLineBytes))
		}
	}
	return t.String() + unnamed + errs
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// waiting counts admissions, and beside them what nobody waits for.
func waiting(w governor.Waiting) string {
	text := strconv.Itoa(w.Admission)
	if w.Background > 0 {
		text += fmt.Sprintf(" +%d bg", w.Background)
	}
	return text
}

func rate(h governor.HostStatus) string {
	if h.Rate <= 0 {
		return dash(executor.OneLine(h.RateSource))
	}
	return fmt.Sprintf("%.3g/s %s", h.Rate, executor.OneLine(h.RateSource))
}

func usual(milliseconds float64) string {
	if milliseconds <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g ms", milliseconds)
}

// until says when something ends, and in how long; empty if it has.
func (s status) until(word string, end time.Time) string {
	if !end.After(s.At) {
		return ""
	}
	return fmt.Sprintf("%s %s (%s)", word, end.UTC().Format(time.TimeOnly), coarse(end.Sub(s.At)))
}

func (s status) breaker(b governor.BreakerStatus) string {
	text := executor.OneLine(b.State)
	if end := s.until(" until", b.Until); end != "" {
		text += end
	}
	return dash(text)
}

// age is how long ago something was, by the process's own clock.
func (s status) age(then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return coarse(s.At.Sub(then))
}

// coarse leaves out what nobody reads.
func coarse(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

func size(bytes uint64) string {
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	case bytes < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	default:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	}
}
