package disktest

import (
	"io/fs"
	"iter"
	"path"
	"strings"
	"syscall"
	"time"
)

// node is a file or a folder. Bytes that data and synced share are never changed:
// what writes elsewhere than at the end copies first.
type node struct {
	data     []byte // as a reader sees them
	synced   []byte // as they are on the disk
	doubtful []span // of them a sync failed, and a later one tells nothing
	now      map[string]*node
	durable  map[string]*node // as they are on the disk
	modified time.Time
	links    int
	opens    int
	locked   bool
}

func newDir() *node {
	return &node{now: map[string]*node{}, durable: map[string]*node{}, modified: time.Now()}
}

func (n *node) dir() bool { return n.now != nil }

// names appends those of all files below.
func (n *node) names(above string, all []string) []string {
	for name, child := range n.now {
		if at := path.Join(above, name); child.dir() {
			all = child.names(at, all)
		} else {
			all = append(all, at)
		}
	}
	return all
}

func (n *node) info(name string) info {
	return info{name: path.Base(name), size: int64(len(n.data)), modified: n.modified, dir: n.dir()}
}

// place is where a name leads: node is nil if nothing is there.
type place struct {
	parent *node
	name   string
	node   *node
}

func (p place) existing() (*node, error) {
	if p.node == nil {
		return nil, syscall.ENOENT
	}
	return p.node, nil
}

// find walks to a name; it fails if a folder above is missing.
func (f *Folder) find(name string) (place, error) {
	at := place{node: f.root, name: "."}
	if name == "." {
		return at, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if at.node == nil {
			return place{}, syscall.ENOENT
		}
		if !at.node.dir() {
			return place{}, syscall.ENOTDIR
		}
		at = place{parent: at.node, name: part, node: at.node.now[part]}
	}
	return at, nil
}

func (f *Folder) findDir(name string) (*node, error) {
	at, err := f.find(name)
	if err != nil {
		return nil, err
	}
	n, err := at.existing()
	if err == nil && !n.dir() {
		return nil, syscall.ENOTDIR
	}
	return n, err
}

// prefixes are the names of the folders above, and the name itself.
func prefixes(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i, c := range name {
			if c == '/' && !yield(name[:i]) {
				return
			}
		}
		yield(name)
	}
}

// link is one name within a folder and what it leads to, or nothing.
type link struct {
	dir  *node
	name string
	to   *node
}

// step is what one operation changed of names: all at once, or not at all.
type step []link

// change does a step now and leaves it open for the disk.
func (f *Folder) change(links ...link) {
	for _, l := range links {
		l.set(l.dir.now)
		l.dir.modified = time.Now()
	}
	f.pending = append(f.pending, links)
}

func (l link) set(names map[string]*node) {
	if l.to == nil {
		delete(names, l.name)
	} else {
		names[l.name] = l.to
	}
}

func (f *Folder) make(at place, n *node) *node {
	n.links, n.modified = 1, time.Now()
	f.change(link{dir: at.parent, name: at.name, to: n})
	return n
}

func (f *Folder) move(source, target place, from, to string) error {
	n, err := source.existing()
	switch {
	case err != nil:
		return err
	case n == target.node:
		return nil
	case n == f.root || target.node == f.root || strings.HasPrefix(to, from+"/"):
		return syscall.EINVAL
	case target.node != nil && target.node.dir():
		return syscall.EEXIST
	case target.node != nil && n.dir():
		return syscall.ENOTDIR
	}
	f.change(link{dir: target.parent, name: target.name, to: n}, link{dir: source.parent, name: source.name})
	if target.node != nil {
		f.unlink(target.node)
	}
	return nil
}

func (f *Folder) unlink(n *node) {
	n.links--
	f.reclaim(n)
}

// reclaim gives the room back of a file that has neither name nor reader.
func (f *Folder) reclaim(n *node) {
	if n.links == 0 && n.opens == 0 {
		f.used -= int64(len(n.data))
	}
}

// settle brings the names of a folder to the disk. Of a step that moved a file
// from another folder only this side is: the other may have both names, or none.
func (f *Folder) settle(dir *node) {
	var open []step
	for _, s := range f.pending {
		var rest step
		for _, l := range s {
			if l.dir == dir {
				l.set(dir.durable)
			} else {
				rest = append(rest, l)
			}
		}
		if len(rest) > 0 {
			open = append(open, rest)
		}
	}
	f.pending = open
}

// info implements fs.FileInfo.
type info struct {
	name     string
	size     int64
	modified time.Time
	dir      bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return i.modified }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
