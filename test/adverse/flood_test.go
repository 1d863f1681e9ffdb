package adverse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// The flood: what the largest request may make the process fetch.
const (
	floodKeys      = 100
	floodReferrers = 100
	envelopeBytes  = 4 << 20 // the most that the verifier reads of one
	floodMemory    = 150 << 20
)

// TestFlood asks about 100 images with 100 signatures of 4 MiB each, 40 GiB
// that are all to be judged. The process has time for a part of it, and memory
// for less. The tests of floods are not parallel: they want the machine.
func TestFlood(t *testing.T) {
	const timeout = 1900 * time.Millisecond
	s := newSite(t, registry.Options{})
	keys := flood(t, s)
	good := newSite(t, registry.Options{})
	goodKey := good.signed(t, "good")
	c := config(t, s, good)
	c.Timeout = timeout
	p := process.Start(t, c)
	ask(t, p, goodKey)
	idle := levelOf(t, p)
	var answer process.Answer
	s.ResetStats()
	growth := grown(t, p, func() { answer = ask(t, p, keys...) })
	stats := s.Stats()
	t.Logf("%d envelopes asked for, %d requests in all, %d at once", stats.Blob, stats.Total, stats.Peak)
	inTime(t, answer, timeout)
	if growth > floodMemory {
		t.Errorf("memory grew by %d MiB, at most %d are fine", growth>>20, floodMemory>>20)
	}
	checkFlood(t, answer, keys)
	if end := endOf(t, ask(t, p, goodKey), goodKey); !end.allowed {
		t.Errorf("a good request afterwards: %+v", end)
	}
	s.Close()
	returnsTo(t, p, idle)
}

func checkFlood(t *testing.T, answer process.Answer, keys []string) {
	t.Helper()
	ends := make(map[string]int)
	for _, key := range keys {
		end := endOf(t, answer, key)
		if end.allowed {
			t.Errorf("%s is allowed", key)
		}
		ends[end.code]++
	}
	t.Logf("%d bytes of answer; keys by code: %v", len(answer.Body), ends)
	if answer.Status != http.StatusOK || len(ends) == 0 {
		t.Errorf("status %d: %.300s", answer.Status, answer.Body)
	}
}

// flood fills a registry with little memory of its own: there are a few
// different envelopes, and many manifests that name them.
func flood(t *testing.T, s site) []string {
	t.Helper()
	var layers []ocispec.Descriptor
	for _, e := range hostileEnvelopes() {
		layers = append(layers, must(s.PushBlob(t.Context(), "app", string(e.format), e.bytes))(t))
	}
	keys := make([]string, floodKeys)
	for i := range keys {
		var desc ocispec.Descriptor
		keys[i], desc = s.image(t, fmt.Sprintf("v%d", i))
		for j := range floodReferrers {
			plant(s, desc, signatureManifest(t, desc, layers[j%len(layers)], j), nil)
		}
	}
	return keys
}

// signatureManifest names an envelope for a subject; number makes it unique.
func signatureManifest(t *testing.T, subject, envelope ocispec.Descriptor, number int) []byte {
	t.Helper()
	return must(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: signing.ArtifactType, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{envelope}, Subject: &subject,
		Annotations: map[string]string{"number": fmt.Sprint(number)},
	}))(t)
}

type envelope struct {
	format signing.Format
	bytes  []byte
}

// hostileEnvelopes are of the largest size and made to grow when decoded.
func hostileEnvelopes() []envelope {
	json := func(begin, part, end string) []byte {
		n := (envelopeBytes - len(begin) - len(end)) / len(part)
		text := begin + strings.Repeat(part, n) + end
		return []byte(text + strings.Repeat(" ", envelopeBytes-len(text)))
	}
	cbor := func(head []byte, fill byte) []byte {
		return append(head, bytes.Repeat([]byte{fill}, envelopeBytes-len(head))...)
	}
	return []envelope{
		{signing.JWS, json(`{"payload":"`, "A", `"}`)},
		{signing.JWS, json(`{"header":{"x5c":[`, `"",`, `""]}}`)},
		{signing.JWS, json(`{"other":[`, `{},`, `{}]}`)},
		{signing.JWS, json(`{`, `"header":{},`, `"header":{}}`)},
		{signing.COSE, cbor([]byte{0xd2, 0x9a, 0x00, 0x3f, 0xff, 0xfa}, 0x80)},             // a list of four million lists
		{signing.COSE, cbor([]byte{0xd2, 0x84, 0x5a, 0x00, 0x3f, 0xff, 0xf9}, 0x00)},       // one part takes all
		{signing.COSE, cbor([]byte{0xd2, 0x84, 0x40, 0xba, 0x00, 0x1f, 0xff, 0xfb}, 0x00)}, // a map of two million
		{signing.COSE, cbor([]byte{0xd2}, 0x81)},                                           // four million deep
	}
}

// TestFloodOfLists gives each of 100 images a list of the largest size that is
// read, of entries that are all kept.
func TestFloodOfLists(t *testing.T) {
	const timeout = 1900 * time.Millisecond
	s := newSite(t, registry.Options{})
	keys := make([]string, floodKeys)
	for i := range keys {
		keys[i], _ = s.image(t, fmt.Sprintf("v%d", i))
	}
	s.SetIntercept(largestList())
	c := config(t, s)
	c.Timeout = timeout
	p := process.Start(t, c)
	var answer process.Answer
	growth := grown(t, p, func() { answer = ask(t, p, keys...) })
	t.Logf("%d requests, %d at once", s.Stats().Total, s.Stats().Peak)
	inTime(t, answer, timeout)
	if growth > floodMemory {
		t.Errorf("memory grew by %d MiB, at most %d are fine", growth>>20, floodMemory>>20)
	}
	checkFlood(t, answer, keys)
}

// largestList answers with 900 entries of 4 KiB of annotations, and promises
// more of the kind.
func largestList() registry.Fault {
	var entries []string
	for i := range 900 {
		entries = append(entries, fmt.Sprintf(`{"mediaType":%q,"artifactType":"text/sbom","digest":%q,"size":7,"annotations":{"filler":%q}}`,
			ocispec.MediaTypeImageManifest, digest.FromString(fmt.Sprint(i)), strings.Repeat("x", 4<<10)))
	}
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, strings.Join(entries, ","))
	return registry.On(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		w.Header().Set("Link", fmt.Sprintf(`<%s?again>; rel="next"`, r.URL.Path))
		_, _ = w.Write([]byte(text))
		return true
	}, registry.Referrers)
}
