package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Fetch opens content by digest at an offset. All of it is hashed, so a stream
// never ends with ErrUnverified.
func (m *Memory) Fetch(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	m.count(func(c *Counts) { c.Fetch++ })
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("fetch %s: offset %d is outside [0, %d]", desc.Digest, offset, desc.Size)
	}
	if err := fault(ctx, func() error { return call(ctx, m.FetchFault, desc) }); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	data, ok := m.content(subject, desc)
	if !ok {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, referrerstore.ErrNotFound)
	}
	if m.Alter != nil {
		data = m.Alter(desc, data)
	}
	m.count(func(c *Counts) { c.Open++ })
	return &stream{
		ctx: ctx, store: m, desc: desc,
		rest:  bytes.NewReader(data[min(offset, int64(len(data))):]),
		valid: int64(len(data)) == desc.Size && desc.Digest.Algorithm().FromBytes(data) == desc.Digest,
	}, nil
}

func (m *Memory) content(subject referrerstore.Subject, desc ocispec.Descriptor) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.repo(subject.Reference.Name()).content[desc.Digest]
	return data, ok
}

type stream struct {
	ctx   context.Context
	store *Memory
	desc  ocispec.Descriptor
	rest  *bytes.Reader
	valid bool
	close sync.Once
}

func (s *stream) Read(p []byte) (int, error) {
	if err := fault(s.ctx, func() error { return call(s.ctx, s.store.ReadFault, s.desc) }); err != nil {
		return 0, fmt.Errorf("read %s: %w", s.desc.Digest, err)
	}
	n, err := s.rest.Read(p)
	s.store.count(func(c *Counts) { c.Bytes += int64(n) })
	if errors.Is(err, io.EOF) && !s.valid {
		err = fmt.Errorf("read %s: %w", s.desc.Digest, referrerstore.ErrDigestMismatch)
	}
	return n, err
}

func (s *stream) Close() error {
	s.close.Do(func() { s.store.count(func(c *Counts) { c.Open-- }) })
	return nil
}
