package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// bufferBytes is read and written at a time.
	bufferBytes = 32 << 10
	// fileBytes of a file are handed to the kernel at a time: a client that takes
	// so much within the idle time is not idle.
	fileBytes = 512 << 10
)

var errShort = errors.New("the content ended early")

// writer is a ResponseWriter that gives up on a client that takes nothing, notes
// what it sends, and sends files without reading them.
type writer struct {
	http.ResponseWriter
	ctl     *http.ResponseController
	idle    time.Duration
	buffers *sync.Pool
	streams bool // of HTTP/2, where a deadline that passes is the end of all

	extended time.Time
	status   int // 0 until the header is written
	first    time.Time
	bytes    int64
}

func newWriter(w http.ResponseWriter, r *http.Request, idle time.Duration, buffers *sync.Pool) *writer {
	return &writer{ResponseWriter: w, ctl: http.NewResponseController(w), idle: idle, buffers: buffers, streams: r.ProtoMajor >= 2}
}

// limitBody bounds how long a client may take to send what is not read. Without it
// net/http would wait, after the answer, for as long as the client likes.
func (w *writer) limitBody() {
	_ = w.ctl.SetReadDeadline(time.Now().Add(min(w.idle, headerTime))) // a test's recorder has none
}

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.first = status, time.Now()
	}
	defer w.extend()()
	w.ResponseWriter.WriteHeader(status)
}

// Write gives the client the idle time for what is written.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	defer w.extend()()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Flush sends what is buffered.
func (w *writer) Flush() {
	defer w.extend()()
	_ = w.ctl.Flush() // a client that has gone shows at the next write
}

// extend moves the deadline that a write has, unless it was moved a moment ago.
// Between writes there is none: the upstream may take its time.
func (w *writer) extend() (done func()) {
	now := time.Now()
	if !w.streams && now.Sub(w.extended) < w.idle/8 {
		return nothing
	}
	w.extended = now
	_ = w.ctl.SetWriteDeadline(now.Add(w.idle)) // a test's recorder has none
	if !w.streams {
		return nothing
	}
	return func() { _ = w.ctl.SetWriteDeadline(time.Time{}) }
}

func nothing() {}

// send copies n bytes, or all that there are if n is negative. live content goes
// out as it comes.
func (w *writer) send(from io.Reader, n int64, live bool) error {
	if file, ok := from.(*os.File); ok && n >= 0 {
		if to, ok := w.ResponseWriter.(io.ReaderFrom); ok {
			return w.sendFile(to, file, n)
		}
	}
	buffer, _ := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(buffer)
	for n != 0 {
		piece := *buffer
		if n > 0 {
			piece = piece[:min(n, int64(len(piece)))]
		}
		read, err := from.Read(piece)
		if _, failed := w.Write(piece[:read]); failed != nil {
			return fmt.Errorf("write: %w", failed)
		}
		if n > 0 {
			n -= int64(read)
		}
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return errShort
		case errors.Is(err, io.EOF) || (err != nil && n == 0):
			return nil
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case live && read < len(piece):
			w.Flush() // nothing more is there at the moment
		}
	}
	return nil
}

// sendFile lets the kernel copy, where it can.
func (w *writer) sendFile(to io.ReaderFrom, file *os.File, n int64) error {
	for n > 0 {
		w.extend()
		piece := min(n, fileBytes)
		sent, err := to.ReadFrom(&io.LimitedReader{R: file, N: piece})
		w.bytes += sent
		n -= sent
		if err != nil {
			return fmt.Errorf("send file: %w", err)
		}
		if sent < piece {
			return errShort
		}
	}
	return nil
}
