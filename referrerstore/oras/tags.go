package oras

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxTags is the most that one call lists.
	maxTags = 10_000
	// maxTagBytes bounds what is read for one call. It is more than that many
	// tags have, for registries that send all of them whatever is asked for;
	// what is not listed is not held.
	maxTagBytes = 8 << 20
	// maxTagLength is the distribution specification's.
	maxTagLength = 128
)

// Tags lists at most n tags, or 10,000, of the host itself, never of a mirror.
// Pages that are smaller than n are followed by their links, at most 32 of them
// and 8 MiB (ErrTooLarge); if n is left to the registry it is one page that is
// not empty. An answer with a text that no tag can be is ErrProtocol, and so is
// a link to another origin.
func (s *Store) Tags(ctx context.Context, ref referrerstore.Reference, n int, last string) (tags []string, more bool, err error) {
	tags, more, err = s.tags(ctx, ref, n, last)
	if err != nil {
		return nil, false, fmt.Errorf("tags of %s: %w", ref.Name(), pullError(ctx, err))
	}
	return tags, more, nil
}

func (s *Store) tags(ctx context.Context, ref referrerstore.Reference, n int, last string) ([]string, bool, error) {
	if err := checkPull(ctx, ref); err != nil {
		return nil, false, err
	}
	if last != "" && !isTag(last) {
		return nil, false, fmt.Errorf("%w: a list behind what is no tag", referrerstore.ErrInvalidReference)
	}
	c := s.client(ref.Registry)
	l := &tagList{client: c, most: maxTags, last: last, left: maxTagBytes, seen: make(map[string]bool)}
	enough := 1
	at, query := c.at(ref, "/tags/list"), url.Values{}
	if n > 0 {
		l.most = min(n, maxTags)
		enough = l.most
		query.Set("n", strconv.Itoa(l.most))
	}
	if last != "" {
		query.Set("last", last)
	}
	at.RawQuery = query.Encode()
	for range maxPages {
		next, err := l.page(ctx, ref, at)
		if err != nil {
			return nil, false, err
		}
		l.last = "" // a registry that knows it not does not in the next page either
		if l.cut || next == nil || len(l.tags) >= enough {
			return l.tags, l.cut || next != nil, nil
		}
		at = next
	}
	if len(l.tags) == 0 {
		return nil, false, fmt.Errorf("%w: %d pages without a tag", referrerstore.ErrProtocol, maxPages)
	}
	return l.tags, true, nil
}

// tagList is one list of tags on its way.
type tagList struct {
	client *client
	most   int
	last   string // to begin behind, as long as it may still come
	left   int64  // bytes that may be read
	tags   []string
	seen   map[string]bool
	cut    bool // there is one more than most
}

// page reads one page and is where the next one is.
func (l *tagList) page(ctx context.Context, ref referrerstore.Reference, at *url.URL) (*url.URL, error) {
	of := &call{kind: kindTags, repository: ref.Repository, size: -1}
	resp, err := l.client.ask(ctx, of, http.MethodGet, at, http.Header{"Accept": {"application/json"}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it is wanted
	next, err := nextPage(resp.Header, at)
	if err != nil {
		return nil, err
	}
	return next, parseTags(&tagReader{resp.Body, &l.left}, l.add)
}

// add takes a tag; false says that no more are wanted. The tag that the list was
// to begin behind shows that the registry began at the start: a page is read to
// its end for it.
func (l *tagList) add(tag string) (bool, error) {
	switch {
	case !isTag(tag):
		return false, fmt.Errorf("%w: a list of tags has what is none", referrerstore.ErrProtocol)
	case tag == l.last:
		l.tags, l.cut, l.last = nil, false, ""
		clear(l.seen)
		return true, nil
	case l.seen[tag]:
		return true, nil
	case len(l.tags) == l.most:
		l.cut = true
		return l.last != "", nil
	}
	l.seen[tag] = true
	l.tags = append(l.tags, tag)
	return true, nil
}

// tagReader reads what may be read.
type tagReader struct {
	io.Reader
	left *int64
}

func (r *tagReader) Read(p []byte) (int, error) {
	if *r.left <= 0 {
		return 0, fmt.Errorf("%w: a list of tags of more than %d bytes", referrerstore.ErrTooLarge, maxTagBytes)
	}
	n, err := r.Reader.Read(p[:min(int64(len(p)), *r.left)])
	*r.left -= int64(n)
	return n, err
}

// isTag says whether a text is one by the distribution specification's grammar.
func isTag(text string) bool {
	if text == "" || len(text) > maxTagLength || text[0] == '.' || text[0] == '-' {
		return false
	}
	return strings.Trim(text, tagBytes) == "" // Trim stops at any other
}

const tagBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"

var errTagList = fmt.Errorf("%w: what it lists tags with is no list of tags", referrerstore.ErrProtocol)

// parseTags reads {"tags": [...]} as it comes, and hands on each tag until that
// wants no more. A null is an empty list; a missing one is an error, because
// any page in JSON would look empty otherwise.
func parseTags(from io.Reader, add func(tag string) (more bool, err error)) error {
	dec := json.NewDecoder(from)
	if err := expect(dec, json.Delim('{')); err != nil {
		return err
	}
	found := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return tagError(err)
		}
		if name != "tags" || found {
			var other json.RawMessage
			if err := dec.Decode(&other); err != nil {
				return tagError(err)
			}
			continue
		}
		found = true
		if more, err := parseTagArray(dec, add); err != nil || !more {
			return err
		}
	}
	if !found {
		return errTagList
	}
	return expect(dec, json.Delim('}'))
}

func parseTagArray(dec *json.Decoder, add func(string) (bool, error)) (more bool, err error) {
	switch begin, err := dec.Token(); {
	case err != nil:
		return false, tagError(err)
	case begin == nil:
		return true, nil
	case begin != json.Delim('['):
		return false, errTagList
	}
	for dec.More() {
		value, err := dec.Token()
		if err != nil {
			return false, tagError(err)
		}
		tag, ok := value.(string)
		if !ok {
			return false, errTagList
		}
		if more, err := add(tag); err != nil || !more {
			return false, err
		}
	}
	return true, expect(dec, json.Delim(']'))
}

func expect(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	if err != nil {
		return tagError(err)
	}
	if got != want {
		return errTagList
	}
	return nil
}

// tagError tells what is no JSON from what broke off.
func tagError(err error) error {
	if isSentinel(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errTagList, err)
}
