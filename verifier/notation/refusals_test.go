package notation_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/veraison/go-cose"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// alter changes parts of an envelope without signing it again.
func alter(t testing.TB, e signing.Envelope, payload func([]byte) []byte, chain [][]byte) signing.Envelope {
	t.Helper()
	if e.MediaType == string(signing.COSE) {
		return alterCOSE(t, e, payload, chain)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(e.Bytes, &parts); err != nil {
		t.Fatal(err)
	}
	if payload != nil {
		var text string
		if err := json.Unmarshal(parts["payload"], &text); err != nil {
			t.Fatal(err)
		}
		old := must[[]byte](t)(base64.RawURLEncoding.DecodeString(text))
		parts["payload"] = must[[]byte](t)(json.Marshal(base64.RawURLEncoding.EncodeToString(payload(old))))
	}
	if chain != nil {
		parts["header"] = must[[]byte](t)(json.Marshal(map[string]any{"x5c": chain}))
	}
	e.Bytes = must[[]byte](t)(json.Marshal(parts))
	return e
}

func alterCOSE(t testing.TB, e signing.Envelope, payload func([]byte) []byte, chain [][]byte) signing.Envelope {
	t.Helper()
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(e.Bytes); err != nil {
		t.Fatal(err)
	}
	if payload != nil {
		message.Payload = payload(message.Payload)
	}
	if chain != nil {
		list := make([]any, len(chain))
		for i, der := range chain {
			list[i] = der
		}
		message.Headers.Unprotected[cose.HeaderLabelX5Chain] = list
		message.Headers.RawUnprotected = nil
	}
	e.Bytes = must[[]byte](t)(message.MarshalCBOR())
	return e
}

func raw(s *signing.Signer) [][]byte {
	var chain [][]byte
	for _, c := range s.Chain() {
		chain = append(chain, c.Raw)
	}
	return chain
}

// Everything that must be refused, each with a reason of its own.
func TestRefusals(t *testing.T) {
	t.Parallel()
	root, stranger := authority(t, signing.ECDSA256), authority(t, signing.ECDSA256)
	good, other := issue(t, root, signing.ECDSA256, signing.IssueOptions{}), issue(t, root, signing.ECDSA256, signing.IssueOptions{})
	now := time.Now()
	ended := issue(t, root, signing.ECDSA256, signing.IssueOptions{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-time.Hour)})
	ahead := issue(t, root, signing.ECDSA256, signing.IssueOptions{NotBefore: now.Add(time.Hour)})
	authorities := &responder{Authority: root, status: signing.Revoked}
	url, client := authorities.serve(t)
	revoked := issue(t, root, signing.ECDSA256, signing.IssueOptions{OCSPServers: []string{url + "/ocsp"}})
	authorities.issued = append(authorities.issued, revoked.Certificate())
	elsewhere := image()
	elsewhere.Digest = digest.FromString("another image")
	snapshot := stores(t, root, trust.Certificates{Name: "stamps", Type: trust.TypeTSA, Inline: string(root.PEM())})

	flip := func(b []byte) []byte { return bytes.Replace(b, []byte(`"size":5`), []byte(`"size":6`), 1) }
	tests := []struct {
		name   string
		signer *signing.Signer
		opts   signing.SignOptions
		change func(*notation.Statement)
		alter  func(signing.Envelope) signing.Envelope
		code   verifier.Code
		what   string
	}{
		{name: "wrong signer", signer: issue(t, stranger, signing.ECDSA256, signing.IssueOptions{}), code: verifier.CodeSignerUntrusted, what: "is in no trust store of type ca"},
		{name: "wrong scheme", opts: signing.SignOptions{SigningAuthority: true}, change: func(s *notation.Statement) { s.TrustStores = []string{"ca:acme"} }, code: verifier.CodeSignerUntrusted, what: "is in no trust store of type signingAuthority"},
		{name: "wrong identity", change: func(s *notation.Statement) {
			s.TrustedIdentities = []string{"x509.subject: C=US, ST=WA, O=others"}
		}, code: verifier.CodeIdentityUntrusted, what: "none of the trusted identities"},
		{name: "wrong scope", change: func(s *notation.Statement) { s.RegistryScopes = []string{"registry.example.com/team/other"} }, code: verifier.CodeScopeMismatch, what: "no statement of the trust policy has " + repository},
		{name: "expired signature", opts: signing.SignOptions{SigningTime: now.Add(-time.Hour), Expiry: time.Minute}, code: verifier.CodeSignatureExpired, what: "the signature expired on"},
		{name: "expired certificate", signer: ended, opts: signing.SignOptions{SigningTime: now.Add(-2 * time.Hour)}, code: verifier.CodeCertificateExpired, what: "expired on"},
		{name: "certificate of the future", signer: ahead, opts: signing.SignOptions{SigningTime: now.Add(2 * time.Hour)}, code: verifier.CodeCertificateExpired, what: "is not valid before"},
		{name: "no time stamp", change: func(s *notation.Statement) { s.TrustStores = append(s.TrustStores, "tsa:stamps") }, code: verifier.CodeTimestampInvalid, what: "time stamp"},
		{name: "revoked", signer: revoked, code: verifier.CodeCertificateRevoked, what: "is revoked"},
		{name: "plug-in demanded", opts: signing.SignOptions{Attributes: map[string]string{signing.PluginAttribute: "com.example.plugin"}}, code: verifier.CodePluginRequired, what: `plug-in or attribute "com.example.plugin"`},
		{name: "unknown critical attribute", opts: signing.SignOptions{Attributes: map[string]string{"com.example.must": "x"}}, code: verifier.CodePluginRequired, what: `plug-in or attribute "com.example.must"`},
		{name: "altered payload", alter: func(e signing.Envelope) signing.Envelope { return alter(t, e, flip, nil) }, code: verifier.CodeSignatureInvalid, what: "does not match what it signs"},
		{name: "certificate of another", alter: func(e signing.Envelope) signing.Envelope { return alter(t, e, nil, raw(other)) }, code: verifier.CodeSignatureInvalid, what: "certificate were altered"},
		{name: "chain without its root", alter: func(e signing.Envelope) signing.Envelope { return alter(t, e, nil, raw(good)[:1]) }, code: verifier.CodeSignatureInvalid, what: "envelope is malformed"},
		{name: "chain too long", alter: func(e signing.Envelope) signing.Envelope {
			return alter(t, e, nil, append(raw(good), bytes.Split(bytes.Repeat([]byte("x,"), 9), []byte(","))...))
		}, code: verifier.CodeSignatureInvalid, what: "envelope is malformed"},
		{name: "altered envelope", alter: func(e signing.Envelope) signing.Envelope { e.Bytes = e.Bytes[:len(e.Bytes)-9]; return e }, code: verifier.CodeSignatureInvalid, what: "envelope is malformed"},
		{name: "envelope of the other format", alter: func(e signing.Envelope) signing.Envelope {
			if e.MediaType = string(signing.COSE); json.Valid(e.Bytes) {
				return e
			}
			e.MediaType = string(signing.JWS)
			return e
		}, code: verifier.CodeSignatureInvalid, what: "envelope is malformed"},
		{name: "layer of another type", alter: func(e signing.Envelope) signing.Envelope { e.MediaType = "application/json"; return e }, code: verifier.CodeArtifactMalformed, what: "media type"},
		{name: "payload of another type", opts: signing.SignOptions{Payload: []byte(`{}`), PayloadType: "application/json"}, code: verifier.CodeSignatureInvalid, what: "envelope is malformed"},
		{name: "payload without an image", opts: signing.SignOptions{Payload: []byte(`{"targetArtifact":{}}`)}, code: verifier.CodeSignatureInvalid, what: "names no image"},
		{name: "payload too large", opts: signing.SignOptions{Metadata: map[string]string{"a": strings.Repeat("x", 300<<10)}}, code: verifier.CodeSignatureInvalid, what: "envelope is malformed"},
	}
	for _, format := range []signing.Format{signing.JWS, signing.COSE} {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%s/%s", format, test.name), func(t *testing.T) {
				t.Parallel()
				opts := options()
				if test.change != nil {
					opts = options(test.change)
				}
				signer := test.signer
				if signer == nil {
					signer = good
				}
				test.opts.Format = format
				envelope := sign(t, signer, image(), test.opts)
				if test.alter != nil {
					envelope = test.alter(envelope)
				}
				v := newVerifier(t, opts, snapshot, client)
				expect(t, verify(t, v, envelope), verifier.Failed, test.code, test.what)
			})
		}
		t.Run(fmt.Sprintf("%s/wrong digest", format), func(t *testing.T) {
			t.Parallel()
			envelope := sign(t, good, elsewhere, signing.SignOptions{Format: format})
			v := newVerifier(t, options(), snapshot, nil)
			expect(t, verify(t, v, envelope), verifier.Failed, verifier.CodeSubjectMismatch, "over another image")
		})
	}
}

func expect(t testing.TB, report verifier.Report, outcome verifier.Outcome, code verifier.Code, what string) {
	t.Helper()
	if report.Outcome != outcome || report.Reason.Code != code || !strings.Contains(report.Reason.What, what) {
		t.Errorf("outcome %s, reason %+v; want %s, %s, %q", report.Outcome, report.Reason, outcome, code, what)
	}
	if outcome != verifier.Passed && (report.Reason.Do == "" || report.Statement != "") {
		t.Errorf("advice %q, statement %q", report.Reason.Do, report.Statement)
	}
}
