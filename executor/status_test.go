package executor_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, subject := signed("pass")
		s := siteOf(t, store, store, subject, every, remembering())
		if diff := cmp.Diff(executor.Status{}, s.Status()); diff != "" {
			t.Errorf("at first (-want +got):\n%s", diff)
		}
		first := time.Now()
		if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		second := time.Now()
		other := store.AddImage("registry.example/other:v1")
		store.AddReferrer(other, sigType, blob("pass other"))
		if _, err := s.Verify(t.Context(), request(t, "registry.example/other:v1")); err != nil {
			t.Fatal(err)
		}
		got := s.Status()
		if got.Proofs.Bytes < 1000 {
			t.Errorf("two proofs take %d bytes", got.Proofs.Bytes)
		}
		got.Proofs.Bytes = 0
		want := executor.Status{Proofs: executor.ProofStatus{Number: 2, Oldest: first, Newest: second}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Work under way, and work that nobody waits for, is counted.
func TestStatusOfWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, subject := signed("pass")
		store.Alter = func(_ ocispec.Descriptor, data []byte) []byte { time.Sleep(5 * time.Second); return data }
		s := siteOf(t, store, store, subject, every, remembering())
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { _, _ = s.Verify(short, request(t, image)) }()
		synctest.Wait()
		if got := s.Status().Subjects; got != (executor.SubjectStatus{UnderWay: 1}) {
			t.Errorf("while somebody waits: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if got := s.Status().Subjects; got != (executor.SubjectStatus{UnderWay: 1, Background: 1}) {
			t.Errorf("when nobody does: %+v", got)
		}
	})
}

func ExampleExecutor_Status() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store := storetest.New("memory")
	store.AddReferrer(store.AddImage("registry.example/app:v1"), sigType, blob("pass"))
	rules, err := policy.New([]policy.Rule{{Name: "all", Images: []string{"**"}, Require: &policy.Node{Verifier: "v"}}}, []string{"v"})
	if err != nil {
		panic(err)
	}
	e := executor.New(ctx, []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, rules, remembering())
	defer e.Close()
	ref, err := referrerstore.ParseReference("registry.example/app:v1")
	if err != nil {
		panic(err)
	}
	if _, err := e.Verify(ctx, executor.Request{Reference: ref}); err != nil {
		panic(err)
	}
	s := e.Status()
	fmt.Println(s.Proofs.Number, "proof,", s.Subjects.UnderWay, "subjects under way")
	// Output: 1 proof, 0 subjects under way
}
