// Package static finds credentials in files that hold one secret each, such as
// the mounted keys of a secret. No secret stands in the configuration itself.
package static

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// Type is what a configuration calls this kind.
const Type = "static"

// maxSecretBytes bounds a password or token.
const maxSecretBytes = 16 << 10

// Kind makes sources of entries with either username and passwordFile, or
// identityTokenFile.
func Kind() credential.Kind {
	return credential.Kind{Takes: []string{"username", "passwordFile", "identityTokenFile"}, New: open}
}

// source is what the files held. It is immutable: files that change make a new
// generation. The field is exported so that it prints as what it is: hidden.
type source struct{ Found credential.Credential }

func open(entry credential.Entry, deps credential.Deps) (credential.Source, error) {
	byPassword := entry.Username != "" || entry.PasswordFile != ""
	switch {
	case byPassword && entry.IdentityTokenFile != "":
		return nil, errors.New("identityTokenFile stands in place of username and passwordFile, not beside them")
	case byPassword && (entry.Username == "" || entry.PasswordFile == ""):
		return nil, errors.New("username and passwordFile go together")
	case byPassword:
		password, err := read(deps, "passwordFile", entry.PasswordFile)
		return &source{credential.Credential{User: entry.Username, Password: password}}, err
	case entry.IdentityTokenFile != "":
		token, err := read(deps, "identityTokenFile", entry.IdentityTokenFile)
		return &source{credential.Credential{IdentityToken: token}}, err
	default:
		return nil, errors.New("either username and passwordFile, or identityTokenFile is needed")
	}
}

// read takes the one line that the file has.
func read(deps credential.Deps, option, path string) (string, error) {
	data, err := deps.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	secret, err := parse(data)
	if err != nil {
		return "", fmt.Errorf("%s: %s %w", option, path, err)
	}
	return secret, nil
}

// parse takes off the line's end and refuses what no header can carry.
func parse(data []byte) (string, error) {
	line := bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	switch {
	case len(line) == 0:
		return "", errors.New("is empty")
	case len(line) > maxSecretBytes:
		return "", fmt.Errorf("has more than %d bytes", maxSecretBytes)
	case bytes.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		return "", errors.New("has more than one line, or control characters")
	}
	return string(line), nil
}

// Key is one for all hosts.
func (s *source) Key(string) (string, bool) { return "", true }

// Find gives what the files held when the configuration was read.
func (s *source) Find(context.Context, string) (credential.Credential, error) { return s.Found, nil }
