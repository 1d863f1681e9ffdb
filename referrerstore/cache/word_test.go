package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// What a clock that was wrong has dated ahead gives way to what is said now.
func TestEvidenceFromAheadOfNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		ahead, now := time.Now().Add(24*time.Hour), time.Now().UTC().Round(0)
		old, is := descriptorOf("old"), descriptorOf("new")
		c.SetTag(testScope, "v1", Tag{Descriptor: old, At: ahead})
		c.SetTag(testScope, "gone", Tag{Descriptor: old, At: ahead})
		c.SetSubject(testScope, Tag{Descriptor: old, At: ahead})
		c.SetReferrers(testScope, old.Digest, nil, ahead)
		c.SetTag(testScope, "v1", Tag{Descriptor: is, At: now})
		c.DropTag(testScope, "gone")
		c.SetSubject(testScope, Tag{Descriptor: old, At: now})
		c.SetReferrers(testScope, old.Digest, []ocispec.Descriptor{is}, now)
		check := func(c *Cache) {
			t.Helper()
			if tag, _ := c.Tag(testScope, "v1"); tag.Descriptor.Digest != is.Digest || !tag.At.Equal(now) {
				t.Errorf("tag: %+v", tag)
			}
			if tag, known := c.Tag(testScope, "gone"); known {
				t.Errorf("tag that is gone: %+v", tag)
			}
			if subject, _ := c.Subject(testScope, old.Digest); !subject.At.Equal(now) {
				t.Errorf("subject: %+v", subject)
			}
			if all, at, _ := c.Referrers(testScope, old.Digest); len(all) != 1 || !at.Equal(now) {
				t.Errorf("referrers: %v at %v", all, at)
			}
		}
		check(c)
		c.Close()
		c = openCache(t, folder, Options{})
		check(c)
		c.Close()
	})
}

// Nobody who can guess a list keeps it from being known.
func TestListThatSomebodyGuessed(t *testing.T) {
	t.Parallel()
	c := openCache(t, disktest.New(), Options{})
	subject := descriptorOf("image").Digest
	all := []ocispec.Descriptor{descriptorOf("signature")}
	guess, _ := json.Marshal(all)
	evil := blobWant(guess)
	evil.Scope.Repository = "evil"
	mustObtain(t, c, evil, guess, newUpstream(guess))
	c.SetReferrers(testScope, subject, all, time.Now())
	if listed, _, known := c.Referrers(testScope, subject); !known || len(listed) != 1 {
		t.Errorf("%v, %v", listed, known)
	}
}

// A list that was damaged is kept again when it is told again.
func TestDamagedListIsKeptAgain(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	c := openCache(t, folder, Options{})
	subject := descriptorOf("image").Digest
	var all []ocispec.Descriptor
	for i := range maxReferrers {
		all = append(all, descriptorOf(fmt.Sprint(i)))
	}
	c.SetReferrers(testScope, subject, all, time.Now())
	settle(t, c)
	is, _ := c.index.scope(testScope).list(subject)
	data, _ := folder.Bytes(c.path(is.list))
	if len(data) <= MaxReplicated {
		t.Fatal("the replica holds it")
	}
	data = bytes.Clone(data)
	data[0] ^= 1
	replace(t, folder, c.path(is.list), data)
	for range 2 {
		if _, _, known := c.Referrers(testScope, subject); known {
			t.Error("a damaged list is known")
		}
	}
	c.SetReferrers(testScope, subject, all, time.Now())
	if listed, _, known := c.Referrers(testScope, subject); !known || len(listed) != len(all) {
		t.Errorf("%d of %d referrers, known %v", len(listed), len(all), known)
	}
}
