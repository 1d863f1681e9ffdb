package rotation

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const host = "gatehouse.gatehouse-system"

var names = []string{host, host + ".svc"}

// fakeCluster is an API server with one Secret and some Providers: writes on an old
// version fail, and every write is kept in order.
type fakeCluster struct {
	mu        sync.Mutex
	version   int
	secret    Secret
	providers map[string]Provider
	broken    map[string]error // by Provider, or "" for the Secret
	writes    []string
	before    func(write string) // called before each write, without the lock
	changed   chan struct{}      // has something after a change; room for one
}

var errBroken = errors.New("broken")

func newFake(providers ...string) *fakeCluster {
	f := &fakeCluster{providers: map[string]Provider{}, broken: map[string]error{}, changed: make(chan struct{}, 1)}
	f.set(nil)
	for _, name := range providers {
		f.setProvider(name, "")
	}
	return f
}

// set replaces the Secret's content, as a person would.
func (f *fakeCluster) set(data map[string][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	f.secret = Secret{Version: strconv.Itoa(f.version), Data: data}
	f.tell()
}

func (f *fakeCluster) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeCluster) setProvider(name, bundle string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	f.providers[name] = Provider{Name: name, Version: strconv.Itoa(f.version), Bundle: bundle}
}

func (f *fakeCluster) fail(what string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[what] = err
}

// data is a copy of the Secret's content, never nil.
func (f *fakeCluster) data() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	data := map[string][]byte{}
	maps.Copy(data, f.secret.Data)
	return data
}

func (f *fakeCluster) bundle(provider string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.providers[provider].Bundle
}

// took gives the writes since it was asked last.
func (f *fakeCluster) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	writes := f.writes
	f.writes = nil
	return writes
}

func (f *fakeCluster) Secret(context.Context) (Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Secret{Version: f.secret.Version, Data: maps.Clone(f.secret.Data)}, f.broken[""]
}

func (f *fakeCluster) SetSecret(_ context.Context, version string, data map[string][]byte) error {
	write := "secret"
	for _, key := range []string{KeyBundle, KeyAuthorityKey, KeyCertificate, KeyCertificateKey} {
		if _, ok := data[key]; ok {
			write += " " + key
		}
	}
	if f.before != nil {
		f.before(write)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.secret.Version != version {
		return ErrConflict
	}
	merged := maps.Clone(f.secret.Data)
	if merged == nil {
		merged = map[string][]byte{}
	}
	maps.Copy(merged, data)
	f.version++
	f.secret = Secret{Version: strconv.Itoa(f.version), Data: merged}
	f.writes = append(f.writes, write)
	f.tell()
	return nil
}

func (f *fakeCluster) Provider(_ context.Context, name string) (Provider, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.broken[name]; err != nil {
		return Provider{}, err
	}
	p, ok := f.providers[name]
	if !ok {
		return Provider{}, ErrNotFound
	}
	return p, nil
}

func (f *fakeCluster) Trust(_ context.Context, p Provider, bundle string) error {
	if f.before != nil {
		f.before("provider " + p.Name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken["write "+p.Name] != nil {
		return f.broken["write "+p.Name]
	}
	if f.providers[p.Name].Version != p.Version {
		return ErrConflict
	}
	f.version++
	p.Version, p.Bundle = strconv.Itoa(f.version), bundle
	f.providers[p.Name] = p
	f.writes = append(f.writes, "provider "+p.Name)
	f.tell()
	return nil
}

// keeper is a Rotator on a fake cluster, with times that a test can tell apart.
func keeper(t *testing.T, f *fakeCluster, change ...func(*Options)) *Rotator {
	t.Helper()
	o := Options{
		AuthorityLifetime: 1000 * time.Hour, Lifetime: 400 * time.Hour, RenewBefore: 100 * time.Hour,
		Settle: 5 * time.Minute, Overlap: 24 * time.Hour, Resync: time.Hour,
	}
	for _, c := range change {
		c(&o)
	}
	r, err := New(f, []string{"verify", "audit"}, names, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// settled runs passes until there is nothing to do now, and gives when there is.
func settled(t *testing.T, r *Rotator) step {
	t.Helper()
	for range 20 {
		next, err := r.pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if next.do == actNothing {
			return next
		}
	}
	t.Fatal("20 steps and still something to do")
	return step{}
}

// age lets time go by with a look every two days.
func age(t *testing.T, r *Rotator, d time.Duration) {
	t.Helper()
	for d > 0 {
		time.Sleep(min(d, 48*time.Hour))
		d -= 48 * time.Hour
		settled(t, r)
	}
}
