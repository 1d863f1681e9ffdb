// Package trust holds what verifiers trust, as immutable snapshots.
//
// [Load] reads the named sets of certificates of a configuration, which the
// Notary Project calls trust stores, from files and inline text, checks them,
// and gives back a [Snapshot]. A snapshot never changes: a change of the files
// makes a new one, loaded whole and swapped in by whoever watches them, and
// what is in progress ends with the one that it began with.
//
// Nothing here verifies anything or knows a signature format.
package trust

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/certfile"
)

// Type says what the certificates of a set are trusted for.
type Type = string

// The types of sets that the Notary Project's specification knows.
const (
	TypeCA               Type = "ca"
	TypeSigningAuthority Type = "signingAuthority"
	TypeTSA              Type = "tsa"
)

// The bounds on what is read.
const (
	// MaxFileBytes bounds one file, and one inline text.
	MaxFileBytes = 1 << 20
	// MaxCertificates bounds the certificates of one set.
	MaxCertificates = 100
	// maxSets bounds the number of sets.
	maxSets = 1000
)

// ErrInvalid is in the chain of every error of [Load]. The rest of the text
// says which set and which file is at fault, and what to do.
var ErrInvalid = errors.New("trust certificates are not valid")

// Certificates configures one named set. At least one of Files and Inline is
// needed.
type Certificates struct {
	// Name and Type together are unique; policies refer to the set as
	// TYPE:NAME.
	Name string `yaml:"name"`
	Type Type   `yaml:"type"`
	// Files are PEM or DER; a relative path is relative to the directory
	// that [Load] is given.
	Files []string `yaml:"files"`
	// Inline is PEM.
	Inline string `yaml:"inline"`
}

type id struct{ kind, name string }

// Snapshot is all trusted certificates at one time. It is immutable and safe
// for concurrent use; callers must not change what it hands out. The zero
// value and nil trust nobody.
type Snapshot struct {
	sets  map[id][]*x509.Certificate
	files []string
	until time.Time
}

// ReadFile reads a file whole, of at most limit bytes.
type ReadFile = func(path string, limit int64) ([]byte, error)

// Load reads all sets, or says in one joined error what is wrong with each.
// It does no more I/O than reading the named files, each once, through read;
// nil is [certfile.Read].
func Load(dir string, entries []Certificates, read ReadFile) (*Snapshot, error) {
	if read == nil {
		read = certfile.Read
	}
	if len(entries) > maxSets {
		return nil, fmt.Errorf("%w: %d sets, at most %d", ErrInvalid, len(entries), maxSets)
	}
	s := &Snapshot{sets: make(map[id][]*x509.Certificate, len(entries))}
	var faults []error
	for _, entry := range entries {
		if err := s.add(dir, entry, read); err != nil {
			faults = append(faults, fmt.Errorf("%s:%s: %w", entry.Type, entry.Name, err))
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, errors.Join(faults...))
	}
	slices.Sort(s.files)
	s.files = slices.Compact(s.files)
	return s, nil
}

func (s *Snapshot) add(dir string, entry Certificates, read ReadFile) error {
	if err := checkName(entry); err != nil {
		return err
	}
	key := id{entry.Type, entry.Name}
	if _, taken := s.sets[key]; taken {
		return errors.New("two sets have this type and name; give one another name or put their files together")
	}
	s.sets[key] = nil
	set, err := s.read(dir, entry, read)
	if err != nil {
		return err
	}
	if len(set) > MaxCertificates {
		return fmt.Errorf("%d certificates, at most %d", len(set), MaxCertificates)
	}
	s.sets[key] = set
	for _, certificate := range set {
		if s.until.IsZero() || certificate.NotAfter.Before(s.until) {
			s.until = certificate.NotAfter
		}
	}
	return nil
}

// read collects the certificates of one set, each once.
func (s *Snapshot) read(dir string, entry Certificates, read ReadFile) ([]*x509.Certificate, error) {
	var set []*x509.Certificate
	take := func(origin string, found []*x509.Certificate, err error) error {
		if err == nil {
			err = checkAll(entry.Type, found)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", origin, err)
		}
		for _, certificate := range found {
			if !slices.ContainsFunc(set, certificate.Equal) {
				set = append(set, certificate)
			}
		}
		return nil
	}
	for _, name := range entry.Files {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		s.files = append(s.files, path)
		found, err := readCertificates(read, path)
		if err := take(path, found, err); err != nil {
			return nil, err
		}
	}
	if entry.Inline != "" {
		found, err := parsePEM([]byte(entry.Inline))
		if err := take("inline", found, err); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// namePattern is the grammar of names in the Notary Project's specification.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9_.-]+$`)

func checkName(entry Certificates) error {
	switch {
	case !namePattern.MatchString(entry.Name):
		return fmt.Errorf("the name %q is not made of letters, digits, '_', '.' and '-'", entry.Name)
	case entry.Type != TypeCA && entry.Type != TypeSigningAuthority && entry.Type != TypeTSA:
		return fmt.Errorf("the type %q is none of %s, %s and %s", entry.Type, TypeCA, TypeSigningAuthority, TypeTSA)
	case len(entry.Files) == 0 && entry.Inline == "":
		return errors.New("neither files nor inline is given")
	default:
		return nil
	}
}

// checkAll applies the specification's rules for trust stores: authorities or
// self-signed certificates, and for time stamps roots alone.
func checkAll(kind Type, found []*x509.Certificate) error {
	for i, certificate := range found {
		if err := check(kind, certificate); err != nil {
			return fmt.Errorf("certificate %d (%s): %w", i+1, certificate.Subject, err)
		}
	}
	return nil
}

func check(kind Type, certificate *x509.Certificate) error {
	selfIssued := bytes.Equal(certificate.RawSubject, certificate.RawIssuer)
	switch {
	case kind == TypeTSA && (!selfIssued || certificate.CheckSignatureFrom(certificate) != nil):
		return errors.New("it is not a root certificate; a set of type tsa takes the root of the time stamp authority")
	case certificate.IsCA:
		return nil
	case !selfIssued || certificate.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate, certificate.Signature) != nil:
		return errors.New("it is neither a certificate authority nor self-signed; trust its root or an intermediate instead")
	default:
		return nil
	}
}

// Certificates gives the set of the type and name, and whether there is one.
func (s *Snapshot) Certificates(kind Type, name string) ([]*x509.Certificate, bool) {
	if s == nil {
		return nil, false
	}
	set, ok := s.sets[id{kind, name}]
	return set, ok
}

// Names lists the sets as TYPE:NAME, sorted.
func (s *Snapshot) Names() []string {
	if s == nil {
		return nil
	}
	var names []string
	for key := range maps.Keys(s.sets) {
		names = append(names, key.kind+":"+key.name)
	}
	slices.Sort(names)
	return names
}

// Files lists the paths that were read, sorted, each once: what to watch.
func (s *Snapshot) Files() []string {
	if s == nil {
		return nil
	}
	return slices.Clone(s.files)
}

// NotAfter is the earliest end of any certificate, zero if there is none. A
// certificate that has ended is no error: signatures with a time stamp from
// before its end are still good.
func (s *Snapshot) NotAfter() time.Time {
	if s == nil {
		return time.Time{}
	}
	return s.until
}
