package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/opencontainers/go-digest"
)

// serveBlob answers a GET or HEAD of a blob with what the library leaves out of
// ranges: that they are served, the last bytes of a blob, and how long a blob is
// that has not what was asked for.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request) {
	repo, _, last := splitPath(req.URL.Path)
	h, err := r.content.load(req.Context(), place{repo, digest.Digest(last), false})
	if err != nil {
		r.api.ServeHTTP(w, req)
		return
	}
	size := h.desc.Size
	w.Header().Set("Accept-Ranges", "bytes")
	if suffix, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes=-"); ok {
		n, err := strconv.ParseInt(suffix, 10, 64)
		if err != nil || n <= 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			_ = ociregistry.WriteError(w, ociregistry.ErrRangeInvalid)
			return
		}
		req = req.Clone(req.Context())
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", max(size-n, 0)))
	}
	r.api.ServeHTTP(&rangeWriter{w, size}, req)
}

// rangeWriter says how long a blob is to whoever asked for more.
type rangeWriter struct {
	http.ResponseWriter
	size int64
}

func (w *rangeWriter) WriteHeader(status int) {
	if status == http.StatusRequestedRangeNotSatisfiable {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", w.size))
		w.Header().Del("Content-Type")
	}
	w.ResponseWriter.WriteHeader(status)
}
