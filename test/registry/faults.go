package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Fault answers a request instead of the registry, or leaves it to the
// registry by returning false without a trace. It runs on the request's
// goroutine, many at once; the request's context ends with the client or with
// [Registry.Close], and a Fault ends with it. [Honest] is what the registry
// would have said, for faults that bend it.
type Fault = func(w http.ResponseWriter, r *http.Request) bool

type honestKey struct{}

func withHonest(r *http.Request, answer http.HandlerFunc) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), honestKey{}, answer))
}

// Honest writes the registry's own answer to the request, which must be the
// one that the [Fault] was given.
func Honest(w http.ResponseWriter, r *http.Request) {
	if answer, ok := r.Context().Value(honestKey{}).(http.HandlerFunc); ok {
		answer(w, r)
	}
}

// On limits a fault to requests of the given kinds.
func On(f Fault, kinds ...Kind) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return slices.Contains(kinds, KindOf(r)) && f(w, r)
	}
}

// First limits a fault to the first n requests that it handles.
func First(n int, f Fault) Fault {
	var seen atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		return seen.Add(1) <= int64(n) && f(w, r)
	}
}

// Each tries faults in turn until one handles the request.
func Each(faults ...Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return slices.ContainsFunc(faults, func(f Fault) bool { return f(w, r) })
	}
}

// Hang says nothing until the client goes.
func Hang() Fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // an ordinary return would be an empty answer
	}
}

// Reset cuts the connection without an answer: with a TCP reset in HTTP/1, by
// resetting the stream in HTTP/2.
func Reset() Fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		raw := conn
		if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
			raw = secure.NetConn()
		}
		if tcp, ok := raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = raw.Close()
		return true
	}
}

// Status answers a share of requests, from 0 to 1, with a status and headers.
// Which ones is decided by a generator with the given seed, in the order in
// which they come.
func Status(code int, header http.Header, share float64, seed uint64) Fault {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, seed))
	hit := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64() < share
	}
	return func(w http.ResponseWriter, _ *http.Request) bool {
		if !hit() {
			return false
		}
		maps.Copy(w.Header(), header)
		_ = ociregistry.WriteError(w, errorOf(code))
		return true
	}
}

// errorOf is what registries put in the body of an answer with the status.
func errorOf(code int) error {
	for _, err := range []ociregistry.Error{
		ociregistry.ErrUnauthorized, ociregistry.ErrDenied,
		ociregistry.ErrManifestUnknown, ociregistry.ErrTooManyRequests,
	} {
		if _, status := ociregistry.MarshalError(err); status == code {
			return err
		}
	}
	return ociregistry.NewHTTPError(errors.New("made to fail"), code, nil, nil)
}

// ForeignRealm sends clients without credentials to another place for tokens.
func ForeignRealm(url string) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if KindOf(r) == Token || r.Header.Get("Authorization") != "" {
			return false
		}
		challenge := `Bearer realm="` + url + `",service="registry"`
		if scopes := scopesOf(r); len(scopes) > 0 {
			challenge += `,scope="` + joinScopes(scopes) + `"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		_ = ociregistry.WriteError(w, ociregistry.ErrUnauthorized)
		return true
	}
}

// RedirectTo sends clients to the same path and query behind another base, a
// URL without a path.
func RedirectTo(base string) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, strings.TrimSuffix(base, "/")+r.URL.RequestURI(), http.StatusTemporaryRedirect)
		return true
	}
}

// SlowBytes gives the honest answer a byte at a time, with a pause before
// each.
func SlowBytes(pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		Honest(&dripper{ResponseWriter: w, ctx: r.Context(), pause: pause}, r)
		return true
	}
}

type dripper struct {
	http.ResponseWriter
	ctx   context.Context // a writer has no other way to know when to stop
	pause time.Duration
}

func (d *dripper) Write(p []byte) (int, error) {
	flush := http.NewResponseController(d.ResponseWriter).Flush
	timer := time.NewTimer(d.pause)
	defer timer.Stop()
	for i := range p {
		select {
		case <-timer.C:
		case <-d.ctx.Done():
			return i, d.ctx.Err()
		}
		if _, err := d.ResponseWriter.Write(p[i : i+1]); err != nil {
			return i, err
		}
		if err := flush(); err != nil {
			return i, err
		}
		timer.Reset(d.pause)
	}
	return len(p), nil
}

// WrongDigest gives the honest answer with its content altered: as long as
// before, under the same headers, and a JSON manifest stays valid JSON.
func WrongDigest() Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		kept := &keeper{ResponseWriter: w}
		Honest(kept, r)
		_, _ = w.Write(alter(kept.body.Bytes()))
		return true
	}
}

type keeper struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (k *keeper) Write(p []byte) (int, error) { return k.body.Write(p) }

func alter(data []byte) []byte {
	const before, after = `"schemaVersion":2`, `"schemaVersion":3`
	if bytes.Contains(data, []byte(before)) {
		return bytes.Replace(data, []byte(before), []byte(after), 1)
	}
	if len(data) > 0 {
		data[0] ^= 1
	}
	return data
}

// FakeArtifactType is the type of the referrers that EndlessReferrers and
// HugeReferrers invent: Notary signatures, so that a verifier wants them.
const FakeArtifactType = "application/vnd.cncf.notary.signature"

// EndlessReferrers answers lists of referrers with pages of one invented entry,
// each of which links to a next.
func EndlessReferrers() Fault {
	return On(func(w http.ResponseWriter, r *http.Request) bool {
		page := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("page"), &page)
		setNext(w, r.URL, page+1)
		writeIndex(w, []ocispec.Descriptor{fakeReferrer(page)})
		return true
	}, Referrers)
}

func fakeReferrer(i int) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: FakeArtifactType,
		Digest:       digest.FromString(fmt.Sprint("invented ", i)),
		Size:         1024,
	}
}

// HugeReferrers answers lists of referrers with one page of n invented entries
// of about size bytes each, streamed, so that it costs this side no memory.
func HugeReferrers(n, size int) Fault {
	filler := strings.Repeat("x", size)
	return On(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_, _ = fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[`, ocispec.MediaTypeImageIndex)
		for i := range n {
			if err := writeFake(w, i, filler); err != nil {
				return true
			}
		}
		_, _ = io.WriteString(w, "]}")
		return true
	}, Referrers)
}

func writeFake(w io.Writer, i int, filler string) error {
	comma := ","
	if i == 0 {
		comma = ""
	}
	d := fakeReferrer(i)
	_, err := fmt.Fprintf(w, `%s{"mediaType":%q,"artifactType":%q,"digest":%q,"size":%d,"annotations":{"filler":"%s"}}`,
		comma, d.MediaType, d.ArtifactType, d.Digest, d.Size, filler)
	return err
}
