package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Pattern matches the names of images: a host pattern, see
// [referrerstore.HostPattern], and a path in which "*" stays within one
// segment and "**" stands for one or more whole segments. The bare "**" is
// every image. Patterns are anchored at both ends and match canonical names.
type Pattern struct {
	text string
	host referrerstore.HostPattern
	path []string
}

// ParsePattern reads a pattern. It carries neither tag nor digest: policy
// matches repositories.
func ParsePattern(text string) (Pattern, error) {
	if text == "**" {
		host, err := referrerstore.ParseHostPattern("**")
		return Pattern{text: text, host: host, path: []string{"**"}}, err
	}
	if err := checkPattern(text); err != nil {
		return Pattern{}, fmt.Errorf("image pattern %q: %w", text, err)
	}
	hostText, path, _ := strings.Cut(text, "/")
	host, err := referrerstore.ParseHostPattern(hostText)
	if err != nil {
		return Pattern{}, fmt.Errorf("image pattern %q: %w", text, err)
	}
	if host.String() == "docker.io" && !strings.Contains(path, "/") && path != "**" {
		return Pattern{}, fmt.Errorf(`image pattern %q can match nothing: on Docker Hub every repository has an owner; write "docker.io/library/%s"`, text, path)
	}
	return Pattern{text: text, host: host, path: strings.Split(path, "/")}, nil
}

func checkPattern(text string) error {
	host, path, found := strings.Cut(text, "/")
	switch {
	case text == "":
		return errors.New("it is empty")
	case len(text) > referrerstore.MaxReferenceBytes:
		return fmt.Errorf("it is longer than %d bytes", referrerstore.MaxReferenceBytes)
	case !found:
		return fmt.Errorf(`it has no "/": write the host too, such as "docker.io/library/%s"`, text)
	case !strings.Contains(host, "*") && !referrerstore.LooksLikeHost(host):
		return fmt.Errorf(`%q is not read as a registry host: write "docker.io/%s" or add a port`, host, text)
	case strings.ContainsAny(path, "@:"):
		return errors.New("it has a tag or digest: policy matches repositories only")
	}
	for segment := range strings.SplitSeq(path, "/") {
		if err := checkSegment(segment); err != nil {
			return err
		}
	}
	return nil
}

func checkSegment(segment string) error {
	switch {
	case segment == "":
		return errors.New("it has an empty path segment")
	case segment != "**" && strings.Contains(segment, "**"):
		return fmt.Errorf(`segment %q: "**" stands for whole segments; within one use "*"`, segment)
	case strings.Trim(segment, "abcdefghijklmnopqrstuvwxyz0123456789._-*") != "":
		return fmt.Errorf("segment %q can match no repository: those are in lower case, digits and . _ -", segment)
	}
	return nil
}

// Match reports whether the reference's repository is one that p means.
func (p Pattern) Match(ref referrerstore.Reference) bool {
	return p.host.Match(ref.Registry) && matchPath(p.path, strings.Split(ref.Repository, "/"))
}

// Covers reports whether every image that q matches is matched by p too.
func (p Pattern) Covers(q Pattern) bool {
	return p.host.Covers(q.host) && matchPath(p.path, q.path)
}

// String is the pattern as written.
func (p Pattern) String() string { return p.text }

// matchPath matches segments against a path pattern, in time linear in the
// product of their numbers. A wildcard in segments is an ordinary character
// that only the same or a wider wildcard matches, so matchPath also compares
// two patterns: "**" is one segment that no "*" takes in.
func matchPath(pattern, segments []string) bool {
	// reach[j] says that the pattern so far matches segments[:j].
	reach := make([]bool, len(segments)+1)
	reach[0] = true
	for _, glob := range pattern {
		next := make([]bool, len(segments)+1)
		for j, segment := range segments {
			switch {
			case glob == "**":
				next[j+1] = reach[j] || next[j]
			case segment != "**" && reach[j]:
				next[j+1] = referrerstore.MatchGlob(glob, segment)
			}
		}
		reach = next
	}
	return reach[len(segments)]
}
