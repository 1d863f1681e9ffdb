package oras

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	helperPrefix   = "docker-credential-"
	helperTimeout  = 10 * time.Second
	maxHelperBytes = 64 << 10
	// helperNotFound is what helpers print, on standard output and with a
	// non-zero exit, if they have nothing for a server.
	helperNotFound = "credentials not found in native keychain"
	// helperTokenUser is the user name that says that the secret is an
	// identity token.
	helperTokenUser = "<token>"
)

var errHelperTimeout = errors.New("it did not end within 10s")

// helperKey is what one run of a helper is for.
type helperKey struct {
	identity string
	helper
}

// askHelper runs a credential helper, once for all who ask at a time. Anything
// but an answer is ErrAuthDenied.
//
// oras-go can run helpers too, but waits for what a helper leaves behind, and
// passes on what it prints, which may be secret.
func (s *Store) askHelper(ctx context.Context, identity string, h helper) (credential, error) {
	cred, err := s.helpers.Do(ctx, helperKey{identity: identity, helper: h}, func(ctx context.Context) (credential, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, errHelperTimeout)
		defer cancel()
		cred, err := runHelper(ctx, h)
		if err != nil {
			return credential{}, fmt.Errorf("%w: credential helper %q: %w", referrerstore.ErrAuthDenied, h.suffix, err)
		}
		return cred, nil
	})
	if err != nil {
		return credential{}, classify(ctx, err)
	}
	return cred, nil
}

// runHelper speaks the protocol of Docker's credential helpers: the server's
// name goes in, JSON with user name and secret comes out.
func runHelper(ctx context.Context, h helper) (credential, error) {
	out := &boundedBuffer{left: maxHelperBytes}
	cmd := exec.CommandContext(ctx, helperPrefix+h.suffix, "get") //nolint:gosec // the configuration names it
	cmd.Stdin = strings.NewReader(h.server)
	cmd.Stdout = out
	// A helper's children may hold its output open when it has been killed.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if strings.TrimSpace(out.String()) == helperNotFound {
			return credential{}, nil
		}
		if ctx.Err() != nil {
			return credential{}, context.Cause(ctx)
		}
		return credential{}, err
	}
	var answer struct{ Username, Secret string }
	if out.left < 0 || json.Unmarshal(out.Bytes(), &answer) != nil {
		return credential{}, errors.New("its answer is not valid")
	}
	if answer.Username == helperTokenUser {
		return credential{identityToken: answer.Secret}, nil
	}
	return credential{user: answer.Username, password: answer.Secret}, nil
}

// isHelperName keeps a file from naming a program by a path.
func isHelperName(suffix string) bool {
	return suffix != "" && len(suffix) < 128 && !strings.ContainsAny(suffix, `/\`)
}

// boundedBuffer keeps what fits and drops the rest; left below zero tells.
type boundedBuffer struct {
	bytes.Buffer
	left int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.left -= len(p)
	if b.left < 0 {
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
