package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/unversioned"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

// kubeletDelay is how long a Secret's content takes to the server's files.
const kubeletDelay = 1500 * time.Millisecond

// serving is a server whose certificate follows the Secret as a mounted one does,
// and Gatekeeper: its cache of Providers, which follows theirs, and its client.
type serving struct {
	plane     *plane
	url       string
	listener  net.Listener
	cert      atomic.Pointer[tls.Certificate]
	providers *externaldata.ProviderCache
	group     sync.WaitGroup

	mu            sync.Mutex // guards the fields that follow it
	seen          map[string]bool
	asked, failed int
	last          error
}

func newServing(t *testing.T, p *plane) *serving {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	s := &serving{plane: p, listener: listener, providers: externaldata.NewCache(), seen: map[string]bool{}}
	s.providers.SetClientCache(externaldata.DefaultClientCache())
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	s.url = "https://localhost:" + port + "/"
	return s
}

// start serves and asks until the test ends.
func (s *serving) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderResponse","response":{"items":[{"key":"k","value":"v"}]}}`)
		}),
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil }},
	}
	server.SetKeepAlivesEnabled(false) // a handshake for each request
	data, err := s.plane.data(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.present(data)
	s.group.Go(func() { _ = server.ServeTLS(s.listener, "", "") })
	t.Cleanup(func() {
		cancel()
		server.Close()
		s.group.Wait()
		for _, name := range providerNames {
			s.providers.Remove(name)
		}
	})
	s.follow(ctx, t, s.plane.do.Resource(secretsAt).Namespace(namespace), secret, func(u *unstructured.Unstructured) {
		if data, err := decoded(u); err == nil {
			s.group.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(kubeletDelay):
					s.present(data)
				}
			})
		}
	})
	for _, name := range providerNames {
		known := make(chan struct{})
		var once sync.Once
		s.follow(ctx, t, s.plane.do.Resource(providersAt), name, func(u *unstructured.Unstructured) {
			s.know(u)
			once.Do(func() { close(known) })
		})
		<-known
		s.group.Go(func() { s.ask(ctx, name) })
	}
}

// follow calls each with every version of an object.
func (s *serving) follow(ctx context.Context, t *testing.T, in dynamic.ResourceInterface, name string, each func(*unstructured.Unstructured)) {
	t.Helper()
	events, err := in.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	s.group.Go(func() {
		defer events.Stop()
		for event := range events.ResultChan() {
			if u, ok := event.Object.(*unstructured.Unstructured); ok && event.Type != watch.Deleted {
				each(u)
			}
		}
	})
}

// present is the kubelet and the server's reload. Files stay if a key is missing.
func (s *serving) present(data map[string][]byte) {
	pair, err := tls.X509KeyPair(data[rotation.KeyCertificate], data[rotation.KeyCertificateKey])
	if err != nil {
		return
	}
	s.cert.Store(&pair)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[string(pair.Certificate[0])] = true
}

// know is Gatekeeper's controller of Providers: into its cache, which checks them.
func (s *serving) know(u *unstructured.Unstructured) {
	p := &unversioned.Provider{}
	p.Name = u.GetName()
	p.Spec.URL, _, _ = unstructured.NestedString(u.Object, "spec", "url")
	p.Spec.CABundle, _, _ = unstructured.NestedString(u.Object, "spec", "caBundle")
	p.Spec.Timeout = 3
	if err := s.providers.Upsert(p); err != nil {
		s.count(fmt.Errorf("Gatekeeper refuses the Provider: %w", err))
	}
}

// ask sends requests through one Provider, one after the other.
func (s *serving) ask(ctx context.Context, name string) {
	for ctx.Err() == nil {
		p, err := s.providers.Get(name)
		if err == nil {
			_, _, err = externaldata.DefaultSendRequestToProvider(ctx, &p, []string{"k"}, nil)
		}
		if ctx.Err() == nil {
			s.count(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *serving) count(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if err != nil {
		s.failed++
		s.last = err
	}
}

func (s *serving) counts() (asked, failed int, last error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.failed, s.last
}

// presented is nil once so many certificates have been presented.
func (s *serving) presented(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < n {
		return errors.New("the new certificate is not presented yet")
	}
	return nil
}
