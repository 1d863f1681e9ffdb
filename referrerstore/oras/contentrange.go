package oras

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// span is what a Content-Range says: the first and last byte of a part, and the
// size of the whole. Total is -1 if it is not known; first and last are if
// there is no part.
//
// Specification: RFC 9110, 14.4.
type span struct{ first, last, total int64 }

var errNoContentRange = errors.New("no valid Content-Range")

// parseContentRange reads the header's value, of which every part must make
// sense: first <= last < total.
func parseContentRange(text string) (span, error) {
	unit, rest, _ := strings.Cut(text, " ")
	part, size, _ := strings.Cut(rest, "/")
	if !strings.EqualFold(unit, "bytes") {
		return span{}, errNoContentRange
	}
	s := span{first: -1, last: -1, total: -1}
	var ok bool
	if size != "*" {
		if s.total, ok = decimal(size); !ok {
			return span{}, errNoContentRange
		}
	}
	if part == "*" {
		if s.total < 0 {
			return span{}, errNoContentRange
		}
		return s, nil
	}
	from, to, _ := strings.Cut(part, "-")
	if s.first, ok = decimal(from); !ok {
		return span{}, errNoContentRange
	}
	if s.last, ok = decimal(to); !ok || s.last < s.first || (s.total >= 0 && s.last >= s.total) {
		return span{}, errNoContentRange
	}
	return s, nil
}

// maxSpan keeps sums of what a registry says from wrapping around.
const maxSpan = 1 << 62

// decimal reads digits alone, without a sign.
func decimal(text string) (int64, bool) {
	n, err := strconv.ParseUint(text, 10, 63)
	return int64(n), err == nil && n < maxSpan
}

// contentRange is what an answer's one Content-Range says.
func contentRange(resp *http.Response) (span, error) {
	all := resp.Header.Values("Content-Range")
	if len(all) != 1 {
		return span{}, fmt.Errorf("%w: %d Content-Range headers", referrerstore.ErrProtocol, len(all))
	}
	s, err := parseContentRange(all[0])
	if err != nil {
		return span{}, fmt.Errorf("%w: %w", referrerstore.ErrProtocol, err)
	}
	return s, nil
}
