package cache

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

func descriptorOf(text string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: testMediaType, Digest: digest.FromString(text), Size: int64(len(text))}
}

// What registries said is there after a restart, with its age, and only in its
// scope; an older word changes nothing.
func TestEvidence(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	c := openCache(t, folder, Options{})
	early := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	late := early.Add(time.Hour)
	image, other := descriptorOf("image"), descriptorOf("other")
	signature := descriptorOf("signature")
	signature.Annotations = map[string]string{"a": "b"}
	signature.ArtifactType = "application/vnd.cncf.notary.signature"

	c.SetTag(testScope, "v1", Tag{Descriptor: image, At: late})
	c.SetTag(testScope, "v1", Tag{Descriptor: other, At: early})
	c.SetTag(testScope, "gone", Tag{Descriptor: image, At: early})
	c.DropTag(testScope, "gone")
	c.DropTag(testScope, "never there")
	c.SetSubject(testScope, Tag{Descriptor: image, At: early})
	c.SetReferrers(testScope, image.Digest, []ocispec.Descriptor{signature}, early)
	c.SetReferrers(testScope, image.Digest, []ocispec.Descriptor{signature}, late)
	c.SetReferrers(testScope, image.Digest, nil, early)
	c.SetReferrers(testScope, other.Digest, nil, late)
	c.SetReferrers(testScope, signature.Digest, make([]ocispec.Descriptor, maxReferrers+1), late)
	settle(t, c)

	check := func(c *Cache) {
		t.Helper()
		if is, known := c.Tag(testScope, "v1"); !known || cmp.Diff(Tag{Descriptor: image, At: late}, is) != "" {
			t.Errorf("tag: %+v, %v", is, known)
		}
		if is, known := c.Tag(testScope, "gone"); known {
			t.Errorf("tag that is gone: %+v", is)
		}
		if is, known := c.Subject(testScope, image.Digest); !known || cmp.Diff(Tag{Descriptor: image, At: early}, is) != "" {
			t.Errorf("subject: %+v, %v", is, known)
		}
		listed, at, known := c.Referrers(testScope, image.Digest)
		if diff := cmp.Diff([]ocispec.Descriptor{signature}, listed); diff != "" || !at.Equal(late) || !known {
			t.Errorf("referrers at %v, %v: %s", at, known, diff)
		}
		listed, at, known = c.Referrers(testScope, other.Digest)
		if len(listed) != 0 || !at.Equal(late) || !known {
			t.Errorf("no referrers: %v at %v, %v", listed, at, known)
		}
		if _, _, known := c.Referrers(testScope, signature.Digest); known {
			t.Error("a list beyond the bound is known")
		}
		somebody := testScope
		somebody.Identity = "somebody"
		_, tag := c.Tag(somebody, "v1")
		_, subject := c.Subject(somebody, image.Digest)
		if _, _, list := c.Referrers(somebody, image.Digest); tag || subject || list {
			t.Errorf("in another scope: tag %v, subject %v, list %v", tag, subject, list)
		}
	}
	check(c)
	c.Close()
	check(openCache(t, folder, Options{}))
}

func TestEvidenceRefuses(t *testing.T) {
	t.Parallel()
	c := openCache(t, disktest.New(), Options{})
	now := time.Now()
	long := descriptorOf("x")
	long.MediaType = strings.Repeat("m", maxMediaType+1)
	c.SetTag(testScope, "a", Tag{Descriptor: ocispec.Descriptor{Digest: "sha256:x"}, At: now})
	c.SetTag(testScope, "b", Tag{Descriptor: descriptorOf("x")})
	c.SetTag(testScope, "c", Tag{Descriptor: long, At: now})
	c.SetTag(testScope, strings.Repeat("t", maxTag+1), Tag{Descriptor: descriptorOf("x"), At: now})
	c.SetTag(testScope, "", Tag{Descriptor: descriptorOf("x"), At: now})
	c.SetSubject(testScope, Tag{Descriptor: long, At: now})
	c.SetReferrers(testScope, "sha256:x", nil, now)
	c.SetReferrers(testScope, descriptorOf("x").Digest, nil, time.Time{})
	if s := c.index.scope(testScope); s != nil && len(s.tags)+len(s.subjects)+len(s.lists) != 0 {
		t.Errorf("known: %v, %v, %v", s.tags, s.subjects, s.lists)
	}
}

// A list that is lost or damaged is not known; it is never taken for empty.
func TestLostListIsNotKnown(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	c := openCache(t, folder, Options{})
	subject := descriptorOf("image").Digest
	c.SetReferrers(testScope, subject, []ocispec.Descriptor{descriptorOf("signature")}, time.Now())
	settle(t, c)
	is, _ := c.index.scope(testScope).list(subject)
	c.Close()
	replace(t, folder, c.path(is.list), []byte("[]"))
	folder.Remove(cleanFile)
	c = openCache(t, folder, Options{})
	if listed, _, known := c.Referrers(testScope, subject); known {
		t.Errorf("known as %v", listed)
	}
}
