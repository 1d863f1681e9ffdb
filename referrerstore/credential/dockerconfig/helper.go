package dockerconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	helperPrefix   = "docker-credential-"
	maxHelperBytes = 64 << 10
	// helperNotFound is what helpers print, on standard output and with a
	// non-zero exit, if they have nothing for a server.
	helperNotFound = "credentials not found in native keychain"
	// helperTokenUser is the user name that says that the secret is an
	// identity token.
	helperTokenUser = "<token>"
)

// askHelper runs a credential helper. It is bounded by ctx.
//
// oras-go can run helpers too, but waits for what a helper leaves behind, and
// passes on what it prints, which may be secret.
func askHelper(ctx context.Context, h credential.DockerHelper) (credential.Credential, error) {
	cred, err := runHelper(ctx, h)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("credential helper %q: %w", h.Name, err)
	}
	return cred, nil
}

// runHelper speaks the protocol of Docker's credential helpers: the server's
// name goes in, JSON with user name and secret comes out.
func runHelper(ctx context.Context, h credential.DockerHelper) (credential.Credential, error) {
	out := &boundedBuffer{left: maxHelperBytes}
	cmd := exec.CommandContext(ctx, helperPrefix+h.Name, "get") //nolint:gosec // the configuration names it
	cmd.Stdin = strings.NewReader(h.Server)
	cmd.Stdout = out
	// A helper's children may hold its output open when it has been killed.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if strings.TrimSpace(out.String()) == helperNotFound {
			return credential.Credential{}, nil
		}
		if ctx.Err() != nil {
			return credential.Credential{}, context.Cause(ctx)
		}
		return credential.Credential{}, err
	}
	if out.left < 0 {
		return credential.Credential{}, errors.New("its answer is not valid")
	}
	return parseAnswer(out.Bytes())
}

func parseAnswer(data []byte) (credential.Credential, error) {
	var answer struct{ Username, Secret string }
	if json.Unmarshal(data, &answer) != nil {
		return credential.Credential{}, errors.New("its answer is not valid")
	}
	if answer.Username == helperTokenUser {
		return credential.Credential{IdentityToken: answer.Secret}, nil
	}
	return credential.Credential{User: answer.Username, Password: answer.Secret}, nil
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
