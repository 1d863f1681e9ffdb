package control

import (
	"context"
	"io"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Keeper is who keeps a content cache: this process, or another one by way of
// [Client]. All methods are safe for concurrent use and end with their context.
// The functions that are called back may be nil.
type Keeper interface {
	Viewer
	Cleaner
	Pinner
	Mover
}

// Viewer shows what there is.
type Viewer interface {
	// Items calls each with what the request chooses, in no order.
	Items(ctx context.Context, req ItemsRequest, each func(cache.Item)) error
	Stats(ctx context.Context) (cache.Stats, error)
}

// Cleaner drops, and looks for damage.
type Cleaner interface {
	// Prune drops what the request says and calls each for every root.
	Prune(ctx context.Context, req PruneRequest, each func(cache.Item)) (cache.Pruned, error)
	// Scrub hashes all that lies on the disk.
	Scrub(ctx context.Context, progress func(done, total int64)) (cache.Scrubbed, error)
}

// Pinner keeps things from being pruned.
type Pinner interface {
	Pins(ctx context.Context) ([]cache.Pin, error)
	Pin(ctx context.Context, pin cache.Pin) error
	// Unpin says whether there was such a pin.
	Unpin(ctx context.Context, pin cache.Pin) (bool, error)
}

// Mover takes archives in and out.
type Mover interface {
	// Load takes in an OCI layout or a docker-save archive, as a tar that may be
	// compressed with gzip.
	Load(ctx context.Context, req LoadRequest, archive io.Reader, progress func(done, total int64)) (Loaded, error)
	// Export writes an OCI layout as a tar.
	Export(ctx context.Context, req ExportRequest, archive io.Writer) error
}

// ItemsRequest chooses items.
type ItemsRequest struct {
	// Match is a pattern of names, see [cache.ParseMatch]; empty takes all.
	Match string `json:"match,omitempty"`
	// All takes children, blobs and lists too, and not only whole images.
	All bool `json:"all,omitempty"`
}

// PruneRequest says what to drop; see [cache.PruneRequest].
type PruneRequest struct {
	PulledBefore  time.Time `json:"pulledBefore,omitzero"`
	CreatedBefore time.Time `json:"createdBefore,omitzero"`
	Match         string    `json:"match,omitempty"`
	ToBytes       int64     `json:"toBytes,omitempty"`
	ToFree        int64     `json:"toFree,omitempty"`
	All           bool      `json:"all,omitempty"`
	DryRun        bool      `json:"dryRun,omitempty"`
}

// LoadRequest says how to take an archive in.
type LoadRequest struct {
	// Name is the reference of images that the archive does not name.
	Name string `json:"name,omitempty"`
	// Platforms are those to take of an index, as os/arch[/variant]; none takes
	// all.
	Platforms []string `json:"platforms,omitempty"`
}

// Loaded is what was taken in.
type Loaded struct {
	Images []string `json:"images"` // references, with tag or digest
	Bytes  int64    `json:"bytes"`
}

// ExportRequest says what to write out.
type ExportRequest struct {
	// Images are references, by tag or digest.
	Images    []string `json:"images"`
	Platforms []string `json:"platforms,omitempty"`
	// Referrers takes signatures and other artifacts along.
	Referrers bool `json:"referrers,omitempty"`
}
