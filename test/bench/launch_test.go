package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// launched is a server of its own whose log goes to a file, as a container's
// does: a log through a pipe to this process would cost the cores that are
// measured.
type launched struct {
	address string
	pulls   string // of its pull-through registry; empty if it has none
	log     string // path
}

// launch starts a command that logs as Gatehouse does where it listens. It ends
// with the test.
func launch(tb testing.TB, cmd *exec.Cmd) launched {
	tb.Helper()
	l := launched{log: filepath.Join(tb.TempDir(), "log")}
	file := must(os.Create(l.log))(tb)
	defer file.Close() // the process has its own
	cmd.Stderr = file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			tb.Errorf("%s: %v", cmd.Path, err)
		}
	})
	for range 1000 {
		if l.address, l.pulls = listensAt(must(os.ReadFile(l.log))(tb)); l.address+l.pulls != "" {
			return l
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatalf("%s does not listen", cmd.Path)
	return l
}

func listensAt(log []byte) (address, pulls string) {
	for line := range bytes.Lines(log) {
		var entry struct {
			Message string `json:"msg"`
			Address string `json:"address"`
			Pulls   string `json:"registry"`
		}
		if json.Unmarshal(line, &entry) == nil && entry.Message == "serving" {
			return entry.Address, entry.Pulls
		}
	}
	return "", ""
}

// echoEnv makes the test binary the echo: it names the file with the answer
// and, behind a colon, whether the answer's length is told.
const echoEnv = "GATEHOUSE_BENCH_ECHO"

// echoCommand is this binary as a server that reads each body and gives the
// same answer, framed as it was: with its length, or in chunks.
func echoCommand(tb testing.TB, answer []byte, length bool) *exec.Cmd {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "answer")
	if err := os.WriteFile(path, answer, 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(must(os.Executable())(tb))
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%t", echoEnv, path, length))
	return cmd
}

// echo serves until it is told to end and returns the exit code.
func echo(spec string, log io.Writer) int {
	logger := slog.New(slog.NewJSONHandler(log, nil))
	at := strings.LastIndexByte(spec, ':')
	answer, err := os.ReadFile(spec[:at])
	if err != nil {
		logger.Error("echo", "error", err)
		return 1
	}
	return untilTold(echoServer(answer, spec[at+1:] == "true"), logger)
}

// untilTold serves on a free port until the process is told to end, and returns
// the exit code.
func untilTold(server *http.Server, logger *slog.Logger) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		logger.Error("listen", "error", err)
		return 1
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		_ = server.Close()
	}()
	logger.Info("serving", "address", listener.Addr().String())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		logger.Error("serve", "error", err)
		return 1
	}
	return 0
}

// echoServer is a bare handler of net/http under the settings that Gatehouse's
// server has.
func echoServer(answer []byte, length bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if length {
				w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
			}
			_, _ = w.Write(answer)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    16 << 10,
		Protocols:         &protocols,
	}
}
