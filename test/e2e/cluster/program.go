package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// program is a process of the control plane.
type program struct {
	name   string
	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{} // closed when it has ended
	result error         // of the end; read after exited
}

const (
	startTimeout = 90 * time.Second
	stopTimeout  = 20 * time.Second
)

// run starts a program whose output goes to NAME.log in the folder.
func run(dir, name, path string, env []string, args ...string) (*program, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &program{name: name, log: log, exited: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.Env = append(environment(), env...)
	p.cmd.SysProcAttr = endsWithParent()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() { // ends with the process
		defer close(p.exited)
		p.result = errors.Join(p.cmd.Wait(), log.Close())
	}()
	return p, nil
}

// await waits until ready says nil, or the program ends, or ctx does.
func (p *program) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil && !p.ended() {
			return nil // and it was this program that said so
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended before it was ready: %w; its log ends:\n%s", p.name, p.result, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its log ends:\n%s", p.name, err, p.tail())
		case <-ticker.C:
		}
	}
}

func (p *program) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// environment is this process's without what steers the programs here: whose
// cluster they drive, or their flags.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc([]string{"KUBE", "HELM_", "ETCD_", "XDG_"}, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
}

// stop asks the program to end, waits, and kills it if that takes too long.
func (p *program) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended already
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		_ = p.cmd.Process.Kill() // as above
		<-p.exited
	}
	return nil // how a program of others takes a signal is not ours to judge
}

func (p *program) tail() []byte {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(lines[max(len(lines)-15, 0):], []byte("\n"))
}

// freePorts are ports of loopback that nobody listened on a moment ago.
func freePorts(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // all are held until all are found
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
