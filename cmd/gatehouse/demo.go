package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
)

func demoCommand(std stdio) *cobra.Command {
	var once bool
	var address string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all in one process: a registry, signed images, and their verdicts",
		Long: `Demo starts a registry in its own process, pushes images that it signs for real, one
that nobody signed, one that a stranger signed, one whose signature was altered and
one whose signature has expired. It starts the server on them, sends the request
that Gatekeeper would send, and prints the verdicts. It stays up until interrupted,
so that you can ask too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), std, address, once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "exit after the verdicts, with an error if one is not as it should be")
	cmd.Flags().StringVar(&address, "address", "127.0.0.1:6001", "address of the server; if it is taken, a free port")
	return cmd
}

func demo(ctx context.Context, std stdio, address string, once bool) (err error) {
	dir, err := os.MkdirTemp("", "gatehouse-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(std.out, "Making keys, pushing images, signing them ...")
	stage, err := newStage(ctx, dir)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer stage.close()

	timings := &stopwatch{}
	g, err := newGate(ctx, stage.config, slog.New(slog.DiscardHandler), gateOptions{wrap: timings.around})
	if err != nil {
		return err
	}
	defer g.close()
	webhook, admin, err := listenDemo(ctx, address)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- g.run(serving, listeners{webhook: webhook, admin: admin}) }()
	defer func() {
		stop()
		err = errors.Join(err, <-served)
	}()
	wrong, err := showVerdicts(ctx, std.out, "http://"+webhook.Addr().String()+httpserver.VerifyPath, stage, timings)
	if err != nil {
		return err
	}
	if wrong > 0 {
		fmt.Fprintf(std.err, "%d verdicts are not as they should be\n", wrong)
	}
	if once {
		if wrong > 0 {
			return exitError(exitDenied)
		}
		return nil
	}
	showHints(std.out, webhook.Addr(), admin.Addr(), stage)
	<-ctx.Done()
	fmt.Fprintln(std.out, "\nStopping.")
	return nil
}

// demoWidth is what the table of verdicts is folded to, in columns.
const demoWidth = 118

// listenDemo takes the address that people will type, or a free port.
func listenDemo(ctx context.Context, address string) (webhook, admin net.Listener, err error) {
	var lc net.ListenConfig
	webhook, err = lc.Listen(ctx, "tcp", address)
	if err != nil {
		webhook, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, nil, err
	}
	admin, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		_ = webhook.Close() // the command ends with the other error
		return nil, nil, err
	}
	return webhook, admin, nil
}

// showVerdicts asks as Gatekeeper does, prints the answer, and counts what is
// not as it should be.
func showVerdicts(ctx context.Context, out io.Writer, url string, stage *stage, timings *stopwatch) (wrong int, err error) {
	keys := make([]string, len(stage.scenes))
	for i, s := range stage.scenes {
		keys[i] = s.image
	}
	start := time.Now()
	answer, err := ask(ctx, url, keys)
	if err != nil {
		return 0, fmt.Errorf("ask the server: %w", err)
	}
	took := time.Since(start)
	verdicts := make(map[string]shown, len(answer.Response.Items))
	for _, item := range answer.Response.Items {
		verdicts[item.Key] = readValue(item.Value)
	}
	t := table.New().Headers("IMAGE", "WHAT IT IS", "VERDICT", "WHY", "TIME", "").Border(lipgloss.NormalBorder()).Width(demoWidth).
		StyleFunc(func(int, int) lipgloss.Style { return lipgloss.NewStyle().Padding(0, 1) })
	for _, s := range stage.scenes {
		v, answered := verdicts[s.image]
		mark := "ok"
		if !answered || v.allowed != (s.code == "") || s.code != v.code {
			mark = "WRONG"
			wrong++
		}
		t.Row(strings.TrimPrefix(s.image, stage.host+"/"), s.what, v.word(answered), v.why, elapsed(timings.of(s.image)), mark)
	}
	fmt.Fprintf(out, "\nGatekeeper asks about %d images of the registry %s; answered in %s:\n\n%s\n", len(keys), stage.host, elapsed(took), t.String())
	if answer.Response.SystemError != "" {
		fmt.Fprintf(out, "\nsystemError: %s\n", executor.OneLine(answer.Response.SystemError))
	}
	return wrong, nil
}

func showHints(out io.Writer, webhook, admin net.Addr, stage *stage) {
	body, err := json.Marshal(externaldata.NewProviderRequest([]string{stage.scenes[0].image, stage.scenes[len(stage.scenes)-1].image}))
	if err != nil {
		return
	}
	fmt.Fprintf(out, `
Ask it yourself:

  curl -s -H 'Content-Type: application/json' -d '%s' \
    http://%s%s

  gatehouse verify --config %s %s
  gatehouse discover --config %s %s
  curl -s http://%s/metrics | grep gatehouse_

Stop with Ctrl-C.
`, body, webhook, httpserver.VerifyPath, stage.config, stage.scenes[1].image, stage.config, stage.scenes[0].image, admin)
}

// ask sends what Gatekeeper would send.
func ask(ctx context.Context, url string, keys []string) (externaldata.ProviderResponse, error) {
	var answer externaldata.ProviderResponse
	body, err := json.Marshal(externaldata.NewProviderRequest(keys))
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	return answer, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer)
}

// shown is what a template would read of a value.
type shown struct {
	allowed   bool
	code, why string
}

func (s shown) word(answered bool) string {
	switch {
	case !answered:
		return "no verdict"
	case s.allowed:
		return "allowed"
	default:
		return "denied"
	}
}

func readValue(v any) shown {
	value, _ := v.(map[string]any)
	allowed, _ := value["isSuccess"].(bool)
	s := shown{allowed: allowed}
	reports, _ := value["verifierReports"].([]any)
	if len(reports) > 0 {
		first, _ := reports[0].(map[string]any)
		s.code, _ = first["errorReason"].(string)
		s.why, _ = first["message"].(string)
		s.why, _, _ = strings.Cut(s.why, ";")
	}
	return s
}

// stopwatch notes how long each image took to decide on.
type stopwatch struct {
	mu    sync.Mutex // guards the field that follows it
	times map[string]time.Duration
}

type timed struct {
	httpserver.Decider
	watch *stopwatch
}

func (s *stopwatch) around(inner httpserver.Decider) httpserver.Decider { return timed{inner, s} }

func (t timed) Verify(ctx context.Context, req executor.Request) (executor.Result, error) {
	result, err := t.Decider.Verify(ctx, req)
	t.watch.note(req, result)
	return result, err
}

func (t timed) Recall(req executor.Request, now time.Time) (executor.Result, bool) {
	result, ok := t.Decider.Recall(req, now)
	if ok {
		t.watch.note(req, result)
	}
	return result, ok
}

func (s *stopwatch) note(req executor.Request, result executor.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = make(map[string]time.Duration)
	}
	s.times[req.Reference.String()] = result.Timings.Total
}

func (s *stopwatch) of(image string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[image]
}
