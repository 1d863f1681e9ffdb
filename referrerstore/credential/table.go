package credential

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Table says which credentials are for which host. It is safe for concurrent
// use.
type Table struct{ keepers []*Keeper }

// NewTable makes the sources of all entries; kinds are the types that an entry
// may have. Flights of the sources end with ctx or Close, whichever comes
// first. Errors name entry and option at fault.
func NewTable(ctx context.Context, entries []Entry, kinds map[string]Kind, deps Deps) (*Table, error) {
	t := &Table{}
	for i, entry := range entries {
		k, err := newKeeper(ctx, entry, kinds, deps)
		if err != nil {
			t.Close()
			return nil, fmt.Errorf("credentials[%d]: %w", i, err)
		}
		k.identity = fmt.Sprintf("%s[%d]", entry.Type, i)
		t.keepers = append(t.keepers, k)
	}
	return t, nil
}

func newKeeper(ctx context.Context, entry Entry, kinds map[string]Kind, deps Deps) (*Keeper, error) {
	kind, ok := kinds[entry.Type]
	if !ok {
		return nil, fmt.Errorf("type %q is none of %v", entry.Type, slices.Sorted(maps.Keys(kinds)))
	}
	if err := entry.checkOptions(kind); err != nil {
		return nil, err
	}
	where, err := entry.scope(kind)
	if err != nil {
		return nil, err
	}
	source, err := kind.New(entry, deps)
	if err != nil {
		return nil, err
	}
	if _, names := source.(Namer); where.named && !names {
		return nil, errors.New(`hosts: "*" means nothing to this type; name the hosts`)
	}
	return keep(ctx, source, where), nil
}

// For is the keeper of the canonical host's credentials: that of the first
// entry which names the host and has something for it. Nil says that the host
// is talked to as nobody.
func (t *Table) For(host string) *Keeper {
	for _, k := range t.keepers {
		if k.serves(host) {
			return k
		}
	}
	return nil
}

// Close ends all flights and returns when they have ended.
func (t *Table) Close() {
	for _, k := range t.keepers {
		k.close()
	}
}
