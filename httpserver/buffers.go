package httpserver

import "sync"

// maxPooled is the largest buffer that is kept for the next request.
const maxPooled = 64 << 10

// buffers are reused between requests: an answer of several keys would else be
// most of what a request allocates.
type buffers struct{ pool sync.Pool }

type buffer struct{ data []byte }

// take gives a buffer of at least the capacity.
func (b *buffers) take(capacity int) *buffer {
	held, ok := b.pool.Get().(*buffer)
	if !ok {
		held = &buffer{}
	}
	if cap(held.data) < capacity {
		held.data = make([]byte, 0, capacity)
	}
	return held
}

// give takes it back; nobody may use it, or what was in it, afterwards.
func (b *buffers) give(held *buffer) {
	if cap(held.data) <= maxPooled {
		b.pool.Put(held)
	}
}
