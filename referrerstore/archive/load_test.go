package archive

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

const app = "registry.example.com/team/app:v1"

// The same images, from each of the forms.
func TestLoadForms(t *testing.T) {
	t.Parallel()
	content := newTree()
	amd, arm := content.image("amd64", nil), content.image("arm64", nil)
	index := content.index(on(amd, "linux/amd64"), on(arm, "linux/arm64"))
	signature := content.signature(index, "a")
	countersigned := content.signature(signature, "b")
	content.list(named(index, app), countersigned, signature)
	for name, at := range map[string]func(t *testing.T) string{
		"folder": func(t *testing.T) string { return content.folder(t) },
		"tar":    func(t *testing.T) string { return write(t, content.tar()) },
		"tar.gz": func(t *testing.T) string { return write(t, zipped(content.tar())) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := openCache(t)
			now := loaded().UTC()
			var done, total int64
			got, err := load(t, at(t), c, Options{Progress: func(d, of int64) { done, total = d, of }})
			if err != nil {
				t.Fatal(err)
			}
			bytes := int64(0)
			for name, data := range content {
				if strings.HasPrefix(name, blobsFolder) {
					bytes += int64(len(data))
				}
			}
			want := Loaded{Images: []Image{{parse(t, app), index}}, Objects: len(content) - 2, Bytes: bytes}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if done != bytes || total != bytes {
				t.Errorf("progress ends at %d of %d, want %d", done, total, bytes)
			}
			expectHeld(t, c, content)
			tag, ok := c.Tag(scopeOf(t, app), "v1")
			if diff := cmp.Diff(cache.Tag{Descriptor: index, At: now}, tag); diff != "" || !ok {
				t.Error(diff)
			}
			for subject, of := range map[digest.Digest]ocispec.Descriptor{index.Digest: signature, signature.Digest: countersigned} {
				listed, at, ok := c.Referrers(scopeOf(t, app), subject)
				if diff := cmp.Diff([]ocispec.Descriptor{of}, listed); diff != "" || !ok || !at.Equal(now) {
					t.Errorf("referrers: %s at %v", diff, at)
				}
			}
		})
	}
}

// expectHeld reads every blob of the tree from the cache.
func expectHeld(t *testing.T, c *cache.Cache, content tree) {
	t.Helper()
	for name, data := range content {
		if !strings.HasPrefix(name, blobsFolder) {
			continue
		}
		d := digest.FromBytes(data)
		got, err := c.Get(cache.Want{Scope: scopeOf(t, app), Digest: d, Kind: cache.Blob, Size: -1})
		if errors.Is(err, cache.ErrKind) {
			got, err = c.Get(cache.Want{Scope: scopeOf(t, app), Digest: d, Kind: cache.Manifest, Size: -1})
		}
		if err != nil {
			t.Errorf("%s: %v", d, err)
			continue
		}
		held, err := io.ReadAll(got)
		if err != nil || string(held) != string(data) {
			t.Errorf("%s: %d bytes, %v", d, len(held), err)
		}
		_ = got.Close()
	}
}

// What a registry said is neither forgotten nor renewed by an archive.
func TestLoadAddsToLists(t *testing.T) {
	t.Parallel()
	content := newTree()
	image := content.image("a", nil)
	signature := content.signature(image, "a")
	content.list(named(image, app), signature)
	c := openCache(t)
	before := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 9, ArtifactType: "x"}
	when := time.Unix(1_600_000_000, 0).UTC()
	c.SetReferrers(scopeOf(t, app), image.Digest, []ocispec.Descriptor{before}, when)
	if _, err := load(t, content.folder(t), c, Options{}); err != nil {
		t.Fatal(err)
	}
	listed, at, _ := c.Referrers(scopeOf(t, app), image.Digest)
	if diff := cmp.Diff([]ocispec.Descriptor{before, signature}, listed); diff != "" || !at.Equal(when) {
		t.Errorf("%s at %v", diff, at)
	}
}

func TestLoadPlatforms(t *testing.T) {
	t.Parallel()
	content := newTree()
	amd, arm, v6 := content.image("amd64", nil), content.image("arm64", nil), content.image("armv6", nil)
	attestation := called(on(content.image("attestation", nil), "unknown/unknown"), describes, arm.Digest.String())
	nested := content.index(on(v6, "linux/arm/v6"))
	index := content.index(on(amd, "linux/amd64"), on(arm, "linux/arm64"), attestation, nested)
	content.list(named(index, app))
	partial := maps.Clone(content)
	delete(partial, blobPath(amd.Digest))
	delete(partial, blobPath(attestation.Digest))
	for _, tt := range []struct {
		name      string
		from      tree
		platforms []string
		want      string // of amd64, arm64, attestation, armv6
		err       error
	}{
		{"all", content, nil, "1111", nil},
		{"one", content, []string{"linux/amd64"}, "1001", ErrNoPlatform},
		{"two", content, []string{"linux/arm64/v8", "linux/arm/v6"}, "0111", nil},
		{"variant", content, []string{"linux/arm"}, "0001", nil},
		{"none", content, []string{"windows/amd64"}, "0000", ErrNoPlatform},
		{"all that are there", partial, nil, "0101", nil},
		{"one that is not there", partial, []string{"linux/amd64", "linux/arm"}, "0000", ErrMissing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := openCache(t)
			var opts Options
			for _, text := range tt.platforms {
				p, err := ParsePlatform(text)
				if err != nil {
					t.Fatal(err)
				}
				opts.Platforms = append(opts.Platforms, p)
			}
			_, err := load(t, tt.from.folder(t), c, opts)
			if !errors.Is(err, tt.err) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			got := ""
			for _, desc := range []ocispec.Descriptor{amd, arm, attestation, v6} {
				got += map[bool]string{true: "1", false: "0"}[holds(t, c, app, desc)]
			}
			if got != tt.want || !holds(t, c, app, index) {
				t.Errorf("held %s, want %s, the index %t", got, tt.want, holds(t, c, app, index))
			}
		})
	}
}

func TestLoadNames(t *testing.T) {
	t.Parallel()
	const full = "registry.example.com/b:v2"
	for _, tt := range []struct {
		name        string
		option      string
		annotations [][]string // of one image each
		want        []string   // of the images, in order
		err         error
	}{
		{"none", "", [][]string{nil}, nil, ErrUnnamed},
		{"a tag only", "", [][]string{{ocispec.AnnotationRefName, "v1"}}, nil, ErrUnnamed},
		{"full", "", [][]string{{containerdID, full}}, []string{full}, nil},
		{"full as reference name", "", [][]string{{ocispec.AnnotationRefName, full}}, []string{full}, nil},
		{"both", "", [][]string{{containerdID, full, ocispec.AnnotationRefName, "v2"}}, []string{full}, nil},
		{"Docker's short form", "", [][]string{{containerdID, "alpine:3"}}, []string{"docker.io/library/alpine:3"}, nil},
		{"not a name", "", [][]string{{containerdID, "../../etc/passwd"}, {containerdID, full}}, []string{full}, nil},
		{"given", app, [][]string{nil}, []string{app}, nil},
		{"given without a tag", "registry.example.com/a", [][]string{nil}, []string{"registry.example.com/a:latest"}, nil},
		{"given a repository", "registry.example.com/a", [][]string{{ocispec.AnnotationRefName, "v1"}, {containerdID, full}}, []string{"registry.example.com/a:v1", "registry.example.com/a:v2"}, nil},
		{"given over full", app, [][]string{{containerdID, full}}, []string{app}, nil},
		{"given one for two", app, [][]string{{containerdID, full}, nil}, nil, ErrAmbiguous},
		{"given what is none", "::", [][]string{nil}, nil, referrerstore.ErrInvalidReference},
		{"given another digest", "registry.example.com/a@" + digest.FromString("x").String(), [][]string{nil}, nil, ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			content := newTree()
			var roots []ocispec.Descriptor
			for i, annotations := range tt.annotations {
				image := content.image(fmt.Sprint("image ", i), nil)
				roots = append(roots, called(image, annotations...), content.signature(image, "a"))
			}
			content.list(roots...)
			c := openCache(t)
			loaded, err := load(t, content.folder(t), c, Options{Name: tt.option, Identity: func(string) string { return "me" }})
			if !errors.Is(err, tt.err) {
				t.Fatal(err)
			}
			var got []string
			for _, image := range loaded.Images {
				got = append(got, image.Reference.String())
				scope := Item{Reference: image.Reference, Identity: "me"}.scope()
				if tag, ok := c.Tag(scope, image.Reference.Tag); !ok || tag.Descriptor.Digest != image.Descriptor.Digest {
					t.Errorf("the tag %s leads to %v", image.Reference, tag)
				}
				if _, _, ok := c.Referrers(scope, image.Descriptor.Digest); !ok {
					t.Errorf("nothing refers to %s", image.Reference)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if left := 2 * (len(tt.annotations) - len(tt.want)); err == nil && loaded.Unnamed != left {
				t.Errorf("%d were left out, want %d", loaded.Unnamed, left)
			}
		})
	}
}
