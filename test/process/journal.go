package process

import (
	"bytes"
	"encoding/json"
	"sync"
)

// maxJournal bounds what is kept of a log.
const maxJournal = 4 << 20

// serving is what the process logs once it listens.
type serving struct {
	Message string `json:"msg"`
	Address string `json:"address"`
	Admin   string `json:"admin"`
	Pulls   string `json:"registry"`
}

// journal takes the log of a process, keeps the end of it, and looks in its
// first lines for the one that says where the process listens.
type journal struct {
	serving chan serving // receives one value at most

	mu    sync.Mutex // guards the fields that follow it
	kept  []byte
	line  []byte // the current line, while serving is awaited
	found bool
}

func newJournal() *journal { return &journal{serving: make(chan serving, 1)} }

// Write implements [io.Writer]; it never fails.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept = append(j.kept, p...)
	if len(j.kept) > 2*maxJournal {
		j.kept = append([]byte(nil), j.kept[len(j.kept)-maxJournal:]...)
	}
	if !j.found {
		j.look(p)
	}
	return len(p), nil
}

// look is called with mu held.
func (j *journal) look(p []byte) {
	j.line = append(j.line, p...)
	for !j.found {
		line, rest, whole := bytes.Cut(j.line, []byte("\n"))
		if !whole {
			return
		}
		j.line = rest
		var s serving
		if json.Unmarshal(line, &s) == nil && s.Message == "serving" {
			j.found, j.line = true, nil
			j.serving <- s
		}
	}
}

func (j *journal) bytes() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Clone(j.kept[max(len(j.kept)-maxJournal, 0):])
}
