// Package credential names the role of those who know how to prove to a
// registry who asks, and decides which of them is asked for which host.
//
// A configuration's credentials are a [Table] of lines, each an [Entry]: the
// hosts it is for, and a [Source] of one [Kind]. Every host has at most one
// [Keeper], that of the first line whose hosts name it. The keeper holds what
// its source found until that ends, has one flight for all who want it, renews
// it ahead of its end while it is in use, and is part of one generation of the
// configuration: a new one begins with nothing.
//
// A source that fails is an error to whoever wanted its credentials, never a
// reason to go on as nobody.
//
// Folders below hold one kind each: dockerconfig (Docker's config.json and its
// helpers), static (files), kubernetes (secrets), and azure, aws and google
// (the identity that a cloud gives a workload). They are put together in a
// table of the process, one line each; see the README for how to add one.
//
// Two kinds of places see what a source asks with. Registries, of which
// [Deps].Registry reaches the one that the credentials are for and no other,
// through the store's guard. And the identity services of clouds and clusters,
// which the operator's environment names and no registry does: they are at
// link-local and private addresses that the guard refuses, and are reached by
// the plain client of [NewClient], which follows no redirect, uses proxies for
// https alone and bounds time and bytes.
//
// Secrets are in no error and no log: a [Credential] prints as "[hidden]", and
// of what services answer only statuses and well-formed codes are told, because
// an answer may quote the question. See [Exchange].
package credential

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Credential is what proves who asks. The zero value proves nothing and makes
// the asker anonymous. It never shows itself in logs or errors, unless it is
// printed as part of a struct of which it is an unexported field: fmt cannot
// ask such a field how it prints.
type Credential struct {
	// User and Password are shown to registries and token services by HTTP
	// Basic.
	User, Password string
	// IdentityToken is shown to a token service, as OAuth2 refresh token, for
	// an access token.
	IdentityToken string
	// RegistryToken is an access token.
	RegistryToken string
	// Until is when it ends; the zero time is for what does not say.
	Until time.Time
}

const hidden = "[hidden]"

// LogValue is what package slog makes of it.
func (c Credential) LogValue() slog.Value { return slog.StringValue(hidden) }

// Format is what package fmt makes of it, by whatever verb.
func (c Credential) Format(to fmt.State, _ rune) { _, _ = io.WriteString(to, hidden) }

// MarshalText is what package encoding/json makes of it.
func (c Credential) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Empty reports whether it proves nothing.
func (c Credential) Empty() bool {
	c.Until = time.Time{}
	return c == Credential{}
}

// Source finds credentials. It keeps nothing of what it finds, is safe for
// concurrent use, and is made anew for each generation of a configuration.
type Source interface {
	// Key says, without I/O, which credentials the canonical host would get:
	// hosts of one key share them. Known is false if the source has nothing
	// for the host, so that a later line of the table may have.
	Key(host string) (key string, known bool)
	// Find asks for the credentials of a host of which Key knows. It returns
	// promptly once ctx ends, which it does within ten seconds. An error is
	// free of secrets; if it has no sentinel of package referrerstore in its
	// chain it counts as [referrerstore.ErrAuthDenied].
	Find(ctx context.Context, host string) (Credential, error)
}

// Namer is a Source that knows by name for which hosts it has something. Its
// lines may have "*" in hosts, which stands for all of those.
type Namer interface {
	// Names reports, without I/O, whether the source names the canonical host.
	Names(host string) bool
}

// Kind makes the sources of one type.
type Kind struct {
	// Takes are the options that an [Entry] of the type may have beside hosts
	// and type, by their names in the configuration.
	Takes []string
	// Domains are patterns of the hosts that the type is for. Each pattern of
	// an entry's hosts must be covered by one of them, unless the entry says
	// anyHost; without Domains there is no such rule.
	Domains []string
	// New makes a source. Errors name the option at fault.
	New func(Entry, Deps) (Source, error)
}

// Deps are what a source gets of the store that it is for.
type Deps struct {
	// ReadFile reads a file that the entry names, of at most 1 MiB, and notes
	// it: when it changes, a new generation begins. It is for New alone.
	ReadFile func(path string) ([]byte, error)
	// Registry reaches registries the way that the store does, through its
	// guard and with its authorities. It follows no redirects.
	Registry *http.Client
	// Base is scheme and host that requests to a registry's host go to.
	Base func(host string) url.URL
	// Logger receives what the configuration's author should know.
	Logger *slog.Logger
}

// Environment is the process as sources of clouds see it.
type Environment struct {
	// HTTP reaches identity services, see [NewClient].
	HTTP *http.Client
	// Getenv is [os.Getenv] or stands in for it. SDKs of clouds read variables
	// besides.
	Getenv func(string) string
}
