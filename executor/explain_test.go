package executor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func TestExplainEachError(t *testing.T) {
	t.Parallel()
	refusal := &referrerstore.RefusedError{What: "registry.example is at 10.1.2.3, a private address", Add: `add "registry.example" to allowPrivate of store "r"`}
	tests := []struct {
		err  error
		code verifier.Code
		do   string
	}{
		{referrerstore.ErrAuthDenied, executor.CodeAuthDenied, "credentials"},
		{referrerstore.ErrRateLimited, executor.CodeRateLimited, "retry"},
		{&referrerstore.RetryAfterError{After: 7 * time.Second, Err: referrerstore.ErrRateLimited}, executor.CodeRateLimited, "7 s"},
		{referrerstore.ErrUnavailable, executor.CodeUnavailable, "retry"},
		{refusal, executor.CodeRefused, `add "registry.example" to allowPrivate of store "r"`},
		{referrerstore.ErrRefused, executor.CodeRefused, "log"},
		{referrerstore.ErrProtocol, executor.CodeProtocol, "log"},
		{referrerstore.ErrDigestMismatch, executor.CodeDigest, "proxies"},
		{referrerstore.ErrBusy, executor.CodeBusy, "inFlightBytes"},
		{context.DeadlineExceeded, executor.CodeDeadline, "retry"},
		{context.Canceled, executor.CodeCanceled, "retry"},
		{executor.ErrInconclusive, executor.CodeInconclusive, "retry"},
		{errors.New("other"), executor.CodeInternalError, "log"},
	}
	for _, test := range tests {
		x := executor.Explain(executor.Result{Request: request(t, image)}, fmt.Errorf("wrapped: %w", test.err))
		if x.Code != test.code || !strings.Contains(x.Do, test.do) {
			t.Errorf("%v: %+v", test.err, x)
		}
	}
}

// The reason that all artifacts share is what the reader has to mend; where
// reasons differ the numbers are given.
func TestExplainRequirement(t *testing.T) {
	t.Parallel()
	failed := func(code verifier.Code) verifier.Report {
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: code, What: "w", Do: "d"}}
	}
	passed := verifier.Report{Outcome: verifier.Passed}
	tests := []struct {
		reports []verifier.Report
		code    verifier.Code
	}{
		{[]verifier.Report{failed("A"), failed("A")}, "A"},
		{[]verifier.Report{failed("A"), failed("B")}, executor.CodePolicyNotMet},
		{[]verifier.Report{passed, failed("A")}, "A"},
		{[]verifier.Report{failed("A"), passed, failed("B")}, executor.CodePolicyNotMet},
		{[]verifier.Report{passed}, executor.CodePolicyNotMet},
	}
	for i, test := range tests {
		x := executor.Explain(executor.Result{Decision: executor.Denied, Denial: executor.ErrRequirement, Reports: test.reports}, nil)
		if x.Code != test.code {
			t.Errorf("%d: %+v", i, x)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("plain", "do")
	f.Add("two\nlines\x1b[31m", "\u202egnp.exe")
	f.Add(strings.Repeat("é", 300), strings.Repeat("do ", 100))
	f.Add("\xff\xfe", "")
	f.Fuzz(func(t *testing.T, what, do string) {
		x := executor.Explanation{Code: executor.CodeUnavailable, What: executor.OneLine(what), Do: executor.OneLine(do)}
		line := x.Line()
		if len(line) > executor.MaxLineBytes || !utf8.ValidString(line) {
			t.Fatalf("line of %d bytes: %q", len(line), line)
		}
		for _, r := range line {
			if !unicode.IsPrint(r) {
				t.Fatalf("unprintable %U in %q", r, line)
			}
		}
	})
}
