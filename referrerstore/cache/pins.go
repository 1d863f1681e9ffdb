package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// MaxPins bounds the pins.
const MaxPins = 100_000

// ErrPin says that a pin names nothing: it needs a registry, a repository, and
// either a tag or a digest.
var ErrPin = errors.New("cache: pin names neither a tag nor a digest of a repository")

// Pin names what is kept: a repository's tag, wherever it leads, or a digest. It
// holds for all identities.
type Pin struct {
	Registry   string        `json:"registry"`
	Repository string        `json:"repository"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
}

func (p Pin) check() error {
	if p.Registry == "" || p.Repository == "" || (p.Tag == "") == (p.Digest == "") {
		return ErrPin
	}
	if p.Digest == "" {
		return nil
	}
	if err := p.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrPin, err)
	}
	return nil
}

func (p Pin) compare(q Pin) int {
	return cmp.Or(strings.Compare(p.Registry, q.Registry), strings.Compare(p.Repository, q.Repository),
		strings.Compare(p.Tag, q.Tag), strings.Compare(string(p.Digest), string(q.Digest)))
}

// Pin keeps a tag or digest of a repository from being pruned until Unpin, with
// all that it lists and the artifacts that refer to it. It need not be held yet.
// When Pin returns it is as safe on the disk as Options.Durability says; what the
// disk did not take is an error, and not pinned. ErrPin says that it names nothing.
func (c *Cache) Pin(ctx context.Context, pin Pin) error {
	if err := pin.check(); err != nil {
		return err
	}
	added, err := c.pins.add(pin)
	if err != nil || !added {
		return err
	}
	if err := c.commit(ctx, record{Kind: recordPin, Pin: &pin}); err != nil {
		c.pins.remove(pin)
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// Unpin takes a pin back; false if there was none. It stays if the disk does not
// take that.
func (c *Cache) Unpin(ctx context.Context, pin Pin) (bool, error) {
	if !c.pins.has(pin) {
		return false, nil
	}
	if err := c.commit(ctx, record{Kind: recordUnpin, Pin: &pin}); err != nil {
		return false, fmt.Errorf("unpin: %w", err)
	}
	return c.pins.remove(pin), nil
}

// Pins are all pins, sorted.
func (c *Cache) Pins() []Pin { return c.pins.all() }

// pinned are the pins. The zero value is of none.
type pinned struct {
	mu      sync.RWMutex // guards the fields that follow it
	pins    map[Pin]struct{}
	version uint64 // grows with each change
}

func (p *pinned) add(pin Pin) (added bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, has := p.pins[pin]; has {
		return false, nil
	}
	if len(p.pins) >= MaxPins {
		return false, fmt.Errorf("cache: there are %d pins, which is the most", MaxPins)
	}
	if p.pins == nil {
		p.pins = make(map[Pin]struct{})
	}
	p.pins[pin] = struct{}{}
	p.version++
	return true, nil
}

func (p *pinned) remove(pin Pin) (removed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, removed = p.pins[pin]; removed {
		delete(p.pins, pin)
		p.version++
	}
	return removed
}

func (p *pinned) has(pin Pin) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, has := p.pins[pin]
	return has
}

func (p *pinned) all() []Pin {
	all, _ := p.now()
	slices.SortFunc(all, Pin.compare)
	return all
}

// now are the pins in no order, and their version.
func (p *pinned) now() ([]Pin, uint64) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Collect(maps.Keys(p.pins)), p.version
}

func (p *pinned) at() uint64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.version
}

func (p *pinned) size() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.pins)
}
