package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

// repository is oras-go's own client.
func repository(t testing.TB, r *registry.Registry, name string, credential auth.Credential) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(r.Host() + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = r.CAPEM() == nil
	repo.Client = &auth.Client{
		Client:     client(t, r),
		Cache:      auth.NewCache(),
		Credential: auth.StaticCredential(r.Host(), credential),
	}
	return repo
}

// known is who the token service lets in.
var known = registry.Credentials{User: "user", Password: "secret", IdentityToken: "identity"}

func TestOrasPullsAndPushes(t *testing.T) {
	t.Parallel()
	password := auth.Credential{Username: known.User, Password: known.Password}
	for name, test := range map[string]struct {
		opts       registry.Options
		credential auth.Credential
	}{
		"plain":                {},
		"tls":                  {opts: registry.Options{TLS: true}},
		"anonymous token":      {opts: registry.Options{BearerAuth: true}},
		"token for password":   {registry.Options{BearerAuth: true, Basic: &known}, password},
		"token for identity":   {registry.Options{BearerAuth: true, Basic: &known}, auth.Credential{RefreshToken: known.IdentityToken}},
		"token from elsewhere": {registry.Options{BearerAuth: true, Basic: &known, SeparateTokenHost: true}, password},
		"token over tls":       {registry.Options{BearerAuth: true, Basic: &known, SeparateTokenHost: true, TLS: true}, password},
		"basic":                {registry.Options{Basic: &known}, password},
		"pages":                {opts: registry.Options{ReferrersPageSize: 2}},
		"fallback":             {opts: registry.Options{DisableReferrersAPI: true}},
		"fallback, token":      {opts: registry.Options{DisableReferrersAPI: true, BearerAuth: true, ReferrersPageSize: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, test.opts)
			repo := repository(t, r, "team/app", test.credential)
			image := must(t)(r.PushIndex(t.Context(), "team/app", "v1", "seed"))
			pullsWhole(t, repo, "v1", image)
			wanted := pushReferrers(t, r, repo, image)
			listsExactly(t, repo, image, "", wanted)
			listsExactly(t, repo, image, signatureType, slices.DeleteFunc(wanted, func(d ocispec.Descriptor) bool {
				return d.ArtifactType != signatureType
			}))
			s := r.Stats()
			if authenticated := s.Challenge > 0; authenticated != (test.opts.BearerAuth || test.opts.Basic != nil) {
				t.Errorf("challenges: %+v", s)
			}
			if test.opts.ReferrersPageSize > 0 && !test.opts.DisableReferrersAPI && s.Referrers < 3 {
				t.Errorf("six referrers in pages of two: %+v", s)
			}
			if s.Unauthorized > 0 {
				t.Errorf("credentials were refused: %+v", s)
			}
		})
	}
}

// pullsWhole copies all that the tag reaches; oras-go checks each digest.
func pullsWhole(t *testing.T, repo *remote.Repository, tag string, want ocispec.Descriptor) {
	t.Helper()
	pulled := memory.New()
	got, err := oras.Copy(t.Context(), repo, tag, pulled, "", oras.DefaultCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
		t.Errorf("pulled %v, want %v", got, want)
	}
}

// pushReferrers stores five referrers directly and one with oras-go.
func pushReferrers(t *testing.T, r *registry.Registry, repo *remote.Repository, subject ocispec.Descriptor) []ocispec.Descriptor {
	t.Helper()
	var pushed []ocispec.Descriptor
	for i := range 5 {
		artifactType := []string{signatureType, "application/sbom"}[i%2]
		pushed = append(pushed, must(t)(r.PushReferrer(t.Context(), "team/app", subject,
			artifactType, "text/plain", fmt.Append(nil, i), map[string]string{"n": fmt.Sprint(i)})))
	}
	desc, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, signatureType, oras.PackManifestOptions{
		Subject:             &subject,
		ManifestAnnotations: map[string]string{ocispec.AnnotationCreated: "2026-01-02T03:04:05Z"},
	})
	return append(pushed, must(t)(desc, err))
}

func listsExactly(t *testing.T, repo *remote.Repository, subject ocispec.Descriptor, artifactType string, want []ocispec.Descriptor) {
	t.Helper()
	var got []ocispec.Descriptor
	err := repo.Referrers(t.Context(), subject, artifactType, func(page []ocispec.Descriptor) error {
		got = append(got, page...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	byDigest := func(a, b ocispec.Descriptor) int { return compare(a.Digest, b.Digest) }
	got, want = slices.SortedFunc(slices.Values(got), byDigest), slices.SortedFunc(slices.Values(want), byDigest)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("type %q: -want +got\n%s", artifactType, diff)
	}
	for _, desc := range got {
		if _, err := content.FetchAll(t.Context(), repo, desc); err != nil {
			t.Errorf("fetch %s: %v", desc.Digest, err)
		}
	}
}

func compare(a, b digest.Digest) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestOrasIsRefused(t *testing.T) {
	t.Parallel()
	for name, credential := range map[string]auth.Credential{
		"nobody":         {},
		"wrong password": {Username: known.User, Password: "guess"},
		"wrong identity": {RefreshToken: "guess"},
	} {
		for _, bearer := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s bearer=%t", name, bearer), func(t *testing.T) {
				t.Parallel()
				r := start(t, registry.Options{BearerAuth: bearer, Basic: &known})
				must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
				if desc, err := repository(t, r, "app", credential).Resolve(t.Context(), "v1"); err == nil {
					t.Errorf("resolved %s", desc.Digest)
				}
				if s := r.Stats(); s.Resolve != 0 || s.Challenge == 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

func TestOrasSeesNoReferrers(t *testing.T) {
	t.Parallel()
	for _, opts := range []registry.Options{{}, {ReferrersPageSize: 1}, {DisableReferrersAPI: true}} {
		r := start(t, opts)
		image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
		listsExactly(t, repository(t, r, "app", auth.EmptyCredential), image, "", nil)
	}
}

func TestOrasReferrersOfSHA512(t *testing.T) {
	t.Parallel()
	for _, opts := range []registry.Options{{}, {ReferrersPageSize: 1}} {
		r := start(t, opts)
		image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
		image = must(t)(r.AddSHA512(t.Context(), "app", image))
		signature := must(t)(r.PushReferrer(t.Context(), "app", image, signatureType, "text/plain", nil, nil))
		repo := repository(t, r, "app", auth.EmptyCredential)
		listsExactly(t, repo, image, "", []ocispec.Descriptor{signature})
	}
}

func TestFallbackIndex(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{DisableReferrersAPI: true})
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	for range 2 { // the same artifact twice is one entry
		must(t)(r.PushReferrer(t.Context(), "app", image, signatureType, "text/plain", []byte("s"), nil))
	}
	repo := repository(t, r, "app", auth.EmptyCredential)
	_, data, err := oras.FetchBytes(t.Context(), repo, registry.ReferrersTag(image.Digest), oras.DefaultFetchBytesOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Stats().Referrers; got != 1 {
		t.Errorf("counted as referrers: %d", got)
	}
	if n := len(decode[ocispec.Index](t, string(data)).Manifests); n != 1 {
		t.Errorf("%d entries", n)
	}
	long := digest.SHA512.FromString("x")
	if tag := registry.ReferrersTag(long); len(tag) != len("sha512-")+64 {
		t.Errorf("tag %s is not cut as the specification says", tag)
	}
}

func TestConcurrentPushesAndPulls(t *testing.T) {
	t.Parallel()
	for _, disabled := range []bool{false, true} {
		r := start(t, registry.Options{DisableReferrersAPI: disabled, BearerAuth: true})
		image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
		repo := repository(t, r, "app", auth.EmptyCredential)
		var wg sync.WaitGroup
		pushed := make([]ocispec.Descriptor, 16)
		for i := range pushed {
			wg.Go(func() {
				var err error
				pushed[i], err = r.PushReferrer(t.Context(), "app", image, signatureType, "text/plain", fmt.Append(nil, i), nil)
				if err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := repo.Resolve(t.Context(), "v1"); err != nil {
					t.Error(err)
				}
				if err := repo.Referrers(t.Context(), image, "", func([]ocispec.Descriptor) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		listsExactly(t, repo, image, "", pushed)
	}
}

func TestOrasDeletes(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{BearerAuth: true})
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	signature := must(t)(r.PushReferrer(t.Context(), "app", image, signatureType, "text/plain", []byte("s"), nil))
	repo := repository(t, r, "app", auth.EmptyCredential)
	listsExactly(t, repo, image, "", []ocispec.Descriptor{signature})
	if err := repo.Delete(t.Context(), signature); err != nil {
		t.Fatal(err)
	}
	listsExactly(t, repo, image, "", nil)
	if _, err := repo.Fetch(t.Context(), signature); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("deleted, yet %v", err)
	}
	blob := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte("blob")))
	if err := errors.Join(readable(t.Context(), repo, blob), repo.Blobs().Delete(t.Context(), blob)); err != nil {
		t.Fatal(err)
	}
	if err := readable(t.Context(), repo, blob); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("deleted, yet %v", err)
	}
}

func readable(ctx context.Context, repo *remote.Repository, blob ocispec.Descriptor) error {
	stream, err := repo.Blobs().Fetch(ctx, blob)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, stream)
	return errors.Join(err, stream.Close())
}
