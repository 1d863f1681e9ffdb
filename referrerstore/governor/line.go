package governor

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine bounds the text of an error that is kept for people to read.
const maxLine = 200

// line makes one bounded line of an error's text, without what commonly carries
// secrets: the query and the user of a URL, and what follows an authorization
// scheme.
func line(text string) string {
	text = text[:min(len(text), 8*maxLine)] // what follows is dropped anyway
	fields := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	for i, field := range fields {
		switch {
		case i > 0 && isScheme(fields[i-1]):
			fields[i] = "..."
		case strings.Contains(field, "://"):
			fields[i] = bare(field)
		}
	}
	return cutAt(strings.ToValidUTF8(strings.Join(fields, " "), ""), maxLine)
}

func isScheme(word string) bool {
	word = strings.ToLower(strings.Trim(word, `"':`))
	return word == "bearer" || word == "basic"
}

// bare drops the query, fragment and user of a URL, and keeps what quotes it.
func bare(url string) string {
	scheme, rest, _ := strings.Cut(url, "://")
	if cut := strings.IndexAny(rest, "?#"); cut >= 0 {
		rest = rest[:cut] + "?..."
	}
	host, path, slash := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		host = host[at+1:]
	}
	if slash {
		host += "/" + path
	}
	return scheme + "://" + host
}

func cutAt(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit -= len("..."); limit > 0 && !utf8.RuneStart(text[limit]); limit-- {
	}
	return text[:limit] + "..."
}
