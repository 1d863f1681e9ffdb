package canary

import (
	"errors"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// expectation is what must become of an image, as metrics name it.
type expectation string

const (
	mustPass expectation = "pass"
	mustFail expectation = "fail"
)

// outcome is what a round found out about an image, as metrics name it.
type outcome string

const (
	asExpected outcome = "expected"
	unexpected outcome = "unexpected"
	// noVerdict is of what was not shown, neither so nor otherwise.
	noVerdict outcome = "no_verdict"
)

// judge says what a result means. An image that was let through without proof, by
// an exemption, shows nothing of the verifiers; one that does not exist, nothing of
// an image that does and must fail. Where an exemption lets through what must fail,
// the gate is open all the same.
func (e expectation) judge(result executor.Result, err error) outcome {
	switch {
	case err != nil || result.Decision == executor.Undecided:
		return noVerdict
	case e == mustPass && result.Decision == executor.Allowed && result.Exemption != nil:
		return noVerdict
	case e == mustFail && result.Decision == executor.Denied && errors.Is(result.Denial, referrerstore.ErrNotFound):
		return noVerdict
	case (e == mustPass) == (result.Decision == executor.Allowed):
		return asExpected
	default:
		return unexpected
	}
}
