package registry

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// entity is what an answer says of its content.
type entity struct {
	digest    digest.Digest
	size      int64 // -1 if it is not known
	mediaType string
	byDigest  bool // it can never change under the name that it was asked for
}

// head sets the header of an answer about content.
func (q *request) head(e entity) {
	h := q.w.Header()
	h.Set("Content-Type", e.mediaType)
	h.Set("Docker-Content-Digest", e.digest.String())
	h.Set("Etag", etagOf(e.digest))
	who := "public"
	if q.target.private() {
		who = "private"
	}
	if e.byDigest {
		h.Set("Cache-Control", who+", max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", who+", no-cache")
	}
	if e.size >= 0 {
		h.Set("Accept-Ranges", "bytes")
	}
}

func etagOf(d digest.Digest) string { return `"` + d.String() + `"` }

// settled answers a request that wants no bytes: one for the header, or for what
// the client has already.
func (q *request) settled(e entity) bool {
	switch {
	case unchanged(q.r, etagOf(e.digest)):
		q.head(e)
		q.w.Header().Del("Content-Type")
		q.w.WriteHeader(http.StatusNotModified)
	case q.r.Method == http.MethodHead:
		q.head(e)
		if e.size >= 0 {
			q.w.Header().Set("Content-Length", strconv.FormatInt(e.size, 10))
		}
		q.w.WriteHeader(http.StatusOK)
	default:
		return false
	}
	return true
}

// serve answers with content, which it does not close.
func (q *request) serve(content *cache.Content, e entity) error {
	if q.settled(e) {
		return nil
	}
	if data, ok := content.Bytes(); ok {
		return q.serveBytes(data, e)
	}
	part, err := q.begin(e)
	if err != nil {
		return err
	}
	if file, ok := content.File(); ok && part.length >= 0 {
		return q.body(file, part, false)
	}
	if !content.Held() {
		q.w.Flush() // the header is there, the body may take its time
	}
	return q.body(content, part, !content.Held())
}

// serveBytes answers with content that is in memory.
func (q *request) serveBytes(data []byte, e entity) error {
	if q.settled(e) {
		return nil
	}
	part, err := q.begin(e)
	if err == nil {
		_, _ = q.w.Write(data[part.start : part.start+part.length]) // a client that has gone is not our error
	}
	return err
}

// begin sends the header of an answer with a body, and says what part of the
// content that is; of unknown size it is all.
func (q *request) begin(e entity) (span, error) {
	q.head(e)
	h := q.w.Header()
	if e.size < 0 {
		q.w.WriteHeader(http.StatusOK)
		return span{0, -1}, nil
	}
	part, asked, ok := rangeOf(wanted(q.r, etagOf(e.digest)), e.size)
	if !ok {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", e.size))
		return span{}, errBadRange(e.size)
	}
	status := http.StatusOK
	if asked {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.start, part.start+part.length-1, e.size))
	}
	h.Set("Content-Length", strconv.FormatInt(part.length, 10))
	q.w.WriteHeader(status)
	return part, nil
}

// body sends a part of content. From here on the status is out: what cannot be
// sent whole is cut off so that no client takes it for whole.
func (q *request) body(from io.ReadSeeker, part span, live bool) error {
	if part.start > 0 {
		if _, err := from.Seek(part.start, io.SeekStart); err != nil {
			return q.broken(err)
		}
	}
	if err := q.w.send(from, part.length, live); err != nil {
		return q.broken(err)
	}
	return nil
}

// broken notes why an answer is cut off.
func (q *request) broken(err error) error {
	q.cut = err
	return http.ErrAbortHandler
}
