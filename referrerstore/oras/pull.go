package oras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// PullManifest opens a manifest, of at most 4 MiB: one that is larger is
// ErrTooLarge, at once if its header says so and otherwise where the bound is.
// One by digest is asked of the host's mirrors first. A registry that names no
// media type is ErrProtocol; whether its digest is the one asked for is left to
// whoever hashes.
func (s *Store) PullManifest(ctx context.Context, ref referrerstore.Reference) (referrerstore.Pulled, error) {
	pulled, err := s.pullManifest(ctx, ref)
	if err != nil {
		return referrerstore.Pulled{}, fmt.Errorf("pull %s: %w", ref, pullError(ctx, err))
	}
	return pulled, nil
}

func (s *Store) pullManifest(ctx context.Context, ref referrerstore.Reference) (referrerstore.Pulled, error) {
	if err := checkPull(ctx, ref); err != nil {
		return referrerstore.Pulled{}, err
	}
	open := func(ctx context.Context, host string) (referrerstore.Pulled, error) {
		return s.openManifest(ctx, host, ref)
	}
	if ref.Digest == "" {
		return open(ctx, ref.Registry)
	}
	return s.byDigest(ctx, ref, ref.Digest, open)
}

// PullBlob opens a blob from an offset on, at a mirror first. A registry that
// answers with the whole, or that cannot satisfy the range, is read from the
// start; one that says that the blob ends at the offset has an empty Body. An
// answer that is another part than the one asked for is ErrProtocol. A part may
// end before the blob does, which is ErrBrokenOff there: ask for the rest.
func (s *Store) PullBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest, offset int64) (referrerstore.Pulled, error) {
	if offset < 0 {
		return referrerstore.Pulled{}, fmt.Errorf("pull %s: there is no offset %d", blob, offset)
	}
	pulled, err := s.pullBlob(ctx, ref, blob, offset)
	if err != nil {
		return referrerstore.Pulled{}, fmt.Errorf("pull %s of %s: %w", blob, ref.Name(), pullError(ctx, err))
	}
	return pulled, nil
}

func (s *Store) pullBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest, offset int64) (referrerstore.Pulled, error) {
	if err := checkBlob(ctx, ref, blob); err != nil {
		return referrerstore.Pulled{}, err
	}
	return s.byDigest(ctx, ref, blob, func(ctx context.Context, host string) (referrerstore.Pulled, error) {
		return s.openBlob(ctx, host, ref, blob, offset)
	})
}

// HasBlob asks with HEAD, and where a registry, or the place that it redirects to,
// does not know that with a GET whose body is not read. Mirrors are not asked: it
// is the host that says who may see what. The size is -1 if it does not say.
func (s *Store) HasBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest) (int64, error) {
	size, err := s.hasBlob(ctx, ref, blob)
	if err != nil {
		return 0, fmt.Errorf("ask for %s of %s: %w", blob, ref.Name(), pullError(ctx, err))
	}
	return size, nil
}

func (s *Store) hasBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest) (int64, error) {
	if err := checkBlob(ctx, ref, blob); err != nil {
		return 0, err
	}
	c := s.client(ref.Registry)
	of := &call{kind: kindHasBlob, repository: ref.Repository, size: -1}
	at := c.at(ref, "/blobs/"+blob.String())
	resp, err := c.ask(ctx, of, http.MethodHead, at, nil)
	if errors.Is(err, errHeadUseless) {
		resp, err = c.ask(ctx, of, http.MethodGet, at, nil)
	}
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close() // its header says it all
	return resp.ContentLength, nil
}

var errHeadUseless = fmt.Errorf("%w: it does not answer HEAD", referrerstore.ErrProtocol)

// headUseless says that GET may make up for an answer to HEAD. A place that a
// registry redirects to may let in that very method alone: signed URLs do.
func headUseless(resp *answer) bool {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusTooManyRequests:
		return false
	default:
		return resp.elsewhere && resp.StatusCode >= 400 && resp.StatusCode < 500
	}
}

// pullError is classify for errors that may be the caller's.
func pullError(ctx context.Context, err error) error {
	if errors.Is(err, referrerstore.ErrInvalidReference) {
		return err
	}
	return classify(ctx, err)
}

func checkPull(ctx context.Context, ref referrerstore.Reference) error {
	if ref.IsZero() {
		return fmt.Errorf("%w: the reference is empty", referrerstore.ErrInvalidReference)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func checkBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest) error {
	if _, err := referrerstore.ParseDigest(blob.String()); err != nil {
		return fmt.Errorf("%w: %w", referrerstore.ErrInvalidReference, err)
	}
	return checkPull(ctx, ref)
}

// byDigest asks the host's mirrors, then the host itself.
func (s *Store) byDigest(ctx context.Context, ref referrerstore.Reference, want digest.Digest,
	open func(ctx context.Context, host string) (referrerstore.Pulled, error),
) (referrerstore.Pulled, error) {
	for _, m := range s.set.mirrors[ref.Registry] {
		var pulled referrerstore.Pulled
		stream := s.fromMirror(ctx, m, func(ctx context.Context) (_ io.ReadCloser, err error) {
			pulled, err = open(ctx, m.host)
			if err == nil && pulled.Offset == 0 {
				pulled.Body = newHashed(pulled.Body, want)
			}
			return pulled.Body, err
		})
		if stream != nil {
			pulled.Body = stream
			return pulled, nil
		}
	}
	return open(ctx, ref.Registry)
}

// at is the URL of something in the reference's repository.
func (c *client) at(ref referrerstore.Reference, path string) *url.URL {
	at := c.base
	at.Path = "/v2/" + ref.Repository + path
	return &at
}

// ask sends a request of a pull. Its answers are 200, and of a range 206 and 416.
func (c *client) ask(ctx context.Context, of *call, method string, at *url.URL, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(withCall(ctx, of), method, at.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", referrerstore.ErrInvalidReference, err)
	}
	maps.Copy(req.Header, header)
	resp, err := c.Do(req)
	if err == nil && resp.StatusCode == http.StatusNotFound {
		return nil, statusError(resp)
	}
	return resp, err
}

// pullCall is what a request to a host, the image's own or a mirror, is part of.
func pullCall(k kind, host string, ref referrerstore.Reference) *call {
	of := &call{kind: k, repository: ref.Repository, size: -1}
	if host != ref.Registry {
		of.mirrorOf = ref.Registry
	}
	return of
}

func (s *Store) openManifest(ctx context.Context, host string, ref referrerstore.Reference) (referrerstore.Pulled, error) {
	c := s.client(host)
	header := http.Header{"Accept": {strings.Join(referrerstore.ManifestMediaTypes(), ", ")}}
	resp, err := c.ask(ctx, pullCall(kindPullManifest, host, ref), http.MethodGet, c.at(ref, "/manifests/"+target(ref)), header)
	if err != nil {
		return referrerstore.Pulled{}, err
	}
	pulled, err := pulledManifest(resp)
	if err != nil {
		_ = resp.Body.Close() // it is refused already
	}
	return pulled, err
}

func pulledManifest(resp *http.Response) (referrerstore.Pulled, error) {
	if resp.ContentLength > maxManifestBytes {
		return referrerstore.Pulled{}, fmt.Errorf("%w: it announces %d", errManifest, resp.ContentLength)
	}
	said := resp.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(said[:min(len(said), 2*maxMediaTypeBytes)])
	if err != nil || len(mediaType) > maxMediaTypeBytes {
		return referrerstore.Pulled{}, fmt.Errorf("%w: the manifest has no media type", referrerstore.ErrProtocol)
	}
	d, _ := referrerstore.ParseDigest(resp.Header.Get("Docker-Content-Digest")) // one that is not valid says nothing
	return referrerstore.Pulled{
		Body: promise(resp.Body, resp.ContentLength, maxManifestBytes, errManifest),
		Size: resp.ContentLength, MediaType: mediaType, Digest: d,
	}, nil
}

func (s *Store) openBlob(ctx context.Context, host string, ref referrerstore.Reference, blob digest.Digest, offset int64) (referrerstore.Pulled, error) {
	c := s.client(host)
	of := pullCall(kindPullBlob, host, ref)
	of.offset = offset
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := c.ask(ctx, of, http.MethodGet, c.at(ref, "/blobs/"+blob.String()), header)
	if err != nil {
		return referrerstore.Pulled{}, err
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		pulled, err := pulledPart(resp, offset)
		if err != nil {
			_ = resp.Body.Close() // it is refused already
		}
		return pulled, err
	case http.StatusRequestedRangeNotSatisfiable:
		(&answer{Response: resp}).discard()
		if at, err := contentRange(resp); err == nil && at.first < 0 && at.total == offset {
			return referrerstore.Pulled{Body: http.NoBody, Offset: offset, Size: offset}, nil
		}
		return s.openBlob(ctx, host, ref, blob, 0)
	default:
		return referrerstore.Pulled{
			Body: promise(resp.Body, resp.ContentLength, math.MaxInt64, errGoesOn), Size: resp.ContentLength,
		}, nil
	}
}

// pulledPart checks that a 206 is the part that was asked for.
func pulledPart(resp *http.Response, offset int64) (referrerstore.Pulled, error) {
	at, err := contentRange(resp)
	if err != nil {
		return referrerstore.Pulled{}, err
	}
	length := at.last - at.first + 1
	if at.first != offset || (resp.ContentLength >= 0 && resp.ContentLength != length) {
		return referrerstore.Pulled{}, fmt.Errorf("%w: asked for bytes from %d on it sends %d from %d on",
			referrerstore.ErrProtocol, offset, max(resp.ContentLength, length), at.first)
	}
	body := promise(resp.Body, length, 0, nil)
	if at.total >= 0 && at.last < at.total-1 {
		return referrerstore.Pulled{Body: &part{body}, Offset: offset, Size: at.total}, nil
	}
	return referrerstore.Pulled{Body: body, Offset: offset, Size: at.total}, nil
}

// part is a body that ends before the content does.
type part struct{ *promised }

func (b *part) Read(p []byte) (int, error) {
	n, err := b.promised.Read(p)
	if errors.Is(err, io.EOF) {
		err = errEndsEarly
	}
	return n, err
}
