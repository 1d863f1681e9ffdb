// Package dockerconfig finds credentials in Docker's config.json and by the
// helpers that it names: programs docker-credential-NAME on the PATH.
package dockerconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// Type is what a configuration calls this kind.
const Type = "dockerConfig"

// Kind makes sources of entries with the option path. Their "*" in hosts is
// every host that the file has an entry or a helper of its own for.
func Kind() credential.Kind { return credential.Kind{Takes: []string{"path"}, New: open} }

// source is one config.json, read once. It is immutable. The field is exported
// so that the secrets in it print as hidden.
type source struct{ File credential.DockerConfig }

var _ credential.Namer = (*source)(nil)

func open(entry credential.Entry, deps credential.Deps) (credential.Source, error) {
	if entry.Path == "" {
		return nil, errors.New("path is empty")
	}
	data, err := deps.ReadFile(entry.Path)
	if err != nil {
		return nil, err
	}
	file, err := credential.ParseDockerConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", entry.Path, err)
	}
	if len(file.Ignored) > 0 && deps.Logger != nil {
		deps.Logger.Warn("credentials for a part of a registry are not used",
			slog.String("path", entry.Path), slog.Any("entries", file.Ignored))
	}
	return &source{File: file}, nil
}

// Names reports whether the file has something for the host in particular.
func (s *source) Names(host string) bool {
	_, inAuths := s.File.Auths[host]
	_, inHelpers := s.File.Helpers[host]
	return inAuths || inHelpers
}

// Key is the host: each has credentials of its own.
func (s *source) Key(host string) (string, bool) {
	return host, s.Names(host) || s.File.Store != ""
}

// Find follows Docker's order: the host's own helper, the helper for all, the
// file itself. A helper that says that it has nothing makes the asker nobody.
func (s *source) Find(ctx context.Context, host string) (credential.Credential, error) {
	if own, ok := s.File.Helpers[host]; ok {
		return askHelper(ctx, own)
	}
	if s.File.Store != "" {
		return askHelper(ctx, credential.DockerHelper{Name: s.File.Store, Server: serverOf(host)})
	}
	return s.File.Auths[host], nil
}

func serverOf(host string) string {
	if host == credential.DockerHub {
		return credential.DockerHubServer
	}
	return host
}
