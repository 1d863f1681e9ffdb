package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// cacheFlags say which cache is meant, and how it is shown.
type cacheFlags struct {
	config, directory, socket, address, tokenFile, output string
}

func (f *cacheFlags) register(cmd *cobra.Command) {
	fallback := os.Getenv("GATEHOUSE_CONFIG")
	if fallback == "" {
		fallback = "gatehouse.yaml"
	}
	flags := cmd.PersistentFlags()
	flags.StringVarP(&f.config, "config", "c", fallback, "configuration file that names the cache (also GATEHOUSE_CONFIG)")
	flags.StringVar(&f.directory, "directory", "", "folder of the cache, in place of the configuration's")
	flags.StringVar(&f.socket, "socket", "", "control socket of the process, in place of the configuration's")
	flags.StringVar(&f.address, "address", "", "loopback address of the process (cache.control.address); needs --token-file")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with the token of --address")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
}

// keeper finds who keeps the cache; the caller closes it.
func (f *cacheFlags) keeper(ctx context.Context) (k control.Keeper, done func() error, err error) {
	if f.output != "text" && f.output != "json" {
		return nil, nil, fmt.Errorf("--output: %q is neither text nor json", f.output)
	}
	if f.address != "" {
		return f.remote()
	}
	directory, socket, err := f.place()
	if err != nil {
		return nil, nil, err
	}
	if answers(ctx, socket) {
		return control.NewClient("unix", socket, ""), func() error { return nil }, nil
	}
	return openDirectory(ctx, directory, socket)
}

func (f *cacheFlags) remote() (control.Keeper, func() error, error) {
	if f.tokenFile == "" {
		return nil, nil, errors.New("--address needs --token-file")
	}
	token, err := readToken(f.tokenFile)
	if err != nil {
		return nil, nil, fmt.Errorf("--token-file: %w", err)
	}
	return control.NewClient("tcp", f.address, token), func() error { return nil }, nil
}

// place is where the folder and the socket are.
func (f *cacheFlags) place() (directory, socket string, err error) {
	directory = f.directory
	if directory == "" {
		cfg, err := config.Load(f.config)
		if errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("%w: name a configuration with --config, or the cache's folder with --directory", err)
		}
		if err != nil {
			return "", "", err
		}
		if cfg.Cache == nil {
			return "", "", fmt.Errorf("%s has no section cache: name the cache's folder with --directory", f.config)
		}
		directory, socket = cfg.Path(cfg.Cache.Directory), cfg.ControlSocket()
	}
	if f.socket != "" {
		socket = f.socket
	}
	if socket == "" {
		socket = filepath.Join(directory, "control.sock")
	}
	return directory, socket, nil
}

// answers says whether a process listens at the socket.
func answers(ctx context.Context, socket string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only to see
	return true
}

// openDirectory opens a folder that no process holds.
func openDirectory(ctx context.Context, directory, socket string) (control.Keeper, func() error, error) {
	if _, err := os.Stat(directory); err != nil {
		return nil, nil, fmt.Errorf("the cache's folder: %w", err)
	}
	folder, err := disk.Open(directory)
	if err != nil {
		return nil, nil, fmt.Errorf("the cache's folder: %w", err)
	}
	// Nothing is dropped but what is asked for, and nothing hashed behind it.
	c, err := cache.Open(ctx, folder, cache.Options{PruneInterval: never, ScrubRate: 1})
	switch {
	case errors.Is(err, disk.ErrLocked):
		return nil, nil, fmt.Errorf("a process holds %s and does not answer at %s: name its socket with --socket, or its address with --address", directory, socket)
	case err != nil:
		return nil, nil, fmt.Errorf("open %s: %w", directory, err)
	}
	return &localKeeper{cache: c, spool: spoolOf(directory), identity: nobody}, c.Close, nil
}

// spoolOf is where archives are put that are on their way into the cache of the
// directory: among what it empties at its start.
func spoolOf(directory string) string { return filepath.Join(directory, "ingest") }

// never is longer than any command lives.
const never = 100 * 365 * 24 * time.Hour

const (
	// maxTokenBytes bounds a file with a token.
	maxTokenBytes = 4 << 10
	// minTokenBytes is the least of a token that nobody is to guess: its hash is
	// not salted.
	minTokenBytes = 16
)

func readToken(path string) (string, error) {
	data, err := config.ReadFile(path, maxTokenBytes)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if len(token) < minTokenBytes {
		return "", fmt.Errorf("%s: a token has at least %d characters", path, minTokenBytes)
	}
	return token, nil
}
