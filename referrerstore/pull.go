package referrerstore

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
)

// Puller is a [Store] that also hands out what a registry serves the way it
// comes: as soon as its header is there, from any offset, of a size that only
// the registry knows, and not hashed yet. Whoever pulls must hash. All methods
// are safe for concurrent use and report failures with this package's sentinels.
type Puller interface {
	Store
	// PullManifest opens the manifest that the reference names, by tag or by
	// digest, from its first byte. One of more than 4 MiB is ErrTooLarge, from
	// here or from the Body.
	PullManifest(ctx context.Context, ref Reference) (Pulled, error)
	// PullBlob opens a blob of the reference's repository from an offset on. A
	// registry that cannot begin in the middle, or has not so many bytes, is read
	// from the start: see [Pulled].Offset. At its very end a blob has an empty
	// Body.
	PullBlob(ctx context.Context, ref Reference, blob digest.Digest, offset int64) (Pulled, error)
	// HasBlob asks whether the registry would hand out the blob to this store's
	// identity, and for its size (-1 if it does not say), without fetching it.
	// ErrNotFound says that it would not because there is none.
	HasBlob(ctx context.Context, ref Reference, blob digest.Digest) (size int64, err error)
	// Tags lists the tags of the reference's repository: at most n of those
	// behind last in the registry's order, and whether there are more. n <= 0
	// leaves the number to the registry; it is bounded at 10,000.
	Tags(ctx context.Context, ref Reference, n int, last string) (tags []string, more bool, err error)
}

// Pulled is content on its way from a registry. Nothing in it is proven.
type Pulled struct {
	// Body is closed by whoever pulled. It delivers at most what Size and Offset
	// promise. An end before that, and a registry that says nothing for long, is
	// ErrBrokenOff: the rest can be asked for. A store that happens to know
	// better may end with ErrDigestMismatch in place of io.EOF.
	Body io.ReadCloser
	// Offset is where Body begins: the one asked for, or 0.
	Offset int64
	// Size is that of the whole content, -1 if the registry does not say.
	Size int64
	// MediaType is what the registry says that a manifest is; empty for blobs.
	MediaType string
	// Digest is what the registry says that a manifest's digest is; empty if it
	// does not say.
	Digest digest.Digest
}
