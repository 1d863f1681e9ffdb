package registry

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Faults of this file bend the honest answer to whoever pulls. They leave
// answers to HEAD, and those that are no success, as they are.

// Inspect shows requests to see and leaves them to the registry: what a client
// lets another host know, for instance. See may be called by many at once.
func Inspect(see func(*http.Request)) Fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		see(r)
		return false
	}
}

// Bent lets faults that bend the honest answer bend what the ones behind them
// make of it: Bent(BreakOff(10), Chunked()) breaks off an answer of no announced
// length.
func Bent(faults ...Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		answer := http.HandlerFunc(Honest)
		if honest, ok := r.Context().Value(honestKey{}).(http.HandlerFunc); ok {
			answer = honest
		}
		for _, fault := range slices.Backward(faults) {
			inner := answer
			answer = func(w http.ResponseWriter, r *http.Request) {
				if !fault(w, withHonest(r, inner)) {
					inner(w, r)
				}
			}
		}
		answer(w, r)
		return true
	}
}

// BreakOff cuts the connection, or resets the stream, after n bytes of the body.
func BreakOff(n int64) Fault {
	return after(n, func(context.Context) { panic(http.ErrAbortHandler) })
}

// Stall sends n bytes of the body and then nothing more until the client goes.
// [Hang] does not even send a header.
func Stall(n int64) Fault {
	return after(n, func(ctx context.Context) {
		<-ctx.Done()
		panic(http.ErrAbortHandler)
	})
}

func after(n int64, then func(context.Context)) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		left := n
		Honest(&bender{ResponseWriter: w, method: r.Method, write: func(p []byte) (int, error) {
			k, err := w.Write(p[:min(int64(len(p)), left)])
			if left -= int64(k); left > 0 || err != nil {
				return k, err
			}
			_ = http.NewResponseController(w).Flush()
			then(r.Context())
			return k, io.ErrShortWrite
		}}, r)
		return true
	}
}

// Short leaves out the last n bytes of the content, and its headers agree.
func Short(n int64) Fault { return resized(-n) }

// Long adds n bytes to the content, and its headers agree.
func Long(n int64) Fault { return resized(n) }

func resized(by int64) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		var left int64
		bent := &bender{ResponseWriter: w, method: r.Method}
		bent.header = func(h http.Header) {
			left, _ = strconv.ParseInt(h.Get("Content-Length"), 10, 64)
			left = max(left+by, 0)
			h.Set("Content-Length", strconv.FormatInt(left, 10))
		}
		bent.write = func(p []byte) (int, error) {
			k, err := w.Write(p[:min(int64(len(p)), left)])
			left -= int64(k)
			if err != nil {
				return k, err
			}
			return len(p), nil // what is left out counts as sent
		}
		Honest(bent, r)
		if bent.bends && by > 0 {
			_, _ = w.Write(make([]byte, left))
		}
		return true
	}
}

// Chunked gives the honest answer without a Content-Length.
func Chunked() Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		Honest(&bender{ResponseWriter: w, method: r.Method, header: func(h http.Header) {
			h.Del("Content-Length")
		}, write: func(p []byte) (int, error) {
			_ = http.NewResponseController(w).Flush() // before it is known to be all
			return w.Write(p)
		}}, r)
		return true
	}
}

// Header gives the honest answer with a header of another value, or without it
// if that is empty: a wrong Docker-Content-Digest or Content-Range. It bends
// answers to HEAD too.
func Header(name, value string) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		Honest(&bender{ResponseWriter: w, method: http.MethodGet, header: func(h http.Header) {
			h[http.CanonicalHeaderKey(name)] = nil // net/http guesses none of its own then
			if value != "" {
				h.Set(name, value)
			}
		}}, r)
		return true
	}
}

// IgnoreRange answers with all of the content, whatever part was asked for.
func IgnoreRange() Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		whole := r.Clone(r.Context())
		whole.Header.Del("Range")
		Honest(w, whole)
		return true
	}
}

// EndlessManifest answers a GET of a manifest with one that has no end, of no
// announced length.
func EndlessManifest() Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if _, section, _ := splitPath(r.URL.Path); section != "manifests" || r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		_, err := io.WriteString(w, `{"schemaVersion":2,"layers":[`)
		for filler := make([]byte, 32<<10); err == nil; {
			for i := range filler {
				filler[i] = ' '
			}
			_, err = w.Write(filler)
		}
		panic(http.ErrAbortHandler)
	}
}

// TagPages answers lists of tags with at most n at a time, and a link to the
// next, however many were asked for.
func TagPages(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if _, section, _ := splitPath(r.URL.Path); section != "tags" {
			return false
		}
		query := r.URL.Query()
		if asked, err := strconv.Atoi(query.Get("n")); err == nil && asked <= n {
			return false
		}
		page := r.Clone(r.Context())
		query.Set("n", strconv.Itoa(n))
		page.URL.RawQuery = query.Encode()
		Honest(w, page)
		return true
	}
}

// bender hands an answer on with changes, if it is a success with a body.
type bender struct {
	http.ResponseWriter
	method string
	header func(http.Header)                 // nil changes none
	write  func(p []byte) (n int, err error) // nil is the writer's own

	begun, bends bool
}

func (b *bender) WriteHeader(status int) {
	if !b.begun {
		b.begun = true
		b.bends = b.method == http.MethodGet && (status == http.StatusOK || status == http.StatusPartialContent)
		if b.bends && b.header != nil {
			b.header(b.Header())
		}
	}
	b.ResponseWriter.WriteHeader(status)
}

func (b *bender) Write(p []byte) (int, error) {
	if !b.begun {
		b.WriteHeader(http.StatusOK)
	}
	if !b.bends || b.write == nil {
		return b.ResponseWriter.Write(p)
	}
	return b.write(p)
}

func (b *bender) Unwrap() http.ResponseWriter { return b.ResponseWriter }
