package notation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// certificate makes one that carries the key, which nobody need have.
func certificate(t *testing.T, public any) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = key.Public()
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func jwsText(t *testing.T, header map[string]any, more string) []byte {
	t.Helper()
	data, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"payload":"e30","protected":"e30","signature":"eA","header":%s%s}`, data, more)
}

func coseMessage(t *testing.T, protected, payload []byte, unprotected map[any]any) []byte {
	t.Helper()
	data, err := cbor.Marshal(cbor.Tag{Number: 18, Content: []any{protected, unprotected, payload, []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestInspect(t *testing.T) {
	t.Parallel()
	good := certificate(t, nil)
	// An odd number of 8193 bits is all that a modulus has to look like.
	wide := certificate(t, &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), maxRSABits, 1), E: 65537})
	chain := func(der []byte, n int) [][]byte {
		list := make([][]byte, n)
		for i := range list {
			list[i] = der
		}
		return list
	}
	many, err := json.Marshal(chain(good, maxChain+1))
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("A", 400<<10)
	protected := []byte{0xa0}
	asAny := func(list [][]byte) []any {
		var all []any
		for _, der := range list {
			all = append(all, der)
		}
		return all
	}
	const stamp = "io.cncf.notary.timestampSignature"
	tests := map[string]struct {
		media string
		data  []byte
		want  string
	}{
		"JWS":                     {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, 2)}, ""), ""},
		"JWS, unknown fields":     {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, 1)}, `,"x":[[[]]]`), ""},
		"JWS, longest chain":      {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, maxChain)}, ""), ""},
		"JWS, chain too long":     {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, maxChain+1)}, ""), "too many certificates"},
		"JWS, hidden chain":       {"application/jose+json", jwsText(t, map[string]any{"x5c": json.RawMessage(many)}, `,"header":{"x5c":[]}`), "too many certificates"},
		"JWS, chain in capitals":  {"application/jose+json", jwsText(t, map[string]any{"X5C": json.RawMessage(many)}, ""), "too many certificates"},
		"JWS, no chain":           {"application/jose+json", jwsText(t, map[string]any{}, ""), "0 certificates"},
		"JWS, wide key":           {"application/jose+json", jwsText(t, map[string]any{"x5c": [][]byte{good, wide}}, ""), "RSA key of 8193 bits"},
		"JWS, large payload":      {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, 1)}, `,"payload":"`+large+`"`), "too large"},
		"JWS, large protected":    {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, 1)}, `,"protected":"`+large[:100<<10]+`"`), "protected header of"},
		"JWS, large stamp":        {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, 1), stamp: make([]byte, maxStampBytes+1)}, ""), "time stamp of"},
		"JWS, junk stamp":         {"application/jose+json", jwsText(t, map[string]any{"x5c": chain(good, 1), stamp: []byte("junk")}, ""), ""},
		"JWS, large certificate":  {"application/jose+json", jwsText(t, map[string]any{"x5c": [][]byte{make([]byte, maxCertificateBytes+1)}}, ""), "a certificate of"},
		"COSE":                    {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{33: asAny(chain(good, 2))}), ""},
		"COSE, chain too long":    {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{33: asAny(chain(good, maxChain+1))}), "11 certificates"},
		"COSE, far too long":      {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{33: asAny(chain(nil, 1000))}), "exceeded max"},
		"COSE, no chain":          {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{}), "0 certificates"},
		"COSE, wide key":          {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{33: asAny([][]byte{wide})}), "RSA key of 8193 bits"},
		"COSE, large payload":     {"application/cose", coseMessage(t, protected, []byte(large), map[any]any{33: asAny(chain(good, 1))}), "payload of"},
		"COSE, large protected":   {"application/cose", coseMessage(t, []byte(large), []byte("{}"), map[any]any{33: asAny(chain(good, 1))}), "protected header of"},
		"COSE, large unprotected": {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{1: large}), "unprotected header of"},
		"COSE, large stamp":       {"application/cose", coseMessage(t, protected, []byte("{}"), map[any]any{33: asAny(chain(good, 1)), stamp: make([]byte, maxStampBytes+1)}), "time stamp of"},
		"another media type":      {"application/json", []byte("{}"), "no envelope is of media type"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := inspect(test.media, test.data)
			if got := fmt.Sprint(err); (err == nil) != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
