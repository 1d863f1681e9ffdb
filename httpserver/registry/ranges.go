package registry

import (
	"net/http"
	"strconv"
	"strings"
)

// span is a part of content: length bytes from start on.
type span struct{ start, length int64 }

// rangeOf reads a Range header for content of a size, as RFC 9110 has it. asked
// is false where the whole is to be sent: nothing is asked for, or several ranges
// or another unit than bytes, which a server may ignore, or the content is empty.
// ok is false if what is asked for cannot be had.
func rangeOf(header string, size int64) (part span, asked, ok bool) {
	set, bytes := strings.CutPrefix(header, "bytes=")
	if !bytes || size <= 0 || strings.Contains(set, ",") {
		return span{0, size}, false, true
	}
	first, last, dash := strings.Cut(strings.TrimSpace(set), "-")
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if !dash || (first == "" && last == "") {
		return span{}, true, false
	}
	if first == "" {
		n, ok := position(last)
		n = min(n, size)
		return span{size - n, n}, true, ok && n > 0
	}
	start, ok := position(first)
	if !ok || start >= size {
		return span{}, true, false
	}
	end := size - 1
	if last != "" {
		if end, ok = position(last); !ok || end < start {
			return span{}, true, false
		}
		end = min(end, size-1)
	}
	return span{start, end - start + 1}, true, true
}

// position reads digits. More than fit stand for a position beyond all content.
func position(digits string) (int64, bool) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// wanted is the Range header of a request, empty if its condition is not met: the
// client has a part of something else.
func wanted(r *http.Request, etag string) string {
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag {
		return ""
	}
	return r.Header.Get("Range")
}

// unchanged says that the client has the content already.
func unchanged(r *http.Request, etag string) bool {
	for _, values := range r.Header.Values("If-None-Match") {
		for value := range strings.SplitSeq(values, ",") {
			value = strings.TrimPrefix(strings.TrimSpace(value), "W/")
			if value == etag || value == "*" {
				return true
			}
		}
	}
	return false
}
