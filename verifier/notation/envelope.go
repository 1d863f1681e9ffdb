package notation

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	notationcose "github.com/notaryproject/notation-core-go/signature/cose"
	notationjws "github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/tspclient-go"
	"github.com/veraison/go-cose"
)

// The bounds on an envelope. Libraries decode its parts into general values
// before any signature is checked, at up to thirty times their size, and check
// signatures by whatever keys the certificates bring; the bounds keep the
// first to a few megabytes and the second to milliseconds. Real envelopes have
// a few kilobytes.
const (
	maxEnvelopeBytes    = 4 << 20
	maxProtectedBytes   = 64 << 10
	maxPayloadBytes     = 256 << 10
	maxUnprotectedBytes = 256 << 10
	maxSignatureBytes   = 16 << 10
	maxChain            = 10
	maxCertificateBytes = 16 << 10
	maxStampBytes       = 32 << 10
	maxStampChain       = 20
	maxRSABits          = 8192
)

// inspect refuses, cheaply, envelopes that are beyond the bounds or not of
// their kind. It proves nothing.
func inspect(mediaType string, data []byte) error {
	var chain [][]byte
	var stamp []byte
	var err error
	switch mediaType {
	case notationjws.MediaTypeEnvelope:
		chain, stamp, err = inspectJWS(data)
	case notationcose.MediaTypeEnvelope:
		chain, stamp, err = inspectCOSE(data)
	default:
		err = fmt.Errorf("no envelope is of media type %q", mediaType)
	}
	if err != nil {
		return err
	}
	if err := inspectChain(chain); err != nil {
		return err
	}
	return inspectStamp(stamp)
}

func inspectChain(chain [][]byte) error {
	if len(chain) == 0 || len(chain) > maxChain {
		return fmt.Errorf("%d certificates, not 1 to %d", len(chain), maxChain)
	}
	for _, der := range chain {
		if len(der) > maxCertificateBytes {
			return fmt.Errorf("a certificate of %d bytes, at most %d", len(der), maxCertificateBytes)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if err := inspectKey(certificate); err != nil {
			return err
		}
	}
	return nil
}

func inspectKey(certificate *x509.Certificate) error {
	if key, ok := certificate.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits, at most %d", key.N.BitLen(), maxRSABits)
	}
	return nil
}

// inspectStamp bounds a time stamp and the keys that it brings. A stamp that
// cannot be parsed is left to the verifier, which may not need it.
func inspectStamp(stamp []byte) error {
	if len(stamp) > maxStampBytes {
		return fmt.Errorf("a time stamp of %d bytes, at most %d", len(stamp), maxStampBytes)
	}
	if len(stamp) == 0 {
		return nil
	}
	token, err := tspclient.ParseSignedToken(stamp)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if len(token.Certificates) > maxStampChain {
		return fmt.Errorf("a time stamp with %d certificates, at most %d", len(token.Certificates), maxStampChain)
	}
	for _, certificate := range token.Certificates {
		if err := inspectKey(certificate); err != nil {
			return err
		}
	}
	return nil
}

// boundedText and boundedList decode as string and [][]byte do, but refuse
// more than a bound before they decode. They are asked for each occurrence of
// their field, so that a second one hides nothing.
type (
	boundedText string
	boundedList [][]byte
)

// UnmarshalJSON implements [json.Unmarshaler].
func (t *boundedText) UnmarshalJSON(data []byte) error {
	if len(data) > maxUnprotectedBytes*4/3 {
		return errors.New("a part of the envelope is too large")
	}
	return json.Unmarshal(data, (*string)(t))
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *boundedList) UnmarshalJSON(data []byte) error {
	if len(data) > maxChain*maxCertificateBytes*4/3 || bytes.Count(data, []byte(",")) >= maxChain {
		return errors.New("too many certificates")
	}
	return json.Unmarshal(data, (*[][]byte)(l))
}

// inspectJWS reads the JSON serialisation with the field names, and so with
// the leniency, of notation-core-go.
func inspectJWS(data []byte) (chain [][]byte, stamp []byte, err error) {
	var parts struct {
		Payload   boundedText `json:"payload"`
		Protected boundedText `json:"protected"`
		Signature boundedText `json:"signature"`
		Header    struct {
			Stamp []byte      `json:"io.cncf.notary.timestampSignature"`
			Chain boundedList `json:"x5c"`
		} `json:"header"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return nil, nil, err
	}
	// Base64 has four characters for three bytes.
	err = inspectSizes(len(parts.Protected)*3/4, 0, len(parts.Payload)*3/4, len(parts.Signature)*3/4)
	return parts.Header.Chain, parts.Header.Stamp, err
}

// inspectCOSE takes a COSE_Sign1 apart without decoding its parts, and decodes
// once they are known to be small.
func inspectCOSE(data []byte) (chain [][]byte, stamp []byte, err error) {
	decoder, err := cbor.DecOptions{MaxArrayElements: 16, MaxNestedLevels: 16}.DecMode()
	if err != nil {
		return nil, nil, err
	}
	// The whole is checked against the decoder's bounds before it is decoded.
	var tag cbor.RawTag
	if err := decoder.Unmarshal(data, &tag); err != nil {
		return nil, nil, err
	}
	var parts []cbor.RawMessage
	if err := decoder.Unmarshal(tag.Content, &parts); err != nil {
		return nil, nil, err
	}
	if tag.Number != cose.CBORTagSign1Message || len(parts) != 4 {
		return nil, nil, errors.New("it is no COSE_Sign1 message")
	}
	if err := inspectSizes(len(parts[0]), len(parts[1]), len(parts[2]), len(parts[3])); err != nil {
		return nil, nil, err
	}
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(data); err != nil {
		return nil, nil, err
	}
	list, _ := message.Headers.Unprotected[cose.HeaderLabelX5Chain].([]any)
	for _, item := range list {
		der, _ := item.([]byte)
		chain = append(chain, der)
	}
	stamp, _ = message.Headers.Unprotected["io.cncf.notary.timestampSignature"].([]byte)
	return chain, stamp, nil
}

func inspectSizes(protected, unprotected, payload, signature int) error {
	for _, part := range []struct {
		name       string
		size, most int
	}{
		{"protected header", protected, maxProtectedBytes},
		{"unprotected header", unprotected, maxUnprotectedBytes},
		{"payload", payload, maxPayloadBytes},
		{"signature", signature, maxSignatureBytes},
	} {
		if part.size > part.most {
			return fmt.Errorf("a %s of %d bytes, at most %d", part.name, part.size, part.most)
		}
	}
	return nil
}
