package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// The paths of the protocol.
const (
	pathItems  = "/v1/items"
	pathStats  = "/v1/stats"
	pathPrune  = "/v1/prune"
	pathScrub  = "/v1/scrub"
	pathPins   = "/v1/pins"
	pathPin    = "/v1/pin"
	pathUnpin  = "/v1/unpin"
	pathLoad   = "/v1/load"
	pathExport = "/v1/export"
)

// Handler lets whoever reaches it do what the keeper does: the way to it must be
// closed to others, as a socket of mode 0600 is.
func Handler(keeper Keeper, logger *slog.Logger) http.Handler {
	return guarded(nil, routes(keeper, logger))
}

// TokenHandler lets in who shows the token as a bearer token. The token is asked
// for at each request; an empty one lets nobody in.
func TokenHandler(keeper Keeper, token func() string, logger *slog.Logger) http.Handler {
	return guarded(token, routes(keeper, logger))
}

func routes(keeper Keeper, logger *slog.Logger) http.Handler {
	h := &handler{keeper: keeper, logger: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathItems, h.items)
	mux.HandleFunc("POST "+pathStats, h.stats)
	mux.HandleFunc("POST "+pathPrune, h.prune)
	mux.HandleFunc("POST "+pathScrub, h.scrub)
	mux.HandleFunc("POST "+pathPins, h.pins)
	mux.HandleFunc("POST "+pathPin, h.pin)
	mux.HandleFunc("POST "+pathUnpin, h.unpin)
	mux.HandleFunc("POST "+pathLoad, h.load)
	mux.HandleFunc("POST "+pathExport, h.export)
	return mux
}

// guarded refuses requests without the token, and those that a page in a browser
// can have made.
func guarded(token func() string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token != nil && !shows(r, token()) {
			limitBody(w)
			http.Error(w, ErrRefused.Error(), http.StatusUnauthorized)
			return
		}
		if r.Header.Get("Origin") != "" {
			limitBody(w)
			http.Error(w, "not for browsers", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limitBody bounds how long somebody who is refused may take to send what is not
// read: net/http waits for some of it. His connection ends then.
func limitBody(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // a test's recorder has none
}

func shows(r *http.Request, token string) bool {
	shown, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(shown))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && token != ""
}

const (
	// maxConnections bounds those that are open at once: whoever has no token can
	// open some too. None waits for a second request.
	maxConnections = 64
	headerTime     = 5 * time.Second
	bodyTime       = time.Second
)

// Serve answers on the listener until ctx ends, and closes it.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTime, MaxHeaderBytes: 64 << 10, BaseContext: func(net.Listener) context.Context { return ctx }}
	server.SetKeepAlivesEnabled(false)
	listener = netutil.LimitListener(listener, maxConnections)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		err := server.Close()
		<-done //nolint:errcheck // it says that the server is closed
		return err
	}
}

type handler struct {
	keeper Keeper
	logger *slog.Logger
}

// answer writes lines as work goes on.
type answer struct {
	w       http.ResponseWriter
	encoder *json.Encoder
	shown   time.Time
}

func begin(w http.ResponseWriter) *answer {
	w.Header().Set("Content-Type", "application/jsonl")
	return &answer{w: w, encoder: json.NewEncoder(w)}
}

func (a *answer) item(i cache.Item) { _ = a.encoder.Encode(line{Item: i}) } // who has gone sees no error

// progress tells ten times a second how far the work is.
func (a *answer) progress(done, total int64) {
	if time.Since(a.shown) < 100*time.Millisecond {
		return
	}
	a.shown = time.Now()
	_ = a.encoder.Encode(line{Progress: &progress{done, total}})
	_ = http.NewResponseController(a.w).Flush()
}

func (a *answer) end(result any, err error) {
	if err != nil {
		_ = a.encoder.Encode(line{Error: err.Error(), Result: result})
		return
	}
	_ = a.encoder.Encode(line{Result: result})
}

// asked reads what a request asks with, to its end: only behind that net/http sees
// that a client has left. False says that it was refused.
func asked[T any](w http.ResponseWriter, r *http.Request) (req T, ok bool) {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&req); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, "the request cannot be read: the two ends are of different versions", http.StatusBadRequest)
		return req, false
	}
	_, err := io.Copy(io.Discard, decoder.Buffered())
	if _, rest := io.Copy(io.Discard, r.Body); rest != nil || err != nil {
		return req, false
	}
	return req, true
}

func (h *handler) items(w http.ResponseWriter, r *http.Request) {
	if req, ok := asked[ItemsRequest](w, r); ok {
		a := begin(w)
		a.end(struct{}{}, h.keeper.Items(r.Context(), req, a.item))
	}
}

func (h *handler) stats(w http.ResponseWriter, r *http.Request) {
	if _, ok := asked[struct{}](w, r); ok {
		stats, err := h.keeper.Stats(r.Context())
		begin(w).end(stats, err)
	}
}

func (h *handler) prune(w http.ResponseWriter, r *http.Request) {
	if req, ok := asked[PruneRequest](w, r); ok {
		a := begin(w)
		pruned, err := h.keeper.Prune(r.Context(), req, a.item)
		h.logger.Info("prune asked for", "objects", pruned.Objects, "bytes", pruned.Bytes, "dry_run", req.DryRun)
		a.end(pruned, err)
	}
}

func (h *handler) scrub(w http.ResponseWriter, r *http.Request) {
	if _, ok := asked[struct{}](w, r); ok {
		a := begin(w)
		scrubbed, err := h.keeper.Scrub(r.Context(), a.progress)
		a.end(scrubbed, err)
	}
}

func (h *handler) pins(w http.ResponseWriter, r *http.Request) {
	if _, ok := asked[struct{}](w, r); ok {
		pins, err := h.keeper.Pins(r.Context())
		begin(w).end(pins, err)
	}
}

func (h *handler) pin(w http.ResponseWriter, r *http.Request) {
	if pin, ok := asked[cache.Pin](w, r); ok {
		begin(w).end(struct{}{}, h.keeper.Pin(r.Context(), pin))
	}
}

func (h *handler) unpin(w http.ResponseWriter, r *http.Request) {
	if pin, ok := asked[cache.Pin](w, r); ok {
		was, err := h.keeper.Unpin(r.Context(), pin)
		begin(w).end(was, err)
	}
}

// headerAsked carries what a load asks with: its body is the archive.
const headerAsked = "Gatehouse-Request"

func (h *handler) load(w http.ResponseWriter, r *http.Request) {
	var req LoadRequest
	if err := json.Unmarshal([]byte(r.Header.Get(headerAsked)), &req); err != nil {
		http.Error(w, "the request cannot be read: the two ends are of different versions", http.StatusBadRequest)
		return
	}
	a := begin(w)
	// Progress is told while the archive still comes in.
	_ = http.NewResponseController(w).EnableFullDuplex()
	loaded, err := h.keeper.Load(r.Context(), req, http.MaxBytesReader(w, r.Body, MaxArchive), a.progress)
	a.end(loaded, err)
}

// export streams the archive; the trailer says whether it is whole.
func (h *handler) export(w http.ResponseWriter, r *http.Request) {
	req, ok := asked[ExportRequest](w, r)
	if !ok {
		return
	}
	w.Header().Set("Trailer", headerError+", "+headerWhole)
	w.Header().Set("Content-Type", "application/x-tar")
	if err := h.keeper.Export(r.Context(), req, w); err != nil {
		w.Header().Set(headerError, strings.ToValidUTF8(strings.Map(printable, err.Error()), ""))
		return
	}
	w.Header().Set(headerWhole, "true")
}

const (
	headerError = "Gatehouse-Error"
	headerWhole = "Gatehouse-Whole"
)

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return ' '
	}
	return r
}
