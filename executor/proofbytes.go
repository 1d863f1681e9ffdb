package executor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/verifier"
)

// stored is a proof as bytes.
type stored struct {
	Subject   ocispec.Descriptor `json:"subject"`
	Begun     time.Time          `json:"begun"`
	Listed    time.Time          `json:"listed,omitzero"`
	Cut       bool               `json:"cut,omitempty"`
	Artifacts []proven           `json:"artifacts"`
}

func (p *proof) encode() ([]byte, error) {
	return json.Marshal(stored{Subject: p.subject, Begun: p.begun, Listed: p.listed, Cut: p.cut, Artifacts: p.artifacts})
}

// decodeProof reads what encode wrote, maybe by another process. Whoever can
// write to where proofs are kept can allow: the bytes are trusted, and only
// checked for what would make a proof mean more than its author meant.
func decodeProof(data []byte) (*proof, error) {
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read a proof: %w", err)
	}
	for _, a := range s.Artifacts {
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("read a proof: %w", err)
		}
	}
	p := &proof{subject: s.Subject, begun: s.Begun, listed: s.Listed, cut: s.Cut, artifacts: s.Artifacts}
	return p.conclude(), nil
}

func (a proven) check() error {
	if len(a.Listed) == 0 || len(a.Wanted) == 0 {
		return errors.New("an artifact that nobody lists or judges")
	}
	for _, l := range a.Listed {
		if l.Artifact.Digest != a.digest() {
			return fmt.Errorf("one artifact with the digests %s and %s", a.digest(), l.Artifact.Digest)
		}
	}
	seen := make(map[string]bool)
	for _, k := range a.Reports {
		name := k.Report.Verifier
		if seen[name] || !slices.Contains(a.Wanted, name) {
			return fmt.Errorf("a report of %q, who does not judge the artifact, or has", name)
		}
		seen[name] = true
		if k.Report.Outcome == verifier.Passed && k.Report.Statement == "" {
			return errors.New("a report that passed and says nothing")
		}
		if k.Report.Outcome != verifier.Passed && k.Report.Outcome != verifier.Failed {
			return fmt.Errorf("outcome %d", k.Report.Outcome)
		}
	}
	return nil
}
