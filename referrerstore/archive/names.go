package archive

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// naming says what images are called: by themselves, or as they are told.
type naming struct {
	name     referrerstore.Reference // zero if none was given
	explicit bool                    // it has a tag or a digest of its own
}

func newNaming(name string) (naming, error) {
	if name == "" {
		return naming{}, nil
	}
	ref, err := referrerstore.ParseReference(name)
	if err != nil {
		return naming{}, fmt.Errorf("name: %w", err)
	}
	last := name[strings.LastIndexByte(name, '/')+1:]
	return naming{name: ref, explicit: strings.ContainsAny(last, ":@")}, nil
}

// root is an image, or what refers to one, as an archive lists it at its top.
type root struct {
	desc     ocispec.Descriptor
	platform *platformField
	files    files    // that have its content
	names    []string // full names, as they were written
	tags     []string // tags without a repository
	refs     []referrerstore.Reference
	subject  digest.Digest // what it refers to; empty for an image
}

// addNames reads the annotations of an index's entry. What may stand there has no
// form that one could insist on: what names nothing is left aside.
func (r *root) addNames(annotations map[string]string) {
	if full := annotations[containerdID]; full != "" {
		r.names = append(r.names, full)
	}
	name := annotations[ocispec.AnnotationRefName]
	first, _, path := strings.Cut(name, "/")
	switch {
	case path && referrerstore.LooksLikeHost(first):
		r.names = append(r.names, name)
	case name != "" && !path:
		r.tags = append(r.tags, name)
	}
}

// references are the names that the image is to have; only says that it is the
// only image of the archive.
func (n naming) references(r *root, only bool) ([]referrerstore.Reference, error) {
	var full []referrerstore.Reference
	for _, name := range r.names {
		if ref, err := referrerstore.ParseReference(name); err == nil {
			full = append(full, ref)
		}
	}
	if n.name.IsZero() {
		return distinct(full), nil
	}
	if n.explicit {
		if !only {
			return nil, fmt.Errorf("%w: %s", ErrAmbiguous, n.name)
		}
		if n.name.Digest != "" && n.name.Digest != r.desc.Digest {
			return nil, fmt.Errorf("%w: the archive's image is %s, not %s", ErrInvalid, r.desc.Digest, n.name)
		}
		return []referrerstore.Reference{n.name}, nil
	}
	return n.tagged(r, full, only), nil
}

// tagged gives the image its own tags in the repository that was named.
func (n naming) tagged(r *root, full []referrerstore.Reference, only bool) []referrerstore.Reference {
	var refs []referrerstore.Reference
	add := func(tag string) {
		if ref, err := referrerstore.ParseReference(n.name.Name() + ":" + tag); err == nil {
			refs = append(refs, ref)
		}
	}
	for _, ref := range full {
		if ref.Tag != "" {
			add(ref.Tag)
		}
	}
	for _, tag := range r.tags {
		add(tag)
	}
	switch {
	case len(refs) > 0:
		return distinct(refs)
	case only:
		return []referrerstore.Reference{n.name} // "latest", as Docker has it
	default:
		return []referrerstore.Reference{n.name.Pinned(r.desc.Digest)}
	}
}

func distinct(refs []referrerstore.Reference) []referrerstore.Reference {
	var once []referrerstore.Reference
	for _, ref := range refs {
		if !slices.Contains(once, ref) {
			once = append(once, ref)
		}
	}
	return once
}
