package notation

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

var (
	errListLimited   = errors.New("the revocation list is limited to other certificates")
	errListElsewhere = errors.New("the revocation list is that of another place")
	errListStranger  = errors.New("the revocation list is that of another authority")
	errListDelta     = errors.New("the revocation list has changes alone, where a whole one belongs")
)

// maxPointBytes bounds the extension that says what a list is limited to, which
// is read at each use of the list.
const maxPointBytes = 4 << 10

// scope is of which certificates a revocation list speaks. An authority signs
// many lists, and one that is limited to others would, in the place of the
// right one, make a revoked certificate good by leaving it out;
// notation-core-go passes over the limits. Its slices are of the list's own
// bytes, so that keeping it beside them costs nothing.
type scope struct {
	issuer             []byte // name of the list's authority
	delta              bool   // changes to another list
	place              []byte // general names of the places that the list is for
	named              bool   // it names places
	users, authorities bool   // it has none but these
}

// issuingPoint is the extension of RFC 5280, section 5.2.5.
type issuingPoint struct {
	Place       asn1.RawValue `asn1:"optional,tag:0"`
	Users       bool          `asn1:"optional,tag:1"`
	Authorities bool          `asn1:"optional,tag:2"`
	Reasons     asn1.RawValue `asn1:"optional,tag:3"`
	Indirect    bool          `asn1:"optional,tag:4"`
	Attributes  bool          `asn1:"optional,tag:5"`
}

// scopeOf refuses lists that are right for none of the certificates here.
func scopeOf(list *x509.RevocationList) (scope, error) {
	s := scope{issuer: list.RawIssuer}
	for _, extension := range list.Extensions {
		switch {
		case extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 27}):
			s.delta = true
		case extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}):
			if err := s.limit(extension.Value); err != nil {
				return scope{}, fmt.Errorf("issuing distribution point: %w", err)
			}
		}
	}
	return s, nil
}

func (s *scope) limit(der []byte) error {
	if len(der) > maxPointBytes {
		return fmt.Errorf("%d bytes, at most %d", len(der), maxPointBytes)
	}
	var point issuingPoint
	if rest, err := asn1.Unmarshal(der, &point); err != nil || len(rest) > 0 {
		return errors.Join(errors.New("it is malformed"), err)
	}
	if point.Indirect || point.Attributes || len(point.Reasons.FullBytes) > 0 {
		return errListLimited
	}
	s.users, s.authorities = point.Users, point.Authorities
	s.named, s.place = len(point.Place.FullBytes) > 0, point.Place.Bytes
	return nil
}

// covers refuses a list that may leave out a certificate of the question.
// Which one it is fetched for is not told; it is of those whose issuer the
// list's is.
func (s scope) covers(q question) error {
	found := false
	for _, c := range q.chain {
		if !bytes.Equal(c.RawIssuer, s.issuer) || len(c.CRLDistributionPoints) == 0 {
			continue
		}
		found = true
		if err := s.includes(c, q.url); err != nil {
			return err
		}
	}
	if !found {
		return errListStranger
	}
	return nil
}

func (s scope) includes(c *x509.Certificate, url string) error {
	switch {
	case s.delta && namesList(c, url):
		return errListDelta
	case s.users && c.IsCA, s.authorities && !c.IsCA:
		return errListLimited
	case s.named && !s.names(c.CRLDistributionPoints):
		return errListElsewhere
	default:
		return nil
	}
}

// namesList tells whether a certificate names a list by an address, which is
// spelt as requests spell it.
func namesList(c *x509.Certificate, address string) bool {
	return slices.ContainsFunc(c.CRLDistributionPoints, func(named string) bool { return canonicalURL(named) == address })
}

// names tells whether one of the URLs is a place that the list is for.
func (s scope) names(urls []string) bool {
	var full asn1.RawValue
	if _, err := asn1.Unmarshal(s.place, &full); err != nil || full.Class != asn1.ClassContextSpecific || full.Tag != 0 {
		return false // relative to a name that certificates do not keep
	}
	for rest := full.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return false
		}
		const uri = 6 // of the choices of a GeneralName
		if name.Class == asn1.ClassContextSpecific && name.Tag == uri && slices.Contains(urls, string(name.Bytes)) {
			return true
		}
	}
	return false
}
