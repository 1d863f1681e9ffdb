// Package control is how a person reaches the content cache of a serving process:
// the protocol between "gatehouse cache" and "gatehouse serve", both ends of it.
//
// [Handler] lets whoever can reach it do what a [Keeper] does; [Client] is a
// Keeper that asks such a handler. It is spoken over a Unix socket of mode 0600
// ([ListenSocket]), or over loopback with a token. Long work answers with lines
// of JSON as it goes, see [line]; an archive is streamed.
//
//   - keeper.go: the role, and what it is asked with.
//   - handler.go, client.go: the two ends.
//   - listen.go: sockets.
package control

import "errors"

// ErrRefused says that the process at the other end does not know the token.
var ErrRefused = errors.New("the token is not that of the process")

const (
	// maxRequest bounds what is asked, but for archives; maxLine one line of an
	// answer.
	maxRequest = 1 << 20
	maxLine    = 4 << 20
	// MaxArchive bounds an archive that is loaded.
	MaxArchive = 1 << 40
)

// line is one of an answer: exactly one field is set. The last line has a result
// or an error; an answer without either broke off.
type line struct {
	Item     any       `json:"item,omitempty"`
	Progress *progress `json:"progress,omitempty"`
	Result   any       `json:"result,omitempty"`
	Error    string    `json:"error,omitempty"`
}

type progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}
