package executor_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// Where a rule demands proof, an image that has only a tag is denied without a
// request, told, or judged as any other; where none does, that is all one.
func TestUnpinned(t *testing.T) {
	t.Parallel()
	const allow, warn, deny = executor.UnpinnedAllow, executor.UnpinnedWarn, executor.UnpinnedDeny
	lasting := executor.Exemption{Reason: "T-2", Until: time.Now().Add(time.Hour)}
	p, err := policy.New([]policy.Rule{
		{Name: "exempt", Images: []string{"registry.example/exempt"}, Allow: &lasting},
		{Name: "proof", Images: []string{"registry.example/app", "away.example/**"}, Require: &every},
	}, []string{"v"})
	if err != nil {
		t.Fatal(err)
	}
	whole := storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}
	pinned := "registry.example/app@"
	tests := []struct {
		image    string
		unpinned executor.Unpinned
		decision executor.Decision
		denial   error
		told     bool
		cost     storetest.Counts
	}{
		{image, allow, executor.Allowed, nil, false, whole},
		{image, warn, executor.Allowed, nil, true, whole},
		{image, deny, executor.Denied, executor.ErrUnpinned, true, nothing},
		{"registry.example/app", deny, executor.Denied, executor.ErrUnpinned, true, nothing},
		{pinned, allow, executor.Allowed, nil, false, whole},
		{pinned, warn, executor.Allowed, nil, false, whole},
		{pinned, deny, executor.Allowed, nil, false, whole},
		{"registry.example/exempt:v1", deny, executor.Allowed, nil, false, nothing},
		{"registry.example/exempt:v1", warn, executor.Allowed, nil, false, nothing},
		{"registry.example/other:v1", deny, executor.Denied, executor.ErrNoRule, false, nothing},
		{"away.example/app:v1", deny, executor.Denied, executor.ErrNoStore, true, nothing}, // mutation does not pin it either
	}
	for _, test := range tests {
		store, subject := signed("pass a")
		store.ServesHost = func(host string) bool { return host == "registry.example" }
		e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, p, remembering())
		t.Cleanup(e.Close)
		s := site{e, store, subject}
		text := test.image
		if strings.HasSuffix(text, "@") {
			text += subject.Descriptor.Digest.String()
		}
		for _, cost := range []storetest.Counts{test.cost, nothing} {
			req := request(t, text)
			req.Unpinned = test.unpinned
			got := s.asked(func() {
				result, err := s.Verify(t.Context(), req)
				if err != nil || result.Decision != test.decision || !errors.Is(result.Denial, test.denial) || result.Unpinned() != test.told {
					t.Errorf("%s, %d: %v (%v), told %t, %v", text, test.unpinned, result.Decision, result.Denial, result.Unpinned(), err)
				}
			})
			if got != cost {
				t.Errorf("%s, %d: asked %+v, want %+v", text, test.unpinned, got, cost)
			}
		}
		// Another who asks otherwise is told otherwise, whatever is remembered.
		if test.image == image {
			for _, as := range []executor.Unpinned{allow, deny, warn} {
				req := request(t, text)
				req.Unpinned = as
				if result, ok := s.Recall(req, time.Now()); ok && ((result.Decision == executor.Denied) != (as == deny) || result.Unpinned() != (as != allow)) {
					t.Errorf("after %d: as %d it is %v, told %t", test.unpinned, as, result.Decision, result.Unpinned())
				}
			}
		}
	}
}

func TestExplainUnpinned(t *testing.T) {
	t.Parallel()
	req := request(t, image)
	req.Unpinned = executor.UnpinnedDeny
	x := executor.Explain(executor.Result{Request: req, Decision: executor.Denied, Denial: executor.ErrUnpinned}, nil)
	if x.Code != executor.CodeUnpinned || !strings.Contains(x.Line(), "v1") || !strings.Contains(x.Line(), "REPOSITORY@DIGEST") {
		t.Errorf("%s", x.Line())
	}
	req.Reference.Tag = strings.Repeat("t", 128)
	if line := executor.Explain(executor.Result{Request: req, Decision: executor.Denied, Denial: executor.ErrUnpinned}, nil).Line(); !strings.Contains(line, "REPOSITORY@DIGEST") {
		t.Errorf("a long tag hides what to do: %s", line)
	}
}
