package adverse

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// lie is one way in which a registry is hostile. Its image has one good
// signature, which must not help.
type lie struct {
	name  string
	fault registry.Fault
	// prepare changes what the registry holds.
	prepare func(testing.TB, site, ocispec.Descriptor)
	// codes are those that the key may end with; verdict says that it is a
	// denial and not the lack of a verdict.
	codes   []string
	verdict bool
	// harmless lies are seen through: the image is allowed, for it is signed.
	harmless bool
	// unsigned leaves the good signature out; oneIsEnough changes the rule, by
	// which every signature must be good.
	unsigned, oneIsEnough bool
}

// What a single lie may cost the process beside what it holds when idle, and
// the registry in requests.
const (
	lieBytes    = 64 << 20
	lieRequests = 400
)

func lies() []lie {
	on := registry.On
	return []lie{
		{name: "endless pages of invented signatures", fault: registry.EndlessReferrers(), codes: []string{"TOO_MANY_REFERRERS", "ARTIFACT_NOT_FOUND"}},
		{name: "endless pages of other artifacts", fault: endlessOthers(), codes: []string{"TOO_MANY_REFERRERS"}, verdict: true},
		{name: "page of 100 entries of 4 MiB", fault: registry.HugeReferrers(100, 4<<20), codes: []string{"TOO_MANY_REFERRERS"}, verdict: true},
		{name: "page of 100,000 entries of 20 bytes", fault: registry.HugeReferrers(100_000, 20), codes: []string{"TOO_MANY_REFERRERS"}, verdict: true},
		{name: "page of a million empty entries", fault: page(`{"manifests":[`, `{},`, 1_300_000, `{}]}`), codes: []string{"TOO_MANY_REFERRERS", "REGISTRY_PROTOCOL"}},
		{name: "page of a million empty lists", fault: page(`{"x":[`, `[],`, 1_300_000, `[]]}`), codes: []string{"TOO_MANY_REFERRERS", "REGISTRY_PROTOCOL"}},
		{name: "page a million deep", fault: page(`{"manifests":`, `[`, 1_300_000, ``), codes: []string{"TOO_MANY_REFERRERS", "REGISTRY_PROTOCOL"}},
		{name: "page that never ends", fault: page(``, strings.Repeat(" ", 1<<10), 1<<30, ``), codes: []string{"TOO_MANY_REFERRERS"}, verdict: true},
		{name: "page that breaks off", fault: page(`{"manifests":[`, ``, 1, ``), codes: []string{"REGISTRY_PROTOCOL", "REGISTRY_UNAVAILABLE"}},
		{name: "page that is no list", fault: page(`{"manifests":7}`, ``, 1, ``), codes: []string{"REGISTRY_PROTOCOL"}},
		{name: "entry without a digest", fault: page(`{"manifests":[{"mediaType":"`+ocispec.MediaTypeImageManifest+`","artifactType":"`+signing.ArtifactType+`"}]}`, ``, 1, ``), codes: []string{"REGISTRY_PROTOCOL"}},
		{name: "list compressed a thousandfold", fault: on(gzipped(1<<30), registry.Referrers), codes: []string{"TOO_MANY_REFERRERS", "REGISTRY_PROTOCOL"}},
		{name: "manifest compressed a thousandfold", fault: on(gzipped(1<<30), registry.Manifest), codes: []string{"DIGEST_MISMATCH", "REGISTRY_PROTOCOL"}},
		{name: "altered manifest", fault: on(registry.WrongDigest(), registry.Manifest), codes: []string{"DIGEST_MISMATCH"}},
		{name: "altered envelope", fault: on(registry.WrongDigest(), registry.Blob), codes: []string{"DIGEST_MISMATCH"}},
		{name: "manifest that never ends", fault: on(endless(), registry.Manifest), codes: []string{"DIGEST_MISMATCH"}},
		{name: "envelope that never ends", fault: on(endless(), registry.Blob), codes: []string{"DIGEST_MISMATCH"}},
		{name: "digest that is none", fault: on(header("Docker-Content-Digest", "sha256:none"), registry.Resolve), harmless: true},
		{name: "digest of md5", fault: on(header("Docker-Content-Digest", "md5:"+strings.Repeat("0", 32)), registry.Resolve), harmless: true},
		{name: "digest of another image", fault: on(header("Docker-Content-Digest", digest.FromString("other").String()), registry.Resolve), codes: []string{"SIGNATURE_NOT_FOUND", "REGISTRY_PROTOCOL", "SUBJECT_NOT_FOUND"}},
		{name: "headers of 8 MiB", fault: header("X-Filler", strings.Repeat("x", 8<<20)), codes: []string{"REGISTRY_UNAVAILABLE"}},
		{name: "redirects in a circle", fault: circle(), codes: []string{"REGISTRY_PROTOCOL"}},
		{name: "a byte at a time", fault: on(registry.SlowBytes(20*time.Millisecond), registry.Blob), codes: []string{"DEADLINE_EXCEEDED"}},
		{name: "manifest of 5,000 empty layers", prepare: emptyLayers(5_000), codes: []string{"ARTIFACT_MALFORMED", "ARTIFACT_TOO_LARGE"}, verdict: true},
		{name: "manifest of two layers", prepare: emptyLayers(2), codes: []string{"ARTIFACT_MALFORMED"}, verdict: true},
		{name: "manifest announced as a terabyte", prepare: announced(1 << 40), codes: []string{"ARTIFACT_TOO_LARGE"}, verdict: true},
		{name: "manifest of a negative size", prepare: announced(-1), codes: []string{"REGISTRY_PROTOCOL"}},
		{name: "signature of another image", prepare: foreignSignature, codes: []string{"ARTIFACT_MALFORMED", "SUBJECT_MISMATCH"}, verdict: true},
		{name: "1,000 bad signatures", prepare: manyBad(1_000), codes: []string{"ARTIFACT_MALFORMED"}, verdict: true},
		{name: "1,000 bad signatures where one good is enough", prepare: manyBad(1_000), unsigned: true, oneIsEnough: true, codes: []string{"TOO_MANY_REFERRERS"}, verdict: true},
	}
}

// TestLies asks one process about the image of each hostile registry, beside
// that of an honest one which must be allowed whatever the other does.
func TestLies(t *testing.T) {
	const timeout = 1900 * time.Millisecond
	honest := newSite(t, registry.Options{})
	good := honest.signed(t, "good")
	all := lies()
	sites, keys := []site{honest}, make([]string, len(all))
	for i, l := range all {
		s := newSite(t, registry.Options{})
		sites = append(sites, s)
		keys[i] = l.build(t, s)
	}
	c := config(t, sites...)
	c.Timeout = timeout
	c.Rules = rulesOf(all, sites[1:])
	p := process.Start(t, c)
	ask(t, p, good)
	idle := levelOf(t, p)
	for i, l := range all {
		t.Run(l.name, func(t *testing.T) { l.check(t, p, sites[i+1], keys[i], good, timeout) })
	}
	for _, s := range sites {
		s.Close()
	}
	returnsTo(t, p, idle)
}

// rulesOf lets every signature count, so that the good one decides nothing
// early, but where a lie says otherwise.
func rulesOf(all []lie, sites []site) string {
	var rules strings.Builder
	for i, l := range all {
		if l.oneIsEnough {
			fmt.Fprintf(&rules, "- {name: one%d, images: [\"%s/**\"], require: {verifier: notation}}\n", i, sites[i].Host())
		}
	}
	rules.WriteString("- {name: every, images: [\"**\"], require: {verifier: notation, every: true}}\n")
	return rules.String()
}

func (l lie) build(t *testing.T, s site) string {
	t.Helper()
	key, desc := s.image(t, "app")
	if !l.unsigned {
		s.sign(t, desc, s.people.acmeSigner, signing.SignOptions{}, nil)
	}
	if l.prepare != nil {
		l.prepare(t, s, desc)
	}
	s.SetIntercept(l.fault)
	s.ResetStats()
	return key
}

func (l lie) check(t *testing.T, p *process.Process, s site, key, good string, timeout time.Duration) {
	var answer process.Answer
	growth := grown(t, p, func() { answer = ask(t, p, key, good) })
	inTime(t, answer, timeout)
	if growth > lieBytes {
		t.Errorf("memory grew by %d MiB, at most %d are fine", growth>>20, lieBytes>>20)
	}
	if total := s.Stats().Total; total > lieRequests {
		t.Errorf("%d requests to the registry, at most %d are fine", total, lieRequests)
	}
	if end := endOf(t, answer, good); !end.allowed {
		t.Errorf("the honest registry's image: %+v", end)
	}
	end := endOf(t, answer, key)
	t.Logf("%d requests; verdict: %t; %s", s.Stats().Total, end.verdict, end.text)
	if end.allowed != l.harmless || (!l.harmless && !slices.Contains(l.codes, end.code)) {
		t.Errorf("%+v, want one of %q", end, l.codes)
	}
	if l.verdict && !end.verdict {
		t.Errorf("no verdict, want a denial: %s", end.text)
	}
	checkLine(t, key, end.text)
}

// page answers lists of referrers with begin, n times part, and end, streamed.
func page(begin, part string, n int, end string) registry.Fault {
	return registry.On(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_, err := io.WriteString(w, begin)
		// Not one by one: the writer's own cost is not what is measured.
		chunk := max(1, min(n, 1<<16/max(len(part), 1)))
		parts := strings.Repeat(part, chunk)
		for sent := 0; sent < n && err == nil; sent += chunk {
			_, err = io.WriteString(w, parts[:min(chunk, n-sent)*len(part)])
		}
		_, _ = io.WriteString(w, end)
		return true
	}, registry.Referrers)
}

func endlessOthers() registry.Fault {
	return registry.On(func(w http.ResponseWriter, r *http.Request) bool {
		n := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("page"), &n)
		w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, n+1))
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_, _ = fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"artifactType":"text/sbom","digest":%q,"size":7}]}`,
			ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, digest.FromString(fmt.Sprint(n)))
		return true
	}, registry.Referrers)
}

// endless gives the honest answer without its length, and then goes on.
func endless() registry.Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		registry.Honest(&withoutLength{w}, r)
		filler := make([]byte, 1<<16)
		for r.Context().Err() == nil {
			if _, err := w.Write(filler); err != nil {
				break
			}
		}
		return true
	}
}

type withoutLength struct{ http.ResponseWriter }

func (w *withoutLength) WriteHeader(status int) {
	w.Header().Del("Content-Length")
	w.ResponseWriter.WriteHeader(status)
}

// gzipped answers with a small body that claims to unpack to n spaces.
func gzipped(n int) registry.Fault {
	var member bytes.Buffer
	writer := gzip.NewWriter(&member)
	_, _ = writer.Write(bytes.Repeat([]byte(" "), 1<<20))
	_ = writer.Close()
	packed := bytes.Repeat(member.Bytes(), n>>20) // members of one stream
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed)
		return true
	}
}

// header gives the honest answer with one header replaced.
func header(name, value string) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		registry.Honest(&replacing{w, name, value}, r)
		return true
	}
}

type replacing struct {
	http.ResponseWriter
	name, value string
}

func (w *replacing) WriteHeader(status int) {
	w.Header().Set(w.name, w.value)
	w.ResponseWriter.WriteHeader(status)
}

func circle() registry.Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.RequestURI(), http.StatusTemporaryRedirect)
		return true
	}
}

// plant lists data as a signature of subject under a descriptor of its own.
func plant(s site, subject ocispec.Descriptor, data []byte, change func(*ocispec.Descriptor)) {
	desc := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: signing.ArtifactType,
		Digest: digest.FromBytes(data), Size: int64(len(data)),
	}
	s.Plant("app", desc, data)
	if change != nil {
		change(&desc)
	}
	s.PlantReferrer("app", subject.Digest, desc)
}

func emptyLayers(n int) func(testing.TB, site, ocispec.Descriptor) {
	return func(_ testing.TB, s site, subject ocispec.Descriptor) {
		plant(s, subject, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{},"subject":{"mediaType":%q,"digest":%q,"size":%d},"layers":[%s{}]}`,
			ocispec.MediaTypeImageManifest, signing.ArtifactType, subject.MediaType, subject.Digest, subject.Size, strings.Repeat("{},", n-1)), nil)
	}
}

func announced(size int64) func(testing.TB, site, ocispec.Descriptor) {
	return func(_ testing.TB, s site, subject ocispec.Descriptor) {
		plant(s, subject, []byte("{}"), func(d *ocispec.Descriptor) { d.Size = size })
	}
}

// foreignSignature lists the good signature of one image for another.
func foreignSignature(tb testing.TB, s site, subject ocispec.Descriptor) {
	_, other := s.image(tb, "other")
	envelope := must(s.people.acmeSigner.Sign(tb.Context(), other, signing.SignOptions{}))(tb)
	desc := must(s.PushReferrer(tb.Context(), "app", other, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil))(tb)
	s.PlantReferrer("app", subject.Digest, desc)
}

func manyBad(n int) func(testing.TB, site, ocispec.Descriptor) {
	return func(_ testing.TB, s site, subject ocispec.Descriptor) {
		for i := range n {
			plant(s, subject, fmt.Appendf(nil, `{"i":%d}`, i), nil)
		}
	}
}
