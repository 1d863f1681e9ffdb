// Package cache keeps content by digest in a folder, with a replica in memory of
// what is there: what was proven is what is pulled.
//
// A [Cache] holds raw bytes only, each object once, and knows for each [Scope]
// (a repository, as one identity sees it) what it was told there: the content
// that it handed out, what its tags led to, and which artifacts refer to what.
// Content is answered within the scope that it came from; for another one the
// registry is asked first.
//
//   - cache.go: what a Cache is made of.
//   - start.go, replay.go, close.go: its start and end.
//   - index.go, kin.go: what is known in memory; hits take no exclusive lock.
//   - get.go, replica.go: answering from what is held.
//   - content.go, file.go: content that is handed out, whole or still arriving.
//   - obtain.go, pull.go, follow.go: one pull for all who want the same at the same
//     time.
//   - stream.go: from the registry, taken up again where it breaks off.
//   - ingest.go, room.go: to the disk, hashed on its way, within the bounds.
//   - write.go: small objects, answered before the disk has them.
//   - passthrough.go: what cannot be kept, for one reader each.
//   - document.go: what a manifest lists.
//   - evidence.go, forget.go: tags, subjects and lists, with their age.
//   - record.go: what the journal says.
//   - recency.go: when things were pulled last, brought to disk in batches.
//   - prune.go, plan.go, drop.go: what is dropped, when, and how.
//   - pins.go, keeper.go, names.go: what never is, and what is meant by names.
//   - scrub.go: hashing again what lies on the disk.
//   - health.go: what becomes of a disk that is full, read-only or failing.
//   - list.go: what people see.
//   - metrics.go: what is counted.
//
// The folder:
//
//	LOCK VERSION CLEAN     who writes; the layout; left by a clean end
//	blobs/ALGORITHM/HEX    whole objects, never changed
//	ingest/                on their way; emptied at start
//	journal/               all that is not content; see package journal
//	quarantine/            what was not what its name said
//
// In memory a blob takes about 380 bytes, and a manifest that lists six digests
// which nothing else lists about 1,500, beside the replica
// (BenchmarkMemoryPerEntry); the record of such a manifest takes about 570 in the
// journal (BenchmarkJournalPerEntry). No file of an object is read at start
// (BenchmarkOpen100k); what comes into the replica is hashed then.
//
// The journal is a hint that the registry can give again: without it content
// is asked for anew, and nothing wrong is ever answered.
package cache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

const (
	// MaxManifest bounds a manifest; the distribution specification lets
	// registries refuse larger ones.
	MaxManifest = 4 << 20
	// MaxReplicated bounds an object that the replica holds.
	MaxReplicated = 64 << 10
	// holdBack is how much of an object that is still arriving no reader gets
	// before its digest is proven.
	holdBack = 64 << 10
)

// The folders below the cache's own.
const (
	blobsDir      = "blobs"
	ingestDir     = "ingest"
	journalDir    = "journal"
	quarantineDir = "quarantine"
)

var (
	// ErrClosed is what a cache answers after Close.
	ErrClosed = errors.New("cache: closed")
	// ErrReadOnly says that the folder belongs to another process, or lies on a
	// file system that cannot be written.
	ErrReadOnly = errors.New("cache: read-only")
	// ErrKind says that content was asked for as a blob and is a manifest, or
	// the other way round.
	ErrKind = errors.New("cache: content of another kind")
)

// Kind says what an object is.
type Kind uint8

// The kinds of objects. A digest that is known as a manifest is never a blob.
const (
	Blob Kind = iota
	Manifest
	// List is what Gatehouse itself keeps: a list of referrers.
	List
	kinds = iota // how many there are
)

// Scope is on whose word content is answered: a repository as one identity sees
// it. Empty is the identity of whoever shows no credentials.
type Scope struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Identity   string `json:"identity,omitempty"`
}

// Durability says what a commit survives.
type Durability uint8

// The durabilities.
const (
	// Full syncs each object and its folder: it survives a power cut.
	Full Durability = iota
	// Fast survives a killed process but not a power cut.
	Fast
)

// Options of a Cache. The zero value works: no bound but the disk's.
type Options struct {
	// MaxBytes bounds the content on disk; 0 is no bound. Pruning starts at
	// nine tenths of it and ends at eight.
	MaxBytes int64
	// MinFreeBytes is left free on the file system.
	MinFreeBytes int64
	// MaxAge drops what was not pulled for so long; 0 never does.
	MaxAge time.Duration
	// Keep says of which repositories nothing is pruned; nil is of none. It must
	// not block.
	Keep func(registry, repository string) bool
	// Lease is how long nothing is pruned that was pulled; 0 means 10 min.
	Lease time.Duration
	// ReplicaBytes bounds the objects that are held in memory; 0 means 64 MiB.
	ReplicaBytes int64
	// Durability of commits.
	Durability Durability
	// ReadOnly opens the folder without writing to it.
	ReadOnly bool
	// PruneInterval is how often the background looks; 0 means a minute.
	PruneInterval time.Duration
	// FlushInterval is how often recency is brought to disk; 0 means a minute.
	FlushInterval time.Duration
	// ScrubRate bounds the background's hashing in bytes a second; 0 means 8 MiB.
	ScrubRate int64

	// Logger receives what operators need; nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

// Cache is a content cache at work. All methods are safe for concurrent use.
type Cache struct {
	folder  disk.Folder
	opts    Options // with its defaults filled in
	log     *slog.Logger
	index   *index
	metrics *metrics
	health  *health
	replica *replica
	scribe  *scribe // nil while read-only
	writer  *writer
	lock    io.Closer
	started time.Time
	boot    string // identifies this run of the system
	clean   bool   // the end before it was
	fast    bool   // a power cut may take something that is held
	salt    string // of lists of referrers

	ctx    context.Context //nolint:containedctx // the cache's own time: flights and loops outlive callers
	cancel context.CancelCauseFunc
	loops  sync.WaitGroup // background work that ends with ctx
	closed atomic.Bool
	close  func() error

	pullsUnderWay pulls // and what is to end before Close does
	confirms      *flight.Group[pullKey, struct{}]
	arriving      atomic.Int64  // bytes that pulls under way have taken room for
	making        chan struct{} // has an element while somebody makes room

	// pruneWanted has an element if the disk needs room now: pruneLoop takes it.
	pruneWanted chan struct{}
	quarantined atomic.Int64
	missing     atomic.Int64 // objects whose file was gone
	pins        pinned
}

// path is where an object lies.
func (c *Cache) path(d digest.Digest) string {
	return blobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (c *Cache) now() time.Time { return time.Now() }

// pruneNow asks for room at once, if nobody has yet.
func (c *Cache) pruneNow() {
	select {
	case c.pruneWanted <- struct{}{}:
	default:
	}
}

// Want is what is asked for.
type Want struct {
	Scope  Scope
	Digest digest.Digest
	Kind   Kind
	// Size is what the one who asks was told; -1 if he was not. Content of
	// another size is ErrDigestMismatch.
	Size int64
	// MediaType is what a manifest was listed as; empty if that is not known.
	MediaType string
}

// Source is where content comes from if it is not held: one repository of a
// registry as one identity sees it. Errors are those of package referrerstore.
type Source interface {
	// Pull opens the content from an offset on, or from 0.
	Pull(ctx context.Context, want Want, offset int64) (referrerstore.Pulled, error)
	// Confirm asks whether the registry would hand out the content, without
	// fetching it: it is held, but came by way of another scope.
	Confirm(ctx context.Context, want Want) error
}

// Parent is a manifest that lists something.
type Parent struct {
	Digest    digest.Digest
	MediaType string
	// Index says that it lists manifests, and not a config and layers.
	Index bool
	// Ambiguous says that it lists both: who reads it one way must not hand it to
	// somebody who may read it the other.
	Ambiguous bool
	// Subject is what it refers to; empty if nothing.
	Subject digest.Digest
}
