package oras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxManifestBytes bounds a manifest that is read only to be hashed; the
	// distribution specification lets registries refuse larger ones.
	maxManifestBytes = 4 << 20
	// maxMediaTypeBytes is RFC 6838's bound: 127 for each half.
	maxMediaTypeBytes = 255
)

// Resolve asks for the head of the manifest that the reference names. A
// registry that does not tell its digest that way is asked for the manifest
// itself, once, of which at most 4 MiB are read and hashed.
func (s *Store) Resolve(ctx context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	desc, err := s.resolve(ctx, ref)
	if err != nil {
		return referrerstore.Subject{}, fmt.Errorf("resolve %s: %w", ref, classify(ctx, err))
	}
	return referrerstore.Subject{Reference: ref, Descriptor: desc}, nil
}

func (s *Store) resolve(ctx context.Context, ref referrerstore.Reference) (ocispec.Descriptor, error) {
	if ref.IsZero() {
		return ocispec.Descriptor{}, fmt.Errorf("%w: the reference is empty", referrerstore.ErrInvalidReference)
	}
	if ctx.Err() != nil {
		return ocispec.Descriptor{}, context.Cause(ctx)
	}
	c := s.client(ref.Registry)
	ctx = withCall(ctx, &call{kind: kindResolve, repository: ref.Repository, size: -1})
	repository := c.repository(ref.Repository)
	repository.ManifestMediaTypes = referrerstore.ManifestMediaTypes()
	desc, err := repository.Resolve(ctx, target(ref))
	if err == nil {
		err = checkResolved(desc, ref)
	}
	if err = classify(ctx, err); err == nil || !useless(err) {
		return desc, err
	}
	return c.resolveByContent(ctx, ref)
}

// useless says that an answer to HEAD is one that GET may make up for.
func useless(err error) bool {
	return errors.Is(err, referrerstore.ErrProtocol) || errors.Is(err, referrerstore.ErrDigestMismatch)
}

// target is what stands in the URL: the digest decides where there is one.
func target(ref referrerstore.Reference) string {
	if ref.Digest != "" {
		return ref.Digest.String()
	}
	return ref.Tag
}

func checkResolved(desc ocispec.Descriptor, ref referrerstore.Reference) error {
	if _, err := referrerstore.ParseDigest(desc.Digest.String()); err != nil {
		return fmt.Errorf("%w: %w", referrerstore.ErrProtocol, err)
	}
	if ref.Digest != "" && ref.Digest != desc.Digest {
		return fmt.Errorf("%w: it says that it is %s", referrerstore.ErrDigestMismatch, desc.Digest)
	}
	if desc.Size < 0 || desc.MediaType == "" || len(desc.MediaType) > maxMediaTypeBytes {
		return fmt.Errorf("%w: no size or media type", referrerstore.ErrProtocol)
	}
	return nil
}

func (c *client) resolveByContent(ctx context.Context, ref referrerstore.Reference) (ocispec.Descriptor, error) {
	at := c.base
	at.Path = "/v2/" + ref.Repository + "/manifests/" + target(ref)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	req.Header.Set("Accept", strings.Join(referrerstore.ManifestMediaTypes(), ", "))
	resp, err := c.Do(req)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or an error already
	if resp.StatusCode != http.StatusOK {
		return ocispec.Descriptor{}, statusError(resp)
	}
	desc, err := describe(resp, ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, checkResolved(desc, ref)
}

// describe hashes an answer's body while it passes.
func describe(resp *http.Response, ref referrerstore.Reference) (ocispec.Descriptor, error) {
	if resp.ContentLength > maxManifestBytes {
		return ocispec.Descriptor{}, fmt.Errorf("%w: a manifest of %d bytes", referrerstore.ErrProtocol, resp.ContentLength)
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: the manifest has no media type", referrerstore.ErrProtocol)
	}
	algorithm := digest.Canonical
	if ref.Digest != "" {
		algorithm = ref.Digest.Algorithm()
	}
	digester := algorithm.Digester()
	size, err := io.Copy(digester.Hash(), io.LimitReader(resp.Body, maxManifestBytes+1))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if size > maxManifestBytes {
		return ocispec.Descriptor{}, fmt.Errorf("%w: a manifest of more than %d bytes", referrerstore.ErrProtocol, maxManifestBytes)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digester.Digest(), Size: size}, nil
}
