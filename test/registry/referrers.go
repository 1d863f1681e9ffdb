package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func isReferrersAPI(req *http.Request) bool {
	_, section, _ := splitPath(req.URL.Path)
	return section == "referrers" && req.Method == http.MethodGet
}

// servePage answers one page of the referrers API. Pages count from 0 in a
// query parameter that only this registry's own links have.
func (r *Registry) servePage(w http.ResponseWriter, req *http.Request) {
	repo, _, last := splitPath(req.URL.Path)
	subject, err := digest.Parse(last)
	if err != nil {
		_ = ociregistry.WriteError(w, ociregistry.ErrDigestInvalid)
		return
	}
	query := req.URL.Query()
	artifactType := query.Get("artifactType")
	all, err := ociregistry.All(r.content.Referrers(req.Context(), repo, subject, artifactType))
	if err != nil {
		_ = ociregistry.WriteError(w, err)
		return
	}
	page, _ := strconv.Atoi(query.Get("page"))
	size := r.opts.ReferrersPageSize
	start := min(max(page, 0)*size, len(all))
	end := min(start+size, len(all))
	if end < len(all) {
		setNext(w, req.URL, page+1)
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeIndex(w, all[start:end])
}

func setNext(w http.ResponseWriter, current *url.URL, page int) {
	query := current.Query()
	query.Set("page", strconv.Itoa(page))
	next := url.URL{Path: current.Path, RawQuery: query.Encode()}
	w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, &next))
}

func writeIndex(w http.ResponseWriter, manifests []ocispec.Descriptor) {
	data, err := json.Marshal(newIndex(manifests))
	if err != nil {
		_ = ociregistry.WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

func newIndex(manifests []ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{}, manifests...), // never null
	}
}

// tagReferrer adds desc to the index at the tag that stands in for the API, as
// a client without it does.
func (r *Registry) tagReferrer(ctx context.Context, repo string, subject digest.Digest, desc ocispec.Descriptor) error {
	r.tagging.Lock()
	defer r.tagging.Unlock()
	tag := ReferrersTag(subject)
	var index ocispec.Index
	current, err := r.content.ResolveTag(ctx, repo, tag)
	switch {
	case errors.Is(err, ociregistry.ErrManifestUnknown):
	case err != nil:
		return err
	default:
		h, err := r.content.load(ctx, place{repo, current.Digest, true})
		if err != nil {
			return err
		}
		if err := json.Unmarshal(h.data, &index); err != nil {
			return fmt.Errorf("index at %s: %w", tag, err)
		}
	}
	if slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	_, err = r.pushJSON(ctx, repo, tag, ocispec.MediaTypeImageIndex, newIndex(append(index.Manifests, desc)))
	return err
}
