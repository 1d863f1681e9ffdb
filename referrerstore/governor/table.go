package governor

import "container/list"

// table remembers hosts, those used last in front. It holds more than max only
// if so many are busy. Its owner guards it.
type table struct {
	max   int
	byKey map[Key]*list.Element
	order *list.List // of *Host
}

func newTable(limit int) *table {
	return &table{max: limit, byKey: make(map[Key]*list.Element), order: list.New()}
}

func (t *table) get(key Key) *Host {
	e, ok := t.byKey[key]
	if !ok {
		return nil
	}
	t.order.MoveToFront(e)
	return e.Value.(*Host)
}

func (t *table) put(h *Host) {
	t.byKey[h.key] = t.order.PushFront(h)
	for e := t.order.Back(); e != nil && e != t.order.Front() && t.order.Len() > t.max; {
		older := e.Prev()
		if old := e.Value.(*Host); old.idle() {
			t.order.Remove(e)
			delete(t.byKey, old.key)
		}
		e = older
	}
}

func (t *table) all() []*Host {
	hosts := make([]*Host, 0, t.order.Len())
	for e := t.order.Front(); e != nil; e = e.Next() {
		hosts = append(hosts, e.Value.(*Host))
	}
	return hosts
}
