package journal

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// readAhead is how many bytes are read of a file at once.
const readAhead = 256 << 10

// Open reads all records in the folder below dir and hands them to each, in the
// order in which they were appended, and makes a journal that goes on behind
// them. The bytes that each receives are valid until it returns; an error of it
// ends Open.
//
// It writes nothing, so it works on a folder that is read-only, or that somebody
// else writes; the folder is made by the first Append. An error means that the
// disk would not give what is there, or ErrVersion, not that it is damaged: an
// owner that wants to go on without it renames the folder away. With
// [fs.ErrNotExist] somebody else rewrote the journal meanwhile: open it again.
func Open(dir disk.Folder, name string, opts Options, each func(record []byte) error) (*Journal, Damage, error) {
	j := &Journal{
		dir: dir, name: name, opts: opts,
		room:      semaphore.NewWeighted(maxQueued),
		rewriting: make(chan struct{}, 1),
		closing:   make(chan struct{}),
	}
	j.close = sync.OnceValue(j.shut)
	files, err := j.list()
	if err != nil {
		return nil, Damage{}, fmt.Errorf("open journal %s: %w", name, err)
	}
	r := reader{dir: dir, each: each, from: bufio.NewReaderSize(nil, readAhead)}
	for _, f := range current(files) {
		if err := r.file(path.Join(name, f.name)); err != nil {
			return nil, r.damage, fmt.Errorf("open journal %s: %w", name, err)
		}
	}
	if len(files) > 0 {
		j.last = files[len(files)-1].number
	}
	j.size.Store(r.size)
	return j, r.damage, nil
}

// entry is a file of the journal.
type entry struct {
	number uint64
	kind   string // its extension
	name   string
}

const (
	logs      = ".log"
	snapshots = ".all"
	drafts    = ".new"
	digits    = 10
)

func fileName(number uint64, kind string) string { return fmt.Sprintf("%0*d%s", digits, number, kind) }

// parseName tells the files of the journal from others.
func parseName(name string) (entry, bool) {
	kind := path.Ext(name)
	number, err := strconv.ParseUint(strings.TrimSuffix(name, kind), 10, 62)
	e := entry{number: number, kind: kind, name: name}
	known := kind == logs || kind == snapshots || kind == drafts
	return e, err == nil && known && fileName(number, kind) == name
}

// list is all files, by number.
func (j *Journal) list() ([]entry, error) {
	var files []entry
	err := j.dir.List(j.name, func(name string, dir bool) error {
		if e, is := parseName(name); is && !dir {
			files = append(files, e)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.SortFunc(files, func(a, b entry) int { return cmp.Compare(a.number, b.number) })
	return files, err
}

// current is what counts: from the last snapshot on.
func current(files []entry) []entry {
	for i, f := range slices.Backward(files) {
		if f.kind == snapshots {
			files = files[i:]
			break
		}
	}
	return slices.DeleteFunc(slices.Clone(files), func(f entry) bool { return f.kind == drafts })
}

// reader reads files one after the other.
type reader struct {
	dir    disk.Folder
	each   func([]byte) error
	from   *bufio.Reader
	body   []byte // of the longest frame so far
	damage Damage
	size   int64
}

func (r *reader) file(name string) error {
	f, err := r.dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r.from.Reset(io.LimitReader(f, info.Size()))
	r.size += info.Size()
	read, err := r.frames(info.Size())
	if err != nil && !errors.Is(err, errTorn) {
		return err
	}
	if read < info.Size() {
		r.damage.Torn++
		r.damage.Bytes += info.Size() - read
	}
	return nil
}

// frames reads a file of so many bytes up to its end, or to where nothing tells
// any more where the next frame begins, and says how far it came.
func (r *reader) frames(size int64) (read int64, err error) {
	buf := make([]byte, fileHeader)
	if err := readWhole(r.from, buf); err != nil {
		return 0, err
	}
	s, whole, err := parseFile(buf)
	if err != nil || !whole {
		return 0, err
	}
	for read = fileHeader; read < size; {
		n, err := r.frame(s)
		if err != nil {
			return read, err
		}
		read += int64(n)
	}
	return read, nil
}

// frame reads one frame and says how many bytes it took; errTorn if it ends early
// or its header is damaged.
func (r *reader) frame(s seal) (int, error) {
	buf, err := r.from.Peek(frameHeader)
	if err != nil {
		return 0, torn(err)
	}
	h, whole := s.parse(buf)
	if !whole {
		return 0, errTorn
	}
	if _, err := r.from.Discard(frameHeader); err != nil {
		return 0, err
	}
	r.body = slices.Grow(r.body[:0], h.length)[:h.length]
	if err := readWhole(r.from, r.body); err != nil {
		return 0, err
	}
	taken := frameHeader + h.length
	if !s.intact(h, r.body) {
		r.damage.Records += h.records
		r.damage.Bytes += int64(taken)
		return taken, nil
	}
	for record := range split(r.body) {
		if err := r.each(record); err != nil {
			return 0, err
		}
	}
	return taken, nil
}

// errTorn says that a file ends, or makes no sense, where it should go on.
var errTorn = errors.New("torn")

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

func readWhole(from io.Reader, buf []byte) error {
	_, err := io.ReadFull(from, buf)
	return torn(err)
}
