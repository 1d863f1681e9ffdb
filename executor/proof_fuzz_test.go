package executor

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/verifier"
)

// proofSeeds are proofs as others would have put them: one that allows and has a
// doubtful place, one that denies, one of nothing, one that was cut.
func proofSeeds(tb testing.TB) [][]byte {
	tb.Helper()
	begun := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("subject"), Size: 7}
	listed := func(text string) []listing {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "a/sig", Digest: digest.FromString(text), Size: 9, Annotations: map[string]string{ocispec.AnnotationCreated: "2026-01-01T00:00:00Z"}}
		return []listing{{Store: "a", Artifact: d}, {Store: "b", Artifact: d}}
	}
	report := func(text string, outcome verifier.Outcome, life time.Duration) kept {
		r := verifier.Report{
			Verifier: "v", Type: "t", Artifact: listed(text)[0].Artifact, Outcome: outcome, Statement: digest.FromString(text),
			Reason: verifier.Reason{Code: verifier.CodeVerified, What: "all is well", Do: "nothing"}, Warnings: []string{"expired"},
			Extensions: map[string]string{"signer": "somebody"}, ValidUntil: begun.Add(life), Elapsed: time.Second,
		}
		return kept{Report: r, Begun: begun, Until: begun.Add(life)}
	}
	proofs := []*proof{
		{subject: subject, begun: begun, listed: begun, artifacts: []proven{
			{Listed: listed("a"), Wanted: []string{"v"}, Reports: []kept{report("a", verifier.Passed, time.Hour)}},
			{Listed: listed("b"), Wanted: []string{"v", "w"}},
		}},
		{subject: subject, begun: begun, artifacts: []proven{{Listed: listed("a"), Wanted: []string{"v"}, Reports: []kept{report("a", verifier.Failed, time.Minute)}}}},
		{subject: subject, begun: begun, listed: begun.Add(time.Second)},
		{subject: subject, begun: begun, listed: begun, cut: true},
	}
	seeds := make([][]byte, 0, len(proofs))
	for _, p := range proofs {
		data, err := p.encode()
		if err != nil {
			tb.Fatal(err)
		}
		seeds = append(seeds, data)
	}
	return seeds
}

// FuzzDecodeProof: whatever is found where proofs are kept is refused, or is a
// proof of which each report is a verdict by one who judges the artifact; it
// means the same when it is put away and read again.
func FuzzDecodeProof(f *testing.F) {
	for _, seed := range proofSeeds(f) {
		f.Add(seed)
	}
	f.Add([]byte(`{"artifacts":[{"listed":[],"wanted":["v"]}]}`))
	f.Add([]byte(`{"artifacts":[{"listed":[{}],"wanted":["v"],"reports":[{"report":{"Verifier":"v","Outcome":0}}]}]}`))
	f.Add([]byte(`{"artifacts":[{"listed":[{}],"wanted":["w"],"reports":[{"report":{"Verifier":"v","Outcome":2}}]}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodeProof(data)
		if err != nil {
			if p != nil {
				t.Fatal("a proof beside an error")
			}
			return
		}
		checkReports(t, p)
		first, err := p.encode()
		if err != nil {
			t.Fatalf("what was read cannot be put away: %v", err)
		}
		again, err := decodeProof(first)
		if err != nil {
			t.Fatalf("what was put away cannot be read: %v\n%s", err, first)
		}
		if second, err := again.encode(); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("put away twice it differs, %v:\n%s\n%s", err, first, second)
		}
		checkSame(t, p, again)
	})
}

// checkReports holds a proof against what its author could have meant.
func checkReports(t *testing.T, p *proof) {
	t.Helper()
	if p.bytes < proofOverhead {
		t.Fatalf("%d bytes", p.bytes)
	}
	judged := true
	for _, a := range p.artifacts {
		_ = a.digest()
		by := make(map[string]bool)
		for _, k := range a.Reports {
			if k.Report.Outcome != verifier.Passed && k.Report.Outcome != verifier.Failed {
				t.Fatalf("a report that is %v", k.Report.Outcome)
			}
			if by[k.Report.Verifier] {
				t.Fatalf("two reports of %q", k.Report.Verifier)
			}
			by[k.Report.Verifier] = true
		}
		wanted := make(map[string]bool)
		for _, name := range a.Wanted {
			wanted[name] = true
			judged = judged && by[name]
		}
		for name := range by {
			if !wanted[name] {
				t.Fatalf("a report of %q, whom nobody asked", name)
			}
		}
	}
	if p.judged != judged {
		t.Fatalf("judged %v, in truth %v", p.judged, judged)
	}
}

// checkSame compares all that a decision reads, at the moments that matter.
func checkSame(t *testing.T, p, again *proof) {
	t.Helper()
	same := func(what string, a, b any) {
		t.Helper()
		if diff := cmp.Diff(a, b, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s differs:\n%s", what, diff)
		}
	}
	same("the subject", p.subject, again.subject)
	same("what is listed", p.artifacts, again.artifacts)
	same("what is drawn from it", []any{p.begun, p.listed, p.cut, p.judged, p.ends, p.bytes}, []any{again.begun, again.listed, again.cut, again.judged, again.ends, again.bytes})
	terms := ProofTerms{TTL: time.Hour, DeniedTTL: time.Minute, AbsentTTL: 5 * time.Second, ListTTL: time.Minute}
	same("its end", p.end(terms), again.end(terms))
	same("when it is due", p.dueAt(terms), again.dueAt(terms))
	for _, now := range []time.Time{{}, p.begun, p.listed, p.ends, p.ends.Add(-time.Nanosecond), p.end(terms)} {
		reports, judged := p.at(now)
		others, too := again.at(now)
		same("what is believed at "+now.String(), reports, others)
		same("what holds at "+now.String(), []bool{judged, p.listHolds(now, terms), p.ahead(now)}, []bool{too, again.listHolds(now, terms), again.ahead(now)})
		for _, r := range reports {
			if r.Outcome == verifier.Inconclusive {
				t.Fatal("a doubt is believed")
			}
		}
	}
}
