package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// Memory is what a process occupies, in bytes.
type Memory struct {
	// Resident is now, VmRSS of Linux's /proc/PID/status.
	Resident int64
	// Peak is the most since the start or the last [Process.ResetPeak], VmHWM.
	Peak int64
}

// Memory reads what the process occupies. It needs Linux.
func (p *Process) Memory() (Memory, error) {
	text, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return Memory{}, fmt.Errorf("memory: %w", err)
	}
	var m Memory
	for _, field := range []struct {
		name string
		to   *int64
	}{{"VmRSS:", &m.Resident}, {"VmHWM:", &m.Peak}} {
		_, rest, found := strings.Cut(string(text), field.name)
		words := strings.Fields(rest)
		if !found || len(words) < 2 || words[1] != "kB" {
			return Memory{}, fmt.Errorf("memory: no %s in kB", field.name)
		}
		if *field.to, err = strconv.ParseInt(words[0], 10, 64); err != nil {
			return Memory{}, fmt.Errorf("memory: %w", err)
		}
		*field.to <<= 10
	}
	return m, nil
}

// ResetPeak lets Peak begin anew at what is resident now.
func (p *Process) ResetPeak() error {
	if err := os.WriteFile(p.proc("clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset the peak of memory: %w", err)
	}
	return nil
}

func (p *Process) proc(name string) string {
	return fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, name)
}

// Metrics reads /metrics: values by name with labels, as they are written.
func (p *Process) Metrics(ctx context.Context) (map[string]float64, error) {
	status, text, err := p.Admin(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("metrics: status %d", status)
	}
	values := make(map[string]float64)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		values[line[:at]] = value
	}
	return values, nil
}

// Ready reads /readyz: its status, and what it tells.
func (p *Process) Ready(ctx context.Context) (int, map[string]any, error) {
	status, text, err := p.Admin(ctx, "/readyz")
	if err != nil {
		return 0, nil, err
	}
	var detail map[string]any
	if err := json.Unmarshal(text, &detail); err != nil {
		return status, nil, fmt.Errorf("readyz: %w", err)
	}
	return status, detail, nil
}

// Admin gets a path of the read-only side over a connection of its own.
func (p *Process) Admin(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.AdminURL()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, body, err
}
