package httpserver

import (
	"hash/maphash"

	"github.com/maypok86/otter/v2"

	"github.com/gatehouse-project/gatehouse/executor"
)

// asked is what a request's body asks for, read and checked. The same body asks
// for the same as long as a configuration lives: it is kept, immutable, because
// the pods of a workload come with the same one.
type asked struct {
	keys []keyed
	// jobs are the distinct subjects, each with its slot.
	jobs []job
	// body is what it was read from.
	body string
	// template has a slot for each of them, and those of keys that can never
	// be valid, answered.
	template []*answer
}

// keyed is a key with the index of its answer.
type keyed struct {
	key  string
	json []byte // the key as JSON
	slot int
}

func newKeyed(key string, slot int) keyed {
	return keyed{key: key, json: appendString(nil, key), slot: slot}
}

// job is a subject to decide on and where its answer goes.
type job struct {
	slot int
	key  string
	req  executor.Request
}

// question is all that a request's meaning depends on, within a configuration:
// the body by a hash, so that it need not be copied to look for it.
type question struct {
	body      uint64
	namespace string
	unpinned  executor.Unpinned
	mutation  bool
}

const (
	// maxKeptBody is the longest body of which the meaning is kept: about
	// fifty keys.
	maxKeptBody = 8 << 10
	// askedShare is the part of the memory for answers that questions have.
	askedShare = 4
)

type askedCache = otter.Cache[question, *asked]

func newAskedCache(maxBytes int64) *askedCache {
	return otter.Must(&otter.Options[question, *asked]{
		MaximumWeight: uint64(max(maxBytes, 1)),
		Weigher: func(q question, a *asked) uint32 {
			const overhead, each = 512, 768                                                                 // of a slot with its job, key and answer
			return uint32(overhead + 3*len(a.body) + len(q.namespace) + each*(len(a.keys)+len(a.template))) //nolint:gosec // bodies are bounded
		},
		Executor: func(task func()) { task() },
	})
}

// understand reads a body, or finds what it meant before.
func (l *snapshot) understand(body []byte, t terms) (*asked, error) {
	q := question{namespace: t.namespace, unpinned: t.unpinned, mutation: t.to == routeMutate}
	keeps := l.asked != nil && len(body) <= maxKeptBody
	if keeps {
		q.body = maphash.Bytes(l.seed, body)
		if a, ok := l.asked.GetIfPresent(q); ok && a.body == string(body) {
			return a, nil
		}
	}
	keys, err := parseRequest(body, l.Limits)
	if err != nil {
		return nil, err
	}
	a := l.plan(keys, t)
	if keeps {
		a.body = string(body)
		l.asked.Set(q, a)
	}
	return a, nil
}

// plan parses the keys and gives every distinct subject one slot. What needs no
// decision is answered here.
func (l *snapshot) plan(keys []string, t terms) *asked {
	p := &asked{keys: make([]keyed, len(keys))}
	slots := make(map[executor.Request]int, len(keys))
	for i, key := range keys {
		req, fixed := l.subject(key, t, share(len(keys)))
		if fixed != nil {
			p.keys[i] = newKeyed(key, len(p.template))
			p.template = append(p.template, fixed)
			continue
		}
		slot, known := slots[req]
		if !known {
			slot = len(p.template)
			slots[req] = slot
			p.template = append(p.template, nil)
			p.jobs = append(p.jobs, job{slot, key, req})
		}
		p.keys[i] = newKeyed(key, slot)
	}
	return p
}

// subject reads a key: what is to be decided on, or else its answer, of at most
// so many bytes.
func (l *snapshot) subject(key string, t terms, most int) (executor.Request, *answer) {
	from, mutation := l.NamespaceFrom, t.to == routeMutate
	if mutation {
		from = NamespaceFromNone // it sends what stands in the pod, which has none
	}
	if mutation && key == "" {
		return executor.Request{}, &answer{echo: true} // of a field that is not there
	}
	req, err := parseKey(key, from, t.namespace, l.Limits)
	pinned := req.Reference.Digest != ""
	switch {
	case err != nil:
		a := &answer{explanation: executor.ExplainInvalidKey(err), invalid: true}
		if !mutation {
			a.encoded, _ = encodeValue(a, key, most)
		}
		return req, a
	case mutation && pinned:
		return req, &answer{echo: true}
	case !mutation && !pinned:
		req.Unpinned = t.unpinned
	}
	return req, nil
}

// share is the room that one key's reports have in an answer of so many.
func share(keys int) int { return maxAnswerBytes / max(keys, 1) }
